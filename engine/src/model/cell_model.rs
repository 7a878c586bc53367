//! The cell encoder with the heads that train it: one pass forward, the losses, one pass backward.

use scmmgpt_kernels::runtime::{Arena, Device, Float, Plan, Real, Stream, Tensor};
use scmmgpt_kernels::{cross_entropy, mse, reduce};
use scmmgpt_loader::batch::{CellBatch, NO_LABEL};

use serde::{Deserialize, Serialize};

use super::cell_encoder::{self, CellEncoder};
use super::classifier::{self, Classifier};
use super::expression_decoder::{self, ExpressionDecoder};
use super::gene_linear::{self, GeneLinear};
use super::mvc_decoder::{self, MvcDecoder};
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

/// Device memory of a batch.
#[derive(Clone, Copy, Debug)]
struct BatchTensors<T: Float> {
    gene_ids: Tensor<u32>,
    values: Tensor<T::Acc>,
    targets: Tensor<T::Acc>,
    target_mask: Tensor<T::Acc>,
    pool_weights: Tensor<T::Acc>,
    lengths: Tensor<u32>,
    known_lengths: Tensor<u32>,
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
    batch: BatchTensors<T>,
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
        let batch = plan.under("batch", |plan| BatchTensors {
            gene_ids: plan.tensor("gene_ids", [tokens]),
            values: plan.tensor("values", [tokens]),
            targets: plan.tensor("targets", [tokens]),
            target_mask: plan.tensor("target_mask", [tokens]),
            pool_weights: plan.tensor("pool_weights", [tokens]),
            lengths: plan.tensor("lengths", [dims.batch]),
            known_lengths: plan.tensor("known_lengths", [dims.batch]),
        });
        // Its targets are uploaded with the batch: in inference, what is planned behind the encoder lies over its layers.
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
        Handles { dims, batch, encoder, encoder_gradients, classifier, expression, mvc, gene_linear, class_loss, mse, dhidden }
    }

    /// The plan of a pass over batches of this size, for reports.
    pub fn plan(&self, dims: Dims, purpose: &Purpose) -> Plan {
        let mut plan = Plan::new(scmmgpt_kernels::runtime::Class::Activations);
        self.handles(&mut plan, dims, purpose);
        plan
    }

    /// Allocates memory for passes over batches of at most this size.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn workspace(&self, device: &Device, largest: Dims, purpose: Purpose) -> Result<Workspace<T>> {
        let mut plan = Plan::new(scmmgpt_kernels::runtime::Class::Activations);
        let handles = self.handles(&mut plan, largest, &purpose);
        let stream = Stream::new(device, plan.scratch_bytes())?;
        Ok(Workspace { stream, arena: Arena::allocate(device, plan)?, handles, purpose })
    }
}

