//! One transformer layer of a Llama model: `h = x + attention(norm(x))`, `y = h + feed_forward(norm(h))`.

use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_loader::language::LanguageConfig;

use super::Dims;
use super::adapted_linear::{AdaptedLinear, Shared};
use super::causal_attention::{self, Behind, Cache, CausalAttention, Places};
use super::gated_feed_forward::{self, GatedFeedForward};
use super::rms_norm::{self, RmsNorm};
use crate::Result;
use crate::config::Tuning;
use crate::weights::ParameterPlan;

/// Weights of one layer.
#[derive(Clone, Copy, Debug)]
pub struct LlamaBlock<T: Float> {
    norm1: RmsNorm<T>,
    attention: CausalAttention<T>,
    norm2: RmsNorm<T>,
    feed_forward: GatedFeedForward<T>,
}

/// What backward needs from forward; the layer's output last.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    statistic1: rms_norm::Saved<T>,
    normed1: Tensor<T>,
    attention: causal_attention::Saved<T>,
    middle: Tensor<T>,
    statistic2: rms_norm::Saved<T>,
    normed2: Tensor<T>,
    feed_forward: gated_feed_forward::Saved<T>,
    /// `[tokens, width]`: the layer's output.
    pub output: Tensor<T>,
}

impl<T: Float> Saved<T> {
    /// The same memory for a layer with another output.
    pub fn writing(self, output: Tensor<T>) -> Self {
        Saved { output, ..self }
    }
}

/// Gradients on their way through a layer; all layers share one.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    attention: causal_attention::Gradients<T>,
    feed_forward: gated_feed_forward::Gradients<T>,
    normed: Tensor<T>,
    middle: Tensor<T>,
}

impl<T: Float> LlamaBlock<T> {
    /// Declares layer `index` under Hugging Face's names.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &LanguageConfig, tuning: &Tuning, index: usize) -> Self {
        let norm = |plan: &mut ParameterPlan<T>, name| {
            plan.frozen_if(!tuning.trains_base(), |plan| RmsNorm::declare(plan, name, config.hidden_size, config.rms_norm_eps))
        };
        let site = 4 * index as u32;
        plan.under(index, |plan| LlamaBlock {
            norm1: norm(plan, "input_layernorm"),
            attention: CausalAttention::declare(plan, config, tuning, site),
            norm2: norm(plan, "post_attention_layernorm"),
            feed_forward: GatedFeedForward::declare(plan, config, tuning, site + 2),
        })
    }

    /// The products that may carry adapters.
    pub fn adapted(&mut self) -> [&mut AdaptedLinear<T>; 4] {
        [&mut self.attention.qkv, &mut self.attention.out, &mut self.feed_forward.gate_up, &mut self.feed_forward.down]
    }

    /// Plans what forward keeps; it writes its result to `output`.
    pub fn plan(&self, plan: &mut Plan, dims: Dims, output: Tensor<T>, shared: Option<Shared<T>>) -> Saved<T> {
        let (tokens, width) = (dims.tokens(), self.norm1.weight.value.len());
        Saved {
            statistic1: self.norm1.plan(plan, "norm1", tokens),
            normed1: plan.tensor("normed1", [tokens, width]),
            attention: self.attention.plan(plan, dims, shared),
            middle: plan.tensor("middle", [tokens, width]),
            statistic2: self.norm2.plan(plan, "norm2", tokens),
            normed2: plan.tensor("normed2", [tokens, width]),
            feed_forward: self.feed_forward.plan(plan, tokens, shared),
            output,
        }
    }

    /// Plans the gradients that pass through.
    pub fn plan_gradients(&self, plan: &mut Plan, dims: Dims) -> Gradients<T> {
        let (tokens, width) = (dims.tokens(), self.norm1.weight.value.len());
        Gradients {
            attention: self.attention.plan_gradients(plan, dims),
            feed_forward: self.feed_forward.plan_gradients(plan, tokens),
            normed: plan.tensor("dnormed", [tokens, width]),
            middle: plan.tensor("dmiddle", [tokens, width]),
        }
    }

    /// Plans the layer's cache.
    pub fn plan_cache(&self, plan: &mut Plan, batch: usize, capacity: usize) -> Cache<T> {
        self.attention.plan_cache(plan, batch, capacity)
    }

    /// Writes `saved.output`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, places: &Places<T>, saved: &Saved<T>, x: Tensor<T>) -> Result<()> {
        self.around(stream, places, saved, x, |sum, normed| self.attention.forward(stream, places, &saved.attention, sum, x, normed))
    }

    /// As [`LlamaBlock::forward`], and fills the cache (see [`CausalAttention::prefill`]).
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn prefill(
        &self,
        stream: &Stream,
        places: &Places<T>,
        saved: &Saved<T>,
        cache: &Cache<T>,
        lengths: &[usize],
        x: Tensor<T>,
    ) -> Result<()> {
        let attend = |sum, normed| self.attention.prefill(stream, places, &saved.attention, cache, lengths, sum, x, normed);
        self.around(stream, places, saved, x, attend)
    }

    /// One more token a sequence (see [`CausalAttention::decode`]).
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn decode(
        &self,
        stream: &Stream,
        places: &Places<T>,
        saved: &Saved<T>,
        cache: &Cache<T>,
        cached: &[usize],
        x: Tensor<T>,
    ) -> Result<()> {
        let attend = |sum, normed| self.attention.decode(stream, places, &saved.attention, cache, cached, sum, x, normed);
        self.around(stream, places, saved, x, attend)
    }

    /// Several more tokens a sequence (see [`CausalAttention::extend`]).
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn extend(
        &self,
        stream: &Stream,
        places: &Places<T>,
        saved: &Saved<T>,
        cache: &Cache<T>,
        behind: Behind<'_>,
        x: Tensor<T>,
    ) -> Result<()> {
        let attend = |sum, normed| self.attention.extend(stream, places, &saved.attention, cache, behind, sum, x, normed);
        self.around(stream, places, saved, x, attend)
    }

    /// The layer around its attention, which writes `x + attention(normed)` to the first of its arguments.
    fn around(
        &self,
        stream: &Stream,
        places: &Places<T>,
        saved: &Saved<T>,
        x: Tensor<T>,
        attend: impl FnOnce(Tensor<T>, Tensor<T>) -> Result<()>,
    ) -> Result<()> {
        self.norm1.forward(stream, saved.statistic1, saved.normed1, x)?;
        attend(saved.middle, saved.normed1)?;
        self.norm2.forward(stream, saved.statistic2, saved.normed2, saved.middle)?;
        self.feed_forward.forward(stream, &saved.feed_forward, saved.output, saved.middle, saved.normed2, places.dropout)
    }

    /// From `dy` to `dx`, which may be the tensor of `dy`: it is written after the last read.
    ///
    /// # Errors
    /// Those of the kernels.
    #[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
    pub fn backward(
        &self,
        stream: &Stream,
        places: &Places<T>,
        saved: &Saved<T>,
        gradients: &Gradients<T>,
        dx: Tensor<T>,
        dy: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let g = gradients;
        self.feed_forward.backward(stream, &saved.feed_forward, &g.feed_forward, g.normed, dy, saved.normed2, places.dropout)?;
        self.norm2.backward(stream, saved.statistic2, g.middle, Some(dy), g.normed, saved.middle)?;
        self.attention.backward(stream, places, &saved.attention, &g.attention, g.normed, g.middle, saved.normed1)?;
        self.norm1.backward(stream, saved.statistic1, dx, Some(g.middle), g.normed, x)
    }
}
