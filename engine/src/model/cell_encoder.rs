//! The scGPT cell encoder: a set of (gene, value) tokens to one vector a token and one a cell. No positional encoding.

use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_kernels::{l2_normalize, pool};

use crate::Result;
use crate::config::{CellEmbedding, ModelConfig};
use crate::layer::block::{self, Block};
use crate::layer::gene_embedding::{self, GeneEmbedding, Input};
use crate::layer::{Dims, Pass};
use crate::weights::ParameterPlan;

/// Norms below this count as zero when a cell embedding is normalised (PyTorch's `normalize`).
const NORM_EPS: f64 = 1e-12;

/// Weights of the encoder.
#[derive(Clone, Debug)]
pub struct CellEncoder<T: Float> {
    embedding: GeneEmbedding<T>,
    blocks: Vec<Block<T>>,
    width: usize,
    pooling: CellEmbedding,
}

/// What is kept of one pass.
#[derive(Clone, Debug)]
pub struct Saved<T: Float> {
    /// The input layer's.
    pub embedding: gene_embedding::Saved<T>,
    blocks: Vec<block::Saved<T>>,
    pooled: Tensor<T>,
    norm: Tensor<T::Acc>,
    /// `[batch, width]`: one vector a cell.
    pub cell: Tensor<T>,
    /// `[tokens, width]`: one vector a token.
    pub hidden: Tensor<T>,
}

/// Gradients on their way through the encoder.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    block: block::Gradients<T>,
    pooled: Tensor<T>,
    /// `[tokens, width]`: gradient of `hidden`; the encoder's backward works in it.
    pub hidden: Tensor<T>,
    /// `[batch, width]`: gradient of `cell`.
    pub cell: Tensor<T>,
}

