//! Shapes, tolerances and traffic of the masked-error cases.

use super::{Backward, Forward, backward, forward};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

struct Mse;

impl Op for Mse {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        forward(
            stream,
            Forward {
                loss: t.accumulated("loss"),
                mask_sum: t.accumulated("mask_sum"),
                prediction: t.value("prediction"),
                target: t.accumulated("target"),
                mask: t.accumulated("mask"),
            },
        )
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        backward(
            stream,
            Backward {
                dprediction: t.value("dprediction"),
                dloss: t.accumulated("dloss"),
                prediction: t.value("prediction"),
                target: t.accumulated("target"),
                mask: t.accumulated("mask"),
                mask_sum: t.accumulated("mask_sum"),
            },
        )
    }
}

/// One element, primes, more than one chunk, a fractional mask, a mask of zeros, and an encoder batch.
pub fn cases() -> Vec<Case> {
    let case = |name: &str, n: usize, mask: Fill| {
        Case::new(format!("{name}{n}"), Mse)
            .input("prediction", [n])
            .constant("target", [n], Fill::Range(-2.0, 2.0))
            .constant("mask", [n], mask)
            .loss("loss", [1])
            .statistic("mask_sum", [1])
            .tolerance(Tolerance::f32().reduction(n))
            .bytes(4 * 3 * n)
            .flops(5 * n)
    };
    let some = || Fill::Values(vec![1.0, 0.0, 1.0, 1.0, 0.0]);
    vec![
        case("", 1, Fill::Values(vec![1.0])),
        case("", 37, some()),
        case("", 17_011, some()),
        case("fractional_", 101, Fill::Range(0.1, 1.5)),
        case("none_", 13, Fill::Values(vec![0.0])),
        case("", 64 * 1200, some()).bench(),
    ]
}
