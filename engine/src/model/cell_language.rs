//! Stage 2: a language model that reads cells and writes them. It describes a cell whose vectors stand among the words, and makes the
//! vectors of a cell from words; an expression decoder turns such vectors into values of genes.
//!
//! ```text
//! C = llm_proj(queries over the cell)                          rows in place of words, cell-first sequences
//! h = last hidden states at the slots                          text-first sequences
//! language        cross-entropy of the next token
//! reconstruction  mean((h - stopgrad(C))^2)
//! expression      error of the decoder over stopgrad(C) of every cell and over h of those that were made from text
//! ```
//!
//! The reference feeds its decoder the real cell's vectors when it generates, so that the text has no say; here the decoder learns on `h`
//! too and reads nothing else when a cell is made.
//!
//! # Source
//! scMMGPT `blip2_llama.py`, lines 285-379; MODEL.md sections 4.3-4.5, section 8 rows 1-6.

mod backward;
mod batch;
mod forward;
mod handles;
mod inference;

use scmmgpt_kernels::runtime::{Arena, Device, Float, Plan, Stream, Tensor};
use scmmgpt_loader::language::LanguageConfig;
use serde::{Deserialize, Serialize};

use super::cell_model::Heads;
use super::cell_text::{self, CellText, Draw, Side};
use super::gene_expression::GeneExpression;
use super::language_model::LanguageModel;
use super::llm_projection::LlmProjection;
use super::pass_memory;
use crate::Result;
use crate::config::{CellTextConfig, ExpressionConfig, ExpressionKeys, Tuning};
use crate::layer::{Dims, Dropout};
use crate::weights::ParameterPlan;
use handles::{Handles, Request};

pub use batch::{ExpressionTargets, Neighbours, Pairs};
pub use inference::{CountDistribution, Expression};

/// Stands in front of the names of the language model's parameters.
pub const LANGUAGE: &str = "llm_model";

/// Sizes of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct CellLanguageConfig {
    /// Cell encoder and Q-Former.
    pub cell_text: CellTextConfig,
    /// The language model.
    pub language: LanguageConfig,
    /// Longest sequence of tokens.
    pub positions: usize,
    /// Width between the two products of the projection.
    pub projection_dim: usize,
    /// The expression decoder.
    pub expression: ExpressionConfig,
}

/// What learns besides projection and expression decoder, which always do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tuned {
    /// Of the language model.
    pub language: Tuning,
    /// The cell encoder.
    pub cell_encoder: bool,
    /// The Q-Former, as far as cells pass through it, and `ln_gene`.
    pub qformer: bool,
}

/// Weights of the model.
#[derive(Clone, Debug)]
pub struct CellLanguage<T: Float> {
    joint: CellText<T>,
    projection: LlmProjection<T>,
    expression: GeneExpression<T>,
    language: LanguageModel<T>,
    config: CellLanguageConfig,
    tuned: [bool; 2],
}

/// How much each loss counts; a weight of 0 leaves it out of the pass.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossWeights {
    /// Cross-entropy of texts, and of the beginning and end of cells.
    pub language: f64,
    /// Distance of the vectors that are made from text to those of the cell.
    pub reconstruction: f64,
    /// Error of the expression decoder.
    pub expression: f64,
}

impl Default for LossWeights {
    /// The reference's.
    fn default() -> Self {
        LossWeights { language: 1.0, reconstruction: 1.0, expression: 1.0 }
    }
}

/// The losses of one batch, unweighted; 0 for one that did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Nats a token.
    pub language: f64,
    /// Squared, a number of a vector.
    pub reconstruction: f64,
    /// A gene: squared log1p units, or nats of a count.
    pub expression: f64,
}

impl Losses {
    /// Adds `other`, scaled.
    pub fn add(&mut self, other: &Losses, scale: f64) {
        self.language += scale * other.language;
        self.reconstruction += scale * other.reconstruction;
        self.expression += scale * other.expression;
    }

    /// The weighted sum that is minimised.
    pub fn total(&self, weights: &LossWeights) -> f64 {
        weights.language * self.language + weights.reconstruction * self.reconstruction + weights.expression * self.expression
    }
}

/// What passes are for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Purpose {
    /// Keep what backward needs, and plan gradients.
    pub training: bool,
    /// Whether dropout applies, where what has it learns.
    pub dropout: bool,
    /// Losses that are computed.
    pub weights: LossWeights,
}

impl Purpose {
    /// Inference alone.
    pub fn inference() -> Self {
        Purpose { training: false, dropout: false, weights: LossWeights { language: 0.0, reconstruction: 0.0, expression: 0.0 } }
    }
}

/// The largest batches of a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Cells and their tokens.
    pub cells: Dims,
    /// Tokens of the sequences, as many as cells.
    pub tokens: usize,
    /// Sequences that begin with text.
    pub generated: usize,
    /// Genes a cell whose expression is decoded.
    pub genes: usize,
    /// Neighbours of a cell that is made from text; 0: none.
    pub neighbours: usize,
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

