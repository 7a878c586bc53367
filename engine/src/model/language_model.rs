//! A Llama language model: token table, causal layers, norm, and the product back to the vocabulary.

use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_kernels::{embedding, rope};
use scmmgpt_loader::language::{LanguageConfig, LanguageFiles};

use crate::Result;
use crate::layer::Dims;
use crate::layer::causal_attention::{Behind, Cache, Places};
use crate::layer::linear::{LLAMA_INIT, Linear};
use crate::layer::llama_block::{self, LlamaBlock};
use crate::layer::rms_norm::{self, RmsNorm};
use crate::weights::{Parameter, ParameterPlan, Parameters};

/// Weights of the model.
#[derive(Clone, Debug)]
pub struct LanguageModel<T: Float> {
    table: Parameter<T>,
    blocks: Vec<LlamaBlock<T>>,
    norm: RmsNorm<T>,
    /// The token table itself where the embeddings are tied.
    head: Linear<T>,
    rotation: rope::Table<T::Acc>,
    config: LanguageConfig,
}

/// What is kept of one pass.
#[derive(Clone, Debug)]
pub struct Saved<T: Float> {
    /// `[tokens, width]`: what the layers read; rows may be replaced between [`LanguageModel::embed`] and [`LanguageModel::forward`].
    pub embedded: Tensor<T>,
    blocks: Vec<llama_block::Saved<T>>,
    statistic: rms_norm::Saved<T>,
    /// `[tokens, width]`: the last hidden states, after the norm.
    pub hidden: Tensor<T>,
}

/// Gradients on their way through the model.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    block: llama_block::Gradients<T>,
    /// `[tokens, width]`: gradient of `hidden`.
    pub hidden: Tensor<T>,
    /// `[tokens, width]`: gradient of `embedded`.
    pub embedded: Tensor<T>,
}