/// The loss that a tensor of one element holds.
fn scalar<A: Real>(stream: &Stream, tensor: Tensor<A>) -> Result<f64> {
    Ok(stream.fetch(tensor)?[0].f64())
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

    fn fit(&mut self, model: &CellModel<T>, dims: Dims) -> Result<()> {
        if self.handles.dims == dims {
            return Ok(());
        }
        let mut plan = Plan::new(scmmgpt_kernels::runtime::Class::Activations);
        let handles = model.handles(&mut plan, dims, &self.purpose);
        let device = self.stream.device().clone();
        if plan.scratch_bytes() > self.stream.scratch_bytes() {
            self.stream = Stream::new(&device, plan.scratch_bytes())?;
        }
        self.arena.replan(plan)?;
        self.handles = handles;
        Ok(())
    }

    fn upload(&self, batch: &CellBatch) -> Result<()> {
        let (stream, tensors) = (&self.stream, &self.handles.batch);
        let wide = |values: &[f32]| values.iter().map(|&value| T::Acc::of(f64::from(value))).collect::<Vec<_>>();
        stream.upload(tensors.gene_ids, &batch.gene_ids)?;
        stream.upload(tensors.values, &wide(&batch.values))?;
        stream.upload(tensors.targets, &wide(&batch.targets))?;
        stream.upload(tensors.target_mask, &wide(&batch.target_mask))?;
        // A hidden value may not speak through the pooling either.
        let weights: Vec<f32> = batch.values.iter().zip(&batch.target_mask).map(|(value, mask)| value * (1.0 - mask)).collect();
        stream.upload(tensors.pool_weights, &wide(&weights))?;
        stream.upload(tensors.lengths, &batch.lengths)?;
        stream.upload(tensors.known_lengths, &batch.known_lengths)?;
        let label = |&label: &i32| if label == NO_LABEL { cross_entropy::IGNORE } else { label as u32 };
        Ok(stream.upload(self.handles.class_loss.targets, &batch.labels.iter().map(label).collect::<Vec<_>>())?)
    }

    fn pass(&self, dropout: Option<Dropout>) -> Pass {
        let known_lengths = self.purpose.generative.then_some(self.handles.batch.known_lengths);
        Pass { dims: self.handles.dims, lengths: self.handles.batch.lengths, known_lengths, dropout }
    }

    /// Uploads a batch and runs encoder, heads and losses.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&mut self, model: &CellModel<T>, batch: &CellBatch, dropout: Option<Dropout>) -> Result<Losses> {
        self.fit(model, Dims { batch: batch.batch, seq_len: batch.seq_len })?;
        self.upload(batch)?;
        let (stream, pass, handles) = (&self.stream, self.pass(dropout), &self.handles);
        let tensors = &handles.batch;
        let input = Input { gene_ids: tensors.gene_ids, values: tensors.values };
        model.encoder.forward(stream, &pass, &handles.encoder, input, tensors.pool_weights)?;
        let mut losses = Losses::default();
        if let (Some(head), Some((saved, _))) = (&model.classifier, &handles.classifier) {
            head.forward(stream, saved, handles.encoder.cell)?;
            if let (Some(path), Some(kept)) = (&model.gene_linear, &handles.gene_linear) {
                path.forward(stream, &pass, kept, saved.logits, tensors.gene_ids, tensors.pool_weights)?;
            }
            if self.purpose.weights.classification > 0.0 {
                losses.classification = handles.class_loss.forward(stream, saved.logits)?;
            }
        }
        if let (Some(head), Some((saved, _))) = (&model.expression, &handles.expression) {
            head.forward(stream, saved, handles.encoder.hidden)?;
            losses.expression = self.mse(0, saved.prediction.reshape([tensors.targets.len()]))?;
        }
        if let (Some(head), Some((saved, _)), Some(gene)) = (&model.mvc, &handles.mvc, handles.encoder.embedding.gene) {
            head.forward(stream, saved, gene, handles.encoder.cell)?;
            losses.mvc = self.mse(1, saved.prediction)?;
        }
        Ok(losses)
    }

    fn mse(&self, index: usize, prediction: Tensor<T>) -> Result<f64> {
        let MseTensors { loss, mask_sum, .. } = self.handles.mse[index];
        let (target, mask) = (self.handles.batch.targets, self.handles.batch.target_mask);
        mse::forward(&self.stream, mse::Forward { loss, mask_sum, prediction, target, mask })?;
        scalar(&self.stream, loss)
    }

    fn mse_backward(&self, index: usize, dprediction: Tensor<T>, prediction: Tensor<T>, weight: f64) -> Result<()> {
        let MseTensors { dloss, mask_sum, .. } = self.handles.mse[index];
        self.stream.upload(dloss, &[T::Acc::of(weight)])?;
        let (target, mask) = (self.handles.batch.targets, self.handles.batch.target_mask);
        Ok(mse::backward(&self.stream, mse::Backward { dprediction, dloss, prediction, target, mask, mask_sum })?)
    }

    /// Adds the gradients of `scale * (weighted sum of the losses)` of the batch that [`Workspace::forward`] has seen; `dropout` must be the same.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, model: &CellModel<T>, dropout: Option<Dropout>, scale: f64) -> Result<()> {
        let (stream, pass, handles) = (&self.stream, self.pass(dropout), &self.handles);
        let (tensors, weights) = (&handles.batch, &self.purpose.weights);
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
