//! One optimizer step: clip, AdamW, zero the gradients.

use scmmgpt_kernels::runtime::{Stream, Tensor};
use scmmgpt_kernels::{adamw, reduce};

use crate::Result;
use crate::config::OptimizerConfig;
use crate::weights::Parameters;

/// AdamW over the trainable parameters of a model; for a training loop of one's own, too.
#[derive(Debug)]
pub struct Optimizer {
    groups: Vec<adamw::Group<f32>>,
    gradients: Vec<Tensor<f32>>,
}

impl Optimizer {
    /// Matrices decay; vectors (biases, norms) do not. The parameters must stay allocated, with gradients and moments.
    pub fn new(parameters: &Parameters<f32>, config: &OptimizerConfig) -> Optimizer {
        let groups = parameters.declared().iter().filter_map(|declared| {
            let (weight, gradient, moments) = (declared.parameter.value, declared.parameter.gradient?, declared.moments?);
            let weight_decay = if weight.shape().rank() >= 2 { config.weight_decay } else { 0.0 };
            Some(adamw::Group {
                weight,
                master: None,
                gradient,
                first_moment: moments.first,
                second_moment: moments.second,
                learning_rate_scale: 1.0,
                weight_decay,
            })
        });
        let groups: Vec<_> = groups.collect();
        let gradients = groups.iter().map(|group| group.gradient).collect();
        Optimizer { groups, gradients }
    }

    /// Euclidean length of the whole gradient; not finite where a gradient is not.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn gradient_norm(&self, stream: &Stream) -> Result<f64> {
        Ok(reduce::squared_norm(stream, &self.gradients)?.sqrt())
    }

    /// Applies the gradients, whose length is `norm`, as step `step` (counted from 0), scaled to a length of at most
    /// `config.max_grad_norm` (0: as they are), and zeroes them.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn step(&self, stream: &Stream, config: &OptimizerConfig, step: u64, learning_rate: f64, norm: f64) -> Result<()> {
        let clips = config.max_grad_norm > 0.0 && norm > config.max_grad_norm;
        let arguments = adamw::Step {
            learning_rate,
            beta1: config.betas[0],
            beta2: config.betas[1],
            eps: config.eps,
            step: step + 1,
            gradient_scale: if clips { config.max_grad_norm / norm } else { 1.0 },
        };
        adamw::step(stream, &self.groups, arguments)?;
        self.gradients.iter().for_each(|&gradient| stream.zero(gradient));
        Ok(())
    }
}