impl<T: Float> CellEncoder<T> {
    /// Declares the encoder under scGPT's names.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &ModelConfig) -> Self {
        let embedding = GeneEmbedding::declare(plan, config);
        let blocks = plan.under("transformer_encoder.layers", |plan| {
            (0..config.num_hidden_layers).map(|index| Block::declare(plan, config, index)).collect()
        });
        CellEncoder { embedding, blocks, width: config.hidden_size, pooling: config.cell_embedding }
    }

    /// Rebuilds what is derived from the weights; needed whenever they have changed.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn refresh(&self, stream: &Stream) -> Result<()> {
        self.embedding.refresh(stream)
    }

    /// Numbers a token.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Plans one pass. In training every layer keeps its own activations; in inference all layers share the memory of one.
    pub fn plan(&self, plan: &mut Plan, dims: Dims, training: bool, dropout: bool, gene: bool) -> Saved<T> {
        let (tokens, width) = (dims.tokens(), self.width);
        let embedding = self.embedding.plan(plan, dims, gene);
        let shared: Option<[Tensor<T>; 2]> = (!training).then(|| ["even", "odd"].map(|name| plan.tensor(name, [tokens, width])));
        let pooled = plan.tensor("pooled", [dims.batch, width]);
        let norm = plan.tensor("norm", [dims.batch]);
        let cell = if self.normalises() { plan.tensor("cell", [dims.batch, width]) } else { pooled };
        let blocks: Vec<_> = self
            .blocks
            .iter()
            .enumerate()
            .map(|(index, block)| {
                plan.under(&format!("layers.{index}"), |plan| match shared {
                    Some(outputs) => plan.scope(|plan| block.plan(plan, dims, dropout, outputs[index % 2])),
                    None => {
                        let output = plan.tensor("output", [tokens, width]);
                        block.plan(plan, dims, dropout, output)
                    }
                })
            })
            .collect();
        let hidden = blocks.last().map_or(embedding.output, |last| last.output);
        Saved { embedding, blocks, pooled, norm, cell, hidden }
    }

    /// Plans the gradients.
    pub fn plan_gradients(&self, plan: &mut Plan, dims: Dims, dropout: bool) -> Gradients<T> {
        let pooled = plan.tensor("dpooled", [dims.batch, self.width]);
        Gradients {
            block: self.blocks[0].plan_gradients(plan, dims, dropout),
            hidden: plan.tensor("dhidden", [dims.tokens(), self.width]),
            pooled,
            cell: if self.normalises() { plan.tensor("dcell", [dims.batch, self.width]) } else { pooled },
        }
    }

    /// scGPT normalises the weighted embedding only.
    fn normalises(&self) -> bool {
        self.pooling == CellEmbedding::Weighted
    }

    fn kind(&self) -> pool::Kind {
        match self.pooling {
            CellEmbedding::Cls => pool::Kind::Cls,
            CellEmbedding::Mean => pool::Kind::Mean,
            CellEmbedding::Weighted => pool::Kind::Weighted,
        }
    }

    /// Writes `saved.hidden` alone.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward_tokens(&self, stream: &Stream, pass: &Pass, saved: &Saved<T>, input: Input<T>) -> Result<()> {
        self.embedding.forward(stream, pass, &saved.embedding, input)?;
        let mut x = saved.embedding.output;
        for (block, kept) in self.blocks.iter().zip(&saved.blocks) {
            block.forward(stream, pass, kept, x)?;
            x = kept.output;
        }
        Ok(())
    }

    /// Writes `saved.hidden` and `saved.cell`. `pool_weights`, `[tokens]`, is read by the weighted embedding.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, pass: &Pass, saved: &Saved<T>, input: Input<T>, pool_weights: Tensor<T::Acc>) -> Result<()> {
        self.forward_tokens(stream, pass, saved, input)?;
        let (lengths, seq_len) = (pass.lengths, pass.dims.seq_len);
        let x = saved.hidden;
        let arguments = pool::Forward { y: saved.pooled, x, lengths, weights: self.weights(pool_weights), seq_len, kind: self.kind() };
        pool::forward(stream, arguments)?;
        if self.normalises() {
            l2_normalize::forward(stream, l2_normalize::Forward { y: saved.cell, norm: saved.norm, x: saved.pooled, eps: NORM_EPS })?;
        }
        Ok(())
    }

    fn weights(&self, pool_weights: Tensor<T::Acc>) -> Option<Tensor<T::Acc>> {
        (self.pooling == CellEmbedding::Weighted).then_some(pool_weights)
    }

    /// `dhidden = d(cell) / d(hidden)`: writes `gradients.hidden` from `gradients.cell`. Heads that read tokens add theirs after it.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward_pool(
        &self,
        stream: &Stream,
        pass: &Pass,
        saved: &Saved<T>,
        gradients: &Gradients<T>,
        pool_weights: Tensor<T::Acc>,
    ) -> Result<()> {
        if self.normalises() {
            let (dx, dy) = (gradients.pooled, gradients.cell);
            l2_normalize::backward(stream, l2_normalize::Backward { dx, dy, y: saved.cell, norm: saved.norm, eps: NORM_EPS })?;
        }
        let arguments = pool::Backward {
            dx: gradients.hidden,
            dy: gradients.pooled,
            lengths: pass.lengths,
            weights: self.weights(pool_weights),
            seq_len: pass.dims.seq_len,
            kind: self.kind(),
        };
        Ok(pool::backward(stream, arguments)?)
    }

    /// From `gradients.hidden` to every parameter's gradient; `dgene` is the gradient of the gene embedding from a head.
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
        dgene: Option<Tensor<T>>,
        input: Input<T>,
        padding_id: u32,
    ) -> Result<()> {
        let dx = gradients.hidden;
        for (index, block) in self.blocks.iter().enumerate().rev() {
            let x = if index == 0 { saved.embedding.output } else { saved.blocks[index - 1].output };
            block.backward(stream, pass, &saved.blocks[index], &gradients.block, dx, dx, x)?;
        }
        self.embedding.backward(stream, pass, &saved.embedding, dx, dgene, input, padding_id)
    }
}
