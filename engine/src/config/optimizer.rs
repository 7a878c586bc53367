//! How a stage is learned: passes, batches, learning rate, AdamW.

use serde::{Deserialize, Serialize};

use super::{domain, positive};
use crate::Result;

/// Course of the learning rate after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Half a cosine down to `min_learning_rate` at the last step.
    #[default]
    Cosine,
    /// Times `step_decay` after every epoch, not below `min_learning_rate`.
    Step,
    /// Stays.
    Constant,
}

/// How it is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Passes over the training cells.
    pub epochs: u64,
    /// Cells a batch.
    pub batch_size: usize,
    /// Batches whose gradients are averaged for one step.
    pub gradient_accumulation_steps: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Lowest learning rate after warm-up.
    pub min_learning_rate: f64,
    /// Learning rate of the first step.
    pub warmup_learning_rate: f64,
    /// Steps over which the learning rate rises linearly.
    pub warmup_steps: u64,
    /// Course after warm-up.
    pub schedule: ScheduleKind,
    /// Factor an epoch of the step schedule.
    pub step_decay: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's betas.
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    pub eps: f64,
    /// Gradients longer than this are scaled down to it; 0: never.
    pub max_grad_norm: f64,
    /// Stop after so many epochs without a better validation score, and keep the best weights; 0: train all epochs, keep the last.
    pub early_stopping_patience: u64,
    /// Steps between two checkpoints inside an epoch; 0: at the end of each epoch only.
    pub save_steps: u64,
    /// Put cells of similar length into one batch.
    pub bucket_by_length: bool,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig {
            epochs: 30,
            batch_size: 32,
            gradient_accumulation_steps: 1,
            learning_rate: 1e-4,
            min_learning_rate: 1e-6,
            warmup_learning_rate: 1e-6,
            warmup_steps: 100,
            schedule: ScheduleKind::Cosine,
            step_decay: 0.9,
            weight_decay: 0.01,
            betas: [0.9, 0.999],
            eps: 1e-8,
            max_grad_norm: 1.0,
            early_stopping_patience: 0,
            save_steps: 200,
            bucket_by_length: true,
        }
    }
}

impl OptimizerConfig {
    /// Checks every field but `epochs` against its domain; `section` names the fields.
    pub(super) fn check(&self, section: &str) -> Result<()> {
        let key = |name: &str| format!("{section}.{name}");
        positive(&key("batch_size"), self.batch_size)?;
        positive(&key("gradient_accumulation_steps"), self.gradient_accumulation_steps)?;
        domain(&key("learning_rate"), self.learning_rate, self.learning_rate > 0.0, "must be above 0")?;
        let floor = self.min_learning_rate;
        let expected = format!("between 0 and {section}.learning_rate");
        domain(&key("min_learning_rate"), floor, (0.0..=self.learning_rate).contains(&floor), &expected)?;
        domain(&key("weight_decay"), self.weight_decay, self.weight_decay >= 0.0, "0 or more")?;
        domain(&key("max_grad_norm"), self.max_grad_norm, self.max_grad_norm >= 0.0, "0 or more")?;
        let betas = self.betas.iter().all(|beta| (0.0..1.0).contains(beta));
        domain(&key("betas"), format!("{:?}", self.betas), betas, "both 0 or more, below 1")?;
        domain(&key("eps"), self.eps, self.eps > 0.0, "must be above 0")
    }
}
