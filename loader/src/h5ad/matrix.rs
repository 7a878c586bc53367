//! An expression matrix read a few rows at a time.

use std::ops::Range;

use hdf5_pure::{AttrValue, Dataset};

use super::block::CsrBlock;
use super::csc;
use super::store::{DAMAGED, Node, Store};
use crate::{Error, Result};

/// Stored elements read in one go: 4 MiB of values. What a window costs beyond its own non-zeros.
pub(super) const WINDOW: usize = 1 << 20;

pub(super) const DUPLICATE: &str = "call `sum_duplicates()` on the matrix in Python and write it again";

/// How a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Compressed sparse rows: any window of rows is one short read.
    Csr,
    /// Compressed sparse columns: turned into rows in memory when opened.
    Csc,
    /// Every value.
    Dense,
}

/// An open expression matrix `[n_obs, n_vars]`.
///
/// CSR and dense matrices stay in the file: [`Matrix::rows`] reads what it returns and at most
/// `WINDOW` stored elements more. A CSC matrix has no rows to seek to, so opening it reads the file
/// once in bounded column windows (its column numbers twice) and holds the same non-zeros as CSR,
/// 8 bytes each; it is never made dense.
pub struct Matrix {
    store: Store,
    key: String,
    n_obs: usize,
    n_vars: usize,
    source: Source,
}

enum Source {
    Csr { arrays: Box<Compressed>, indptr: Dataset },
    Csc(CsrBlock),
    Dense(Dataset),
}

/// The two long arrays of a sparse matrix.
pub(super) struct Compressed {
    pub(super) indices_key: String,
    pub(super) values_key: String,
    pub(super) indices: Dataset,
    pub(super) values: Dataset,
    /// Stored entries, explicit zeros included.
    pub(super) stored: usize,
}

impl Matrix {
    /// Opens the matrix at `key`, which must be `n_obs x n_vars`.
    pub(super) fn open(store: &Store, key: &str, n_obs: usize, n_vars: usize) -> Result<Matrix> {
        if u32::try_from(n_vars).is_err() {
            let found = format!("{n_vars}");
            return Err(store.malformed(key, "at most 2^32 - 1 genes", found, DAMAGED));
        }
        let node = store.find(key)?.ok_or_else(|| store.malformed(key, "a matrix", "nothing", "choose another slot of the file"))?;
        let attributes = store.attributes(key, &node)?;
        let text = |name| attributes.get(name).and_then(AttrValue::as_str);
        let source = match node {
            Node::Dataset(dataset) => {
                let shape = store.shape(key, &dataset)?;
                // Old versions squeezed a matrix of one gene into one dimension.
                if shape != [n_obs, n_vars] && (n_vars != 1 || shape != [n_obs]) {
                    return Err(wrong_shape(store, key, n_obs, n_vars, &format!("{shape:?}")));
                }
                Source::Dense(dataset)
            }
            Node::Group(_) => {
                let shape = attributes.get("shape").or_else(|| attributes.get("h5sparse_shape")).and_then(AttrValue::to_u64s);
                if shape.as_deref() != Some(&[n_obs as u64, n_vars as u64]) {
                    let found = shape.map_or("no shape".into(), |shape| format!("{shape:?}"));
                    return Err(wrong_shape(store, key, n_obs, n_vars, &found));
                }
                let encoding = text("encoding-type").or_else(|| text("h5sparse_format"));
                let arrays = Compressed::open(store, key)?;
                let indptr_key = format!("{key}/indptr");
                let indptr = store.dataset(&indptr_key)?;
                let (csr, lines) = match encoding {
                    Some("csr_matrix" | "csr") => (true, n_obs),
                    Some("csc_matrix" | "csc") => (false, n_vars),
                    other => {
                        let found = format!("encoding-type `{}`", other.unwrap_or("none"));
                        let expected = "csr_matrix, csc_matrix or a dense array";
                        let advice = "convert the matrix in Python first";
                        return Err(store.malformed(key, expected, found, advice));
                    }
                };
                let length = store.length(&indptr_key, &indptr)?;
                if length != lines + 1 {
                    let expected = format!("{} row or column starts", lines + 1);
                    let found = format!("{length}");
                    return Err(store.malformed(&indptr_key, expected, found, DAMAGED));
                }
                if csr {
                    Source::Csr { arrays: Box::new(arrays), indptr }
                } else {
                    Source::Csc(csc::to_rows(store, key, &arrays, &indptr, n_obs, n_vars)?)
                }
            }
        };
        Ok(Matrix { store: store.clone(), key: key.into(), n_obs, n_vars, source })
    }

