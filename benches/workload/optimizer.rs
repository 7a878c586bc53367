//! What a training step does with the gradients: clips, AdamW, clears.

use anyhow::Result;
use scmmgpt_engine::weights::{Declared, Parameters};
use scmmgpt_kernels::runtime::{Stream, Tensor};
use scmmgpt_kernels::{adamw, reduce};

const LEARNING_RATE: f64 = 1e-4;
const WEIGHT_DECAY: f64 = 0.01;
const MAX_GRAD_NORM: f64 = 1.0;

/// The trained parameters of a model, and how many steps they have taken.
pub(super) struct Optimizer {
    groups: Vec<adamw::Group<f32>>,
    gradients: Vec<Tensor<f32>>,
    step: u64,
}

impl Optimizer {
    pub(super) fn new(parameters: &Parameters<f32>) -> Self {
        let group = |declared: &Declared<f32>| {
            let (weight, gradient, moments) = (declared.parameter.value, declared.parameter.gradient?, declared.moments?);
            Some(adamw::Group {
                weight,
                master: None,
                gradient,
                first_moment: moments.first,
                second_moment: moments.second,
                learning_rate_scale: 1.0,
                weight_decay: if weight.shape().rank() > 1 { WEIGHT_DECAY } else { 0.0 },
            })
        };
        let groups: Vec<_> = parameters.declared().iter().filter_map(group).collect();
        let gradients = groups.iter().map(|group| group.gradient).collect();
        Optimizer { groups, gradients, step: 0 }
    }

    /// The length of the gradient before it was clipped.
    pub(super) fn step(&mut self, stream: &Stream) -> Result<f64> {
        let norm = reduce::squared_norm(stream, &self.gradients)?.sqrt();
        self.step += 1;
        let arguments = adamw::Step {
            learning_rate: LEARNING_RATE,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            step: self.step,
            gradient_scale: if norm > MAX_GRAD_NORM { MAX_GRAD_NORM / norm } else { 1.0 },
        };
        adamw::step(stream, &self.groups, arguments)?;
        self.gradients.iter().for_each(|&gradient| stream.zero(gradient));
        Ok(norm)
    }
}
