//! Classical predictors of a cell's label, to be printed beside every score of a model.
//!
//! All read log1p-CP10k expression (natural logarithm of 1 + counts per ten thousand) as sparse rows, learn from
//! the training rows alone, and predict the test rows. Nothing about a test row enters the fit: no statistic,
//! no component, no label.
//!
//! Results are the same bits at any thread count: every sum is taken by one thread in one order.
//! No dense matrix of rows x genes is built; see each function for what it holds instead.

mod knn;
mod lanczos;
mod lbfgs;
mod line_search;
mod logistic;
mod logistic_loss;
mod majority;
mod pca;
mod selected;
mod sparse;
mod tridiagonal;

pub use knn::{KnnOptions, knn_on_pca, nearest_neighbours};
pub use logistic::{LogisticModel, LogisticOptions, fit_logistic_regression, logistic_regression};
pub use majority::majority;
pub use pca::{Pca, fit_pca};
pub use sparse::{SparseMatrix, SparseRows};

use crate::metric::error::{MetricError, Result, in_range, same_length};

/// Which rows to learn from and which to predict, as row numbers of the same [`SparseRows`].
#[derive(Debug, Clone, Copy)]
pub struct Split<'a> {
    /// Rows to learn from, `[train]`, at least one.
    pub train: &'a [usize],
    /// Rows to predict, `[test]`; may be empty.
    pub test: &'a [usize],
}

/// One predicted label for each test row, in the order of [`Split::test`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prediction {
    /// Predicted label, `[test]`; always one that occurs in training.
    pub classes: Vec<u32>,
    /// The method's probability of that label, 0 to 1, `[test]`.
    pub probabilities: Vec<f32>,
}

impl Prediction {
    /// The labels as the metrics take them: a baseline never answers "unknown".
    pub fn answers(&self) -> Vec<Option<u32>> {
        self.classes.iter().copied().map(Some).collect()
    }
}

/// The conditions that all baselines share. `labels`: `[rows]`; those of test rows are not read.
fn check_input(rows: &SparseRows, labels: &[u32], split: &Split) -> Result<()> {
    rows.check()?;
    same_length("labels", rows.rows(), labels.len())?;
    if split.train.is_empty() {
        return Err(MetricError::Empty { what: "training rows" });
    }
    in_range("training rows", split.train.iter().copied(), rows.rows())?;
    in_range("test rows", split.test.iter().copied(), rows.rows())
}

/// `sum a_i b_i` in eight interleaved partial sums: one fixed order that still fills the vector unit.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut partial = [0.0; 8];
    let (a_blocks, b_blocks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        for (sum, (a, b)) in partial.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    partial.iter().sum::<f64>() + rest
}

/// `y += scale * x`.
fn add_scaled(y: &mut [f64], scale: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += scale * x);
}

#[cfg(test)]
mod testing {
    use super::SparseRows;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    /// Owned sparse rows.
    pub(super) struct Matrix {
        pub(super) indptr: Vec<usize>,
        pub(super) indices: Vec<u32>,
        pub(super) values: Vec<f32>,
        pub(super) columns: usize,
    }

    impl Matrix {
        /// The non-zero entries of `[rows, columns]` values.
        pub(super) fn dense(columns: usize, values: &[f32]) -> Self {
            let mut matrix = Self { indptr: vec![0], indices: vec![], values: vec![], columns };
            for row in values.chunks(columns) {
                for (column, &value) in (0..).zip(row).filter(|(_, value)| **value != 0.0) {
                    matrix.indices.push(column);
                    matrix.values.push(value);
                }
                matrix.indptr.push(matrix.indices.len());
            }
            matrix
        }

        /// Random rows of which a third is zero; row `i` is raised in the columns that are `i` modulo `classes`.
        pub(super) fn clusters(rows: usize, columns: usize, classes: usize) -> (Self, Vec<u32>) {
            let mut random = ChaCha8Rng::seed_from_u64(5);
            let mut values = Vec::new();
            for row in 0..rows {
                for column in 0..columns {
                    let noise = random.next_u32() as f32 / u32::MAX as f32;
                    let raised = if column % classes == row % classes { 1.5 } else { 0.0 };
                    values.push(if noise < 1.0 / 3.0 { 0.0 } else { noise + raised });
                }
            }
            (Self::dense(columns, &values), (0..rows).map(|row| (row % classes) as u32).collect())
        }

        pub(super) fn rows(&self) -> SparseRows<'_> {
            let Self { indptr, indices, values, columns } = self;
            SparseRows { indptr, indices, values, columns: *columns }
        }
    }
}