    /// Rows (cells).
    pub fn n_obs(&self) -> usize {
        self.n_obs
    }

    /// Columns (genes).
    pub fn n_vars(&self) -> usize {
        self.n_vars
    }

    /// How the file stores it.
    pub fn storage(&self) -> Storage {
        match self.source {
            Source::Csr { .. } => Storage::Csr,
            Source::Csc(_) => Storage::Csc,
            Source::Dense(_) => Storage::Dense,
        }
    }

    /// Stored entries; explicit zeros count in CSR. `None` for a dense matrix, where only reading
    /// it would tell.
    pub fn nnz_hint(&self) -> Option<usize> {
        match &self.source {
            Source::Csr { arrays, .. } => Some(arrays.stored),
            Source::Csc(block) => Some(block.values.len()),
            Source::Dense(_) => None,
        }
    }

    /// The rows of `range`.
    ///
    /// # Errors
    /// `RowRange` outside the matrix, `NotFinite` for a NaN or infinite value, `Malformed` for row
    /// starts that fall or leave the file, a column `>= n_vars` or one that stands twice in a row,
    /// `Hdf5` when the file cannot be read.
    pub fn rows(&self, range: Range<usize>) -> Result<CsrBlock> {
        let Range { start, end } = range;
        if start > end || end > self.n_obs {
            let (path, key) = (self.store.path_buf(), self.key.clone());
            return Err(Error::RowRange { path, key, start, end, n_obs: self.n_obs });
        }
        let mut block = CsrBlock::empty(start, self.n_vars);
        match &self.source {
            Source::Csr { arrays, indptr } => self.csr_rows(arrays, indptr, start..end, &mut block)?,
            Source::Dense(dataset) => self.dense_rows(dataset, start..end, &mut block)?,
            Source::Csc(all) => (start..end).for_each(|row| {
                let (indices, values) = all.row(row);
                block.push(indices.iter().copied().zip(values.iter().copied()));
            }),
        }
        Ok(block)
    }

    /// The whole matrix, `rows_per_block` rows at a time (at least one), first to last.
    pub fn blocks(&self, rows_per_block: usize) -> impl Iterator<Item = Result<CsrBlock>> + '_ {
        let step = rows_per_block.max(1);
        let starts = (0..self.n_obs).step_by(step);
        starts.map(move |start| self.rows(start..start.saturating_add(step).min(self.n_obs)))
    }

    fn csr_rows(&self, arrays: &Compressed, indptr: &Dataset, rows: Range<usize>, block: &mut CsrBlock) -> Result<()> {
        let key = format!("{}/indptr", self.key);
        let window = self.store.integer_window(&key, indptr, rows.start, rows.len() + 1)?;
        let starts = line_starts(&self.store, &key, window, rows.clone(), self.n_obs, arrays)?;
        // Marks which row last used a column, so that a repeated one is noticed without sorting.
        let mut last_row = vec![usize::MAX; self.n_vars];
        let mut row = 0;
        let mut at = starts[0];
        while row < rows.len() {
            // As many whole rows as fit a window, and at least one.
            let fitting = starts[row + 1..].partition_point(|&end| end - at <= WINDOW).max(1);
            let next = row + fitting;
            let count = starts[next] - at;
            let (indices, values) = arrays.window(&self.store, at, count)?;
            for line in row..next {
                let entries = starts[line] - at..starts[line + 1] - at;
                let columns = indices[entries.clone()].iter().zip(&values[entries]);
                for (&column, &value) in columns {
                    let cell = rows.start + line;
                    let column = self.column(&arrays.indices_key, column)?;
                    if std::mem::replace(&mut last_row[column as usize], line) == line {
                        let found = format!("column {column} twice in row {cell}");
                        let key = &arrays.indices_key;
                        let expected = "each column once in a row";
                        return Err(self.store.malformed(key, expected, found, DUPLICATE));
                    }
                    self.check_finite(cell, column as usize, value)?;
                    if value != 0.0 {
                        block.indices.push(column);
                        block.values.push(value);
                    }
                }
                block.indptr.push(block.indices.len());
            }
            (row, at) = (next, starts[next]);
        }
        Ok(())
    }

    fn dense_rows(&self, data: &Dataset, rows: Range<usize>, block: &mut CsrBlock) -> Result<()> {
        let width = self.n_vars.max(1);
        let step = (WINDOW / width).max(1);
        for start in rows.clone().step_by(step) {
            let count = step.min(rows.end - start);
            let values = self.store.value_window(&self.key, data, start, count, self.n_vars)?;
            for line in 0..count {
                let values = &values[line * self.n_vars..(line + 1) * self.n_vars];
                for (column, &value) in values.iter().enumerate() {
                    self.check_finite(start + line, column, value)?;
                }
                let filled = values.iter().enumerate().filter(|(_, value)| **value != 0.0);
                block.push(filled.map(|(column, &value)| (column as u32, value)));
            }
        }
        Ok(())
    }

    fn column(&self, key: &str, column: i64) -> Result<u32> {
        u32::try_from(column).ok().filter(|&c| (c as usize) < self.n_vars).ok_or_else(|| {
            let expected = format!("columns from 0 to {}", self.n_vars as i64 - 1);
            self.store.malformed(key, expected, format!("{column}"), DAMAGED)
        })
    }

    fn check_finite(&self, row: usize, column: usize, value: f32) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        Err(not_finite(&self.store, &self.key, row, column, value))
    }
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Matrix { key, n_obs, n_vars, .. } = self;
        write!(f, "Matrix({key}: {n_obs} x {n_vars}, {:?})", self.storage())
    }
}

