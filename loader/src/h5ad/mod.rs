//! Row blocks of a count matrix.

/// A window of rows of a `[cells, genes]` matrix in compressed sparse row form.
#[derive(Debug, Clone, PartialEq)]
pub struct CsrBlock {
    /// First row of the block in the file.
    pub start: usize,
    /// Columns of the matrix.
    pub n_vars: usize,
    /// `[rows + 1]`, from 0: row `i` of the block is `indptr[i]..indptr[i + 1]`.
    pub indptr: Vec<usize>,
    /// Column of each stored value; may be unsorted within a row.
    pub indices: Vec<u32>,
    /// The stored values.
    pub values: Vec<f32>,
}
