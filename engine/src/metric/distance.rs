//! How far two sets of points lie apart.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use super::bootstrap::{Estimate, RESAMPLES, draws};
use super::error::{MetricError, Result, same_length};

/// Points of a set that take part, at most.
pub(super) const MOST_POINTS: usize = 1000;
/// Directions of the sliced distance.
pub(super) const DIRECTIONS: usize = 128;

/// Stream of random numbers for the choice of points, behind those of the resamples.
const CHOICE: u64 = 1 << 40;

/// Two sets of points of the same dimension.
pub(super) struct TwoSets {
    first: Vec<f32>,
    second: Vec<f32>,
    width: usize,
    seed: u64,
}

impl TwoSets {
    /// Takes [`MOST_POINTS`] of each set at most, drawn by the seed without replacement; `point` writes one into a row of `width` zeros.
    ///
    /// # Errors
    /// `Empty` where a set has no points.
    pub(super) fn new(sizes: [usize; 2], width: usize, seed: u64, point: impl Fn(usize, usize, &mut [f32])) -> Result<TwoSets> {
        if sizes.contains(&0) || width == 0 {
            return Err(MetricError::Empty { what: "points" });
        }
        let set = |which: usize| {
            let mut values = Vec::new();
            for at in choice(sizes[which], seed, which) {
                let start = values.len();
                values.resize(start + width, 0.0);
                point(which, at, &mut values[start..]);
            }
            values
        };
        Ok(TwoSets { first: set(0), second: set(1), width, seed })
    }

    /// Of two matrices.
    ///
    /// # Shapes
    /// `first`: `[any, width]`; `second`: `[any, width]`.
    /// # Errors
    /// `LengthMismatch` for parts of a row, `Empty`.
    pub(super) fn dense(first: &[f32], second: &[f32], width: usize, seed: u64) -> Result<TwoSets> {
        let sizes = [first, second].map(|set| set.len() / width.max(1));
        same_length("first points", sizes[0] * width, first.len())?;
        same_length("second points", sizes[1] * width, second.len())?;
        TwoSets::new(sizes, width, seed, |which, at, row| row.copy_from_slice(&[first, second][which][at * width..][..width]))
    }

    /// Squared maximum mean discrepancy with the kernel `exp(-d^2 / (2 s^2))`, `s` the median distance of two different points of both
    /// sets together: `mean k(x, x') + mean k(y, y') - 2 mean k(x, y)` over all pairs, a point with itself too, so that equal sets have 0.
    ///
    /// # Source
    /// Gretton et al. 2012, eq. 5; the median rule of its section 8.
    pub(super) fn mmd(&self) -> Estimate {
        let points: Vec<&[f32]> = self.first.chunks(self.width).chain(self.second.chunks(self.width)).collect();
        let (all, first) = (points.len(), self.first.len() / self.width);
        let mut kernel: Vec<f64> = points.par_iter().flat_map_iter(|one| points.iter().map(|other| squared_distance(one, other))).collect();
        let mut distances: Vec<f64> = (0..all).flat_map(|row| kernel[row * all + row + 1..(row + 1) * all].iter().copied()).collect();
        let middle = median(&mut distances);
        // Half the points alike: any width tells them from the others.
        let width = if middle > 0.0 { middle } else { 1.0 };
        kernel.par_iter_mut().for_each(|squared| *squared = (-*squared / (2.0 * width)).exp());
        let value = |counts: &[f64]| {
            let weight = |at: usize| if at < first { counts[at] / first as f64 } else { -counts[at] / (all - first) as f64 };
            let weights: Vec<f64> = (0..all).map(weight).collect();
            let row = |row: usize| weights[row] * kernel[row * all..][..all].iter().zip(&weights).map(|(k, w)| k * w).sum::<f64>();
            (0..all).filter(|&at| weights[at] != 0.0).map(row).sum::<f64>()
        };
        self.estimate([first, all - first], value)
    }

    /// Sliced 2-Wasserstein distance: the root of the mean of the squared 2-Wasserstein distances of the sets' projections on
    /// [`DIRECTIONS`] directions, uniform on the sphere, drawn by the seed.
    ///
    /// # Source
    /// Rabin et al. 2012; on a line the distance is that of the quantile functions.
    pub(super) fn sliced_wasserstein(&self) -> Estimate {
        let slices: Vec<[Vec<(f64, usize)>; 2]> = directions(self.width, self.seed)
            .par_chunks(self.width)
            .map(|direction| [&self.first, &self.second].map(|set| sorted_projection(set, direction)))
            .collect();
        let sizes = [&self.first, &self.second].map(|set| set.len() / self.width);
        let value = |counts: &[f64]| {
            let squared = |slice: &[Vec<(f64, usize)>; 2]| {
                let side = |which: usize| {
                    let counts = &counts[which * sizes[0]..][..sizes[which]];
                    slice[which].iter().map(move |&(place, at)| (place, counts[at] / sizes[which] as f64))
                };
                squared_wasserstein(side(0), side(1))
            };
            (slices.iter().map(squared).sum::<f64>() / slices.len() as f64).sqrt()
        };
        self.estimate(sizes, value)
    }

    /// Value and interval of a function of how often each point counts, those of the first set before those of the second.
    fn estimate(&self, [first, second]: [usize; 2], value: impl Fn(&[f64]) -> f64 + Sync) -> Estimate {
        let resampled = (0..RESAMPLES).into_par_iter().map_init(Vec::new, |counts, resample| {
            counts.clear();
            counts.resize(first + second, 0.0);
            draws(self.seed, 2 * resample, first).for_each(|at| counts[at] += 1.0);
            draws(self.seed, 2 * resample + 1, second).for_each(|at| counts[first + at] += 1.0);
            value(counts)
        });
        Estimate::centred(value(&vec![1.0; first + second]), resampled.collect())
    }
}

