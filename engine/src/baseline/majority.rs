//! The least that a model must beat.

use super::{Prediction, SparseRows, Split, check_input};
use crate::metric::error::Result;
use std::collections::BTreeMap;

/// Predicts the most frequent training label for every test row (the lowest of equally frequent ones), with its
/// share of the training rows as probability.
///
/// # Shapes
/// `labels`: `[rows]`; those of test rows are not read.
/// # Errors
/// `Empty` without training rows; `LengthMismatch`, `OutOfRange` and the like for malformed input.
pub fn majority(rows: SparseRows, labels: &[u32], split: Split) -> Result<Prediction> {
    check_input(&rows, labels, &split)?;
    let mut counts = BTreeMap::new();
    for &row in split.train {
        *counts.entry(labels[row]).or_insert(0_usize) += 1;
    }
    let (class, count) = counts.into_iter().fold((0, 0), |best, next| if next.1 > best.1 { next } else { best });
    let share = count as f32 / split.train.len() as f32;
    Ok(Prediction { classes: vec![class; split.test.len()], probabilities: vec![share; split.test.len()] })
}

#[cfg(test)]
mod tests {
    use super::super::testing::Matrix;
    use super::*;

    #[test]
    fn lowest_of_the_most_frequent() {
        let matrix = Matrix::dense(1, &[0.0; 6]);
        let labels = [9, 4, 4, 9, 7, 7];
        let guess = |train| majority(matrix.rows(), &labels, Split { train, test: &[4, 5] }).unwrap();
        assert_eq!(guess(&[0, 1, 2, 3]), Prediction { classes: vec![4, 4], probabilities: vec![0.5, 0.5] });
        assert_eq!(guess(&[0, 1, 3]).classes, [9, 9]);
        assert!(majority(matrix.rows(), &labels, Split { train: &[], test: &[0] }).is_err());
        assert!(majority(matrix.rows(), &labels, Split { train: &[6], test: &[0] }).is_err());
        assert!(majority(matrix.rows(), &labels[1..], Split { train: &[0], test: &[0] }).is_err());
    }
}
