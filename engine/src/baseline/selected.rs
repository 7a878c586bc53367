//! The training rows, stored twice: by row for products with the matrix, by column for products with its
//! transpose. Either product then sums every output on one thread in one order, and nothing dense is needed:
//! two copies of 8 bytes an entry.

use super::sparse::SparseRows;

/// Entries grouped by row, or by column.
#[derive(Debug)]
pub(super) struct Grouped {
    starts: Vec<usize>,
    others: Vec<u32>,
    values: Vec<f32>,
}

impl Grouped {
    /// The (column, value) pairs of a row, or the (row, value) pairs of a column.
    pub(super) fn line(&self, line: usize) -> impl Iterator<Item = (usize, f64)> + Clone + '_ {
        let entries = self.starts[line]..self.starts[line + 1];
        let others = self.others[entries.clone()].iter();
        others.zip(&self.values[entries]).map(|(&other, &value)| (other as usize, f64::from(value)))
    }

    /// The same entries grouped by the other index, which is below `lines`. Within a line, order is kept.
    fn transposed(&self, lines: usize) -> Self {
        let mut starts = vec![0; lines + 1];
        for &other in &self.others {
            starts[other as usize + 1] += 1;
        }
        for line in 0..lines {
            starts[line + 1] += starts[line];
        }
        let mut next = starts.clone();
        let mut others = vec![0; self.others.len()];
        let mut values = vec![0.0; self.values.len()];
        for line in 0..self.starts.len() - 1 {
            for entry in self.starts[line]..self.starts[line + 1] {
                let at = &mut next[self.others[entry] as usize];
                others[*at] = line as u32;
                values[*at] = self.values[entry];
                *at += 1;
            }
        }
        Self { starts, others, values }
    }
}

/// Chosen rows and columns of a [`SparseRows`].
#[derive(Debug)]
pub(super) struct Selected {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) by_row: Grouped,
    pub(super) by_column: Grouped,
}

impl Selected {
    /// The rows `chosen`, and of them the columns `kept` (original numbers; renumbered by position).
    pub(super) fn new(source: &SparseRows, chosen: &[usize], kept: &[usize]) -> Self {
        const DROPPED: u32 = u32::MAX;
        let mut renumbered = vec![DROPPED; source.columns];
        for (new, &old) in (0..).zip(kept) {
            renumbered[old] = new;
        }
        let mut by_row = Grouped { starts: vec![0], others: vec![], values: vec![] };
        for &row in chosen {
            for (column, value) in source.row(row).filter(|&(column, _)| renumbered[column] != DROPPED) {
                by_row.others.push(renumbered[column]);
                by_row.values.push(value as f32); // was f32 before: exact
            }
            by_row.starts.push(by_row.others.len());
        }
        let by_column = by_row.transposed(kept.len());
        Self { rows: chosen.len(), columns: kept.len(), by_row, by_column }
    }
}

/// Mean and population variance of every column over the rows `chosen`, `[columns]` each; two passes in f64.
pub(super) fn column_statistics(source: &SparseRows, chosen: &[usize]) -> (Vec<f64>, Vec<f64>) {
    let count = chosen.len() as f64;
    let mut mean = vec![0.0; source.columns];
    let mut entries = vec![0_u32; source.columns];
    for (column, value) in chosen.iter().flat_map(|&row| source.row(row)) {
        mean[column] += value;
        entries[column] += 1;
    }
    mean.iter_mut().for_each(|mean| *mean /= count);
    let mut variance = vec![0.0; source.columns];
    for (column, value) in chosen.iter().flat_map(|&row| source.row(row)) {
        variance[column] += (value - mean[column]).powi(2);
    }
    for ((variance, mean), &entries) in variance.iter_mut().zip(&mean).zip(&entries) {
        *variance = (*variance + (count - f64::from(entries)) * mean * mean) / count;
    }
    (mean, variance)
}
