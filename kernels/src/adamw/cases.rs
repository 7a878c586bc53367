//! Shapes, tolerances and traffic of the optimizer cases. State is copied from the inputs first, except when timed.

use super::{Group, Step, step};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

struct AdamW {
    master: bool,
    step: u64,
    fresh: bool,
}

impl Op for AdamW {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        if self.fresh {
            stream.copy(t.value("weight"), t.value("weight_before"))?;
            stream.copy(t.value("other"), t.value("weight_before"))?;
            stream.copy(t.accumulated("master"), t.accumulated("master_before"))?;
            for (moment, before) in [("m", "m_before"), ("v", "v_before"), ("other_m", "m_before"), ("other_v", "v_before")] {
                stream.copy(t.accumulated(moment), t.accumulated(before))?;
            }
        }
        let first = Group {
            weight: t.value("weight"),
            master: self.master.then(|| t.accumulated("master")),
            gradient: t.accumulated("gradient"),
            first_moment: t.accumulated("m"),
            second_moment: t.accumulated("v"),
            learning_rate_scale: 1.0,
            weight_decay: 0.01,
        };
        let second = Group {
            weight: t.value("other"),
            master: None,
            first_moment: t.accumulated("other_m"),
            second_moment: t.accumulated("other_v"),
            learning_rate_scale: 0.5,
            weight_decay: 0.0,
            ..first
        };
        let at = Step { learning_rate: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, step: self.step, gradient_scale: 0.5 };
        if self.fresh { step(stream, &[first, second], at) } else { step(stream, &[first], at) }
    }
}

/// One element, a prime, more than one chunk, with and without a master, early and late, and 16 M weights of an encoder.
pub fn cases() -> Vec<Case> {
    let case = |n: usize, master: bool, step: u64, fresh: bool| {
        Case::new(format!("{}{n}_step{step}", if master { "master_" } else { "" }), AdamW { master, step, fresh })
            .fixed("weight_before", [n], Fill::Uniform)
            .constant("master_before", [n], Fill::Uniform)
            .constant("gradient", [n], Fill::Uniform)
            .constant("m_before", [n], Fill::Range(-0.1, 0.1))
            .constant("v_before", [n], Fill::Range(0.01, 0.1))
            .output("weight", [n])
            .output("other", [n])
            .statistic("master", [n])
            .statistic("m", [n])
            .statistic("v", [n])
            .statistic("other_m", [n])
            .statistic("other_v", [n])
            .tolerance(Tolerance::f32())
            .bytes(4 * 7 * n)
            .flops(14 * n)
            .forward_only()
    };
    vec![
        case(1, false, 1, true),
        case(37, false, 1, true),
        case(37, true, 1000, true),
        case(40_009, false, 7, true),
        case(16_411, true, 3, true),
        case(1 << 24, false, 100, false).bench(),
    ]
}