impl Compressed {
    fn open(store: &Store, key: &str) -> Result<Compressed> {
        let (indices_key, values_key) = (format!("{key}/indices"), format!("{key}/data"));
        let (indices, values) = (store.dataset(&indices_key)?, store.dataset(&values_key)?);
        let stored = store.length(&values_key, &values)?;
        let length = store.length(&indices_key, &indices)?;
        if length != stored {
            let expected = format!("{stored} entries, as in `{values_key}`");
            return Err(store.malformed(&indices_key, expected, format!("{length}"), DAMAGED));
        }
        Ok(Compressed { indices_key, values_key, indices, values, stored })
    }

    /// Entries `start..start + count`.
    pub(super) fn window(&self, store: &Store, start: usize, count: usize) -> Result<(Vec<i64>, Vec<f32>)> {
        let indices = store.integer_window(&self.indices_key, &self.indices, start, count)?;
        let values = store.value_window(&self.values_key, &self.values, start, count, 1)?;
        Ok((indices, values))
    }
}

/// Checks the starts of the rows (or columns) `lines` and of the one after them: they begin at 0,
/// never fall, and end at the last stored entry.
pub(super) fn line_starts(
    store: &Store,
    key: &str,
    window: Vec<i64>,
    lines: Range<usize>,
    n_lines: usize,
    arrays: &Compressed,
) -> Result<Vec<usize>> {
    let mut previous = 0;
    let mut starts = Vec::with_capacity(window.len());
    for (offset, value) in window.into_iter().enumerate() {
        let line = lines.start + offset;
        let (least, most) = match line {
            0 => (0, 0),
            line if line == n_lines => (arrays.stored, arrays.stored),
            _ => (previous, arrays.stored),
        };
        let fitting = usize::try_from(value).ok().filter(|v| (least..=most).contains(v));
        let Some(start) = fitting.filter(|&start| start >= previous) else {
            let least = least.max(previous);
            let expected = format!("entry {line} from {least} to {most}");
            return Err(store.malformed(key, expected, format!("{value}"), DAMAGED));
        };
        previous = start;
        starts.push(start);
    }
    Ok(starts)
}

pub(super) fn not_finite(store: &Store, key: &str, row: usize, column: usize, value: f32) -> Error {
    Error::NotFinite { path: store.path_buf(), key: key.into(), row, column, value }
}

fn wrong_shape(store: &Store, key: &str, n_obs: usize, n_vars: usize, found: &str) -> Error {
    let expected = format!("shape [{n_obs}, {n_vars}], as many as `obs` and `var` have rows");
    store.malformed(key, expected, found, DAMAGED)
}
