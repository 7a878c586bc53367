//! A Llama language model: token table, causal layers, norm, and the product back to the vocabulary.

use scmmgpt_kernels::rope;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_loader::language::{LanguageConfig, LanguageFiles};

use crate::Result;
use crate::config::Tuning;
use crate::layer::Dims;
use crate::layer::adapted_linear::{AdaptedLinear, Shared};
use crate::layer::causal_attention::{Behind, Cache, Places};
use crate::layer::llama_block::{self, LlamaBlock};
use crate::layer::rms_norm::{self, RmsNorm};
use crate::layer::token_table::{NEW_ROWS, TokenTable};
use crate::weights::{ParameterPlan, Parameters};

/// Weights of the model.
#[derive(Clone, Debug)]
pub struct LanguageModel<T: Float> {
    table: TokenTable<T>,
    blocks: Vec<LlamaBlock<T>>,
    norm: RmsNorm<T>,
    /// The token table itself where the embeddings are tied.
    head: TokenTable<T>,
    rotation: rope::Table<T::Acc>,
    config: LanguageConfig,
    tuning: Tuning,
    prefix: String,
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
    trained_rows: Tensor<u32>,
}

impl<T: Float> LanguageModel<T> {
    /// Declares the model under Hugging Face's names, for sequences of at most `positions` tokens. Frozen weights get no gradient; the
    /// rows of `tuning.new_tokens` stand behind the vocabulary of `config`.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &LanguageConfig, positions: usize, tuning: &Tuning) -> Self {
        let (width, tokens, frozen) = (config.hidden_size, [config.vocab_size, tuning.new_tokens], !tuning.trains_base());
        let (table, blocks, norm) = plan.under("model", |plan| {
            let table = TokenTable::declare(plan, "embed_tokens", tokens, width, frozen);
            let layers = 0..config.num_hidden_layers;
            let block = |plan: &mut _, index| LlamaBlock::declare(plan, config, tuning, index);
            let blocks = plan.under("layers", |plan| layers.map(|index| block(plan, index)).collect());
            (table, blocks, plan.frozen_if(frozen, |plan| RmsNorm::declare(plan, "norm", width, config.rms_norm_eps)))
        });
        let head = match config.tie_word_embeddings {
            true => table,
            false => TokenTable::declare(plan, "lm_head", tokens, width, frozen),
        };
        let table_name = if config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        let head = if tuning.int8_head { head.with_int8(plan, table_name) } else { head };
        let rotation = rope::plan_table(plan.derived(), positions, config.head_dim);
        LanguageModel { table, blocks, norm, head, rotation, config: config.clone(), tuning: tuning.clone(), prefix: plan.path().into() }
    }

    /// Sizes and constants.
    pub fn config(&self) -> &LanguageConfig {
        &self.config
    }

    /// What stands in front of its parameters' names: nothing, where it is a model by itself.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How it is adapted.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// Tokens, new ones included: columns of the logits.
    pub fn vocab_size(&self) -> usize {
        self.table.vocab_size()
    }

    /// The products that may carry adapters, layer by layer.
    pub(super) fn adapted(&mut self) -> impl Iterator<Item = &mut AdaptedLinear<T>> {
        self.blocks.iter_mut().flat_map(LlamaBlock::adapted)
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

    /// Plans one pass. In training every layer keeps its own activations, or, with gradient checkpointing, its output alone; in inference
    /// all layers share the memory of one.
    pub fn plan(&self, plan: &mut Plan, dims: Dims, training: bool) -> Saved<T> {
        let (tokens, width) = (dims.tokens(), self.config.hidden_size);
        let embedded = plan.tensor("embedded", [tokens, width]);
        let outputs = if training { self.blocks.len() } else { self.blocks.len().min(2) };
        let outputs: Vec<Tensor<T>> = (0..outputs).map(|index| plan.tensor(&format!("outputs.{index}"), [tokens, width])).collect();
        let shared = Shared::plan(plan, &self.tuning, tokens, self.widest(), training);
        let blocks = if training && !self.tuning.gradient_checkpointing {
            let layer = |(index, block): (usize, &LlamaBlock<T>)| {
                plan.under(&format!("layers.{index}"), |plan| block.plan(plan, dims, outputs[index], shared))
            };
            self.blocks.iter().enumerate().map(layer).collect()
        } else {
            let one = |plan: &mut Plan| plan.under("layer", |plan| self.blocks[0].plan(plan, dims, outputs[0], shared));
            // Backward runs the layers again: what is planned later must not lie where they work.
            let one = if training { one(plan) } else { plan.scope(one) };
            let layer = |index: usize| one.writing(outputs[index % outputs.len()]);
            (0..self.blocks.len()).map(layer).collect()
        };
        Saved { embedded, blocks, statistic: self.norm.plan(plan, "norm", tokens), hidden: plan.tensor("hidden", [tokens, width]) }
    }

    /// Most inputs or outputs of a projection.
    fn widest(&self) -> usize {
        let LanguageConfig { hidden_size, intermediate_size, num_attention_heads, head_dim, .. } = self.config;
        hidden_size.max(intermediate_size).max(num_attention_heads * head_dim)
    }

    /// Plans the gradients.
    pub fn plan_gradients(&self, plan: &mut Plan, dims: Dims) -> Gradients<T> {
        let (tokens, width) = (dims.tokens(), self.config.hidden_size);
        Gradients {
            block: self.blocks[0].plan_gradients(plan, dims),
            hidden: plan.tensor("dhidden", [tokens, width]),
            embedded: plan.tensor("dembedded", [tokens, width]),
            trained_rows: self.table.plan_gradients(plan, tokens),
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
        self.table.embed(stream, saved.embedded, ids)
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
        self.head.logits(stream, logits, hidden)
    }

    /// The head's gradient from `dlogits`, and `dhidden`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn logits_backward(&self, stream: &Stream, dhidden: Tensor<T>, dlogits: Tensor<T>, hidden: Tensor<T>) -> Result<()> {
        self.head.logits_backward(stream, dhidden, dlogits, hidden)
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
            let kept = &saved.blocks[index];
            if self.tuning.gradient_checkpointing && index + 1 < self.blocks.len() {
                block.forward(stream, places, kept, input(index))?;
            }
            block.backward(stream, places, kept, &gradients.block, dx, dx, input(index))?;
        }
        Ok(())
    }

    /// The token table's gradient from `gradients.embedded`, of the rows that learn; `ids` (on the host) as [`LanguageModel::embed`] read
    /// them, with `u32::MAX` where the row of `saved.embedded` was replaced.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn embed_backward(&self, stream: &Stream, gradients: &Gradients<T>, ids: &[u32]) -> Result<()> {
        self.table.embed_backward(stream, gradients.trained_rows, gradients.embedded, ids)
    }

    /// Reads every parameter of the base model from its files, those in int8 included.
    ///
    /// # Errors
    /// Those of the files; the first missing or mis-shaped tensor.
    pub fn load_base(&self, parameters: &Parameters<T>, stream: &Stream, files: &LanguageFiles) -> Result<()> {
        let base = |name: &str| name.strip_prefix(&self.prefix).is_some_and(in_files);
        let read = |name: &str, shape: &[usize]| Ok(files.to_f32(name.strip_prefix(&self.prefix).unwrap_or_default(), shape)?);
        parameters.load_from(stream, &base, read)?;
        parameters.quantize(stream, read)
    }

    /// Reads every parameter of the base model from its files and draws the others. The row of a new token is the mean of the table's
    /// rows and a little noise: it starts as likely as the average one.
    ///
    /// # Errors
    /// Those of the files; the first missing or mis-shaped tensor.
    pub fn load(&self, parameters: &Parameters<T>, stream: &Stream, files: &LanguageFiles, seed: u64) -> Result<()> {
        self.load_base(parameters, stream, files)?;
        let other = |name: &str| name.strip_prefix(&self.prefix).is_some_and(|name| !in_files(name));
        parameters.initialise_matching(stream, seed, &other)?;
        self.table.centre(stream)?;
        if !self.config.tie_word_embeddings {
            self.head.centre(stream)?;
        }
        Ok(())
    }
}

/// Whether the base model's files have a parameter of this name.
pub(crate) fn in_files(name: &str) -> bool {
    ![NEW_ROWS, "lora_A.weight", "lora_B.weight"].iter().any(|end| name.ends_with(end))
}
