//! Shapes, tolerances and traffic of the normalisation cases.

use super::{Backward, Forward, backward, forward};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

struct L2Normalize {
    eps: f64,
}

impl Op for L2Normalize {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        forward(stream, Forward { y: t.value("y"), norm: t.accumulated("norm"), x: t.value("x"), eps: self.eps })
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let (dx, dy, y, norm) = (t.value("dx"), t.value("dy"), t.value("y"), t.accumulated("norm"));
        backward(stream, Backward { dx, dy, y, norm, eps: self.eps })
    }
}

/// One element, primes, more than one band of rows, rows below eps, a zero row (not differentiable at torch's eps), and the
/// query embeddings of a contrastive batch.
pub fn cases() -> Vec<Case> {
    let case = |name: &str, rows: usize, width: usize, eps: f64, fill: Fill| {
        Case::new(format!("{name}{rows}x{width}"), L2Normalize { eps })
            .input_filled("x", [rows, width], fill)
            .output("y", [rows, width])
            .statistic("norm", [rows])
            .tolerance(Tolerance::f32().reduction(width))
            .bytes(4 * 2 * rows * width)
            .flops(3 * rows * width)
    };
    // Rows of two: long, zero and short.
    let short = || Fill::Values(vec![3.0, -4.0, 0.0, 0.0, 0.125, 0.25]);
    vec![
        case("", 1, 1, 1e-12, Fill::Range(0.5, 1.0)),
        case("", 7, 33, 1e-12, Fill::Uniform),
        case("", 131, 17, 1e-12, Fill::Uniform),
        case("", 3, 1023, 1e-12, Fill::Uniform),
        case("below_eps_", 3, 2, 0.5, short()),
        case("zero_row_", 3, 2, 1e-12, short()).forward_only(),
        case("", 384 * 32, 256, 1e-12, Fill::Uniform).bench(),
    ]
}
