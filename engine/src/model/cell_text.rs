//! Cells and texts in one space: the cell encoder, a Q-Former over it, and the three objectives of stage 1.
//!
//! - contrastive: `c_iq = normalize(cell_proj(z_iq))`, `t_j = normalize(text_proj(h_j0))`, similarity `max_q <c_iq, t_j> / temperature`;
//! - matching: does this text belong to this cell? Each cell is shown its own text and one that is hard to tell from it;
//! - captioning: the text, token by token, from what the queries have read of the cell.
//!
//! # Source
//! scMMGPT `blip2qformer.py`; Li et al. 2023, "BLIP-2", section 3.2.

mod backward;
mod cells;
mod forward;
mod handles;
mod inference;

use scmmgpt_kernels::runtime::{Arena, Device, Float, Plan, Stream};
use serde::{Deserialize, Serialize};

use super::captioning_head::CaptioningHead;
use super::cell_model::{CellModel, Heads};
use super::contrastive_head::ContrastiveHead;
use super::matching_head::MatchingHead;
use super::pass_memory;
use super::projection::Projection;
use super::qformer::QFormer;
use super::space_expert::SpaceExpert;
use crate::Result;
use crate::config::{CellTextConfig, QFormerConfig};
use crate::layer::norm::Norm;
use crate::layer::{Dims, Dropout};
use crate::weights::ParameterPlan;
use handles::{Handles, Request};

pub(super) use cells::{CellGradients, Cells};

/// `ln_gene` adds this to the variance, whatever the cell encoder does.
const CELL_NORM_EPS: f64 = 1e-5;

/// Weights of the joint model.
#[derive(Clone, Debug)]
pub struct CellText<T: Float> {
    cells: CellModel<T>,
    cell_norm: Norm<T>,
    qformer: QFormer<T>,
    cell_projection: Projection<T>,
    expert: Option<SpaceExpert<T>>,
    text_projection: Projection<T>,
    contrastive: ContrastiveHead<T>,
    matching: MatchingHead<T>,
    captioning: Option<CaptioningHead<T>>,
    config: QFormerConfig,
    cell_dropout: f32,
    tunes_cells: bool,
}

/// One of the passes through the Q-Former ([`super::qformer`] says what each sees).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Queries that look at a cell.
    Cells = 1,
    /// Text alone.
    Texts = 2,
    /// Queries that look at a cell, together with a text.
    Matching = 3,
    /// Text that follows the queries of a cell.
    Captioning = 4,
}

/// Dropout sites of one side, the cell encoder's coming first; far more than layers have.
const SITES: u32 = 1 << 16;

/// The site that hard negatives are drawn at.
const NEGATIVES: u32 = 5 * SITES;

/// The first site of the language model of stage 2.
pub(super) const LANGUAGE: u32 = 6 * SITES;

/// The site that sequences without neighbours are drawn at in stage 2.
pub(crate) const NEIGHBOURS: u32 = 7 * SITES;

/// How much each loss counts; a weight of 0 leaves the objective out of the pass.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossWeights {
    /// Contrast of each cell's text with the other texts of the batch.
    pub contrastive: f64,
    /// Two-way classification of pairs.
    pub matching: f64,
    /// Next-token cross-entropy of the text.
    pub captioning: f64,
}

impl Default for LossWeights {
    /// The reference's training: no captioning.
    fn default() -> Self {
        LossWeights { contrastive: 1.0, matching: 1.0, captioning: 0.0 }
    }
}

/// The losses of one batch, unweighted, in nats; 0 for an objective that did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// A cell (symmetric: the mean of both directions).
    pub contrastive: f64,
    /// A pair.
    pub matching: f64,
    /// A token, smoothing included.
    pub captioning: f64,
}

impl Losses {
    /// Adds `other`, scaled.
    pub fn add(&mut self, other: &Losses, scale: f64) {
        self.contrastive += scale * other.contrastive;
        self.matching += scale * other.matching;
        self.captioning += scale * other.captioning;
    }

    /// The weighted sum that is minimised.
    pub fn total(&self, weights: &LossWeights) -> f64 {
        weights.contrastive * self.contrastive + weights.matching * self.matching + weights.captioning * self.captioning
    }
}

/// Who is contrasted with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Contrast {
    /// Consecutive items that are contrasted with each other alone; 0: the whole batch. The reference's scripts have 3.
    pub group: usize,
    /// Whether texts choose among cells too; the reference lets only cells choose among texts.
    pub symmetric: bool,
    /// Items of one class are not negatives of each other, neither here nor in matching.
    pub mask_same_class: bool,
}

impl Default for Contrast {
    fn default() -> Self {
        Contrast { group: 0, symmetric: true, mask_same_class: true }
    }
}

/// What passes are for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Purpose {
    /// Keep what backward needs, and plan gradients.
    pub training: bool,
    /// Whether dropout applies.
    pub dropout: bool,
    /// Losses that are computed.
    pub weights: LossWeights,
    /// Negatives of the contrastive loss.
    pub contrast: Contrast,
    /// Label smoothing of the captioning loss; the reference has 0.1.
    pub label_smoothing: f64,
}

impl Purpose {
    /// Inference alone.
    pub fn inference() -> Self {
        Purpose {
            training: false,
            dropout: false,
            weights: LossWeights { contrastive: 0.0, matching: 0.0, captioning: 0.0 },
            contrast: Contrast::default(),
            label_smoothing: 0.0,
        }
    }
}

