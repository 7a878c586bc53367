//! Labels of the nearest cells.

use rayon::prelude::*;

use super::Cells;
use crate::baseline::SparseRows;

/// For each `k`, the label of each row by a majority of its `k` nearest cells of `train` (fewer where there are fewer), Euclidean; of
/// equally near ones the earlier, of equal votes the lower label.
///
/// # Shapes
/// `rows`: `[cells, genes]`, of the genes of `train`; the result: `[ks, cells]`.
/// # Source
/// scikit-learn `KNeighborsClassifier(n_neighbors=k)`, which leaves open which of equally near cells it takes.
pub fn nearest_labels(train: &Cells<'_>, rows: SparseRows<'_>, ks: &[usize]) -> Vec<Vec<u32>> {
    let norms: Vec<f64> = (0..train.rows.rows()).map(|row| train.rows.row(row).map(|(_, x)| x * x).sum()).collect();
    let most = ks.iter().copied().max().unwrap_or(0).min(norms.len());
    let votes: Vec<Vec<u32>> = (0..rows.rows())
        .into_par_iter()
        .map_init(
            || vec![0.0; rows.columns],
            |point, row| {
                let nearest = nearest(train.rows, &norms, rows, row, point, most);
                ks.iter().map(|k| majority(nearest.iter().take(*k).map(|at| train.labels[*at]))).collect()
            },
        )
        .collect();
    (0..ks.len()).map(|at| votes.iter().map(|votes| votes[at]).collect()).collect()
}

/// The `most` nearest rows of `train`, the nearest first. `point` is all zeros, before and after.
pub(super) fn nearest(
    train: SparseRows<'_>,
    norms: &[f64],
    rows: SparseRows<'_>,
    row: usize,
    point: &mut [f64],
    most: usize,
) -> Vec<usize> {
    rows.row(row).for_each(|(gene, value)| point[gene] = value);
    let distance = |(at, norm): (usize, &f64)| (norm - 2.0 * train.row(at).map(|(gene, value)| value * point[gene]).sum::<f64>(), at);
    let mut distances: Vec<(f64, usize)> = norms.iter().enumerate().map(distance).collect();
    rows.row(row).for_each(|(gene, _)| point[gene] = 0.0);
    let nearer = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    if most < distances.len() && most > 0 {
        distances.select_nth_unstable_by(most - 1, nearer);
    }
    distances.truncate(most);
    distances.sort_unstable_by(nearer);
    distances.into_iter().map(|(_, at)| at).collect()
}

fn majority(labels: impl Iterator<Item = u32>) -> u32 {
    let mut counts = std::collections::BTreeMap::new();
    labels.for_each(|label| *counts.entry(label).or_insert(0) += 1);
    counts.into_iter().fold((0, 0), |best, next| if next.1 > best.1 { next } else { best }).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_earlier_cell_and_the_lower_label() {
        // Cells at 0, 1, 3 and 4 of one gene.
        let train = Cells {
            rows: SparseRows { indptr: &[0, 0, 1, 2, 3], indices: &[0, 0, 0], values: &[1.0, 3.0, 4.0], columns: 1 },
            labels: &[7, 7, 2, 2],
        };
        let at = |x: f32, ks: &[usize]| {
            let rows = SparseRows { indptr: &[0, 1], indices: &[0], values: &[x], columns: 1 };
            nearest_labels(&train, rows, ks).into_iter().flatten().collect::<Vec<u32>>()
        };
        assert_eq!(at(2.0, &[1]), [7]);
        assert_eq!(at(1.9, &[1, 3, 4, 99]), [7, 7, 2, 2]);
        assert_eq!(at(3.5, &[3]), [2]);
    }
}
