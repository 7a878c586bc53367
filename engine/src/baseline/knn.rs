//! Votes of the nearest training cells.

use rayon::prelude::*;

use super::pca::fit_pca;
use super::{Prediction, SparseRows, Split, check_input};
use crate::metric::error::{MetricError, Result, same_length};

/// Settings of [`knn_on_pca`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnnOptions {
    /// Principal components, at least 1; fewer are used where the training rows do not have as many.
    pub components: usize,
    /// Training rows that vote, at least 1; all of them where there are fewer.
    pub neighbours: usize,
    /// Seed of the start vector of the decomposition.
    pub seed: u64,
}

impl Default for KnnOptions {
    fn default() -> Self {
        Self { components: 50, neighbours: 15, seed: 0 }
    }
}

/// [`nearest_neighbours`] among principal components: axes from the training rows ([`fit_pca`]), on which both
/// training and test rows are projected. Expression is centred but not scaled, and all genes take part.
///
/// Memory: that of [`fit_pca`], and `rows x components` f64.
///
/// # Shapes
/// `labels`: `[rows]`; those of test rows are not read.
/// # Errors
/// `Empty` without training rows or columns; `Option` for settings of 0; others for malformed input.
pub fn knn_on_pca(rows: SparseRows, labels: &[u32], split: Split, options: KnnOptions) -> Result<Prediction> {
    check_input(&rows, labels, &split)?;
    let pca = fit_pca(rows, split.train, options.components, options.seed)?;
    let train = pca.transform(rows, split.train)?;
    let test = pca.transform(rows, split.test)?;
    let voters: Vec<u32> = split.train.iter().map(|&row| labels[row]).collect();
    nearest_neighbours(&train, &voters, &test, split.test.len(), options.neighbours)
}

/// Majority vote of the `neighbours` points of `train` nearest by Euclidean distance (equally near: the earlier).
/// Equal votes go to the smaller sum of distances, then to the lower label. The probability is the share of votes.
///
/// Every distance is computed: `test x train x dimensions` multiplications.
///
/// # Shapes
/// `train`: `[labels, dimensions]`; `test`: `[tests, dimensions]`; any number of dimensions, 0 too.
/// # Errors
/// `Empty` without training points; `Option` for 0 neighbours; `LengthMismatch`.
pub fn nearest_neighbours(train: &[f64], labels: &[u32], test: &[f64], tests: usize, neighbours: usize) -> Result<Prediction> {
    if labels.is_empty() {
        return Err(MetricError::Empty { what: "training points" });
    }
    if neighbours == 0 {
        return Err(MetricError::Option { option: "neighbours", expected: "at least 1", got: 0.0 });
    }
    let dimensions = train.len() / labels.len();
    same_length("training points", labels.len() * dimensions, train.len())?;
    same_length("test points", tests * dimensions, test.len())?;
    let votes = (0..tests).into_par_iter().map_init(Vec::new, |distances, at| {
        let point = &test[at * dimensions..][..dimensions];
        distances.clear();
        distances.extend((0..labels.len()).map(|voter| {
            let other = &train[voter * dimensions..][..dimensions];
            (squared_distance(point, other), voter)
        }));
        vote(distances, labels, neighbours.min(labels.len()))
    });
    let (classes, probabilities) = votes.collect::<Vec<_>>().into_iter().unzip();
    Ok(Prediction { classes, probabilities })
}

/// The winning label and its share of the votes of the `neighbours` least (squared distance, voter).
fn vote(distances: &mut [(f64, usize)], labels: &[u32], neighbours: usize) -> (u32, f32) {
    let nearer = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    distances.select_nth_unstable_by(neighbours - 1, nearer);
    let nearest = &mut distances[..neighbours];
    nearest.sort_unstable_by(nearer);
    let mut tally: Vec<(u32, usize, f64)> = Vec::with_capacity(neighbours); // label, votes, summed distance
    for &(squared, voter) in nearest.iter() {
        match tally.iter_mut().find(|(label, ..)| *label == labels[voter]) {
            Some((_, votes, sum)) => {
                *votes += 1;
                *sum += squared.sqrt();
            }
            None => tally.push((labels[voter], 1, squared.sqrt())),
        }
    }
    tally.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.2.total_cmp(&b.2)).then(a.0.cmp(&b.0)));
    let (label, votes, _) = tally[0];
    (label, votes as f32 / neighbours as f32)
}

/// In eight interleaved partial sums, as [`super::dot`].
fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    let mut partial = [0.0; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for (sum, (a, b)) in partial.iter_mut().zip(a.iter().zip(b)) {
            *sum += (a - b) * (a - b);
        }
    }
    partial.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Matrix;
    use super::*;

    #[test]
    fn ties_go_to_the_nearer_then_the_lower() {
        let train = [0.0, 1.0, 3.0, 4.0];
        let labels = [7, 7, 2, 2];
        let at = |x: f64, neighbours| nearest_neighbours(&train, &labels, &[x], 1, neighbours).unwrap();
        assert_eq!(at(1.9, 4), Prediction { classes: vec![7], probabilities: vec![0.5] });
        assert_eq!(at(2.1, 4).classes, [2]);
        assert_eq!(at(2.0, 4).classes, [2]); // equal sums: the lower label
        assert_eq!(at(2.0, 1).classes, [7]); // equally near: the earlier point
        assert_eq!(at(9.0, 99).probabilities, [0.5]);
        assert!(nearest_neighbours(&train, &labels, &[0.0], 1, 0).is_err());
        assert!(nearest_neighbours(&train, &labels, &[0.0], 2, 1).is_err());
        assert!(nearest_neighbours(&[], &[], &[0.0], 1, 1).is_err());
    }

    #[test]
    fn separates_clusters_at_any_thread_count() {
        let (matrix, labels) = Matrix::clusters(120, 40, 3);
        let (train, test): (Vec<usize>, Vec<usize>) = (0..120).partition(|row| row % 4 != 0);
        let split = Split { train: &train, test: &test };
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| knn_on_pca(matrix.rows(), &labels, split, KnnOptions::default()).unwrap())
        };
        let prediction = run(1);
        assert_eq!(prediction, run(3));
        assert!(prediction.classes.iter().zip(&test).all(|(&class, &row)| class == labels[row]));
    }
}
