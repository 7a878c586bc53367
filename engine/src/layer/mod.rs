//! Layers: each file holds its weights struct, its `Saved`, `plan`, `forward` and `backward`, in this order.
//!
//! The gradient contract: parameter gradients accumulate (`+=`); activation gradients overwrite (`=`). A frozen parameter has no
//! gradient buffer, and the work for it is not done. The residual stream is carried by fused epilogues: the gradient that reaches a
//! residual branch is added in the product that computes the other branch.

pub mod adapted_linear;
mod attend;
pub mod bert_output;
pub mod block;
pub mod causal_attention;
pub mod class_loss;
pub mod cross_attention;
pub mod feed_forward;
pub mod gated_feed_forward;
pub mod gene_embedding;
pub mod int8_linear;
pub mod key_attention;
pub mod linear;
pub mod llama_block;
pub mod norm;
pub mod prefix_attention;
pub mod qformer_block;
pub mod qformer_embedding;
pub mod rms_norm;
pub mod rows;
pub mod self_attention;
pub mod token_table;

use scmmgpt_kernels::attention;
use scmmgpt_kernels::runtime::Tensor;
use scmmgpt_kernels::runtime::philox::Site;

/// Sizes of one padded batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Cells.
    pub batch: usize,
    /// Tokens a cell, padding included.
    pub seq_len: usize,
}

impl Dims {
    /// Tokens of the batch, padding included.
    pub fn tokens(self) -> usize {
        self.batch * self.seq_len
    }
}

/// What varies from step to step: lengths of the batch, and dropout.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Sizes.
    pub dims: Dims,
    /// `[batch]`: tokens of each cell, `<cls>` included.
    pub lengths: Tensor<u32>,
    /// `[batch]`: tokens whose values are known; the rest is generated. None: all are known.
    pub known_lengths: Option<Tensor<u32>>,
    /// Dropout and its random numbers; none in inference.
    pub dropout: Option<Dropout>,
}

/// Dropout of one pass of a training step.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Probability that an element is dropped.
    pub probability: f32,
    /// The same of attention probabilities.
    pub attention_probability: f32,
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step and micro-batch.
    pub step: u64,
    /// Added to the number of every site: passes of one step that share weights draw different numbers.
    pub first_site: u32,
}

impl Dropout {
    /// The same probability everywhere, in the only pass of its step.
    pub fn new(probability: f32, seed: u64, step: u64) -> Self {
        Dropout { probability, attention_probability: probability, seed, step, first_site: 0 }
    }

    fn at(&self, probability: f32, site: u32) -> Option<(f32, Site)> {
        (probability > 0.0).then_some((probability, Site { seed: self.seed, step: self.step, site: self.first_site + site }))
    }
}

impl Pass {
    /// The dropout of one place in the model, if there is any.
    pub fn dropout_at(&self, site: u32) -> Option<(f32, Site)> {
        self.dropout.and_then(|dropout| dropout.at(dropout.probability, site))
    }

    /// The dropout of the attention probabilities of one place, if there is any.
    pub fn attention_dropout_at(&self, site: u32) -> Option<attention::Dropout> {
        let drawn = self.dropout.and_then(|dropout| dropout.at(dropout.attention_probability, site));
        drawn.map(|(probability, site)| attention::Dropout { probability, site })
    }
}
