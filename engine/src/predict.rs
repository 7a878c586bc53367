//! Cells through a trained encoder, batch by batch: embeddings and class probabilities.

use scmmgpt_loader::batch::{CellBatch, Collator, SampleKey};
use scmmgpt_loader::batch_order::BatchOrder;
use scmmgpt_loader::dataset::CellDataset;
use scmmgpt_loader::prefetch::Prefetcher;
use std::sync::Arc;

use crate::Result;
use crate::model::cell_model::{CellModel, Losses, Workspace};

/// Batches that are prepared ahead of the one being computed.
pub(crate) const PREFETCH: usize = 3;

/// Results for the rows that were asked for, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Predictions {
    /// `[rows, hidden_size]`.
    pub(crate) embeddings: Vec<f32>,
    /// `[rows, classes]`; empty without a cell-type head.
    pub(crate) logits: Vec<f32>,
    /// Means over the rows.
    pub(crate) losses: Losses,
}

/// What to run.
pub(crate) struct Request<'a> {
    /// The cells' dataset.
    pub(crate) dataset: &'a Arc<CellDataset>,
    /// How they become tokens.
    pub(crate) collator: &'a Collator,
    /// Which of them, each once.
    pub(crate) rows: &'a [usize],
    /// Cells a batch.
    pub(crate) batch_size: usize,
    /// The head's class of a class of the dataset.
    pub(crate) relabel: &'a dyn Fn(i32) -> i32,
}

/// Runs cells through the model, those of similar length together; the order of the results is that of the rows.
pub(crate) fn predict(
    model: &CellModel<f32>,
    workspace: &mut Workspace<f32>,
    request: &Request<'_>,
    progress: &mut dyn FnMut(usize),
) -> Result<Predictions> {
    let Request { dataset, collator, rows, batch_size, relabel } = *request;
    let mut predictions = Predictions::default();
    if rows.is_empty() {
        return Ok(predictions);
    }
    let key = SampleKey { seed: 0, epoch: 0, training: false };
    let order = BatchOrder::new(rows.to_vec(), batch_size, 0)?.sequential().bucket_by_length(&dataset.lengths())?;
    let batches = order.epoch(0);
    let position: std::collections::HashMap<usize, usize> = rows.iter().enumerate().map(|(place, &row)| (row, place)).collect();
    let mut done = 0;
    let batches = Prefetcher::new(Arc::clone(dataset), collator.clone(), batches, key, 0, PREFETCH)?;
    let mut batches = relabelled(batches, relabel);
    let mut next = batches.next().transpose()?;
    next.iter().try_for_each(|first| workspace.stage(first))?;
    while let Some(batch) = next {
        next = batches.next().transpose()?;
        let share = batch.batch as f64 / rows.len() as f64;
        let losses = workspace.forward_staged(model, next.as_ref(), None)?;
        predictions.losses.add(&losses, share);
        let (embeddings, logits) = (workspace.cell_embeddings()?, workspace.logits()?);
        let (width, classes) = (embeddings.len() / batch.batch, logits.len() / batch.batch);
        predictions.embeddings.resize(rows.len() * width, 0.0);
        predictions.logits.resize(rows.len() * classes, 0.0);
        for (at, row) in batch.rows.iter().enumerate() {
            let place = position[row];
            predictions.embeddings[place * width..][..width].copy_from_slice(&embeddings[at * width..][..width]);
            predictions.logits[place * classes..][..classes].copy_from_slice(&logits[at * classes..][..classes]);
        }
        done += batch.batch;
        progress(done);
    }
    Ok(predictions)
}

/// Batches whose labels are the head's classes.
pub(crate) fn relabelled(
    batches: Prefetcher,
    relabel: impl Fn(i32) -> i32,
) -> impl Iterator<Item = std::result::Result<CellBatch, scmmgpt_loader::Error>> {
    batches.map(move |batch| {
        let mut batch = batch?;
        batch.labels.iter_mut().for_each(|label| *label = relabel(*label));
        Ok(batch)
    })
}

/// `softmax(logits / temperature)` of one cell.
pub(crate) fn probabilities(logits: &[f32], temperature: f64) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit - highest) / temperature).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// Place of the largest number; the first of equals.
pub(crate) fn argmax(values: &[f32]) -> usize {
    let better = |best: usize, at: usize| if values[at] > values[best] { at } else { best };
    (1..values.len()).fold(0, better)
}
