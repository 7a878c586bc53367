//! Batches to losses.

use scmmgpt_kernels::cross_entropy::IGNORE;
use scmmgpt_kernels::runtime::{Float, Real, Tensor};
use scmmgpt_loader::batch::CellBatch;
use scmmgpt_loader::language::LanguageBatch;

use super::handles::{Pooled, Request};
use super::{CellLanguage, Losses, Pairs, Purpose, Sizes, Workspace};
use crate::layer::Dims;
use crate::layer::causal_attention::Places;
use crate::model::cell_text::{Draw, Side};
use crate::model::language_workspace::next_labels;
use crate::model::pass_memory;
use crate::{Error, Result};

impl<T: Float> Workspace<T> {
    /// Bytes of the activations.
    pub fn bytes(&self) -> usize {
        self.arena.bytes()
    }

    /// Changes what the following passes are for; the memory stays.
    ///
    /// # Errors
    /// `OutOfMemory` when they need more of it and the device refuses; nothing has changed then.
    pub fn turn_to(&mut self, model: &CellLanguage<T>, purpose: Purpose) -> Result<()> {
        if self.purpose == purpose { Ok(()) } else { self.lay(model, self.handles.request, purpose) }
    }

    pub(super) fn fit(&mut self, model: &CellLanguage<T>, request: Request) -> Result<()> {
        if self.handles.request == request { Ok(()) } else { self.lay(model, request, self.purpose) }
    }

    fn lay(&mut self, model: &CellLanguage<T>, request: Request, purpose: Purpose) -> Result<()> {
        let handles = pass_memory::lay_out(&mut self.stream, &mut self.arena, |plan| model.handles(plan, request, &purpose))?;
        (self.handles, self.purpose) = (handles, purpose);
        Ok(())
    }

    /// Uploads pairs and computes every loss that has a weight.
    ///
    /// # Errors
    /// `Texts` when parts of the batch do not belong together or a sequence is longer than the model's positions; those of the kernels
    /// (`Index` when a gene or a token is not in its table).
    pub fn forward(&mut self, model: &CellLanguage<T>, pairs: &Pairs<'_>, draw: Draw) -> Result<Losses> {
        pairs.check(model.slots(), model.language.positions())?;
        let generated = pairs.generated();
        let sizes = Sizes {
            cells: cell_dims(pairs.cells),
            tokens: pairs.sequences.seq_len,
            generated: generated.len(),
            genes: pairs.expression.genes,
            neighbours: if generated.is_empty() { 0 } else { pairs.neighbours.map_or(0, |neighbours| neighbours.count) },
        };
        self.fit(model, Request::Losses(sizes))?;
        self.project(model, pairs.cells, Some(draw))?;
        self.read(model, pairs.sequences, draw)?;
        self.gather(model, pairs.sequences, &generated)?;
        Ok(Losses {
            language: self.language_loss(model, pairs.sequences)?,
            reconstruction: self.reconstruction_loss(model, &generated)?,
            expression: self.expression_loss(model, pairs, &generated)?,
        })
    }

    /// Cells to vectors of the language model.
    pub(super) fn project(&self, model: &CellLanguage<T>, cells: &CellBatch, draw: Option<Draw>) -> Result<()> {
        let (stream, Some(kept)) = (&self.stream, &self.handles.projected) else { return Ok(()) };
        model.joint.forward_cells(stream, &kept.cells, cells, model.cell_dropout(&self.purpose, draw, None))?;
        let qformer = model.joint.qformer();
        qformer.upload(stream, &kept.queries, &[], &[])?;
        qformer.forward(stream, model.cell_dropout(&self.purpose, draw, Some(Side::Cells)), &kept.queries)?;
        model.projection.forward(stream, &kept.projection, kept.queries.output)
    }

