//! Bootstrap intervals: resample what was scored, score again, read off the percentiles.
//!
//! Resample `r` of `n` samples is drawn by a generator keyed by (seed, r) alone. Two models scored on the same
//! samples with the same seed therefore see the same resamples, which is what makes their difference paired,
//! and the result does not depend on the number of threads.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;

/// Resamples behind every interval.
pub const RESAMPLES: u32 = 1000;

/// A score with its 95 % percentile bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The score of the samples as they are.
    pub value: f64,
    /// 2.5th percentile over the resamples.
    pub low: f64,
    /// 97.5th percentile over the resamples.
    pub high: f64,
}

impl Estimate {
    /// `value` with the percentiles of `resampled`, interpolated linearly as `numpy.percentile` does.
    pub(super) fn new(value: f64, mut resampled: Vec<f64>) -> Self {
        resampled.sort_unstable_by(f64::total_cmp);
        let percentile = |share: f64| {
            let at = share * (resampled.len() - 1) as f64;
            let below = resampled[at as usize];
            let above = resampled[(at as usize + 1).min(resampled.len() - 1)];
            below + (above - below) * at.fract()
        };
        Self { value, low: percentile(0.025), high: percentile(0.975) }
    }

    /// As [`Estimate::new`], of the resampled values moved so that their mean is `value`, within `range`: for comparisons of sets, which
    /// repeats in resamples make less alike.
    pub(super) fn centred(value: f64, mut resampled: Vec<f64>, range: RangeInclusive<f64>) -> Self {
        let off = resampled.iter().sum::<f64>() / resampled.len() as f64 - value;
        resampled.iter_mut().for_each(|resampled| *resampled -= off);
        let Self { value, low, high } = Self::new(value, resampled);
        Self { value, low: low.max(*range.start()), high: high.min(*range.end()) }
    }

    /// A mean over samples.
    pub(super) fn mean(samples: &[f64], seed: u64) -> Self {
        Self::of(samples.len(), seed, |drawn| drawn.map(|at| samples[at]).sum::<f64>() / samples.len() as f64)
    }

    /// Whatever `score` makes of the indices of samples: of all of them, and of every resample.
    pub(super) fn of(samples: usize, seed: u64, score: impl Fn(&mut dyn Iterator<Item = usize>) -> f64 + Sync) -> Self {
        let resampled = (0..RESAMPLES).into_par_iter().map(|resample| score(&mut draws(seed, resample, samples)));
        Self::new(score(&mut (0..samples)), resampled.collect())
    }
}

impl fmt::Display for Estimate {
    /// `0.796 [0.743, 0.848]`; `{:+}` writes signs, for differences.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, low, high } = self;
        if f.sign_plus() { write!(f, "{value:+.3} [{low:+.3}, {high:+.3}]") } else { write!(f, "{value:.3} [{low:.3}, {high:.3}]") }
    }
}

/// The `samples` indices of one resample, uniform over `0..samples` with replacement.
pub(crate) fn draws(seed: u64, resample: u32, samples: usize) -> impl Iterator<Item = usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(u64::from(resample));
    (0..samples).map(move |_| ((u128::from(random.next_u64()) * samples as u128) >> 64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_as_numpy() {
        // numpy 2.4.6: percentile(arange(11), [2.5, 97.5]) = [0.25, 9.75]
        let estimate = Estimate::new(5.0, (0..11).rev().map(f64::from).collect());
        assert_eq!((estimate.low, estimate.high), (0.25, 9.75));
        assert_eq!(format!("{estimate:+}"), "+5.000 [+0.250, +9.750]");
        let centred = Estimate::centred(7.0, (0..11).map(f64::from).collect(), 0.0..=11.5);
        assert_eq!((centred.value, centred.low, centred.high), (7.0, 2.25, 11.5));
    }

    #[test]
    fn interval_of_a_mean_is_about_normal() {
        let samples: Vec<f64> = (0..400).map(|at| f64::from(at % 2)).collect();
        let estimate = Estimate::mean(&samples, 3);
        // 1.96 * 0.5 / 20 = 0.049
        assert!(estimate.value == 0.5 && (estimate.low - 0.451).abs() < 0.01 && (estimate.high - 0.549).abs() < 0.01, "{estimate}");
        assert_eq!(estimate, Estimate::mean(&samples, 3));
        assert_ne!(estimate, Estimate::mean(&samples, 4));
    }
}
