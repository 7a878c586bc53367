//! One post-norm transformer layer: `x = norm1(x + attention(x))`, `y = norm2(x + feed_forward(x))`.
//!
//! # Source
//! scGPT's encoder layer, which is PyTorch's `TransformerEncoderLayer` with `norm_first = False`.

use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use super::feed_forward::{self, FeedForward};
use super::norm::{self, Norm};
use super::self_attention::{self, SelfAttention};
use super::{Dims, Pass};
use crate::Result;
use crate::config::ModelConfig;
use crate::weights::ParameterPlan;

/// Weights of one layer.
#[derive(Clone, Copy, Debug)]
pub struct Block<T: Float> {
    attention: SelfAttention<T>,
    norm1: Norm<T>,
    feed_forward: FeedForward<T>,
    norm2: Norm<T>,
}

/// What backward needs from forward; the layer's output last.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    attention: self_attention::Saved<T>,
    sum1: Tensor<T>,
    statistics1: norm::Saved<T>,
    normed1: Tensor<T>,
    feed_forward: feed_forward::Saved<T>,
    sum2: Tensor<T>,
    statistics2: norm::Saved<T>,
    projected: Tensor<T>,
    /// `[tokens, width]`: the layer's output.
    pub output: Tensor<T>,
}

/// Gradients on their way through a layer; all layers share one.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    attention: self_attention::Gradients<T>,
    feed_forward: feed_forward::Saved<T>,
    sum: Tensor<T>,
    branch: Tensor<T>,
    normed1: Tensor<T>,
}

/// Dropout sites that one layer uses.
const SITES: u32 = 4;

impl<T: Float> Block<T> {
    /// Declares layer `index` under scGPT's names.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &ModelConfig, index: usize) -> Self {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        // Site 0 is the value encoder's dropout.
        let site = 1 + SITES * index as u32;
        plan.under(index, |plan| Block {
            attention: SelfAttention::declare(plan, config, site),
            feed_forward: FeedForward::declare(plan, width, config.intermediate_size, site + 2),
            norm1: Norm::declare(plan, "norm1", width, eps),
            norm2: Norm::declare(plan, "norm2", width, eps),
        })
    }

    /// Plans what forward keeps; it writes its result to `output`.
    pub fn plan(&self, plan: &mut Plan, dims: Dims, dropout: bool, output: Tensor<T>) -> Saved<T> {
        let (tokens, width) = (dims.tokens(), self.norm1.weight.value.len());
        Saved {
            attention: self.attention.plan(plan, dims),
            sum1: plan.tensor("sum1", [tokens, width]),
            statistics1: self.norm1.plan(plan, "norm1", tokens),
            normed1: plan.tensor("normed1", [tokens, width]),
            feed_forward: self.feed_forward.plan(plan, tokens, dropout),
            sum2: plan.tensor("sum2", [tokens, width]),
            statistics2: self.norm2.plan(plan, "norm2", tokens),
            output,
            projected: plan.scope(|plan| plan.tensor("projected", [if dropout { tokens } else { 0 }, width])),
        }
    }

    /// Plans the gradients that pass through.
    pub fn plan_gradients(&self, plan: &mut Plan, dims: Dims, dropout: bool) -> Gradients<T> {
        let (tokens, width) = (dims.tokens(), self.norm1.weight.value.len());
        Gradients {
            attention: self.attention.plan_gradients(plan, dims),
            feed_forward: self.feed_forward.plan_gradients(plan, tokens, dropout),
            sum: plan.tensor("dsum", [tokens, width]),
            branch: plan.tensor("dbranch", [if dropout { tokens } else { 0 }, width]),
            normed1: plan.tensor("dnormed1", [tokens, width]),
        }
    }

    /// Writes `saved.output`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, pass: &Pass, saved: &Saved<T>, x: Tensor<T>) -> Result<()> {
        self.attention.forward(stream, pass, &saved.attention, saved.sum1, saved.projected, x)?;
        self.norm1.forward(stream, saved.statistics1, saved.normed1, saved.sum1)?;
        self.feed_forward.forward(stream, pass, &saved.feed_forward, saved.sum2, saved.projected, saved.normed1)?;
        self.norm2.forward(stream, saved.statistics2, saved.output, saved.sum2)
    }

    /// From `dy` to `dx`, which may be the tensor of `dy`: it is written after the last read.
    ///
    /// # Errors
    /// Those of the kernels.
    #[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
    pub fn backward(
        &self,
        stream: &Stream,
        pass: &Pass,
        saved: &Saved<T>,
        gradients: &Gradients<T>,
        dx: Tensor<T>,
        dy: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let g = gradients;
        self.norm2.backward(stream, saved.statistics2, g.sum, dy, saved.sum2)?;
        self.feed_forward.backward(stream, pass, &saved.feed_forward, &g.feed_forward, g.normed1, g.branch, g.sum, saved.normed1)?;
        self.norm1.backward(stream, saved.statistics1, g.sum, g.normed1, saved.sum1)?;
        self.attention.backward(stream, pass, &saved.attention, &g.attention, dx, g.branch, g.sum, x)
    }
}
