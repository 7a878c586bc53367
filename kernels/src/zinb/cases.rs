//! Shapes, tolerances and traffic of the likelihood's cases.

use super::{Backward, Forward, backward, forward, scratch};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

struct Zinb;

impl Op for Zinb {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        forward(
            stream,
            Forward {
                loss: t.accumulated("loss"),
                weight_sum: t.accumulated("weight_sum"),
                log_mean: t.value("log_mean"),
                zero_logit: t.value("zero_logit"),
                log_theta: t.value("log_theta"),
                log_size: t.accumulated("log_size"),
                count: t.accumulated("count"),
                weight: t.accumulated("weight"),
            },
        )
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        backward(
            stream,
            Backward {
                dlog_mean: t.value("dlog_mean"),
                dzero_logit: t.value("dzero_logit"),
                dlog_theta: t.value("dlog_theta"),
                dloss: t.accumulated("dloss"),
                log_mean: t.value("log_mean"),
                zero_logit: t.value("zero_logit"),
                log_theta: t.value("log_theta"),
                log_size: t.accumulated("log_size"),
                count: t.accumulated("count"),
                weight: t.accumulated("weight"),
                weight_sum: t.accumulated("weight_sum"),
            },
        )
    }
}

/// One entry of each kind, primes, theta shared and not, weights of sampled zeros, no weight at all, extremes of theta, and a decoder's batch.
pub fn cases() -> Vec<Case> {
    let case = |name: &str, [cells, genes]: [usize; 2], shared: bool, log_theta: Fill, count: Vec<f64>, weight: Vec<f64>| {
        let case = Case::new(format!("{name}{cells}x{genes}"), Zinb)
            .input_filled("log_mean", [cells, genes], Fill::Range(-2.0, 3.0))
            .input_filled("zero_logit", [cells, genes], Fill::Range(-3.0, 3.0));
        let case = if shared {
            case.input_filled("log_theta", [genes], log_theta)
        } else {
            case.input_filled("log_theta", [cells, genes], log_theta)
        };
        case.constant("log_size", [cells], Fill::Range(-1.0, 1.0))
            .constant("count", [cells, genes], Fill::Values(count))
            .constant("weight", [cells, genes], Fill::Values(weight))
            .loss("loss", [1])
            .statistic("weight_sum", [1])
            .tolerance(Tolerance::f32().reduction(cells * genes))
            .scratch(scratch::<f64>(cells, genes))
            .bytes(4 * (4 * cells * genes + genes + cells))
            .flops(80 * cells * genes)
    };
    let moderate = || Fill::Range(-2.0, 3.0);
    let counts = || vec![0.0, 0.0, 3.0, 0.0, 1.0, 17.0, 0.0, 2.0, 0.0, 64.0, 8.0];
    let sampled = || vec![1.0, 0.0, 1.0, 5.0, 1.0];
    vec![
        case("zero_", [1, 1], true, moderate(), vec![0.0], vec![1.0]),
        case("some_", [1, 1], true, moderate(), vec![4.0], vec![0.5]),
        case("", [3, 37], true, moderate(), counts(), vec![1.0]),
        case("sampled_", [5, 261], true, moderate(), counts(), sampled()),
        case("own_theta_", [7, 19], false, moderate(), counts(), sampled()),
        case("own_theta_", [1, 31], false, moderate(), counts(), vec![1.0]),
        case("tight_", [2, 23], true, Fill::Values(vec![12.0, -9.0, 30.0, 2.07, -4.0]), counts(), vec![1.0]),
        case("none_", [2, 5], true, moderate(), counts(), vec![0.0]),
        case("", [16, 2047], false, moderate(), counts(), sampled()).bench(),
    ]
}
