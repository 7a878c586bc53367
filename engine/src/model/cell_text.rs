//! Cells and texts in one space: the cell encoder, a Q-Former over it, and the three objectives of stage 1.
//!
//! - contrastive: `c_iq = normalize(cell_proj(z_iq))`, `t_j = normalize(text_proj(h_j0))`, similarity `max_q <c_iq, t_j> / temperature`;
//! - matching: does this text belong to this cell? Each cell is shown its own text and one that is hard to tell from it;
//! - captioning: the text, token by token, from what the queries have read of the cell.
//!
//! # Source
//! scMMGPT `blip2qformer.py`; Li et al. 2023, "BLIP-2", section 3.2.

use serde::{Deserialize, Serialize};

use crate::layer::Dims;

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
