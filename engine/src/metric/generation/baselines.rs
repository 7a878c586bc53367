//! Cells that need no model, to stand beside generated ones: one for each label asked for, from training cells of that label.

use std::collections::BTreeMap;

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

/// For each cell asked for, by label and condition, the mean training cell of its label under the control, with the mean response of the
/// other labels to the condition added, and nothing below 0: what is known of a label under a condition that training has no cell of.
///
/// # Shapes
/// `conditions`: `[train]`; `labels`, `asked`: `[cells]`; the result: `[cells, genes]`. None when a label has no training cell under the
/// control, or no other label has cells under both.
pub fn control_and_response(train: &Cells<'_>, conditions: &[u32], labels: &[u32], asked: &[u32], control: u32) -> Option<SparseMatrix> {
    let above = |values: &[u32], others: &[u32]| values.iter().chain(others).max().map_or(0, |most| *most + 1);
    let (kinds, count) = (above(train.labels, labels), above(conditions, asked).max(control + 1));
    let groups: Vec<u32> = train.labels.iter().zip(conditions).map(|(label, condition)| label * count + condition).collect();
    let profiles = Profiles::new(train.rows, &groups, (kinds * count) as usize, 0..groups.len());
    let mean = |label: u32, condition: u32| profiles.mean((label * count + condition) as usize);
    let mut made: BTreeMap<(u32, u32), Vec<f64>> = BTreeMap::new();
    for (&label, &condition) in labels.iter().zip(asked) {
        if made.contains_key(&(label, condition)) {
            continue;
        }
        let mut cell = mean(label, control)?;
        if condition != control {
            let pairs = (0..kinds).filter(|other| *other != label).filter_map(|other| mean(other, condition).zip(mean(other, control)));
            let pairs: Vec<(Vec<f64>, Vec<f64>)> = pairs.collect();
            let others = if pairs.is_empty() { None } else { Some(pairs.len() as f64) }?;
            for (under, without) in &pairs {
                let response = under.iter().zip(without).map(|(under, without)| (under - without) / others);
                cell.iter_mut().zip(response).for_each(|(value, response)| *value += response);
            }
        }
        made.insert((label, condition), cell);
    }
    let mut matrix = SparseMatrix::new(train.rows.columns);
    for pair in labels.iter().copied().zip(asked.iter().copied()) {
        let cell = made.get(&pair)?;
        matrix.push((0..).zip(cell).filter(|(_, value)| **value > 0.0).map(|(gene, value)| (gene, *value as f32)));
    }
    Some(matrix)
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

    #[test]
    fn the_response_of_other_labels_is_added() {
        // Label 0 under the control alone; label 1 under both, where gene 0 goes up by 2 and gene 1 down by 3.
        let train = Cells {
            rows: SparseRows { indptr: &[0, 2, 4, 5], indices: &[0, 1, 0, 1, 0], values: &[1.0, 2.0, 1.0, 3.0, 3.0], columns: 2 },
            labels: &[0, 1, 1],
        };
        let made = control_and_response(&train, &[0, 0, 1], &[0, 0, 1], &[1, 0, 0], 0).unwrap();
        let rows: Vec<Vec<(usize, f64)>> = (0..3).map(|row| made.rows().row(row).collect()).collect();
        assert_eq!(rows, [vec![(0, 3.0)], vec![(0, 1.0), (1, 2.0)], vec![(0, 1.0), (1, 3.0)]]);
        assert_eq!(control_and_response(&train, &[0, 0, 1], &[1], &[1], 0), None, "no other label has been under the condition");
    }
}
