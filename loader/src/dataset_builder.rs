//! Building a [`CellDataset`] from streamed blocks of counts.

use std::sync::Arc;

use crate::dataset::{CellDataset, SourceReport, encode};
use crate::gene_map::GeneMap;
use crate::h5ad::CsrBlock;
use crate::scale::ScaleDetector;
use crate::vocab::GeneVocab;
use crate::{Error, Result};

/// Share of a file's counts that must fall on known genes unless set otherwise.
pub const DEFAULT_MIN_MATCHED_SHARE: f64 = 0.10;

/// Gathers sources into one [`CellDataset`].
#[derive(Debug)]
pub struct CellDatasetBuilder {
    dataset: CellDataset,
    labels: Vec<Option<String>>,
    batches: Vec<Option<String>>,
    fixed_classes: Option<Vec<String>>,
    min_matched_share: f64,
}

impl CellDatasetBuilder {
    /// An empty dataset on a vocabulary.
    pub fn new(vocab: Arc<GeneVocab>) -> CellDatasetBuilder {
        let dataset = CellDataset {
            vocab,
            indptr: vec![0],
            genes: Vec::new(),
            values: Vec::new(),
            totals: Vec::new(),
            rows: Vec::new(),
            labels: Vec::new(),
            classes: Vec::new(),
            batches: Vec::new(),
            batch_names: Vec::new(),
            reports: Vec::new(),
            panels: Vec::new(),
        };
        let min_matched_share = DEFAULT_MIN_MATCHED_SHARE;
        let (labels, batches) = (Vec::new(), Vec::new());
        CellDatasetBuilder { dataset, labels, batches, fixed_classes: None, min_matched_share }
    }

    /// Accepts a source only if at least this share (0..1) of its counts is on known genes.
    pub fn min_matched_share(mut self, share: f64) -> CellDatasetBuilder {
        self.min_matched_share = share;
        self
    }

    /// Fixes the classes (those of a trained model) instead of taking the labels that occur. Cells with
    /// another label become unlabelled and are counted in the report.
    pub fn classes(mut self, classes: Vec<String>) -> CellDatasetBuilder {
        self.fixed_classes = Some(classes);
        self
    }

    /// Adds the cells of one file. Blocks must follow one another from row 0; rows may be unsorted.
    ///
    /// Values on columns of the same gene are summed, zeros are dropped. Cells without counts are kept.
    ///
    /// # Errors
    /// `SourceBlock` (a block contradicts itself, the columns or the one before), `Value` (negative or not
    /// finite), `FewGenesMatched`, `ColumnLength` (labels), and the errors of `blocks`. After an error the
    /// builder is as it was before the call.
    pub fn add_source(
        &mut self,
        name: &str,
        var_names: &[String],
        blocks: impl IntoIterator<Item = Result<CsrBlock>>,
        labels: Option<Vec<Option<String>>>,
    ) -> Result<&SourceReport> {
        let before = self.dataset.len();
        match self.try_add_source(name, var_names, blocks, labels) {
            Ok(()) => {}
            Err(error) => {
                self.dataset.indptr.truncate(before + 1);
                let values = self.dataset.indptr[before];
                self.dataset.genes.truncate(values);
                self.dataset.values.truncate(values);
                self.dataset.totals.truncate(before);
                self.dataset.rows.truncate(before);
                return Err(error);
            }
        }
        Ok(&self.dataset.reports[self.dataset.reports.len() - 1])
    }

    /// Names the batch (donor, chemistry, ..) of each cell of the source added last.
    ///
    /// # Errors
    /// `ColumnLength` unless there is one entry for each cell of that source.
    pub fn add_batches(&mut self, batches: Vec<Option<String>>) -> Result<()> {
        let (source_name, expected) = match self.dataset.reports.last() {
            Some(report) => (report.name.clone(), report.cells),
            None => ("no source".to_owned(), 0),
        };
        if batches.len() != expected {
            let (column, got) = ("batch", batches.len());
            return Err(Error::ColumnLength { source_name, column, expected, got });
        }
        self.batches.truncate(self.dataset.len() - expected);
        self.batches.extend(batches);
        Ok(())
    }

    /// The finished dataset.
    pub fn build(self) -> CellDataset {
        let mut dataset = self.dataset;
        let fixed = self.fixed_classes.as_deref();
        (dataset.classes, dataset.labels) = encode(&self.labels, fixed);
        (dataset.batch_names, dataset.batches) = encode(&self.batches, None);
        for ((label, code), row) in self.labels.iter().zip(&dataset.labels).zip(&dataset.rows) {
            if label.is_some() && code.is_none() {
                dataset.reports[row.0 as usize].labels_unknown += 1;
            }
        }
        dataset
    }

