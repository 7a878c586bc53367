//! Bootstrap intervals: resample what was scored, score again, read off the percentiles.
//!
//! Resample `r` of `n` samples is drawn by a generator keyed by (seed, r) alone. Two models scored on the same
//! samples with the same seed therefore see the same resamples, which is what makes their difference paired,
//! and the result does not depend on the number of threads.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::fmt;

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
    }
}
