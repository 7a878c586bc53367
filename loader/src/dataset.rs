//! Cells of one or more files on one gene vocabulary, in memory.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;

use crate::expression::ValueMode;
use crate::scale::InputScale;
use crate::vocab::GeneVocab;
use crate::{Error, Result};

pub use crate::dataset_builder::{CellDatasetBuilder, DEFAULT_MIN_MATCHED_SHARE};

/// What became of one source file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceReport {
    /// Name of the source.
    pub name: String,
    /// Cells.
    pub cells: usize,
    /// Cells that keep no gene: no counts at all, or none on known genes. They stay in the dataset.
    pub empty_cells: usize,
    /// Columns of the file.
    pub genes: usize,
    /// Columns with a known gene.
    pub genes_matched: usize,
    /// Of these, under a former or present symbol of a renamed gene.
    pub genes_by_alias: usize,
    /// Columns summed into the gene of an earlier column.
    pub genes_duplicate: usize,
    /// Columns without a known gene.
    pub genes_dropped: usize,
    /// Some names of dropped columns.
    pub dropped_examples: Vec<String>,
    /// Sum of all values of the file.
    pub counts: f64,
    /// Sum of the values on dropped columns.
    pub counts_dropped: f64,
    /// What the values look like.
    pub scale: InputScale,
    /// Cells whose label is not among the classes fixed beforehand.
    pub labels_unknown: usize,
}

impl SourceReport {
    /// Share of the counts on dropped columns, 0..1.
    pub fn share_dropped(&self) -> f64 {
        if self.counts > 0.0 { self.counts_dropped / self.counts } else { 0.0 }
    }
}

/// One cell of a [`CellDataset`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell<'a> {
    /// Vocabulary indices of the expressed genes, ascending, each once.
    pub genes: &'a [u32],
    /// Their values as in the file (counts, or whatever [`InputScale`] says), above 0.
    pub values: &'a [f32],
    /// Sum over all genes of the file, also over those the vocabulary does not know.
    pub total: f64,
    /// Index of the source file.
    pub source: usize,
    /// Row in the source file.
    pub source_row: usize,
}

/// Cells of one or more files on one vocabulary: a `[cells, genes]` matrix in compressed sparse row form.
///
/// Built by [`CellDatasetBuilder`]; immutable afterwards.
#[derive(Debug, Clone)]
pub struct CellDataset {
    pub(crate) vocab: Arc<GeneVocab>,
    /// `[cells + 1]`
    pub(crate) indptr: Vec<usize>,
    pub(crate) genes: Vec<u32>,
    pub(crate) values: Vec<f32>,
    /// `[cells]`: sums over all genes.
    pub(crate) totals: Vec<f64>,
    /// `[cells]`: source, row in the source.
    pub(crate) rows: Vec<(u32, u32)>,
    /// `[cells]`: index into `classes`.
    pub(crate) labels: Vec<Option<u32>>,
    pub(crate) classes: Vec<String>,
    /// `[cells]`: index into `batch_names`.
    pub(crate) batches: Vec<Option<u32>>,
    pub(crate) batch_names: Vec<String>,
    /// `[sources]`
    pub(crate) reports: Vec<SourceReport>,
    /// `[sources]`: vocabulary indices of the genes each source measured, ascending.
    pub(crate) panels: Vec<Vec<u32>>,
}

impl CellDataset {
    /// Number of cells.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no cell.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The vocabulary the genes are indexed by.
    pub fn vocab(&self) -> &GeneVocab {
        &self.vocab
    }

    /// One cell.
    ///
    /// # Errors
    /// `Row` when `row` is not below [`len`](Self::len).
    pub fn cell(&self, row: usize) -> Result<Cell<'_>> {
        let out_of_range = Error::Row { row, rows: self.len() };
        let &(source, source_row) = self.rows.get(row).ok_or(out_of_range)?;
        let place = self.indptr[row]..self.indptr[row + 1];
        Ok(Cell {
            genes: &self.genes[place.clone()],
            values: &self.values[place],
            total: self.totals[row],
            source: source as usize,
            source_row: source_row as usize,
        })
    }

    /// `[cells]`: number of expressed known genes, for bucketing by length.
    pub fn lengths(&self) -> Vec<usize> {
        self.indptr.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// Rows of the cells without any known gene: their sequence is `<cls>` alone.
    pub fn empty_rows(&self) -> Vec<usize> {
        (0..self.len()).filter(|&row| self.indptr[row] == self.indptr[row + 1]).collect()
    }

    /// `[cells]`: index into [`classes`](Self::classes); `None` for an unlabelled cell.
    pub fn labels(&self) -> &[Option<u32>] {
        &self.labels
    }

    /// The labels: sorted, or as fixed beforehand.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// `[cells]`: index into [`batch_names`](Self::batch_names).
    pub fn batches(&self) -> &[Option<u32>] {
        &self.batches
    }

    /// Names of the batches (donor, chemistry, ..), sorted.
    pub fn batch_names(&self) -> &[String] {
        &self.batch_names
    }

    /// `[sources]`: what became of each file.
    pub fn reports(&self) -> &[SourceReport] {
        &self.reports
    }

    /// Vocabulary indices of the genes a source measured, ascending; a gene of the panel that a cell does
    /// not list was measured as 0. Empty for an unknown source.
    pub fn panel(&self, source: usize) -> &[u32] {
        self.panels.get(source).map_or(&[], Vec::as_slice)
    }

    /// Checks that a value mode can be computed from every source.
    ///
    /// # Errors
    /// `Scale`, for the first source whose values do not allow it (see [`ValueMode::accepts`]).
    pub fn check_mode(&self, mode: ValueMode) -> Result<()> {
        match self.reports.iter().find(|report| !mode.accepts(report.scale)) {
            None => Ok(()),
            Some(report) => {
                let (source_name, scale) = (report.name.clone(), report.scale);
                Err(Error::Scale { source_name, mode, scale })
            }
        }
    }
}

/// The distinct names of a column, sorted, and each cell's index into them.
pub(crate) fn encode(column: &[Option<String>], fixed: Option<&[String]>) -> (Vec<String>, Vec<Option<u32>>) {
    let names: Vec<String> = match fixed {
        Some(names) => names.to_vec(),
        None => {
            let distinct: BTreeSet<&String> = column.iter().flatten().collect();
            distinct.into_iter().cloned().collect()
        }
    };
    let index: HashMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
    let code = |name: &Option<String>| index.get(name.as_deref()?).copied();
    let codes = column.iter().map(code).collect();
    (names, codes)
}