    /// Vectors of queries that are projected by themselves.
    pub(super) fn project_pooled(&self, model: &CellLanguage<T>, kept: &Pooled<T>, pooled: &[f32]) -> Result<()> {
        self.stream.upload(kept.pooled, &narrowed::<T>(pooled))?;
        model.projection.forward(&self.stream, &kept.projection, kept.pooled)
    }

    /// Tokens to hidden states, cells in their places.
    fn read(&self, model: &CellLanguage<T>, batch: &LanguageBatch, draw: Draw) -> Result<()> {
        let (stream, Some(kept)) = (&self.stream, &self.handles.sequences) else { return Ok(()) };
        self.embed(model, &batch.token_ids, &batch.lengths)?;
        if let Some(projected) = &self.handles.projected {
            for item in (0..batch.batch).filter(|&item| batch.cell_first[item]) {
                stream.copy(self.slots_of(model, kept.saved.embedded, batch, item), model.rows(projected.projection.output, item))?;
            }
        }
        let places = Places { dropout: model.language_dropout(&self.purpose, Some(draw)), ..kept.places };
        model.language.forward(stream, &places, &kept.saved)
    }

    /// Uploads sequences and writes their embedded tokens.
    pub(super) fn embed(&self, model: &CellLanguage<T>, token_ids: &[u32], lengths: &[u32]) -> Result<()> {
        let (stream, Some(kept)) = (&self.stream, &self.handles.sequences) else { return Ok(()) };
        let Dims { batch, seq_len } = kept.places.dims;
        stream.upload(kept.ids, token_ids)?;
        stream.upload(kept.places.lengths, lengths)?;
        stream.upload(kept.places.positions, &(0..seq_len as u32).cycle().take(batch * seq_len).collect::<Vec<_>>())?;
        model.language.embed(stream, &kept.saved, kept.ids)
    }

    /// Rows of the slots of item `item`.
    pub(super) fn slots_of(&self, model: &CellLanguage<T>, rows: Tensor<T>, batch: &LanguageBatch, item: usize) -> Tensor<T> {
        rows.row_range(item * batch.seq_len + batch.slots_at[item] as usize, model.slots())
    }

    /// The hidden states at the slots of the sequences that begin with text.
    fn gather(&self, model: &CellLanguage<T>, batch: &LanguageBatch, generated: &[usize]) -> Result<()> {
        let Some(kept) = &self.handles.sequences else { return Ok(()) };
        for (at, &item) in generated.iter().enumerate() {
            self.stream.copy(model.rows(kept.slots, at), self.slots_of(model, kept.saved.hidden, batch, item))?;
        }
        Ok(())
    }

    fn language_loss(&self, model: &CellLanguage<T>, batch: &LanguageBatch) -> Result<f64> {
        let (Some(loss), Some(kept)) = (&self.handles.language, &self.handles.sequences) else { return Ok(0.0) };
        let targets = next_labels(&batch.labels, &batch.lengths, batch.seq_len);
        self.stream.upload(kept.targets, &targets)?;
        loss.run(&self.stream, &model.language, kept.saved.hidden, kept.targets, counted(&targets), None)
    }

    fn reconstruction_loss(&self, model: &CellLanguage<T>, generated: &[usize]) -> Result<f64> {
        let handles = &self.handles;
        let (Some(error), Some(kept), Some(projected)) = (&handles.reconstruction, &handles.sequences, &handles.projected) else {
            return Ok(0.0);
        };
        // Through the host: targets are constants, kept in the type of sums.
        let mut targets = Vec::with_capacity(error.targets.len());
        for &item in generated {
            let rows = self.stream.fetch(model.rows(projected.projection.output, item))?;
            targets.extend(rows.into_iter().map(T::to_acc));
        }
        self.stream.upload(error.targets, &targets)?;
        self.stream.upload(error.mask, &vec![T::Acc::ONE; targets.len()])?;
        error.forward(&self.stream, kept.slots.reshape([targets.len()]))
    }

