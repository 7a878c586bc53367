//! Cells that need no model, to stand beside generated ones: one for each label asked for, from training cells of that label.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::Cells;
use super::moments::Profiles;
use super::neighbours::nearest;
use crate::baseline::{SparseMatrix, SparseRows};

/// Training cells by label, ascending.
struct ByLabel(Vec<Vec<usize>>);

impl ByLabel {
    /// None when a label that is asked for has no training cell.
    fn new(train: &Cells<'_>, labels: &[u32]) -> Option<ByLabel> {
        let count = train.labels.iter().chain(labels).max().map_or(0, |label| *label as usize + 1);
        let mut rows = vec![Vec::new(); count];
        train.labels.iter().enumerate().for_each(|(row, label)| rows[*label as usize].push(row));
        labels.iter().all(|label| !rows[*label as usize].is_empty()).then_some(ByLabel(rows))
    }

    fn of(&self, label: u32) -> &[usize] {
        &self.0[label as usize]
    }
}

/// The mean training cell of each label: best on average, and the same for all.
///
/// # Shapes
/// `labels`: `[cells]`; the result: `[cells, genes]`. None when a label has no training cell.
pub fn class_mean(train: &Cells<'_>, labels: &[u32]) -> Option<SparseMatrix> {
    let by_label = ByLabel::new(train, labels)?;
    let profiles = Profiles::new(train.rows, train.labels, by_label.0.len(), 0..train.labels.len());
    let mut matrix = SparseMatrix::new(train.rows.columns);
    for label in labels {
        let mean = profiles.mean(*label as usize).unwrap_or_default();
        matrix.push((0..).zip(mean).filter(|(_, value)| *value != 0.0).map(|(gene, value)| (gene, value as f32)));
    }
    Some(matrix)
}

/// A training cell of each label, drawn by the seed: what real cells reach.
///
/// # Shapes
/// As [`class_mean`].
pub fn random_cell(train: &Cells<'_>, labels: &[u32], seed: u64) -> Option<SparseMatrix> {
    let by_label = ByLabel::new(train, labels)?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |among: &[usize]| among[((u128::from(random.next_u64()) * among.len() as u128) >> 64) as usize];
    Some(copies(train, labels.iter().map(|label| draw(by_label.of(*label)))))
}

/// The training cell of its label that is nearest to each generated cell, Euclidean: what remains if all that is new is taken from them.
///
/// # Shapes
/// `generated`: `[cells, genes]`; others as [`class_mean`].
pub fn nearest_cell(train: &Cells<'_>, generated: &Cells<'_>) -> Option<SparseMatrix> {
    let by_label = ByLabel::new(train, generated.labels)?;
    let subsets: Vec<SparseMatrix> = by_label.0.iter().map(|rows| copies(train, rows.iter().copied())).collect();
    let norms = |rows: SparseRows<'_>| (0..rows.rows()).map(|row| rows.row(row).map(|(_, x)| x * x).sum()).collect::<Vec<f64>>();
    let norms: Vec<Vec<f64>> = subsets.iter().map(|subset| norms(subset.rows())).collect();
    let mut point = vec![0.0; train.rows.columns];
    let found = generated.labels.iter().enumerate().map(|(row, label)| {
        let label = *label as usize;
        let found = nearest(subsets[label].rows(), &norms[label], generated.rows, row, &mut point, 1);
        found.first().map_or(0, |at| by_label.0[label][*at])
    });
    let found: Vec<usize> = found.collect();
    Some(copies(train, found))
}

fn copies(train: &Cells<'_>, rows: impl IntoIterator<Item = usize>) -> SparseMatrix {
    let mut matrix = SparseMatrix::new(train.rows.columns);
    rows.into_iter().for_each(|row| matrix.push(train.rows.row(row).map(|(gene, value)| (gene as u32, value as f32))));
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cell_a_label() {
        let train = Cells {
            rows: SparseRows { indptr: &[0, 1, 3, 4], indices: &[0, 0, 1, 1], values: &[2.0, 4.0, 1.0, 5.0], columns: 2 },
            labels: &[0, 0, 2],
        };
        let dense = |matrix: Option<SparseMatrix>| {
            let matrix = matrix.unwrap();
            let rows = matrix.rows();
            (0..rows.rows()).map(|row| rows.row(row).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        assert_eq!(dense(class_mean(&train, &[2, 0])), [vec![(1, 5.0)], vec![(0, 3.0), (1, 0.5)]]);
        assert_eq!(class_mean(&train, &[1]), None);
        for row in dense(random_cell(&train, &[0; 40], 1)) {
            assert!(row == [(0, 2.0)] || row == [(0, 4.0), (1, 1.0)], "{row:?}");
        }
        assert_ne!(random_cell(&train, &[0; 40], 1), random_cell(&train, &[0; 40], 2));
        let generated =
            Cells { rows: SparseRows { indptr: &[0, 1, 2], indices: &[0, 0], values: &[3.6, 2.5], columns: 2 }, labels: &[0, 0] };
        assert_eq!(dense(nearest_cell(&train, &generated)), [vec![(0, 4.0), (1, 1.0)], vec![(0, 2.0)]]);
    }
}
