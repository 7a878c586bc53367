//! Whether generated cells are highest in the right genes.

use crate::baseline::SparseRows;

/// The numbers of genes that are compared.
pub const TOP_GENES: [usize; 5] = [1, 3, 5, 7, 9];

/// Share of the `top` highest genes of each generated cell that are among those of its reference cell; of equally high genes the earlier.
///
/// # Shapes
/// `pairs`: `[generated]`, rows of `reference`; the result: `[generated]`.
/// # Source
/// scMMGPT `help_funcs.py`, `calculate_topn_accuracy`: its value is the mean of these.
pub fn top_gene_overlap(generated: SparseRows<'_>, reference: SparseRows<'_>, pairs: &[usize], top: usize) -> Vec<f64> {
    let mut dense = vec![0.0; generated.columns];
    let mut highest = |rows: SparseRows<'_>, row: usize| {
        rows.row(row).for_each(|(gene, value)| dense[gene] = value);
        let highest = highest(&dense, top);
        rows.row(row).for_each(|(gene, _)| dense[gene] = 0.0);
        highest
    };
    let share = |(row, pair): (usize, &usize)| overlap(&highest(generated, row), &highest(reference, *pair), top);
    pairs.iter().enumerate().map(share).collect()
}

/// The `top` places of the highest values, fewer where there are fewer.
pub(super) fn highest(values: &[f64], top: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let higher = |a: &usize, b: &usize| values[*b].total_cmp(&values[*a]).then(a.cmp(b));
    if top < order.len() && top > 0 {
        order.select_nth_unstable_by(top - 1, higher);
    }
    order.truncate(top);
    order.sort_unstable();
    order
}

/// Share of `top` that two ascending lists have in common.
pub(super) fn overlap(first: &[usize], second: &[usize], top: usize) -> f64 {
    first.iter().filter(|place| second.binary_search(place).is_ok()).count() as f64 / top as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authors_example_gives_a_quarter() {
        let rows = |values| SparseRows { indptr: &[0, 4, 8], indices: &[0, 1, 2, 3, 0, 1, 2, 3], values, columns: 4 };
        let predicted = [0.1, 0.5, 0.3, 0.7, 0.8, 0.2, 0.4, 0.6];
        let truth = [0.5, 0.7, 0.3, 0.1, 0.2, 0.6, 0.8, 0.4];
        let shares = top_gene_overlap(rows(&predicted), rows(&truth), &[0, 1], 2);
        assert_eq!(shares.iter().sum::<f64>() / 2.0, 0.25);
        assert_eq!(top_gene_overlap(rows(&predicted), rows(&predicted), &[0, 1], 3), [1.0, 1.0]);
        assert_eq!(highest(&[1.0, 3.0, 3.0, 0.0, 3.0], 2), [1, 2]);
    }
}