/// The largest batches of a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Cells and their tokens.
    pub cells: Dims,
    /// Texts and their tokens.
    pub texts: Dims,
}

/// The random numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Whether the configured dropout applies; never in evaluation.
    pub dropout: bool,
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step and micro-batch.
    pub step: u64,
}

/// Memory and stream of the passes of one model; re-planned when sizes or the kind of work change, never re-allocated to less.
#[derive(Debug)]
pub struct Workspace<T: Float> {
    /// The stream that passes run on.
    pub stream: Stream,
    arena: Arena,
    handles: Handles<T>,
    purpose: Purpose,
}

impl<T: Float> CellText<T> {
    /// Declares the model: the cell encoder and its heads under scGPT's names, the rest under the reference's with the changes listed
    /// in the module text of [`crate::model`]. Without `tune_cell_encoder` encoder and heads are frozen: they get no gradient, and run
    /// without dropout.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &CellTextConfig, heads: Heads, tune_cell_encoder: bool, padding_id: u32) -> Self {
        let CellTextConfig { model, qformer } = config;
        let cells = |plan: &mut ParameterPlan<T>| CellModel::declare(plan, model, heads, padding_id);
        let cells = if tune_cell_encoder { cells(plan) } else { plan.frozen(cells) };
        let cell_norm = Norm::declare(plan, "ln_gene", model.hidden_size, CELL_NORM_EPS);
        let body = QFormer::declare(plan, qformer, model.hidden_size);
        let (width, projection_dim) = (qformer.hidden_size, qformer.projection_dim);
        CellText {
            cells,
            cell_norm,
            cell_projection: Projection::declare(plan, "cell_proj", width, projection_dim),
            expert: (qformer.gene_linear_weight > 0.0)
                .then(|| SpaceExpert::declare(plan, model.vocab_size, qformer.num_query_tokens, projection_dim)),
            text_projection: Projection::declare(plan, "text_proj", width, projection_dim),
            contrastive: ContrastiveHead::declare(plan, qformer),
            matching: MatchingHead::declare(plan, width),
            captioning: qformer.captioning.then(|| CaptioningHead::declare(plan, qformer, body.words())),
            qformer: body,
            config: qformer.clone(),
            cell_dropout: model.hidden_dropout_prob,
            tunes_cells: tune_cell_encoder,
        }
    }

    /// The cell encoder with its heads, for the objectives and tasks that need no text.
    pub fn cell_model(&self) -> &CellModel<T> {
        &self.cells
    }

    /// Sizes of the Q-Former.
    pub fn config(&self) -> &QFormerConfig {
        &self.config
    }

    /// What similarities are divided by in the contrastive loss.
    ///
    /// # Errors
    /// Those of the download.
    pub fn temperature(&self, stream: &Stream) -> Result<f64> {
        self.contrastive.temperature(stream)
    }

    /// Rebuilds what is derived from the weights; needed whenever they have changed.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn refresh(&self, stream: &Stream) -> Result<()> {
        self.cells.refresh(stream)?;
        self.contrastive.refresh(stream)
    }

    /// The plan of a training or evaluation pass over batches of this size, for reports.
    pub fn plan(&self, sizes: Sizes, purpose: &Purpose) -> Plan {
        pass_memory::planned(|plan| self.handles(plan, Request::losses(sizes), purpose)).0
    }

    /// The plan of embedding texts of this size, for reports.
    pub fn text_plan(&self, texts: Dims) -> Plan {
        pass_memory::planned(|plan| self.handles(plan, Request::texts(texts), &Purpose::inference())).0
    }

    /// Allocates memory for passes over batches of at most this size.
    ///
    /// # Errors
    /// `Incapable` when a captioning loss is asked of a model without captioning head; `OutOfMemory`.
    pub fn workspace(&self, device: &Device, sizes: Sizes, purpose: Purpose) -> Result<Workspace<T>> {
        if purpose.weights.captioning > 0.0 && self.captioning.is_none() {
            let reason = "it has no captioning head; train one with qformer.captioning=true".into();
            return Err(crate::Error::Incapable { task: "write captions", reason });
        }
        let (stream, arena, handles) = pass_memory::allocate(device, |plan| self.handles(plan, Request::losses(sizes), &purpose))?;
        Ok(Workspace { stream, arena, handles, purpose })
    }

    /// Memory for embeddings and matching scores; it grows with the batches.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn inference(&self, device: &Device) -> Result<Workspace<T>> {
        let one = Dims { batch: 1, seq_len: 8 };
        self.workspace(device, Sizes { cells: one, texts: one }, Purpose::inference())
    }

    /// The dropout of the cell encoder, or of one side, where it learns.
    fn dropout(&self, purpose: &Purpose, draw: Draw, side: Option<Side>) -> Option<Dropout> {
        let applies = purpose.dropout && (side.is_some() || self.tunes_cells);
        if applies { self.drawn(draw, side) } else { None }
    }

    /// The dropout of the cell encoder, or of one side.
    pub(super) fn drawn(&self, draw: Draw, side: Option<Side>) -> Option<Dropout> {
        let Draw { dropout, seed, step } = draw;
        let whole = match side {
            None => Dropout::new(self.cell_dropout, seed, step),
            Some(side) => Dropout {
                probability: self.config.hidden_dropout_prob,
                attention_probability: self.config.attention_probs_dropout_prob,
                seed,
                step,
                first_site: side as u32 * SITES,
            },
        };
        dropout.then_some(whole)
    }

    pub(super) fn qformer(&self) -> &QFormer<T> {
        &self.qformer
    }
}
