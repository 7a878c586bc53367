//! What the tasks of a language model share: cells as rows of a prompt, and what its tokens mean.

use std::sync::Arc;

use scmmgpt_loader::batch::{CellBatch, NO_LABEL};
use scmmgpt_loader::dataset::CellDataset;
use scmmgpt_loader::language::CellTokens;

use super::writer::Writer;
use crate::bundle::{Bundle, Language};
use crate::generate::answer::Words;
use crate::generate::{Dtype, Prompt};
use crate::model::cell_language::Workspace;
use crate::predict::{Request, in_batches};
use crate::{Error, Result};

/// Place of a cell's first slot in a prompt that begins with the cell: behind bos and `<cell>`.
const SLOTS_AT: usize = 2;

/// A language model with a prompt that asks about a cell.
pub(crate) struct Speech<'a> {
    pub(crate) language: &'a Language,
    pub(crate) workspace: Workspace<f32>,
    /// Tokens of the prompt; the cell's slots are rows.
    pub(crate) prompt: Vec<u32>,
    suppress: Vec<u32>,
}

impl<'a> Speech<'a> {
    /// `question` stands behind the cell; none: what stood there in training.
    ///
    /// # Errors
    /// `Texts` for a question that leaves no room for an answer; those of the tokenizer; `OutOfMemory`.
    pub(crate) fn new(language: &'a Language, question: Option<&str>) -> Result<Self> {
        let prompt = language.pairs().cell_prompt(question)?;
        let positions = language.model().language().positions();
        if prompt.len() >= positions {
            let reason = format!("a prompt has {} tokens and leaves no room in the {positions} of the model; shorten it", prompt.len());
            return Err(Error::Texts { reason });
        }
        let CellTokens { bos, pad, .. } = language.tokens();
        let eos = &language.config.model.eos_token_ids;
        let suppress = [bos, pad].into_iter().chain(language.tokens().block()).filter(|token| !eos.contains(token)).collect();
        Ok(Speech { language, workspace: language.workspace()?, prompt, suppress })
    }

    /// Most tokens of a sequence.
    pub(crate) fn positions(&self) -> usize {
        self.language.model().language().positions()
    }

    /// No answer holds a cell.
    pub(crate) fn words(&self) -> Words<'_> {
        Words { tokenizer: self.language.tokenizer(), eos: &self.language.config.model.eos_token_ids, suppress: &self.suppress }
    }

    /// Memory for so many sequences of the prompt and so many tokens behind it, as far as the model has positions.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub(crate) fn writer(&self, bundle: &Bundle, dtype: Dtype, sequences: usize, behind: usize) -> Result<Writer> {
        let capacity = self.prompt.len().saturating_add(behind).min(self.positions());
        Writer::new(self.language, bundle.device(), dtype, sequences, capacity)
    }

    /// The cells as they stand in prompts, `[batch, slots, hidden_size]`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub(crate) fn project(&mut self, cells: &CellBatch) -> Result<Vec<f32>> {
        self.workspace.project_cells(self.language.model(), cells)
    }

    /// Numbers of a cell.
    pub(crate) fn width(&self) -> usize {
        self.language.model().slots() * self.language.config.model.hidden_size
    }

    /// The prompt about each of the cells.
    pub(crate) fn prompts<'b>(&'b self, cells: &'b [f32]) -> Vec<Prompt<'b>> {
        cells.chunks_exact(self.width()).map(|cell| Prompt { tokens: &self.prompt, rows: Some((SLOTS_AT, cell)) }).collect()
    }
}

/// Hands every batch of these cells over, with the places of its cells among the rows.
///
/// # Errors
/// Those of the body and of the dataset.
pub(crate) fn each_batch(
    bundle: &Bundle,
    dataset: &Arc<CellDataset>,
    rows: &[usize],
    progress: &mut dyn FnMut(usize),
    body: &mut dyn FnMut(&CellBatch, &[usize]) -> Result<()>,
) -> Result<()> {
    let (collator, batch_size) = (bundle.collator()?, bundle.config.batch_size);
    let request = Request { dataset, collator: &collator, rows, batch_size, relabel: &|_| NO_LABEL };
    in_batches(&request, progress, &mut |cells, _, places| body(cells, places))
}

/// The most central cell of each group: the one nearest to the mean of the group's cells, as the language model reads them (mean over a
/// cell's slots, Euclidean; of equals the first). `groups` are rows of the dataset.
///
/// # Errors
/// Those of the kernels.
pub(crate) fn central_cells(
    bundle: &Bundle,
    speech: &mut Speech<'_>,
    dataset: &Arc<CellDataset>,
    groups: &[Vec<usize>],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<usize>> {
    let rows: Vec<usize> = groups.iter().flatten().copied().collect();
    let width = speech.language.config.model.hidden_size;
    let (slots, mut means) = (speech.language.model().slots(), vec![0.0f64; rows.len() * width]);
    each_batch(bundle, dataset, &rows, progress, &mut |cells, places| {
        let projected = speech.project(cells)?;
        for (cell, &place) in projected.chunks_exact(slots * width).zip(places) {
            let mean = &mut means[place * width..][..width];
            for (at, value) in cell.iter().enumerate() {
                mean[at % width] += f64::from(*value) / slots as f64;
            }
        }
        Ok(())
    })?;
    let (mut central, mut first) = (Vec::with_capacity(groups.len()), 0);
    for group in groups {
        central.push(group[most_central(&means[first * width..][..group.len() * width], width)]);
        first += group.len();
    }
    Ok(central)
}

/// Place of the row nearest to the mean of all rows.
fn most_central(rows: &[f64], width: usize) -> usize {
    let count = (rows.len() / width) as f64;
    let mean: Vec<f64> = (0..width).map(|column| rows.iter().skip(column).step_by(width).sum::<f64>() / count).collect();
    let distance = |row: &[f64]| row.iter().zip(&mean).map(|(value, mean)| (value - mean).powi(2)).sum::<f64>();
    let distances: Vec<f64> = rows.chunks_exact(width).map(distance).collect();
    (1..distances.len()).fold(0, |best, at| if distances[at] < distances[best] { at } else { best })
}

#[cfg(test)]
mod tests {
    use super::most_central;

    #[test]
    fn the_central_row_is_nearest_to_the_mean() {
        // Mean (2, 1); distances 5, 1, 1, 5.
        assert_eq!(most_central(&[0.0, 0.0, 2.0, 2.0, 2.0, 0.0, 4.0, 2.0], 2), 1);
        assert_eq!(most_central(&[3.0], 1), 0);
    }
}
