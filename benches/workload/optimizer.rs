//! What a training step does with the gradients, by the engine's default settings: clips, AdamW, clears.

use anyhow::Result;
use scmmgpt_engine::config::OptimizerConfig;
use scmmgpt_engine::train;
use scmmgpt_engine::weights::Parameters;
use scmmgpt_kernels::runtime::Stream;

/// The engine's optimizer, and how many steps it has taken.
pub(super) struct Optimizer {
    optimizer: train::Optimizer,
    config: OptimizerConfig,
    steps: u64,
}

impl Optimizer {
    pub(super) fn new(parameters: &Parameters<f32>) -> Self {
        let config = OptimizerConfig::default();
        Optimizer { optimizer: train::Optimizer::new(parameters, &config), config, steps: 0 }
    }

    /// The length of the gradient before it was clipped.
    pub(super) fn step(&mut self, stream: &Stream) -> Result<f64> {
        let norm = self.optimizer.gradient_norm(stream)?;
        self.optimizer.step(stream, &self.config, self.steps, self.config.learning_rate, norm)?;
        self.steps += 1;
        Ok(norm)
    }
}
