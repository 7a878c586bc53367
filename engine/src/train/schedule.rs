//! Learning rate as a function of the step: linear warm-up, then cosine, steps or constant.

use crate::config::{OptimizerConfig, ScheduleKind};

/// The schedule of one run.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    kind: ScheduleKind,
    peak: f64,
    floor: f64,
    start: f64,
    warmup: u64,
    decay: f64,
    steps_per_epoch: u64,
    total: u64,
}

impl Schedule {
    /// The schedule of a run of `epochs * steps_per_epoch` steps.
    pub fn new(config: &OptimizerConfig, steps_per_epoch: u64) -> Self {
        let total = config.epochs * steps_per_epoch;
        Schedule {
            kind: config.schedule,
            peak: config.learning_rate,
            floor: config.min_learning_rate,
            start: config.warmup_learning_rate.min(config.learning_rate),
            // A run shorter than its warm-up still reaches the peak halfway.
            warmup: config.warmup_steps.min(total / 2),
            decay: config.step_decay,
            steps_per_epoch: steps_per_epoch.max(1),
            total,
        }
    }

    /// Learning rate of step `step`, counted from 0.
    ///
    /// Warm-up of W steps: `start + (peak - start) * step / W`. Cosine over the T - W steps after it:
    /// `floor + (peak - floor) * (1 + cos(pi * (step - W) / (T - W))) / 2`. Steps: `max(floor, peak * decay^epoch)`.
    ///
    /// # Source
    /// LAVIS `lavis/common/optims.py`, with the cosine counted in steps instead of epochs.
    pub fn learning_rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.start + (self.peak - self.start) * step as f64 / self.warmup as f64;
        }
        match self.kind {
            ScheduleKind::Constant => self.peak,
            ScheduleKind::Step => (self.peak * self.decay.powf((step / self.steps_per_epoch) as f64)).max(self.floor),
            ScheduleKind::Cosine => {
                let span = (self.total - self.warmup).max(1) as f64;
                let share = ((step - self.warmup) as f64 / span).min(1.0);
                self.floor + 0.5 * (self.peak - self.floor) * (1.0 + (std::f64::consts::PI * share).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_then_cosine() {
        let config = OptimizerConfig {
            epochs: 10,
            learning_rate: 1.0,
            min_learning_rate: 0.1,
            warmup_learning_rate: 0.0,
            warmup_steps: 4,
            ..OptimizerConfig::default()
        };
        let schedule = Schedule::new(&config, 2);
        let rates: Vec<f64> = [0, 1, 4, 12, 20, 99].map(|step| schedule.learning_rate(step)).to_vec();
        for (rate, expected) in rates.iter().zip([0.0, 0.25, 1.0, 0.55, 0.1, 0.1]) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
        let step = Schedule::new(&OptimizerConfig { schedule: ScheduleKind::Step, step_decay: 0.5, warmup_steps: 0, ..config }, 2);
        assert_eq!([0, 1, 2, 5, 19].map(|at| step.learning_rate(at)), [1.0, 1.0, 0.5, 0.25, 0.1]);
    }
}
