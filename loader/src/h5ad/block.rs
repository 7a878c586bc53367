//! A few cells in memory.

use crate::{Error, Result};

/// Consecutive rows of a matrix in compressed sparse row form. Zeros are left out; the columns of a
/// row stand in the file's order, which need not be ascending, and none stands twice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CsrBlock {
    /// Row of the matrix that row 0 of the block is.
    pub start: usize,
    /// Columns (genes) of the matrix.
    pub n_vars: usize,
    /// Row `i` is `indptr[i]..indptr[i + 1]` of the next two; `[rows + 1]`.
    pub indptr: Vec<usize>,
    /// Columns, each `< n_vars`; `[non-zeros]`.
    pub indices: Vec<u32>,
    /// Values, finite and not zero, in the file's units; `[non-zeros]`.
    pub values: Vec<f32>,
}

impl CsrBlock {
    /// No rows of a matrix with `n_vars` columns.
    pub fn empty(start: usize, n_vars: usize) -> CsrBlock {
        CsrBlock { start, n_vars, indptr: vec![0], ..CsrBlock::default() }
    }

    /// Rows in the block.
    pub fn n_rows(&self) -> usize {
        self.indptr.len().saturating_sub(1)
    }

    /// Columns and values of row `row` of the block.
    ///
    /// # Panics
    /// When `row >= n_rows()`, as indexing a slice does.
    pub fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let range = self.indptr[row]..self.indptr[row + 1];
        (&self.indices[range.clone()], &self.values[range])
    }

    /// Puts the rows of `other` behind the rows of this block.
    ///
    /// # Errors
    /// `Block` when the numbers of columns differ.
    pub fn append(&mut self, other: &CsrBlock) -> Result<()> {
        if other.n_vars != self.n_vars {
            return Err(self.misfit("gene count", other.n_vars));
        }
        if self.indptr.is_empty() {
            self.indptr.push(0);
        }
        let base = self.indices.len();
        self.indptr.extend(other.indptr.iter().skip(1).map(|end| base + end));
        self.indices.extend_from_slice(&other.indices);
        self.values.extend_from_slice(&other.values);
        Ok(())
    }

    /// A block of the rows `rows`, in that order; a row may be taken more than once. Its `start` is
    /// 0 and means nothing.
    ///
    /// # Errors
    /// `Block` for a row that the block does not hold.
    pub fn select(&self, rows: &[usize]) -> Result<CsrBlock> {
        let mut selected = CsrBlock::empty(0, self.n_vars);
        for &row in rows {
            if row >= self.n_rows() {
                return Err(self.misfit("row", row));
            }
            let (indices, values) = self.row(row);
            selected.push(indices.iter().copied().zip(values.iter().copied()));
        }
        Ok(selected)
    }

    /// One more row; the caller has checked it.
    pub(super) fn push(&mut self, row: impl Iterator<Item = (u32, f32)>) {
        for (column, value) in row {
            self.indices.push(column);
            self.values.push(value);
        }
        self.indptr.push(self.indices.len());
    }

    fn misfit(&self, what: &'static str, found: usize) -> Error {
        Error::Block { what, found, n_rows: self.n_rows(), n_vars: self.n_vars }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn append_and_select() {
        let mut block = CsrBlock::empty(4, 3);
        block.push([(2, 1.0), (0, 2.0)].into_iter());
        block.push([].into_iter());
        let mut two = block.clone();
        two.append(&block).unwrap();
        assert_eq!((two.n_rows(), two.start), (4, 4));
        assert_eq!(two.row(2), (&[2, 0][..], &[1.0, 2.0][..]));
        assert_eq!(two.row(3), (&[][..], &[][..]));
        let picked = two.select(&[1, 2, 2]).unwrap();
        assert_eq!(picked.indptr, [0, 0, 2, 4]);
        assert!(two.select(&[4]).is_err());
        assert!(two.append(&CsrBlock::empty(0, 5)).is_err());
    }
}
