//! Memory and stream of a language model's passes over padded batches: the loss and, in training, its gradients.

use scmmgpt_kernels::cross_entropy;
use scmmgpt_kernels::runtime::{Arena, Device, Float, Plan, Stream, Tensor};

use super::language_model::{self, LanguageModel};
use super::pass_memory;
use super::token_loss::TokenLoss;
use crate::Result;
use crate::layer::causal_attention::Places;
use crate::layer::{Dims, Dropout};

/// Token sequences, padded at the end, and what is to be predicted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenBatch {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each, padding included.
    pub seq_len: usize,
    /// `[batch * seq_len]`: pads may be any token.
    pub token_ids: Vec<u32>,
    /// `[batch]`: tokens without pads.
    pub lengths: Vec<u32>,
    /// `[batch * seq_len]`: the token that stands here, where it is to be predicted from those before it, else
    /// [`cross_entropy::IGNORE`].
    pub labels: Vec<u32>,
}

impl TokenBatch {
    fn dims(&self) -> Dims {
        Dims { batch: self.batch, seq_len: self.seq_len }
    }

    fn targets(&self) -> Vec<u32> {
        next_labels(&self.labels, &self.lengths, self.seq_len)
    }
}

/// What the logits of each row are compared with: the label of the next place, of a sequence's last place none.
pub(super) fn next_labels(labels: &[u32], lengths: &[u32], seq_len: usize) -> Vec<u32> {
    let sequence = |labels: &[u32], length: usize| {
        let next = labels[..length].iter().skip(1).copied();
        next.chain(std::iter::repeat(cross_entropy::IGNORE)).take(labels.len()).collect::<Vec<_>>()
    };
    labels.chunks(seq_len.max(1)).zip(lengths).flat_map(|(labels, &length)| sequence(labels, length as usize)).collect()
}

#[derive(Clone, Debug)]
struct Handles<T: Float> {
    dims: Dims,
    ids: Tensor<u32>,
    targets: Tensor<u32>,
    places: Places<T>,
    saved: language_model::Saved<T>,
    gradients: Option<language_model::Gradients<T>>,
    loss: TokenLoss<T>,
}

/// Re-planned when the batch's size changes, never re-allocated to the same size.
#[derive(Debug)]
pub struct Workspace<T: Float> {
    /// The stream that passes run on.
    pub stream: Stream,
    /// Random numbers of the adapters' dropout in passes to come; none: no dropout.
    pub dropout: Option<Dropout>,
    arena: Arena,
    handles: Handles<T>,
    training: bool,
}

impl<T: Float> LanguageModel<T> {
    fn handles(&self, plan: &mut Plan, dims: Dims, training: bool) -> Handles<T> {
        let (ids, targets, positions) =
            (plan.tensor("ids", [dims.tokens()]), plan.tensor("targets", [dims.tokens()]), plan.tensor("positions", [dims.tokens()]));
        let places = Places { dims, lengths: plan.tensor("lengths", [dims.batch]), positions, table: self.rotation(), dropout: None };
        let saved = self.plan(plan, dims, training);
        let gradients = training.then(|| self.plan_gradients(plan, dims));
        let loss = TokenLoss::plan(plan, dims.tokens(), self.vocab_size(), training);
        Handles { dims, ids, targets, places, saved, gradients, loss }
    }

    /// Allocates memory for passes over batches of at most this size.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn workspace(&self, device: &Device, largest: Dims, training: bool) -> Result<Workspace<T>> {
        let (stream, arena, handles) = pass_memory::allocate(device, |plan| self.handles(plan, largest, training))?;
        Ok(Workspace { stream, dropout: None, arena, handles, training })
    }
}

impl<T: Float> Workspace<T> {
    fn fit(&mut self, model: &LanguageModel<T>, dims: Dims) -> Result<()> {
        if self.handles.dims == dims {
            return Ok(());
        }
        let Workspace { stream, arena, training, .. } = self;
        self.handles = pass_memory::lay_out(stream, arena, |plan| model.handles(plan, dims, *training))?;
        Ok(())
    }

    fn upload(&self, batch: &TokenBatch) -> Result<()> {
        let (stream, handles) = (&self.stream, &self.handles);
        let positions: Vec<u32> = (0..batch.batch).flat_map(|_| 0..batch.seq_len as u32).collect();
        stream.upload(handles.ids, &batch.token_ids)?;
        stream.upload(handles.targets, &batch.targets())?;
        stream.upload(handles.places.positions, &positions)?;
        Ok(stream.upload(handles.places.lengths, &batch.lengths)?)
    }

    /// Mean cross-entropy of the labels in nats; with `scale`, every parameter's gradient of `scale` times it is added.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn loss(&mut self, model: &LanguageModel<T>, batch: &TokenBatch, scale: Option<f64>) -> Result<f64> {
        self.fit(model, batch.dims())?;
        self.upload(batch)?;
        let (stream, handles) = (&self.stream, &self.handles);
        let places = Places { dropout: self.dropout.filter(|_| scale.is_some()), ..handles.places };
        model.embed(stream, &handles.saved, handles.ids)?;
        model.forward(stream, &places, &handles.saved)?;
        let counted = batch.targets().iter().filter(|&&target| target != cross_entropy::IGNORE).count();
        let gradient = handles.gradients.zip(scale).map(|(gradients, scale)| (gradients.hidden, scale));
        let loss = handles.loss.run(stream, model, handles.saved.hidden, handles.targets, counted, gradient)?;
        if let (Some(gradients), Some(_)) = (&handles.gradients, scale) {
            model.backward(stream, &places, &handles.saved, gradients)?;
            model.embed_backward(stream, gradients, &batch.token_ids)?;
        }
        Ok(loss)
    }

    /// The last hidden states of the batch that was seen last, `[batch * seq_len, hidden_size]`.
    ///
    /// # Errors
    /// Those of the copy.
    pub fn hidden(&self) -> Result<Vec<T>> {
        Ok(self.stream.fetch(self.handles.saved.hidden)?)
    }
}
