//! Shapes, tolerances and traffic of the cross-entropy cases.

use super::{Backward, Forward, IGNORE, backward, forward, scratch};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

struct CrossEntropy {
    weighted: bool,
    label_smoothing: f64,
}

impl Op for CrossEntropy {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        forward(
            stream,
            Forward {
                loss: t.accumulated("loss"),
                logsumexp: t.accumulated("logsumexp"),
                weight_sum: t.accumulated("weight_sum"),
                logits: t.value("logits"),
                targets: t.index("targets"),
                class_weight: self.weighted.then(|| t.accumulated("class_weight")),
                label_smoothing: self.label_smoothing,
            },
        )
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        backward(
            stream,
            Backward {
                dlogits: t.value("dlogits"),
                dloss: t.accumulated("dloss"),
                logits: t.value("logits"),
                targets: t.index("targets"),
                logsumexp: t.accumulated("logsumexp"),
                weight_sum: t.accumulated("weight_sum"),
                class_weight: self.weighted.then(|| t.accumulated("class_weight")),
                label_smoothing: self.label_smoothing,
            },
        )
    }
}

/// One class, a pair (the matching head), primes, more than one chunk of rows, each option, ignored rows, and a language model's head.
pub fn cases() -> Vec<Case> {
    let case = |name: &str, rows: usize, classes: usize, targets: Fill, weighted: bool, label_smoothing: f64| {
        let case = Case::new(format!("{name}{rows}x{classes}"), CrossEntropy { weighted, label_smoothing })
            .input_filled("logits", [rows, classes], Fill::Range(-4.0, 4.0))
            .index("targets", [rows], targets)
            .loss("loss", [1])
            .statistic("logsumexp", [rows])
            .statistic("weight_sum", [1])
            .tolerance(Tolerance::f32().reduction(rows.max(classes)))
            .scratch(scratch(rows))
            .bytes(4 * (2 * rows * classes + 2 * rows))
            .flops(8 * rows * classes);
        if weighted { case.constant("class_weight", [classes], Fill::Range(0.25, 2.0)) } else { case }
    };
    let every = |classes: usize| Fill::Below(classes as u32);
    vec![
        case("", 1, 1, every(1), false, 0.0),
        case("", 3, 2, every(2), false, 0.0),
        case("", 7, 33, every(33), false, 0.0),
        case("", 261, 17, every(17), false, 0.0),
        case("", 5, 4099, every(4099), false, 0.0),
        case("smooth_", 7, 33, every(33), false, 0.1),
        case("weighted_", 11, 19, every(19), true, 0.0),
        case("weighted_smooth_", 13, 31, Fill::Integers(vec![3, 30, IGNORE, 0]), true, 0.2),
        case("weighted_smooth_", 3, 301, Fill::Integers(vec![300, IGNORE, 7]), true, 0.3),
        case("uniform_", 3, 5, every(5), false, 1.0),
        case("ignored_", 9, 23, Fill::Integers(vec![IGNORE, 22, 5]), false, 0.0),
        case("all_ignored_", 5, 7, Fill::Integers(vec![IGNORE]), false, 0.1),
        case("all_ignored_weighted_", 1, 3, Fill::Integers(vec![IGNORE]), true, 0.0),
        case("", 256, 32003, every(32003), false, 0.0).bench(),
        case("smooth_", 1280, 30523, every(30523), false, 0.1).bench(),
    ]
}