    fn try_add_source(
        &mut self,
        name: &str,
        var_names: &[String],
        blocks: impl IntoIterator<Item = Result<CsrBlock>>,
        labels: Option<Vec<Option<String>>>,
    ) -> Result<()> {
        let map = self.dataset.vocab.map_genes(var_names);
        let first = self.dataset.len();
        let mut source = Source::new(name, var_names, &map, self.dataset.reports.len());
        for block in blocks {
            source.add_block(&block?, &mut self.dataset)?;
        }
        let cells = self.dataset.len() - first;
        let labels = labels.unwrap_or_else(|| vec![None; cells]);
        if labels.len() != cells {
            let (source_name, got) = (name.to_owned(), labels.len());
            return Err(Error::ColumnLength { source_name, column: "label", expected: cells, got });
        }
        let indptr = &self.dataset.indptr[first..];
        let empty_cells = indptr.windows(2).filter(|pair| pair[0] == pair[1]).count();
        let report = source.report(cells, empty_cells);
        let share = 1.0 - report.share_dropped();
        let nothing_matched = report.genes_matched == 0 && report.genes > 0;
        if share < self.min_matched_share || nothing_matched {
            return Err(Error::FewGenesMatched {
                source_name: name.to_owned(),
                share: if nothing_matched { 0.0 } else { share },
                threshold: self.min_matched_share,
                matched_genes: report.genes_matched,
                genes: report.genes,
                examples: report.dropped_examples,
            });
        }
        let mut panel: Vec<u32> = map.ids.iter().flatten().copied().collect();
        panel.sort_unstable();
        panel.dedup();
        self.dataset.panels.push(panel);
        self.dataset.reports.push(report);
        self.labels.extend(labels);
        self.batches.resize(self.dataset.len(), None);
        Ok(())
    }
}

/// A source while its blocks come in.
struct Source<'a> {
    name: &'a str,
    var_names: &'a [String],
    map: &'a GeneMap,
    index: usize,
    cells: usize,
    scale: ScaleDetector,
    counts: f64,
    counts_dropped: f64,
    /// One row's known genes, before they are sorted.
    row: Vec<(u32, f32)>,
}

impl<'a> Source<'a> {
    fn new(name: &'a str, var_names: &'a [String], map: &'a GeneMap, index: usize) -> Source<'a> {
        let (scale, row) = (ScaleDetector::default(), Vec::new());
        Source { name, var_names, map, index, cells: 0, scale, counts: 0.0, counts_dropped: 0.0, row }
    }

    fn add_block(&mut self, block: &CsrBlock, dataset: &mut CellDataset) -> Result<()> {
        self.check_block(block)?;
        self.scale.observe(&block.values);
        for pair in block.indptr.windows(2) {
            let place = pair[0]..pair[1];
            let (mut total, mut dropped) = (0.0, 0.0);
            self.row.clear();
            for (&column, &value) in block.indices[place.clone()].iter().zip(&block.values[place]) {
                if !(value.is_finite() && value >= 0.0) {
                    let (source_name, row) = (self.name.to_owned(), self.cells);
                    let gene = self.var_names[column as usize].clone();
                    return Err(Error::Value { source_name, row, gene, value });
                }
                total += f64::from(value);
                match self.map.ids[column as usize] {
                    Some(id) if value > 0.0 => self.row.push((id, value)),
                    Some(_) => {}
                    None => dropped += f64::from(value),
                }
            }
            // Stable, so that columns of one gene are summed in the order of the file.
            self.row.sort_by_key(|&(id, _)| id);
            let begin = dataset.genes.len();
            for &(id, value) in &self.row {
                if dataset.genes.len() > begin && dataset.genes.last() == Some(&id) {
                    let last = dataset.values.len() - 1;
                    dataset.values[last] += value;
                } else {
                    dataset.genes.push(id);
                    dataset.values.push(value);
                }
            }
            dataset.indptr.push(dataset.genes.len());
            dataset.totals.push(total);
            dataset.rows.push((self.index as u32, self.cells as u32));
            self.cells += 1;
            self.counts += total;
            self.counts_dropped += dropped;
        }
        Ok(())
    }

    fn check_block(&self, block: &CsrBlock) -> Result<()> {
        let check = |what, expected: usize, got: usize| {
            if expected == got {
                return Ok(());
            }
            let source_name = self.name.to_owned();
            Err(Error::SourceBlock { source_name, start: block.start, what, expected, got })
        };
        check("first row of the block", self.cells, block.start)?;
        check("number of genes", self.var_names.len(), block.n_vars)?;
        check("first row pointer", 0, block.indptr.first().copied().unwrap_or(0))?;
        check("last row pointer", block.indices.len(), block.indptr.last().copied().unwrap_or(0))?;
        check("number of values", block.indices.len(), block.values.len())?;
        let falling = block.indptr.windows(2).filter(|pair| pair[1] < pair[0]).count();
        check("row pointers that go back", 0, falling)?;
        let outside = block.indices.iter().filter(|&&column| column as usize >= block.n_vars).count();
        check("gene indices out of range", 0, outside)
    }

    fn report(&self, cells: usize, empty_cells: usize) -> SourceReport {
        let example = |&column: &usize| self.var_names[column].clone();
        SourceReport {
            name: self.name.to_owned(),
            cells,
            empty_cells,
            genes: self.var_names.len(),
            genes_matched: self.map.matched,
            genes_by_alias: self.map.by_alias,
            genes_duplicate: self.map.duplicates.len(),
            genes_dropped: self.map.unmatched.len(),
            dropped_examples: self.map.unmatched.iter().take(5).map(example).collect(),
            counts: self.counts,
            counts_dropped: self.counts_dropped,
            scale: self.scale.scale(),
            labels_unknown: 0,
        }
    }
}