    fn expression_loss(&self, model: &CellLanguage<T>, pairs: &Pairs<'_>, generated: &[usize]) -> Result<f64> {
        let (stream, handles) = (&self.stream, &self.handles);
        let (Some(kept), Some(sequences), Some(projected)) = (&handles.expression, &handles.sequences, &handles.projected) else {
            return Ok(0.0);
        };
        let (own, all, saved) = (model.expression_keys(), kept.dims.keys, &kept.saved);
        let neighbours = pairs.neighbours.filter(|_| all > own);
        let items = pairs.cells.batch;
        for item in 0..kept.dims.items {
            let (vectors, at) = if item < items { (projected.projection.output, item) } else { (sequences.slots, item - items) };
            stream.copy(saved.keys.row_range(item * all, own), model.rows(vectors, at).row_range(0, own))?;
        }
        let mut lengths = vec![own as u32; kept.dims.items];
        let mut bias = vec![0.0; kept.dims.items * all];
        if let (Some(neighbours), Some(pooled)) = (neighbours, &handles.pooled) {
            self.project_pooled(model, pooled, &neighbours.pooled)?;
            let count = neighbours.count;
            // Behind the keys of a cell that stands for itself lies nothing, but something finite.
            for item in 0..items {
                stream.zero(saved.keys.row_range(item * all + own, count));
            }
            for (at, item) in (items..kept.dims.items).enumerate() {
                stream.copy(saved.keys.row_range(item * all + own, count), pooled.projection.output.row_range(at * count, count))?;
                bias[item * all + own..(item + 1) * all].copy_from_slice(&neighbours.bias[at * count..(at + 1) * count]);
                lengths[item] += neighbours.counts[at];
            }
        }
        let targets = pairs.expression;
        let everyone: Vec<usize> = (0..items).chain(generated.iter().copied()).collect();
        stream.upload(saved.gene_ids, &of_items(&targets.gene_ids, targets.genes, &everyone))?;
        stream.upload(saved.attention.key_lengths, &lengths)?;
        saved.attention.upload_bias(stream, &bias)?;
        model.expression.forward(stream, saved)?;
        let upload = |tensor: Tensor<T::Acc>, values: &[f32], width: usize| {
            let values = of_items(values, width, &everyone).into_iter().map(|value| T::Acc::of(f64::from(value)));
            stream.upload(tensor, &values.collect::<Vec<_>>())
        };
        if let (Some(loss), Some(log_theta)) = (&kept.counts, saved.log_theta) {
            upload(loss.counts, &targets.values, targets.genes)?;
            upload(loss.weights, &targets.mask, targets.genes)?;
            upload(loss.log_sizes, &targets.log_sizes, 1)?;
            return loss.forward(stream, saved.output, log_theta);
        }
        let Some(error) = &kept.squared else { return Ok(0.0) };
        upload(error.targets, &targets.values, targets.genes)?;
        upload(error.mask, &targets.mask, targets.genes)?;
        error.forward(stream, saved.output.reshape([kept.dims.tokens()]))
    }
}

/// Sizes of a batch of cells.
pub(super) fn cell_dims(cells: &CellBatch) -> Dims {
    Dims { batch: cells.batch, seq_len: cells.seq_len }
}

/// Rows whose target counts.
pub(super) fn counted(targets: &[u32]) -> usize {
    targets.iter().filter(|&&target| target != IGNORE).count()
}

/// Numbers as the model holds them.
pub(super) fn narrowed<T: Float>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&value| T::from_acc(T::Acc::of(f64::from(value)))).collect()
}

/// The rows of width `width` of these items.
fn of_items<V: Copy>(values: &[V], width: usize, items: &[usize]) -> Vec<V> {
    items.iter().flat_map(|&item| values[item * width..(item + 1) * width].iter().copied()).collect()
}

/// Refuses prompts that are not as the model takes them.
pub(super) fn refuse<R>(reason: String) -> Result<R> {
    Err(Error::Texts { reason })
}
