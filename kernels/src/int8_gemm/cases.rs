//! Shapes of the int8 cases: sizes around words, groups, bands and blocks of depth; decoding's own for the benches.

use super::{Backward, Forward, Weight, backward, forward, words};
use crate::Result;
use crate::runtime::{Float, Stream, Tensor};
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

/// `y = scale (x q^T) + residual`, all matrices `margin` columns inside wider ones.
struct Int8Gemm {
    residual: bool,
    margin: usize,
}

impl Int8Gemm {
    fn inner<T: Float>(&self, tensor: Tensor<T>) -> Tensor<T> {
        tensor.columns(self.margin, tensor.width() - 2 * self.margin)
    }
}

impl Op for Int8Gemm {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let matrix = |name| self.inner(t.value(name));
        let weight = Weight { words: t.index("words"), scale: t.accumulated("scale") };
        forward(stream, Forward { y: matrix("y"), x: matrix("x"), weight, residual: self.residual.then(|| matrix("residual")) })
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let matrix = |name| self.inner(t.value(name));
        let weight = Weight { words: t.index("words"), scale: t.accumulated("scale") };
        if self.residual {
            stream.copy(matrix("dresidual"), matrix("dy"))?;
        }
        backward(stream, Backward { dx: matrix("dx"), dy: matrix("dy"), weight })
    }
}

fn case([m, n, k]: [usize; 3], residual: bool, margin: usize) -> Case {
    let wide = |width: usize| [m, width + 2 * margin];
    let suffix = if margin > 0 { "_columns" } else { "" };
    let name = format!("{m}x{n}x{k}{}{suffix}", if residual { "_residual" } else { "" });
    let case = Case::new(name, Int8Gemm { residual, margin })
        .input("x", wide(k))
        .index("words", [n, words(k)], Fill::Below(u32::MAX))
        .constant("scale", [n], Fill::Range(0.001, 0.01))
        .output("y", wide(n))
        .tolerance(Tolerance::f32().reduction(k.max(n)))
        .bytes(4 * (m * k + m * n + n) + n * k)
        .flops(2 * m * n * k);
    if residual { case.input("residual", wide(n)) } else { case }
}

/// One row and one output, words that end early, more rows than decode at once, more than one band and block of depth.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        case([1, 1, 1], false, 0),
        case([1, 17, 8], true, 0),
        case([2, 33, 20], false, 3),
        case([4, 48, 76], true, 8),
        case([7, 31, 19], true, 3),
        case([8, 64, 520], false, 0),
        case([9, 64, 520], true, 0),
        case([33, 65, 30], false, 0),
        case([259, 18, 12], true, 1),
    ];
    for size in [[1, 1536, 576], [1, 3072, 576], [1, 49_152, 576], [1, 4096, 4096], [8, 4096, 4096], [512, 3072, 576]] {
        cases.push(case(size, false, 0).bench());
    }
    cases
}