impl<T: Float> LanguageModel<T> {
    /// Declares the model under Hugging Face's names, for sequences of at most `positions` tokens.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &LanguageConfig, positions: usize) -> Self {
        let (width, vocabulary) = (config.hidden_size, config.vocab_size);
        let (table, blocks, norm) = plan.under("model", |plan| {
            let table = plan.parameter("embed_tokens.weight", [vocabulary, width], LLAMA_INIT);
            let layers = 0..config.num_hidden_layers;
            let blocks = plan.under("layers", |plan| layers.map(|index| LlamaBlock::declare(plan, config, index)).collect());
            (table, blocks, RmsNorm::declare(plan, "norm", width, config.rms_norm_eps))
        });
        let head = match config.tie_word_embeddings {
            true => Linear { weight: table, bias: None },
            false => Linear::declare_llama(plan, &[("lm_head", vocabulary)], width),
        };
        let rotation = rope::plan_table(plan.derived(), positions, config.head_dim);
        LanguageModel { table, blocks, norm, head, rotation, config: config.clone() }
    }

    /// Sizes and constants.
    pub fn config(&self) -> &LanguageConfig {
        &self.config
    }

    /// Longest sequence, as declared.
    pub fn positions(&self) -> usize {
        self.rotation.cos.rows()
    }

    /// Angles of the rotation.
    pub fn rotation(&self) -> rope::Table<T::Acc> {
        self.rotation
    }

    /// Fills in what is derived from the configuration; needed once, before the first pass.
    ///
    /// # Errors
    /// Those of the upload.
    pub fn refresh(&self, stream: &Stream) -> Result<()> {
        let head_dim = self.config.head_dim;
        let frequency = |pair: usize| self.config.rope_theta.powf(-2.0 * pair as f64 / head_dim as f64);
        Ok(rope::build_table(stream, self.rotation, &(0..head_dim / 2).map(frequency).collect::<Vec<_>>())?)
    }

    /// Plans one pass. In training every layer keeps its own activations; in inference all layers share the memory of one.
    pub fn plan(&self, plan: &mut Plan, dims: Dims, training: bool) -> Saved<T> {
        let (tokens, width) = (dims.tokens(), self.config.hidden_size);
        let embedded = plan.tensor("embedded", [tokens, width]);
        let shared: Option<[Tensor<T>; 2]> = (!training).then(|| ["even", "odd"].map(|name| plan.tensor(name, [tokens, width])));
        let layer = |plan: &mut Plan, index: usize, block: &LlamaBlock<T>| match shared {
            Some(outputs) => plan.scope(|plan| block.plan(plan, dims, outputs[index % 2])),
            None => {
                let output = plan.tensor("output", [tokens, width]);
                block.plan(plan, dims, output)
            }
        };
        let blocks = self.blocks.iter().enumerate();
        let blocks = blocks.map(|(index, block)| plan.under(&format!("layers.{index}"), |plan| layer(plan, index, block))).collect();
        Saved { embedded, blocks, statistic: self.norm.plan(plan, "norm", tokens), hidden: plan.tensor("hidden", [tokens, width]) }
    }

    /// Plans the gradients.
    pub fn plan_gradients(&self, plan: &mut Plan, dims: Dims) -> Gradients<T> {
        let (tokens, width) = (dims.tokens(), self.config.hidden_size);
        plan.scratch(embedding::scratch(tokens));
        Gradients {
            block: self.blocks[0].plan_gradients(plan, dims),
            hidden: plan.tensor("dhidden", [tokens, width]),
            embedded: plan.tensor("dembedded", [tokens, width]),
        }
    }

    /// Plans the keys and values of every layer.
    pub fn plan_cache(&self, plan: &mut Plan, batch: usize, capacity: usize) -> Vec<Cache<T>> {
        let blocks = self.blocks.iter().enumerate();
        blocks.map(|(index, block)| plan.under(&format!("layers.{index}"), |plan| block.plan_cache(plan, batch, capacity))).collect()
    }

    /// Writes `saved.embedded`.
    ///
    /// # Errors
    /// `Index` when an id is outside the vocabulary, and those of the kernel.
    pub fn embed(&self, stream: &Stream, saved: &Saved<T>, ids: Tensor<u32>) -> Result<()> {
        Ok(embedding::forward(stream, embedding::Forward { y: saved.embedded, table: self.table.value, ids })?)
    }

    /// From `saved.embedded` to `saved.hidden`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, places: &Places<T>, saved: &Saved<T>) -> Result<()> {
        self.through(stream, saved, |_, block, kept, x| block.forward(stream, places, kept, x))
    }

    /// As [`LanguageModel::forward`], and fills the caches; `lengths` are those of `places`, on the host.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn prefill(&self, stream: &Stream, places: &Places<T>, saved: &Saved<T>, caches: &[Cache<T>], lengths: &[usize]) -> Result<()> {
        self.through(stream, saved, |index, block, kept, x| block.prefill(stream, places, kept, &caches[index], lengths, x))
    }

    /// As [`LanguageModel::forward`] for one more token a sequence, behind the `cached` ones.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn decode(&self, stream: &Stream, places: &Places<T>, saved: &Saved<T>, caches: &[Cache<T>], cached: &[usize]) -> Result<()> {
        self.through(stream, saved, |index, block, kept, x| block.decode(stream, places, kept, &caches[index], cached, x))
    }

    /// As [`LanguageModel::forward`] for several more tokens a sequence, behind the cached ones.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn extend(&self, stream: &Stream, places: &Places<T>, saved: &Saved<T>, caches: &[Cache<T>], behind: Behind<'_>) -> Result<()> {
        self.through(stream, saved, |index, block, kept, x| block.extend(stream, places, kept, &caches[index], behind, x))
    }

    fn through(
        &self,
        stream: &Stream,
        saved: &Saved<T>,
        mut layer: impl FnMut(usize, &LlamaBlock<T>, &llama_block::Saved<T>, Tensor<T>) -> Result<()>,
    ) -> Result<()> {
        let mut x = saved.embedded;
        for (index, (block, kept)) in self.blocks.iter().zip(&saved.blocks).enumerate() {
            layer(index, block, kept, x)?;
            x = kept.output;
        }
        self.norm.forward(stream, saved.statistic, saved.hidden, x)
    }

    /// `logits = hidden W^T`, `[rows, vocabulary]`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn logits(&self, stream: &Stream, logits: Tensor<T>, hidden: Tensor<T>) -> Result<()> {
        self.head.forward(stream, logits, hidden)
    }

    /// The head's gradient from `dlogits`, and `dhidden`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn logits_backward(&self, stream: &Stream, dhidden: Tensor<T>, dlogits: Tensor<T>, hidden: Tensor<T>) -> Result<()> {
        self.head.backward(stream, Some((dhidden, scmmgpt_kernels::gemm::Epilogue::None)), dlogits, hidden)
    }

    /// From `gradients.hidden` to every layer's gradients and `gradients.embedded`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, stream: &Stream, places: &Places<T>, saved: &Saved<T>, gradients: &Gradients<T>) -> Result<()> {
        let input = |index: usize| if index == 0 { saved.embedded } else { saved.blocks[index - 1].output };
        let dx = gradients.embedded;
        self.norm.backward(stream, saved.statistic, dx, None, gradients.hidden, input(self.blocks.len()))?;
        for (index, block) in self.blocks.iter().enumerate().rev() {
            block.backward(stream, places, &saved.blocks[index], &gradients.block, dx, dx, input(index))?;
        }
        Ok(())
    }

    /// The token table's gradient from `gradients.embedded`, where the table is trained.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn embed_backward(&self, stream: &Stream, gradients: &Gradients<T>, ids: Tensor<u32>) -> Result<()> {
        let Some(dtable) = self.table.gradient else { return Ok(()) };
        Ok(embedding::backward(stream, embedding::Backward { dtable, dy: gradients.embedded, ids, padding_id: None })?)
    }
}

/// Reads every parameter of a declared model from its files.
///
/// # Errors
/// Those of the files; the first missing or mis-shaped tensor.
pub fn load<T: Float>(parameters: &Parameters<T>, stream: &Stream, files: &LanguageFiles) -> Result<()> {
    parameters.load_from(stream, |name, shape| Ok(files.to_f32(name, shape)?))
}
