//! Shapes, tolerances and traffic of the RMS-norm cases.

use super::{Backward, Forward, backward, forward, scratch};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Op, Tolerance};

/// Alone, or with a second output `skip = x`, whose gradient joins that of the norm.
struct RmsNorm {
    residual: bool,
}

impl Op for RmsNorm {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let (y, rstd) = (t.value("y"), t.accumulated("rstd"));
        if self.residual {
            stream.copy(t.value("skip"), t.value("x"))?;
        }
        forward(stream, Forward { y, rstd, x: t.value("x"), weight: t.value("weight"), eps: 1e-5 })
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        backward(
            stream,
            Backward {
                dx: t.value("dx"),
                dweight: Some(t.accumulated("dweight")),
                residual: self.residual.then(|| t.value("dskip")),
                dy: t.value("dy"),
                x: t.value("x"),
                weight: t.value("weight"),
                rstd: t.accumulated("rstd"),
            },
        )
    }
}

/// One row, a prime width, more than one chunk of rows, and the widths of SmolLM2 and Llama-2.
pub fn cases() -> Vec<Case> {
    let case = |rows: usize, width: usize, residual: bool| {
        let case = Case::new(format!("{rows}x{width}{}", if residual { "_residual" } else { "" }), RmsNorm { residual })
            .input("x", [rows, width])
            .parameter("weight", [width])
            .output("y", [rows, width])
            .statistic("rstd", [rows])
            .tolerance(Tolerance::f32().reduction(width.max(rows)))
            .scratch(scratch::<f64>(rows, width))
            .bytes(4 * (2 * rows * width + width))
            .flops(4 * rows * width);
        if residual { case.output("skip", [rows, width]) } else { case }
    };
    let sizes = [(1, 2, false), (7, 33, true), (64, 576, true), (3, 1023, false), (131, 17, true)];
    let mut cases: Vec<Case> = sizes.map(|(rows, width, residual)| case(rows, width, residual)).into();
    cases.push(case(2048, 4096, false).bench());
    cases
}