impl<T: Float> CellLanguage<T> {
    /// Declares cell encoder and Q-Former as [`CellText`] does, `llm_proj`, `expr_decoder`, and the language model under Hugging Face's
    /// names behind `llm_model.`.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &CellLanguageConfig, tuned: &Tuned, padding_id: u32) -> Self {
        let CellLanguageConfig { cell_text, language, positions, projection_dim, expression } = config;
        let Tuned { cell_encoder, qformer, language: tuning } = tuned;
        let frozen: fn(&str) -> bool = if *qformer { without_cells } else { outside_encoder };
        let joint = plan.frozen_where(frozen, |plan| CellText::declare(plan, cell_text, Heads::default(), *cell_encoder, padding_id));
        let (model, width) = (&cell_text.model, language.hidden_size);
        CellLanguage {
            joint,
            projection: LlmProjection::declare(plan, cell_text.qformer.hidden_size, *projection_dim, width),
            expression: GeneExpression::declare(plan, expression, width, model.vocab_size),
            language: plan.under(LANGUAGE, |plan| LanguageModel::declare(plan, language, *positions, tuning)),
            config: config.clone(),
            tuned: [*cell_encoder, *qformer],
        }
    }

    /// Cell encoder and Q-Former, for the tasks of stage 1.
    pub fn joint(&self) -> &CellText<T> {
        &self.joint
    }

    /// The language model.
    pub fn language(&self) -> &LanguageModel<T> {
        &self.language
    }

    /// Sizes.
    pub fn config(&self) -> &CellLanguageConfig {
        &self.config
    }

    /// Vectors of a cell.
    pub fn slots(&self) -> usize {
        self.config.cell_text.qformer.num_query_tokens
    }

    /// Vectors of a cell that the expression decoder looks at.
    pub fn expression_keys(&self) -> usize {
        match self.config.expression.keys {
            ExpressionKeys::All => self.slots(),
            ExpressionKeys::First => 1,
        }
    }

    /// Rebuilds what is derived from the weights; needed whenever they have changed.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn refresh(&self, stream: &Stream) -> Result<()> {
        self.joint.refresh(stream)?;
        self.language.refresh(stream)
    }

    /// The plan of a training or evaluation pass over batches of this size, for reports.
    pub fn plan(&self, sizes: Sizes, purpose: &Purpose) -> Plan {
        pass_memory::planned(|plan| self.handles(plan, Request::Losses(sizes), purpose)).0
    }

    /// Allocates memory for passes over batches of at most this size.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn workspace(&self, device: &Device, sizes: Sizes, purpose: Purpose) -> Result<Workspace<T>> {
        self.workspace_for(device, Request::Losses(sizes), purpose)
    }

    /// Memory for inference; it grows with the batches.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn inference(&self, device: &Device) -> Result<Workspace<T>> {
        self.workspace_for(device, Request::Cells(Dims { batch: 1, seq_len: 8 }), Purpose::inference())
    }

    fn workspace_for(&self, device: &Device, request: Request, purpose: Purpose) -> Result<Workspace<T>> {
        let (stream, arena, handles) = pass_memory::allocate(device, |plan| self.handles(plan, request, &purpose))?;
        Ok(Workspace { stream, arena, handles, purpose })
    }

    /// Whether gradients pass the projection.
    fn tunes_cells(&self) -> bool {
        self.tuned.contains(&true)
    }

    /// The dropout of the cell encoder (no side) or of the Q-Former, where they learn.
    fn cell_dropout(&self, purpose: &Purpose, draw: Option<Draw>, side: Option<Side>) -> Option<Dropout> {
        let [cell_encoder, qformer] = self.tuned;
        let learns = if side.is_none() { cell_encoder } else { qformer };
        draw.filter(|_| purpose.dropout && learns).and_then(|draw| self.joint.drawn(draw, side))
    }

    /// The dropout of the language model's adapters.
    fn language_dropout(&self, purpose: &Purpose, draw: Option<Draw>) -> Option<Dropout> {
        let Draw { dropout, seed, step } = draw.filter(|_| purpose.dropout)?;
        let probability = self.language.tuning().adapters()?.lora_dropout;
        let drawn = Dropout { first_site: cell_text::LANGUAGE, ..Dropout::new(probability, seed, step) };
        dropout.then_some(drawn)
    }

    /// Rows of item `item` in a matrix with as many rows an item as a cell has vectors.
    fn rows(&self, all: Tensor<T>, item: usize) -> Tensor<T> {
        all.row_range(item * self.slots(), self.slots())
    }
}

/// Whether a parameter of the joint model is none of the cell encoder's.
fn outside_encoder(name: &str) -> bool {
    !["encoder.", "value_encoder.", "flag_encoder.", "transformer_encoder."].iter().any(|part| name.starts_with(part))
}

/// Whether cells pass a parameter of the joint model by: words, the text branch of the layers, the heads of stage 1.
fn without_cells(name: &str) -> bool {
    let layer = name.strip_prefix("Qformer.bert.encoder.layer.").and_then(|rest| rest.split_once('.'));
    match layer {
        Some((_, part)) => part.starts_with("intermediate.") || part.starts_with("output."),
        None => outside_encoder(name) && !name.starts_with("ln_gene.") && !CELL_EMBEDDINGS.contains(&name),
    }
}

/// Parameters in front of the layers that cells pass through.
const CELL_EMBEDDINGS: [&str; 3] = ["query_tokens", "Qformer.bert.embeddings.LayerNorm.weight", "Qformer.bert.embeddings.LayerNorm.bias"];
