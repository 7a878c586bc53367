//! Embeddings and matching scores. Nothing here depends on the other items of a batch, or on dropout.

use scmmgpt_kernels::runtime::{Float, Real, Tensor};
use scmmgpt_loader::batch::CellBatch;
use scmmgpt_loader::text::TextBatch;

use super::forward::{cell_dims, rows_of, text_dims};
use super::handles::{NONE, Request, Work};
use super::{CellText, Side, Workspace};
use crate::Result;
use crate::layer::Dims;
use crate::model::matching_head::MatchingHead;

/// Pairs of a matching pass, roughly: more cost memory and gain no speed.
const PAIRS: usize = 64;

impl<T: Float> Workspace<T> {
    /// `[batch, num_query_tokens, projection_dim]`, every vector of length 1 unless the linear expert adds to it.
    ///
    /// # Errors
    /// Those of the kernels; `Index` when a gene is not in the table.
    pub fn embed_cells(&mut self, model: &CellText<T>, cells: &CellBatch) -> Result<Vec<f32>> {
        self.fit(model, Request { cells: cell_dims(cells), texts: NONE, work: Work::Cells })?;
        self.cells(model, cells, None)?;
        self.cell_pass(model, None)?;
        let Some(unit) = self.handles.embedded_cells.as_ref().map(|kept| kept.projection.unit) else { return Ok(Vec::new()) };
        match (&model.expert, &self.handles.expert, &self.handles.cells) {
            (Some(expert), Some(saved), Some(kept)) => {
                let pass = kept.pass(None);
                expert.forward(&self.stream, &pass, saved, unit, kept.gene_ids, kept.values)?;
                self.narrow(saved.sum)
            }
            _ => self.narrow(unit),
        }
    }

    /// `[batch, projection_dim]`, every vector of length 1.
    ///
    /// # Errors
    /// `Texts` when one is longer than the model's positions; those of the kernels (`Index` when a word is not in the table).
    pub fn embed_texts(&mut self, model: &CellText<T>, texts: &TextBatch) -> Result<Vec<f32>> {
        model.check_texts(texts)?;
        self.fit(model, Request::texts(text_dims(texts)))?;
        self.text_pass(model, texts, None)?;
        self.handles.embedded_texts.as_ref().map_or(Ok(Vec::new()), |kept| self.narrow(kept.projection.unit))
    }

    /// `[cells.batch, texts.batch]`: the probability of each pair that they belong together.
    ///
    /// # Errors
    /// As [`Workspace::embed_texts`].
    pub fn match_scores(&mut self, model: &CellText<T>, cells: &CellBatch, texts: &TextBatch) -> Result<Vec<f32>> {
        model.check_texts(texts)?;
        if cells.batch == 0 || texts.batch == 0 {
            return Ok(Vec::new());
        }
        let chunks = texts.batch.div_ceil((PAIRS / cells.batch).max(1));
        let at_once = texts.batch.div_ceil(chunks);
        self.fit(model, Request { cells: cell_dims(cells), texts: Dims { batch: at_once, ..text_dims(texts) }, work: Work::Pairs })?;
        self.cells(model, cells, None)?;
        let mut scores = vec![0.0; cells.batch * texts.batch];
        let Some(kept) = &self.handles.matching else { return Ok(scores) };
        for first in (0..texts.batch).step_by(at_once) {
            // The last chunk repeats its last text.
            let chunk: Vec<usize> = (first..first + at_once).map(|text| text.min(texts.batch - 1)).collect();
            let (token_ids, lengths) = rows_of(texts, &chunk.repeat(cells.batch));
            model.qformer.upload(&self.stream, &kept.pass, &token_ids, &lengths)?;
            model.qformer.forward(&self.stream, None, &kept.pass)?;
            model.matching.forward(&self.stream, &kept.head, kept.pass.output)?;
            let probabilities = MatchingHead::probabilities(&self.stream, &kept.head)?;
            for (of_cell, scores) in probabilities.chunks_exact(at_once).zip(scores.chunks_exact_mut(texts.batch)) {
                let count = at_once.min(texts.batch - first);
                scores[first..first + count].copy_from_slice(&of_cell[..count]);
            }
        }
        Ok(scores)
    }

    /// Rows of the Q-Former's last layer in the last pass of this side, `[items, rows of an item, hidden_size]`; empty where it did not
    /// run. Rows of padding hold nothing of meaning.
    ///
    /// # Errors
    /// Those of the download.
    pub fn hidden(&self, side: Side) -> Result<Vec<T>> {
        let handles = &self.handles;
        let output = match side {
            Side::Cells => handles.embedded_cells.as_ref().map(|kept| kept.pass.output),
            Side::Texts => handles.embedded_texts.as_ref().map(|kept| kept.pass.output),
            Side::Matching => handles.matching.as_ref().map(|kept| kept.pass.output),
            Side::Captioning => handles.captioning.as_ref().map(|kept| kept.pass.output),
        };
        output.map_or(Ok(Vec::new()), |output| Ok(self.stream.fetch(output)?))
    }

    fn narrow(&self, tensor: Tensor<T>) -> Result<Vec<f32>> {
        Ok(self.stream.fetch(tensor)?.into_iter().map(|value| value.to_acc().f64() as f32).collect())
    }
}
