//! Shapes, tolerances and traffic of the activation cases.

use super::{Backward, Forward, Kind, backward, forward};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Fill, Op};

struct Activation(Kind);

impl Op for Activation {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        forward(stream, Forward { y: t.value("y"), x: t.value("x"), kind: self.0 })
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        backward(stream, Backward { dx: t.value("dx"), dy: t.value("dy"), x: t.value("x"), kind: self.0 })
    }
}

/// Both sides of the kinks but not the kinks themselves, one element, primes, several bands, and a feed-forward's own size.
pub fn cases() -> Vec<Case> {
    let kinds = [("relu", Kind::Relu), ("gelu", Kind::Gelu), ("leaky_relu", Kind::LeakyRelu { slope: 0.01 }), ("sigmoid", Kind::Sigmoid)];
    let mut cases = Vec::new();
    for (name, kind) in kinds {
        let case = |rows: usize, width: usize| {
            let inputs = (0..61).map(|step| 0.17 * f64::from(step) - 5.03).collect();
            Case::new(format!("{name}_{rows}x{width}"), Activation(kind))
                .input_filled("x", [rows, width], Fill::Values(inputs))
                .output("y", [rows, width])
                .bytes(4 * 2 * rows * width)
                .flops(rows * width)
        };
        cases.extend([(1, 1), (7, 33), (3, 8), (131, 257)].map(|(rows, width)| case(rows, width)));
        cases.push(case(9600, 512).bench());
    }
    cases
}
