//! Shapes and traffic of the SwiGLU cases.

use super::{Backward, Forward, backward, forward};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Fill, Op};

struct SwiGlu;

impl Op for SwiGlu {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        forward(stream, Forward { y: t.value("y"), gate: t.value("gate"), up: t.value("up") })
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let (dgate, dup, dy) = (t.value("dgate"), t.value("dup"), t.value("dy"));
        backward(stream, Backward { dgate, dup, dy, gate: t.value("gate"), up: t.value("up") })
    }
}

/// One element, primes, more than one band of rows, gates where the sigmoid saturates, and SmolLM2's own size.
pub fn cases() -> Vec<Case> {
    let case = |rows: usize, width: usize| {
        Case::new(format!("{rows}x{width}"), SwiGlu)
            .input_filled("gate", [rows, width], Fill::Range(-12.0, 12.0))
            .input("up", [rows, width])
            .output("y", [rows, width])
            .bytes(4 * 3 * rows * width)
            .flops(5 * rows * width)
    };
    let mut cases: Vec<Case> = [(1, 1), (7, 33), (131, 17), (3, 1536)].map(|(rows, width)| case(rows, width)).into();
    cases.push(case(2048, 1536).bench());
    cases
}