/// Which of `size` points take part, ascending.
fn choice(size: usize, seed: u64, which: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..size).collect();
    if size > MOST_POINTS {
        let mut random = stream(seed, CHOICE + which as u64);
        for at in 0..MOST_POINTS {
            let other = at + ((u128::from(random.next_u64()) * (size - at) as u128) >> 64) as usize;
            order.swap(at, other);
        }
        order.truncate(MOST_POINTS);
        order.sort_unstable();
    }
    order
}

/// [`DIRECTIONS`] unit vectors, `[DIRECTIONS, width]`: normalised independent normal numbers.
pub(super) fn directions(width: usize, seed: u64) -> Vec<f64> {
    let mut random = stream(seed, CHOICE + 2);
    let mut uniform = move || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    // Box-Muller, one of the pair.
    let mut normal = || (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    let mut all: Vec<f64> = (0..DIRECTIONS * width).map(|_| normal()).collect();
    for direction in all.chunks_mut(width) {
        let length = direction.iter().map(|x| x * x).sum::<f64>().sqrt();
        direction.iter_mut().for_each(|x| *x /= length);
    }
    all
}

fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    random
}

/// (place on the line, point), ascending.
fn sorted_projection(set: &[f32], direction: &[f64]) -> Vec<(f64, usize)> {
    let project = |point: &[f32]| point.iter().zip(direction).map(|(x, d)| f64::from(*x) * d).sum::<f64>();
    let mut places: Vec<(f64, usize)> = set.chunks(direction.len()).map(project).zip(0..).collect();
    places.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    places
}

/// `integral (F^-1 - G^-1)^2` of two distributions given as ascending (place, weight); each side's weights sum to 1.
fn squared_wasserstein(first: impl Iterator<Item = (f64, f64)>, second: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (mut first, mut second) = (first.filter(|point| point.1 > 0.0), second.filter(|point| point.1 > 0.0));
    let (mut one, mut other) = (first.next(), second.next());
    let mut sum = 0.0;
    while let (Some((a, left)), Some((b, right))) = (one, other) {
        let moved = f64::min(left, right);
        sum += moved * (a - b) * (a - b);
        // What rounding leaves of a point is not a point.
        let rest = |place: f64, weight: f64| (weight - moved > 1e-12).then_some((place, weight - moved));
        one = rest(a, left).or_else(|| first.next());
        other = rest(b, right).or_else(|| second.next());
    }
    sum
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let mut partial = [0.0; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for (sum, (a, b)) in partial.iter_mut().zip(a.iter().zip(b)) {
            let difference = f64::from(*a) - f64::from(*b);
            *sum += difference * difference;
        }
    }
    partial.iter().sum()
}

/// The square of the median of the distances whose squares are given; of an even number the mean of the middle two distances.
fn median(squares: &mut [f64]) -> f64 {
    if squares.is_empty() {
        return 0.0;
    }
    let (middle, even) = (squares.len() / 2, squares.len().is_multiple_of(2));
    let (below, upper, _) = squares.select_nth_unstable_by(middle, f64::total_cmp);
    let lower = if even { below.iter().copied().fold(0.0, f64::max) } else { *upper };
    let median = (lower.sqrt() + upper.sqrt()) / 2.0;
    median * median
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_lie_nowhere_apart() {
        let points: Vec<f32> = (0..60).map(|at| ((at * 37) % 23) as f32).collect();
        let sets = TwoSets::dense(&points, &points, 3, 1).unwrap();
        assert!(sets.mmd().value.abs() < 1e-12 && sets.sliced_wasserstein().value == 0.0);
        let alike = TwoSets::dense(&[1.0; 6], &[1.0; 9], 3, 1).unwrap();
        assert!(alike.mmd().value.abs() < 1e-12 && alike.sliced_wasserstein().value == 0.0);
    }

    #[test]
    fn a_shift_is_seen_whole() {
        // On a line all directions are the same: the distance is the shift.
        let first: Vec<f32> = (0..40).map(|at| at as f32).collect();
        let second: Vec<f32> = (0..40).map(|at| at as f32 + 3.0).collect();
        let shifted = TwoSets::dense(&first, &second, 1, 5).unwrap().sliced_wasserstein();
        assert!((shifted.value - 3.0).abs() < 1e-9, "{shifted}");
        // Twice as many points of the same distribution.
        let twice: Vec<f32> = second.iter().flat_map(|x| [*x, *x]).collect();
        assert!((TwoSets::dense(&first, &twice, 1, 5).unwrap().sliced_wasserstein().value - 3.0).abs() < 1e-9);
    }

    #[test]
    fn large_sets_are_sampled_by_the_seed() {
        assert_eq!(choice(7, 3, 0), (0..7).collect::<Vec<_>>());
        let chosen = choice(5000, 3, 0);
        assert!(chosen.len() == MOST_POINTS && chosen.is_sorted_by(|a, b| a < b) && chosen[MOST_POINTS - 1] < 5000);
        assert_ne!(chosen, choice(5000, 4, 0));
        assert!(TwoSets::dense(&[], &[1.0], 1, 0).is_err());
        assert!(TwoSets::dense(&[1.0; 3], &[1.0; 4], 2, 0).is_err());
    }
}
