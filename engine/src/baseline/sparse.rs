//! The input of the baselines: borrowed rows in compressed sparse row form.

use crate::metric::error::{MetricError, Result, in_range, same_length};

/// A matrix of log1p-CP10k values, `[rows, columns]`, in compressed sparse row form.
///
/// Row `i` has the entries `indptr[i]..indptr[i + 1]`; columns need not be sorted within a row but must not repeat.
#[derive(Debug, Clone, Copy)]
pub struct SparseRows<'a> {
    /// Where rows begin and end, `[rows + 1]`, never decreasing.
    pub indptr: &'a [usize],
    /// Column of each entry, `[entries]`.
    pub indices: &'a [u32],
    /// Value of each entry, `[entries]`, finite.
    pub values: &'a [f32],
    /// Number of columns (genes).
    pub columns: usize,
}

impl<'a> SparseRows<'a> {
    /// Number of rows (cells).
    pub fn rows(&self) -> usize {
        self.indptr.len().saturating_sub(1)
    }

    /// Checks all that this type's documentation asks for; everything else in this module relies on it.
    pub(crate) fn check(&self) -> Result<()> {
        same_length("sparse values", self.indices.len(), self.values.len())?;
        match self.indptr.last() {
            None => {
                return Err(MetricError::Empty { what: "sparse row pointers" });
            }
            Some(&end) if end > self.indices.len() => {
                return Err(MetricError::LengthMismatch { what: "sparse indices", expected: end, got: self.indices.len() });
            }
            Some(_) => {}
        }
        if let Some(row) = self.indptr.windows(2).position(|ends| ends[0] > ends[1]) {
            return Err(MetricError::RowPointers { row });
        }
        in_range("sparse indices", self.indices.iter().map(|&column| column as usize), self.columns)?;
        if let Some(position) = self.values.iter().position(|value| !value.is_finite()) {
            let value = self.values[position];
            return Err(MetricError::BadValue { what: "sparse values", position, value, expected: "a finite number" });
        }
        (0..self.rows()).try_for_each(|row| self.check_distinct(row))
    }

    fn check_distinct(&self, row: usize) -> Result<()> {
        let columns = &self.indices[self.indptr[row]..self.indptr[row + 1]];
        if columns.windows(2).all(|pair| pair[0] < pair[1]) {
            return Ok(());
        }
        let mut sorted = columns.to_vec();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => Err(MetricError::DuplicateColumn { row, column: pair[0] }),
        }
    }

    /// Columns and values of one row.
    pub(crate) fn entries(&self, row: usize) -> impl Iterator<Item = (&'a u32, &'a f32)> + Clone + use<'a> {
        let entries = self.indptr[row]..self.indptr[row + 1];
        self.indices[entries.clone()].iter().zip(&self.values[entries])
    }

    /// Mean and standard deviation of each column over these rows, `[columns]`.
    pub(crate) fn statistics(&self, rows: &[usize]) -> (Vec<f64>, Vec<f64>) {
        let (mean, variance) = super::selected::column_statistics(self, rows);
        (mean, variance.into_iter().map(f64::sqrt).collect())
    }

    /// The (column, value) pairs of one row.
    pub(crate) fn row(&self, row: usize) -> impl Iterator<Item = (usize, f64)> + Clone + use<'a> {
        self.entries(row).map(|(&column, &value)| (column as usize, f64::from(value)))
    }
}

/// Rows of a [`SparseRows`], owned.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseMatrix {
    indptr: Vec<usize>,
    indices: Vec<u32>,
    values: Vec<f32>,
    columns: usize,
}

impl SparseMatrix {
    /// A matrix without rows.
    pub fn new(columns: usize) -> SparseMatrix {
        SparseMatrix { indptr: vec![0], indices: Vec::new(), values: Vec::new(), columns }
    }

    /// Adds a row of (column, value).
    pub fn push(&mut self, entries: impl IntoIterator<Item = (u32, f32)>) {
        for (column, value) in entries {
            self.indices.push(column);
            self.values.push(value);
        }
        self.indptr.push(self.indices.len());
    }

    /// All rows.
    pub fn rows(&self) -> SparseRows<'_> {
        SparseRows { indptr: &self.indptr, indices: &self.indices, values: &self.values, columns: self.columns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_rows_are_named() {
        let rows = |indptr, indices, values| SparseRows { indptr, indices, values, columns: 3 };
        assert!(rows(&[0, 2, 2, 3], &[2, 0, 1], &[1.0; 3]).check().is_ok());
        let message = |rows: SparseRows| rows.check().unwrap_err().to_string();
        assert_eq!(message(rows(&[0, 2], &[0, 3], &[1.0; 2])), "sparse indices: entry 1 is 3, expected less than 3");
        assert_eq!(message(rows(&[0, 2, 1], &[0, 1], &[1.0; 2])), "sparse row 1 ends before it begins");
        assert_eq!(message(rows(&[0, 4], &[0, 1], &[1.0; 2])), "sparse indices: expected 4 entries, got 2");
        assert!(message(rows(&[0, 3], &[1, 0, 1], &[1.0; 3])).starts_with("sparse row 0 names column 1 twice"));
        assert!(message(rows(&[0, 1], &[0], &[f32::NAN])).contains("expected a finite number"));
        assert!(rows(&[], &[], &[]).check().is_err());
    }
}
