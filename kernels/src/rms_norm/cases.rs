//! Shapes, tolerances and traffic of the RMS-norm cases.

use super::{Backward, Forward, backward, forward, scratch};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Op, Tolerance};

struct RmsNorm;

impl Op for RmsNorm {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let (y, rstd) = (t.value("y"), t.accumulated("rstd"));
        forward(stream, Forward { y, rstd, x: t.value("x"), weight: t.value("weight"), eps: 1e-5 })
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        backward(
            stream,
            Backward {
                dx: t.value("dx"),
                dweight: Some(t.accumulated("dweight")),
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
    let case = |rows: usize, width: usize| {
        Case::new(format!("{rows}x{width}"), RmsNorm)
            .input("x", [rows, width])
            .parameter("weight", [width])
            .output("y", [rows, width])
            .statistic("rstd", [rows])
            .tolerance(Tolerance::f32().reduction(width.max(rows)))
            .scratch(scratch::<f64>(rows, width))
            .bytes(4 * (2 * rows * width + width))
            .flops(4 * rows * width)
    };
    let mut cases: Vec<Case> = [(1, 2), (7, 33), (64, 576), (3, 1023), (131, 17)].map(|(rows, width)| case(rows, width)).into();
    cases.push(case(2048, 4096).bench());
    cases
}
