//! The cell encoder with the heads that train it: one pass forward, the losses, one pass backward.

use scmmgpt_kernels::runtime::{Arena, Device, Float, Plan, Real, Stream, Tensor};
use scmmgpt_kernels::{mse, reduce};
use scmmgpt_loader::batch::CellBatch;

use serde::{Deserialize, Serialize};

use super::batch_feed::{BatchFeed, BatchTensors};
use super::cell_encoder::{self, CellEncoder};
use super::classifier::{self, Classifier};
use super::expression_decoder::{self, ExpressionDecoder};
use super::gene_linear::{self, GeneLinear};
use super::mvc_decoder::{self, MvcDecoder};
use super::pass_memory;
use crate::Result;
use crate::config::ModelConfig;
use crate::layer::class_loss::ClassLoss;
use crate::layer::gene_embedding::Input;
use crate::layer::{Dims, Dropout, Pass};
use crate::weights::ParameterPlan;

/// Which heads a model has; they are declared, loaded and saved with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heads {
    /// Classes of the cell-type head; 0: no head.
    pub classes: usize,
    /// Expression decoder.
    pub expression: bool,
    /// MVC decoder.
    pub mvc: bool,
    /// Linear expert beside the encoder, in inference.
    pub gene_linear: bool,
}

/// Weights of encoder and heads.
#[derive(Clone, Debug)]
pub struct CellModel<T: Float> {
    encoder: CellEncoder<T>,
    classifier: Option<Classifier<T>>,
    expression: Option<ExpressionDecoder<T>>,
    mvc: Option<MvcDecoder<T>>,
    gene_linear: Option<GeneLinear<T>>,
    padding_id: u32,
}

/// How much each loss counts; a weight of 0 leaves the head out of the pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossWeights {
    /// Cross-entropy of the cell-type head.
    pub classification: f64,
    /// Masked MSE of the expression decoder.
    pub expression: f64,
    /// Masked MSE of the MVC decoder.
    pub mvc: f64,
}

/// The losses of one batch, unweighted; 0 for a head that did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Nats a cell.
    pub classification: f64,
    /// Squared units of the values.
    pub expression: f64,
    /// Squared units of the values.
    pub mvc: f64,
}

impl Losses {
    /// Adds `other`, scaled.
    pub fn add(&mut self, other: &Losses, scale: f64) {
        self.classification += scale * other.classification;
        self.expression += scale * other.expression;
        self.mvc += scale * other.mvc;
    }

    /// The weighted sum that is minimised.
    pub fn total(&self, weights: &LossWeights) -> f64 {
        // A loss without weight was not computed.
        weights.classification * self.classification + weights.expression * self.expression + weights.mvc * self.mvc
    }
}

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Purpose {
    /// Keep what backward needs, and plan gradients.
    pub training: bool,
    /// Whether dropout applies.
    pub dropout: bool,
    /// Whether batches have generated tokens.
    pub generative: bool,
    /// Losses that are computed.
    pub weights: LossWeights,
    /// Label smoothing of the cross-entropy.
    pub label_smoothing: f64,
    /// Run the cell-type head though its loss is not asked for.
    pub classify: bool,
}

#[derive(Clone, Copy, Debug)]
struct MseTensors<T: Float> {
    loss: Tensor<T::Acc>,
    mask_sum: Tensor<T::Acc>,
    dloss: Tensor<T::Acc>,
}

#[derive(Clone, Debug)]
struct Handles<T: Float> {
    dims: Dims,
    encoder: cell_encoder::Saved<T>,
    encoder_gradients: Option<cell_encoder::Gradients<T>>,
    classifier: Option<(classifier::Saved<T>, Option<classifier::Gradients<T>>)>,
    expression: Option<(expression_decoder::Saved<T>, Option<expression_decoder::Gradients<T>>)>,
    mvc: Option<(mvc_decoder::Saved<T>, Option<mvc_decoder::Gradients<T>>)>,
    gene_linear: Option<gene_linear::Saved<T>>,
    class_loss: ClassLoss<T>,
    mse: [MseTensors<T>; 2],
    dhidden: Option<Tensor<T>>,
}

/// Memory and stream of the passes of one model; re-planned when the batch's size changes, never re-allocated to the same size.
#[derive(Debug)]
pub struct Workspace<T: Float> {
    /// The stream that passes run on.
    pub stream: Stream,
    arena: Arena,
    handles: Handles<T>,
    purpose: Purpose,
    feed: BatchFeed<T>,
}

