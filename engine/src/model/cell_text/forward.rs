//! Batches to losses.

use scmmgpt_kernels::cross_entropy::IGNORE;
use scmmgpt_kernels::pool;
use scmmgpt_kernels::runtime::philox::Site;
use scmmgpt_kernels::runtime::{Float, Tensor};
use scmmgpt_loader::batch::CellBatch;
use scmmgpt_loader::text::TextBatch;

use super::handles::Request;
use super::{CellText, Draw, Losses, NEGATIVES, Purpose, Side, Sizes, Workspace};
use crate::layer::Dims;
use crate::model::hard_negatives;
use crate::model::matching_head::MATCH;
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
    pub fn turn_to(&mut self, model: &CellText<T>, purpose: Purpose) -> Result<()> {
        if self.purpose == purpose { Ok(()) } else { self.lay(model, self.handles.request, purpose) }
    }

    pub(super) fn fit(&mut self, model: &CellText<T>, request: Request) -> Result<()> {
        if self.handles.request == request { Ok(()) } else { self.lay(model, request, self.purpose) }
    }

    fn lay(&mut self, model: &CellText<T>, request: Request, purpose: Purpose) -> Result<()> {
        let handles = pass_memory::lay_out(&mut self.stream, &mut self.arena, |plan| model.handles(plan, request, &purpose))?;
        (self.handles, self.purpose) = (handles, purpose);
        Ok(())
    }

    /// Uploads pairs, cell `i` with text `i`, and runs every objective that has a weight.
    ///
    /// # Errors
    /// `Texts` when there are not as many texts as cells or a text is longer than the model's positions; those of the kernels (`Index`
    /// when a gene or a word is not in its table).
    pub fn forward(&mut self, model: &CellText<T>, cells: &CellBatch, texts: &TextBatch, draw: Draw) -> Result<Losses> {
        if cells.batch != texts.batch {
            let reason = format!("{} cells come with {} texts; each cell needs one", cells.batch, texts.batch);
            return Err(Error::Texts { reason });
        }
        model.check_texts(texts)?;
        self.fit(model, Request::losses(Sizes { cells: cell_dims(cells), texts: text_dims(texts) }))?;
        self.cells(model, cells, Some(draw))?;
        self.cell_pass(model, Some(draw))?;
        self.text_pass(model, texts, Some(draw))?;
        let losses = Losses {
            contrastive: self.contrastive_loss(model, texts)?,
            matching: self.matching_loss(model, texts, draw)?,
            captioning: self.captioning_loss(model, texts, draw)?,
        };
        Ok(losses)
    }

    /// Cells to the keys and values that queries look at.
    pub(super) fn cells(&self, model: &CellText<T>, cells: &CellBatch, draw: Option<Draw>) -> Result<()> {
        let Some(kept) = &self.handles.cells else { return Ok(()) };
        model.forward_cells(&self.stream, kept, cells, draw.and_then(|draw| model.dropout(&self.purpose, draw, None)))
    }

    /// Keys and values to the cells' embeddings.
    pub(super) fn cell_pass(&self, model: &CellText<T>, draw: Option<Draw>) -> Result<()> {
        let (stream, Some(kept)) = (&self.stream, &self.handles.embedded_cells) else { return Ok(()) };
        model.qformer.upload(stream, &kept.pass, &[], &[])?;
        model.qformer.forward(stream, draw.and_then(|draw| model.dropout(&self.purpose, draw, Some(Side::Cells))), &kept.pass)?;
        model.cell_projection.forward(stream, &kept.projection, kept.rows)
    }

    /// Texts to their embeddings.
    pub(super) fn text_pass(&self, model: &CellText<T>, texts: &TextBatch, draw: Option<Draw>) -> Result<()> {
        let (stream, Some(kept)) = (&self.stream, &self.handles.embedded_texts) else { return Ok(()) };
        model.qformer.upload(stream, &kept.pass, &texts.token_ids, &texts.lengths)?;
        model.qformer.forward(stream, draw.and_then(|draw| model.dropout(&self.purpose, draw, Some(Side::Texts))), &kept.pass)?;
        let (lengths, seq_len) = (kept.pass.lengths(), texts.seq_len);
        let (y, x, kind) = (kept.rows, kept.pass.output, model.config.text_pooling.kind());
        pool::forward(stream, pool::Forward { y, x, lengths, weights: None, seq_len, kind })?;
        model.text_projection.forward(stream, &kept.projection, kept.rows)
    }

    /// The normalised cells and texts of the batch.
    pub(super) fn units(&self) -> Option<[Tensor<T>; 2]> {
        let (cells, texts) = (self.handles.embedded_cells.as_ref()?, self.handles.embedded_texts.as_ref()?);
        Some([cells.projection.unit, texts.projection.unit])
    }

    fn contrastive_loss(&self, model: &CellText<T>, texts: &TextBatch) -> Result<f64> {
        let (Some(kept), Some([cells, of_texts])) = (&self.handles.contrastive, self.units()) else { return Ok(0.0) };
        if self.purpose.weights.contrastive == 0.0 {
            return Ok(0.0);
        }
        if let Some(classes) = kept.classes {
            self.stream.upload(classes, &texts.classes)?;
        }
        model.contrastive.forward(&self.stream, kept, cells, of_texts)
    }

    fn matching_loss(&self, model: &CellText<T>, texts: &TextBatch, draw: Draw) -> Result<f64> {
        let (stream, Some(kept)) = (&self.stream, &self.handles.matching) else { return Ok(0.0) };
        let (Some(contrastive), Some([cells, of_texts])) = (&self.handles.contrastive, self.units()) else { return Ok(0.0) };
        let logits = model.contrastive.logits(stream, contrastive, cells, of_texts)?;
        let classes = self.purpose.contrast.mask_same_class.then_some(&texts.classes[..]);
        let site = Site { seed: draw.seed, step: draw.step, site: NEGATIVES };
        let negatives = hard_negatives::draw(&logits, texts.batch, classes, site);
        // A cell without a negative is shown its own text twice, and the second time does not count.
        let chosen: Vec<usize> = negatives.iter().enumerate().flat_map(|(own, other)| [own, other.unwrap_or(own)]).collect();
        let targets: Vec<u32> = negatives.iter().flat_map(|other| [MATCH, if other.is_some() { 0 } else { IGNORE }]).collect();
        let (token_ids, lengths) = rows_of(texts, &chosen);
        model.qformer.upload(stream, &kept.pass, &token_ids, &lengths)?;
        model.qformer.forward(stream, model.dropout(&self.purpose, draw, Some(Side::Matching)), &kept.pass)?;
        // Not before: without gradients the head lies over the layers.
        stream.upload(kept.head.loss.targets, &targets)?;
        model.matching.forward(stream, &kept.head, kept.pass.output)?;
        kept.head.loss.forward(stream, kept.head.logits)
    }

    fn captioning_loss(&self, model: &CellText<T>, texts: &TextBatch, draw: Draw) -> Result<f64> {
        let (Some(head), Some(kept)) = (&model.captioning, &self.handles.captioning) else { return Ok(0.0) };
        let stream = &self.stream;
        let (token_ids, targets) = head.shift(texts);
        model.qformer.upload(stream, &kept.pass, &token_ids, &texts.lengths)?;
        model.qformer.forward(stream, model.dropout(&self.purpose, draw, Some(Side::Captioning)), &kept.pass)?;
        stream.upload(kept.head.loss.targets, &targets)?;
        head.forward(stream, &kept.head, kept.pass.output)?;
        kept.head.loss.forward(stream, kept.head.logits)
    }
}

