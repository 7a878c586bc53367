//! The numbers of a step that all elements of a tensor share.

use super::Step;
use crate::runtime::Real;

/// Everything of a step that does not depend on the element, computed in f64 and rounded once.
#[derive(Clone, Copy)]
pub(super) struct Factors<A> {
    pub(super) gradient_scale: A,
    /// 1 - lr * weight_decay.
    pub(super) keep: A,
    /// 1 - beta1.
    pub(super) first: A,
    pub(super) beta2: A,
    /// 1 - beta2.
    pub(super) second: A,
    /// 1 / sqrt(1 - beta2^t).
    pub(super) correction: A,
    pub(super) eps: A,
    /// lr / (1 - beta1^t).
    pub(super) size: A,
}

impl<A: Real> Factors<A> {
    pub(super) fn new(step: Step, learning_rate_scale: f64, weight_decay: f64) -> Self {
        let rate = step.learning_rate * learning_rate_scale;
        let power = |beta: f64| beta.powf(step.step as f64);
        Factors {
            gradient_scale: A::of(step.gradient_scale),
            keep: A::of(1.0 - rate * weight_decay),
            first: A::of(1.0 - step.beta1),
            beta2: A::of(step.beta2),
            second: A::of(1.0 - step.beta2),
            correction: A::of(1.0 / (1.0 - power(step.beta2)).sqrt()),
            eps: A::of(step.eps),
            size: A::of(rate / (1.0 - power(step.beta1))),
        }
    }
}
