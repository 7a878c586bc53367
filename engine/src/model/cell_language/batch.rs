//! What a pass of stage 2 learns from.

use scmmgpt_loader::batch::CellBatch;
use scmmgpt_loader::dataset::CellDataset;
use scmmgpt_loader::language::LanguageBatch;

use crate::{Error, Result};

/// Genes of each cell of a batch and their values; cells of fewer genes are filled up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpressionTargets {
    /// Genes a cell, filling included.
    pub genes: usize,
    /// `[batch * genes]`.
    pub gene_ids: Vec<u32>,
    /// `[batch * genes]`: log1p of the normalised counts; for a decoder of distributions the counts themselves.
    pub values: Vec<f32>,
    /// `[batch * genes]`: 1 where the gene counts, 0 where it fills up; for a decoder of distributions, of a gene that was drawn from
    /// those measured as 0, how many such genes it stands for.
    pub mask: Vec<f32>,
    /// `[batch]`: ln of a cell's total by what the normalisation brings it to; read by a decoder of distributions.
    pub log_sizes: Vec<f32>,
}

/// Cells like those that are to be made, for the sequences that begin with text, in the order of the batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Neighbours {
    /// Neighbours of each.
    pub count: usize,
    /// `[generated, count, hidden_size of the Q-Former]`: mean of a neighbour's queries.
    pub pooled: Vec<f32>,
    /// `[generated, count]`: added to its logit.
    pub bias: Vec<f32>,
    /// `[generated]`: neighbours that count.
    pub counts: Vec<u32>,
}

/// Cells with their texts.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// The cells as the encoder reads them.
    pub cells: &'a CellBatch,
    /// Each cell and its text as one sequence.
    pub sequences: &'a LanguageBatch,
    /// What the expression decoder is to say of each cell.
    pub expression: &'a ExpressionTargets,
    /// Cells like those that are to be made.
    pub neighbours: Option<&'a Neighbours>,
}

impl ExpressionTargets {
    /// The genes of a batch with their values, without `<cls>`.
    pub fn of(cells: &CellBatch) -> Self {
        let genes = cells.seq_len.saturating_sub(1).max(1);
        let mut targets = ExpressionTargets { genes, ..ExpressionTargets::default() };
        for (item, &length) in cells.lengths.iter().enumerate() {
            let row = |all: usize| item * cells.seq_len + all;
            for place in 1..=genes {
                let real = place < length as usize;
                targets.gene_ids.push(cells.gene_ids.get(row(place)).copied().filter(|_| place < cells.seq_len).unwrap_or_default());
                targets.values.push(if real { cells.targets[row(place)] } else { 0.0 });
                targets.mask.push(f32::from(u8::from(real)));
            }
            targets.log_sizes.push(0.0);
        }
        targets
    }

    /// The same genes with their counts in place of their values: a zero weighs as many zeros as it was drawn from.
    ///
    /// # Errors
    /// `Row` when the cells are of another dataset.
    pub fn counts_of(cells: &CellBatch, dataset: &CellDataset, target_sum: f64) -> scmmgpt_loader::Result<Self> {
        let mut targets = ExpressionTargets::of(cells);
        for (item, &row) in cells.rows.iter().enumerate() {
            let cell = dataset.cell(row)?;
            let places = item * targets.genes..(item + 1) * targets.genes;
            let zeros = dataset.panel(cell.source).len() - cell.genes.len();
            let asked = places.clone().filter(|&at| targets.mask[at] > 0.0 && targets.values[at] == 0.0).count();
            for at in places {
                let found = cell.genes.binary_search(&targets.gene_ids[at]).ok().filter(|_| targets.mask[at] > 0.0);
                targets.values[at] = found.map_or(0.0, |found| cell.values[found]);
                if targets.mask[at] > 0.0 && found.is_none() {
                    targets.mask[at] = zeros as f32 / asked.max(1) as f32;
                }
            }
            // A cell without counts has a size all the same.
            targets.log_sizes[item] = (cell.total.max(1.0) / target_sum).ln() as f32;
        }
        Ok(targets)
    }
}

impl Pairs<'_> {
    /// Sequences that begin with text, by their places in the batch.
    pub(super) fn generated(&self) -> Vec<usize> {
        (0..self.sequences.batch).filter(|&item| !self.sequences.cell_first[item]).collect()
    }

    /// Parts that belong together, and slots inside their sequences.
    pub(super) fn check(&self, slots: usize, positions: usize) -> Result<()> {
        let LanguageBatch { batch, seq_len, lengths, slots_at, .. } = self.sequences;
        let refuse = |reason: String| Err(Error::Texts { reason });
        if self.cells.batch != *batch || self.expression.gene_ids.len() != batch * self.expression.genes {
            return refuse(format!(
                "{} cells come with {batch} sequences and {} genes of {} each",
                self.cells.batch,
                self.expression.gene_ids.len(),
                self.expression.genes
            ));
        }
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        if longest > positions.min(*seq_len) {
            return refuse(format!("one has {longest} tokens and the model takes {positions}; lower stage2.pairs.max_length"));
        }
        match slots_at.iter().zip(lengths).find(|(at, length)| **at as usize + slots > **length as usize) {
            Some((at, length)) => refuse(format!("slots from {at} on leave a sequence of {length} tokens")),
            None => Ok(()),
        }
    }
}
