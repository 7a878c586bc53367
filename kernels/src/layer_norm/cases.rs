//! Shapes, tolerances and traffic of the layer-norm cases.

use super::{Backward, Forward, backward, forward, scratch};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Op, Tolerance};

struct LayerNorm;

impl Op for LayerNorm {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        forward(
            stream,
            Forward {
                y: t.value("y"),
                mean: t.accumulated("mean"),
                rstd: t.accumulated("rstd"),
                x: t.value("x"),
                weight: t.value("weight"),
                bias: t.value("bias"),
                eps: 1e-5,
            },
        )
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        backward(
            stream,
            Backward {
                dx: t.value("dx"),
                dweight: Some(t.accumulated("dweight")),
                dbias: Some(t.accumulated("dbias")),
                dy: t.value("dy"),
                x: t.value("x"),
                weight: t.value("weight"),
                mean: t.accumulated("mean"),
                rstd: t.accumulated("rstd"),
            },
        )
    }
}

/// One row, a prime width, more than one chunk of rows, and the encoder's own size.
pub fn cases() -> Vec<Case> {
    let case = |rows: usize, width: usize| {
        Case::new(format!("{rows}x{width}"), LayerNorm)
            .input("x", [rows, width])
            .parameter("weight", [width])
            .parameter("bias", [width])
            .output("y", [rows, width])
            .statistic("mean", [rows])
            .statistic("rstd", [rows])
            .tolerance(Tolerance::f32().reduction(width.max(rows)))
            .scratch(scratch::<f64>(rows, width))
            .bytes(4 * (2 * rows * width + 2 * width))
            .flops(8 * rows * width)
    };
    let mut cases: Vec<Case> = [(1, 2), (7, 33), (64, 768), (3, 1023), (131, 17)].map(|(rows, width)| case(rows, width)).into();
    cases.push(case(9600, 512).bench());
    cases
}