impl<T: Float> CellModel<T> {
    /// Declares encoder and heads under scGPT's names.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &ModelConfig, heads: Heads, padding_id: u32) -> Self {
        CellModel {
            encoder: CellEncoder::declare(plan, config),
            classifier: (heads.classes > 0).then(|| Classifier::declare(plan, config, heads.classes)),
            expression: heads.expression.then(|| ExpressionDecoder::declare(plan, config.hidden_size)),
            mvc: heads.mvc.then(|| MvcDecoder::declare(plan, config.hidden_size)),
            gene_linear: (heads.gene_linear && heads.classes > 0).then(|| GeneLinear::declare(plan, config.vocab_size, heads.classes)),
            padding_id,
        }
    }

    /// Rebuilds what is derived from the weights; needed whenever they have changed.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn refresh(&self, stream: &Stream) -> Result<()> {
        self.encoder.refresh(stream)
    }

    pub(super) fn encoder(&self) -> &CellEncoder<T> {
        &self.encoder
    }

    pub(super) fn padding_id(&self) -> u32 {
        self.padding_id
    }

    fn handles(&self, plan: &mut Plan, dims: Dims, purpose: &Purpose) -> Handles<T> {
        let Purpose { training, dropout, weights, .. } = *purpose;
        let tokens = dims.tokens();
        let class_loss = ClassLoss::plan(plan, dims.batch, purpose.label_smoothing);
        let encoder = self.encoder.plan(plan, dims, training, dropout, weights.mvc > 0.0);
        let classify = weights.classification > 0.0 || purpose.classify;
        let classifier = self
            .classifier
            .as_ref()
            .filter(|_| classify)
            .map(|head| (head.plan(plan, dims.batch), training.then(|| head.plan_gradients(plan, dims.batch))));
        let gene_linear = self.gene_linear.filter(|_| classify && !training).map(|path| path.plan(plan, dims));
        let expression = self
            .expression
            .filter(|_| weights.expression > 0.0)
            .map(|head| (head.plan(plan, tokens), training.then(|| head.plan_gradients(plan, tokens))));
        let mvc =
            self.mvc.filter(|_| weights.mvc > 0.0).map(|head| (head.plan(plan, tokens), training.then(|| head.plan_gradients(plan, dims))));
        let dhidden = (training && expression.is_some()).then(|| plan.tensor("dhidden_expression", [tokens, self.encoder.width()]));
        let mse = ["expression", "mvc"].map(|name| {
            plan.under(name, |plan| MseTensors {
                loss: plan.tensor("loss", [1]),
                mask_sum: plan.tensor("mask_sum", [1]),
                dloss: plan.tensor("dloss", [1]),
            })
        });
        let encoder_gradients = training.then(|| self.encoder.plan_gradients(plan, dims, dropout));
        Handles { dims, encoder, encoder_gradients, classifier, expression, mvc, gene_linear, class_loss, mse, dhidden }
    }

    /// The plan of a pass over batches of this size, for reports.
    pub fn plan(&self, dims: Dims, purpose: &Purpose) -> Plan {
        pass_memory::planned(|plan| self.handles(plan, dims, purpose)).0
    }

    /// The plan of the batches themselves, two of them, for reports.
    pub fn batch_plan(&self, dims: Dims) -> Plan {
        BatchFeed::<T>::plan(dims)
    }

    /// Allocates memory for passes over batches of at most this size.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn workspace(&self, device: &Device, largest: Dims, purpose: Purpose) -> Result<Workspace<T>> {
        let (stream, arena, handles) = pass_memory::allocate(device, |plan| self.handles(plan, largest, &purpose))?;
        Ok(Workspace { stream, arena, handles, purpose, feed: BatchFeed::new(device, largest)? })
    }
}

impl<T: Float> Workspace<T> {
    /// Whether its batches have generated tokens.
    pub fn is_generative(&self) -> bool {
        self.purpose.generative
    }

    /// Bytes of the activations.
    pub fn bytes(&self) -> usize {
        self.arena.bytes()
    }

