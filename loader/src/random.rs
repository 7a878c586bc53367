//! Seeded randomness: one independent stream for each purpose, epoch and cell.
//!
//! Only integer arithmetic and exact float steps are used, so a seed means the same on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream is for; streams of different purposes share nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Order of the rows in an epoch.
    Order = 1,
    /// Splits of a dataset.
    Split = 2,
    /// Thinning and dropping of a cell's genes.
    Augment = 3,
    /// Spreading of ties over bins.
    Bin = 4,
    /// Choice of a cell's genes.
    Select = 5,
    /// What the objective predicts.
    Objective = 6,
    /// Which text describes a cell.
    Describe = 7,
    /// Which cells of a type serve as examples.
    FewShot = 8,
    /// Whether a cell or its text comes first.
    Direction = 9,
}

/// A stream of random numbers: a pure function of (seed, purpose, epoch, stream).
#[derive(Debug)]
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    /// The stream's beginning. `stream` is the dataset row wherever a cell is concerned.
    pub(crate) fn new(seed: u64, purpose: Purpose, epoch: u64, stream: u64) -> Random {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&epoch.to_le_bytes());
        key[16..24].copy_from_slice(&(purpose as u64).to_le_bytes());
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(stream);
        Random(generator)
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-53.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `0..bound`, without bias; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        // Lemire 2019: the high word of a product, rejecting the few low words that would be too many.
        let mut product = u128::from(self.0.next_u64()) * u128::from(bound);
        if (product as u64) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (product as u64) < threshold {
                product = u128::from(self.0.next_u64()) * u128::from(bound);
            }
        }
        (product >> 64) as usize
    }

    /// Fisher-Yates shuffle.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// `count` different numbers of `0..len`, sorted; all of them when `count >= len`.
    pub(crate) fn choose(&mut self, len: usize, count: usize) -> Vec<usize> {
        if count >= len {
            return (0..len).collect();
        }
        let mut all: Vec<usize> = (0..len).collect();
        for place in 0..count {
            let other = place + self.below(len - place);
            all.swap(place, other);
        }
        all.truncate(count);
        all.sort_unstable();
        all
    }

    /// Successes in `trials` independent trials of probability `p`, one draw of 32 bits each: exact up
    /// to the rounding of `p` to 2^-32, and the same on every machine.
    pub(crate) fn binomial(&mut self, trials: u64, p: f64) -> u64 {
        let threshold = (p.clamp(0.0, 1.0) * 4_294_967_296.0) as u64;
        (0..trials).filter(|_| u64::from(self.0.next_u32()) < threshold).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(stream: u64) -> Random {
        Random::new(7, Purpose::Split, 0, stream)
    }

    #[test]
    fn streams_are_reproducible_and_differ() {
        let first = |mut random: Random| random.0.next_u64();
        let base = first(random(0));
        assert_eq!(base, first(random(0)));
        let others = [
            first(random(1)),
            first(Random::new(8, Purpose::Split, 0, 0)),
            first(Random::new(7, Purpose::Split, 1, 0)),
            first(Random::new(7, Purpose::Order, 0, 0)),
        ];
        assert!(others.iter().all(|&other| other != base));
    }

    #[test]
    fn below_is_uniform_and_in_range() {
        let mut random = random(0);
        let mut counts = [0usize; 7];
        for _ in 0..70_000 {
            counts[random.below(7)] += 1;
        }
        assert!(counts.iter().all(|&count| (9_600..10_400).contains(&count)), "{counts:?}");
        assert_eq!(random.below(1), 0);
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn choose_gives_sorted_distinct_numbers() {
        let chosen = random(3).choose(100, 30);
        assert_eq!(chosen.len(), 30);
        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen[29] < 100);
        assert_eq!(random(3).choose(3, 9), [0, 1, 2]);
    }

    #[test]
    fn binomial_has_the_right_mean_and_ends() {
        let mut random = random(1);
        let sum: u64 = (0..1000).map(|_| random.binomial(100, 0.3)).sum();
        assert!((29_000..31_000).contains(&sum), "{sum}");
        assert_eq!(random.binomial(50, 1.0), 50);
        assert_eq!(random.binomial(50, 0.0), 0);
    }
}