impl<T: Float> CellText<T> {
    /// A batch that is what it says, with texts that are neither empty nor too long.
    pub(super) fn check_texts(&self, texts: &TextBatch) -> Result<()> {
        let TextBatch { batch, seq_len, token_ids, lengths, classes, .. } = texts;
        let most = self.config.max_position_embeddings;
        let refuse = |reason: String| Err(Error::Texts { reason });
        if token_ids.len() != batch * seq_len || [lengths.len(), classes.len()] != [*batch; 2] {
            return refuse(format!(
                "{batch} texts of {seq_len} tokens come with {} tokens, {} lengths and {} classes",
                token_ids.len(),
                lengths.len(),
                classes.len()
            ));
        }
        match lengths.iter().find(|&&length| !(1..=most.min(*seq_len)).contains(&(length as usize))) {
            Some(length) => refuse(format!("one has {length} tokens and the model takes 1 to {most}; lower the tokenizer's max_length")),
            None => Ok(()),
        }
    }
}

/// Sizes of a batch of cells.
pub(super) fn cell_dims(cells: &CellBatch) -> Dims {
    Dims { batch: cells.batch, seq_len: cells.seq_len }
}

/// Sizes of a batch of texts.
pub(super) fn text_dims(texts: &TextBatch) -> Dims {
    Dims { batch: texts.batch, seq_len: texts.seq_len }
}

/// Tokens and lengths of the chosen texts.
pub(super) fn rows_of(texts: &TextBatch, chosen: &[usize]) -> (Vec<u32>, Vec<u32>) {
    let tokens = chosen.iter().flat_map(|&text| &texts.token_ids[text * texts.seq_len..(text + 1) * texts.seq_len]);
    (tokens.copied().collect(), chosen.iter().map(|&text| texts.lengths[text]).collect())
}