    /// Changes what the following passes are for; the memory stays.
    ///
    /// # Errors
    /// `OutOfMemory` when they need more of it and the device refuses; nothing has changed then.
    pub fn turn_to(&mut self, model: &CellModel<T>, purpose: Purpose) -> Result<()> {
        if self.purpose == purpose { Ok(()) } else { self.lay(model, self.handles.dims, purpose) }
    }

    fn fit(&mut self, model: &CellModel<T>, dims: Dims) -> Result<()> {
        if self.handles.dims == dims { Ok(()) } else { self.lay(model, dims, self.purpose) }
    }

    fn lay(&mut self, model: &CellModel<T>, dims: Dims, purpose: Purpose) -> Result<()> {
        let handles = pass_memory::lay_out(&mut self.stream, &mut self.arena, |plan| model.handles(plan, dims, &purpose))?;
        (self.handles, self.purpose) = (handles, purpose);
        Ok(())
    }

    fn pass(&self, dropout: Option<Dropout>) -> Pass {
        let batch = self.feed.tensors();
        let known_lengths = self.purpose.generative.then_some(batch.known_lengths);
        Pass { dims: self.handles.dims, lengths: batch.lengths, known_lengths, dropout }
    }

    /// Uploads a batch and runs encoder, heads and losses.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&mut self, model: &CellModel<T>, batch: &CellBatch, dropout: Option<Dropout>) -> Result<Losses> {
        self.stage(batch)?;
        self.forward_staged(model, None, dropout)
    }

    /// Starts the upload of the batch that [`Workspace::forward_staged`] will read.
    ///
    /// # Errors
    /// `OutOfMemory` when the batch is larger than all before and the device refuses.
    pub fn stage(&mut self, batch: &CellBatch) -> Result<()> {
        self.feed.stage(batch)
    }

    /// Runs encoder, heads and losses on the staged batch, and stages `next` while the device computes.
    ///
    /// # Errors
    /// Those of the kernels and of [`Workspace::stage`].
    pub fn forward_staged(&mut self, model: &CellModel<T>, next: Option<&CellBatch>, dropout: Option<Dropout>) -> Result<Losses> {
        self.fit(model, self.feed.next_dims())?;
        self.feed.take(&self.stream)?;
        self.start(model, dropout)?;
        next.map_or(Ok(()), |next| self.feed.stage(next))?;
        self.losses()
    }

    /// Queues a pass forward over the current batch.
    fn start(&self, model: &CellModel<T>, dropout: Option<Dropout>) -> Result<()> {
        let (stream, pass, handles) = (&self.stream, self.pass(dropout), &self.handles);
        let tensors = &self.feed.tensors();
        let input = Input { gene_ids: tensors.gene_ids, values: tensors.values };
        model.encoder.forward(stream, &pass, &handles.encoder, input, tensors.pool_weights)?;
        if let (Some(head), Some((saved, _))) = (&model.classifier, &handles.classifier) {
            head.forward(stream, saved, handles.encoder.cell)?;
            if let (Some(path), Some(kept)) = (&model.gene_linear, &handles.gene_linear) {
                path.forward(stream, &pass, kept, saved.logits, tensors.gene_ids, tensors.pool_weights)?;
            }
            if self.purpose.weights.classification > 0.0 {
                stream.copy(handles.class_loss.targets, tensors.labels)?;
                handles.class_loss.start(stream, saved.logits)?;
            }
        }
        if let (Some(head), Some((saved, _))) = (&model.expression, &handles.expression) {
            head.forward(stream, saved, handles.encoder.hidden)?;
            self.mse(0, saved.prediction.reshape([tensors.targets.len()]))?;
        }
        if let (Some(head), Some((saved, _)), Some(gene)) = (&model.mvc, &handles.mvc, handles.encoder.embedding.gene) {
            head.forward(stream, saved, gene, handles.encoder.cell)?;
            self.mse(1, saved.prediction)?;
        }
        Ok(())
    }

    /// Waits for the losses of the pass that was started; 0 for a head that did not run.
    fn losses(&self) -> Result<Losses> {
        let handles = &self.handles;
        let mse = |ran: bool, tensors: &MseTensors<T>| -> Result<f64> {
            if ran { Ok(self.stream.fetch(tensors.loss)?[0].f64()) } else { Ok(0.0) }
        };
        let classified = handles.classifier.is_some() && self.purpose.weights.classification > 0.0;
        Ok(Losses {
            classification: if classified { handles.class_loss.value(&self.stream)? } else { 0.0 },
            expression: mse(handles.expression.is_some(), &handles.mse[0])?,
            mvc: mse(handles.mvc.is_some(), &handles.mse[1])?,
        })
    }

    fn mse(&self, index: usize, prediction: Tensor<T>) -> Result<()> {
        let MseTensors { loss, mask_sum, .. } = self.handles.mse[index];
        let BatchTensors { targets: target, target_mask: mask, .. } = self.feed.tensors();
        Ok(mse::forward(&self.stream, mse::Forward { loss, mask_sum, prediction, target, mask })?)
    }

    fn mse_backward(&self, index: usize, dprediction: Tensor<T>, prediction: Tensor<T>, weight: f64) -> Result<()> {
        let MseTensors { dloss, mask_sum, .. } = self.handles.mse[index];
        self.stream.upload(dloss, &[T::Acc::of(weight)])?;
        let BatchTensors { targets: target, target_mask: mask, .. } = self.feed.tensors();
        Ok(mse::backward(&self.stream, mse::Backward { dprediction, dloss, prediction, target, mask, mask_sum })?)
    }

    /// Adds the gradients of `scale * (weighted sum of the losses)` of the batch that [`Workspace::forward`] has seen; `dropout` must be the same.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, model: &CellModel<T>, dropout: Option<Dropout>, scale: f64) -> Result<()> {
        let (stream, pass, handles) = (&self.stream, self.pass(dropout), &self.handles);
        let (tensors, weights) = (&self.feed.tensors(), &self.purpose.weights);
        let Some(gradients) = &handles.encoder_gradients else { return Ok(()) };
        match (&model.classifier, &handles.classifier) {
            (Some(head), Some((saved, Some(head_gradients)))) if weights.classification > 0.0 => {
                handles.class_loss.backward(stream, head_gradients.logits, saved.logits, weights.classification * scale)?;
                head.backward(stream, saved, head_gradients, gradients.cell, handles.encoder.cell)?;
            }
            _ => stream.zero(gradients.cell),
        }
        let mut dgene = None;
        if let (Some(head), Some((saved, Some(head_gradients))), Some(gene)) = (&model.mvc, &handles.mvc, handles.encoder.embedding.gene) {
            self.mse_backward(1, head_gradients.prediction, saved.prediction, weights.mvc * scale)?;
            head.backward(stream, saved, head_gradients, gene, handles.encoder.cell)?;
            reduce::add_assign(stream, reduce::AddAssign { y: gradients.cell, x: head_gradients.cell })?;
            dgene = Some(head_gradients.gene);
        }
        model.encoder.backward_pool(stream, &pass, &handles.encoder, gradients, tensors.pool_weights)?;
        if let (Some(head), Some((saved, Some(head_gradients))), Some(dhidden)) = (&model.expression, &handles.expression, handles.dhidden)
        {
            let flat = |tensor: Tensor<T>| tensor.reshape([tensors.targets.len()]);
            self.mse_backward(0, flat(head_gradients.prediction), flat(saved.prediction), weights.expression * scale)?;
            head.backward(stream, saved, head_gradients, dhidden, handles.encoder.hidden)?;
            reduce::add_assign(stream, reduce::AddAssign { y: gradients.hidden, x: dhidden })?;
        }
        let input = Input { gene_ids: tensors.gene_ids, values: tensors.values };
        model.encoder.backward(stream, &pass, &handles.encoder, gradients, dgene, input, model.padding_id)
    }

    /// `[batch, hidden_size]` of the last batch.
    ///
    /// # Errors
    /// Those of the download.
    pub fn cell_embeddings(&self) -> Result<Vec<T>> {
        Ok(self.stream.fetch(self.handles.encoder.cell)?)
    }

    /// `[batch * seq_len, hidden_size]` of the last batch.
    ///
    /// # Errors
    /// Those of the download.
    pub fn hidden(&self) -> Result<Vec<T>> {
        Ok(self.stream.fetch(self.handles.encoder.hidden)?)
    }

    /// `[batch, classes]` of the last batch; empty without a cell-type head.
    ///
    /// # Errors
    /// Those of the download.
    pub fn logits(&self) -> Result<Vec<T>> {
        self.handles.classifier.as_ref().map_or(Ok(Vec::new()), |(saved, _)| Ok(self.stream.fetch(saved.logits)?))
    }
}
