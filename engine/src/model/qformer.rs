//! The Q-Former: a BERT whose layers also take learned queries, which look at a cell in every `cross_attention_freq`-th layer.
//!
//! One set of weights serves four passes:
//!
//! | pass | rows of an item | self-attention | cross-attention |
//! |---|---|---|---|
//! | cell | queries | all to all | queries |
//! | text | text | all to all | none |
//! | matching | queries, then text | all to all | queries |
//! | captioning | text behind the queries of the cell pass | causal; every row sees all queries | none |
//!
//! Rows stand so that what is padded comes last: a length an item is all that masks padding.
//!
//! # Source
//! Li et al. 2023, "BLIP-2", section 3.1; LAVIS `Qformer.py`.

use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::reduce;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use crate::Result;
use crate::config::QFormerConfig;
use crate::layer::cross_attention::Keys;
use crate::layer::linear::Linear;
use crate::layer::prefix_attention::Prefix;
use crate::layer::qformer_block::{self as block, Exchange, QFormerBlock};
use crate::layer::qformer_embedding::{self as embedding, QFormerEmbedding};
use crate::layer::rows::Rows;
use crate::layer::{Dims, Dropout, Pass};
use crate::weights::{Parameter, ParameterPlan};

/// Weights of the Q-Former.
#[derive(Clone, Debug)]
pub struct QFormer<T: Float> {
    embedding: QFormerEmbedding<T>,
    /// `[layers with cross-attention * 2 * width, encoder_hidden_size]`: keys, then values, layer by layer.
    keys: Linear<T>,
    blocks: Vec<QFormerBlock<T>>,
    num_query_tokens: usize,
}

/// Keys and values of a batch of cells, for all layers.
#[derive(Clone, Copy, Debug)]
pub struct CellKeys<T: Float> {
    /// `[cells * seq_len, layers with cross-attention * 2 * width]`.
    pub kv: Tensor<T>,
    /// Cells and their tokens.
    pub cells: Dims,
    /// `[cells]`: tokens that count.
    pub lengths: Tensor<u32>,
}

/// Which rows go through a pass and what they see besides themselves.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a, T: Float> {
    /// Rows; the items of one cell follow each other, equally many of every cell.
    pub rows: Rows,
    /// What query rows look at.
    pub keys: Option<CellKeys<T>>,
    /// The cell pass whose queries a caption follows; it must keep all its layers.
    pub prefix: Option<&'a Saved<T>>,
    /// Keep what backward needs, and every layer's projections.
    pub training: bool,
    /// Whether dropout applies.
    pub dropout: bool,
}

/// What is kept of one pass.
#[derive(Clone, Debug)]
pub struct Saved<T: Float> {
    rows: Rows,
    lengths: Tensor<u32>,
    key_lengths: Option<Tensor<u32>>,
    embedding: embedding::Saved<T>,
    blocks: Vec<block::Saved<T>>,
    /// `[items * (queries + text), width]`: the last layer's rows.
    pub output: Tensor<T>,
}

/// Gradients on their way through one pass.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    embedding: embedding::Gradients<T>,
    block: block::Gradients<T>,
    /// `[items * (queries + text), width]`: gradient of the output; backward works in it.
    pub output: Tensor<T>,
}

/// Gradients that a pass exchanges with the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flows<'a, T: Float> {
    /// As [`CellKeys::kv`]: written, or added to where a pass before has written it.
    pub kv: Option<Tensor<T>>,
    /// `[cells * seq_len, 2 * width]`: working space, given when `kv` is to be added to.
    pub kv_layer: Option<Tensor<T>>,
    /// A layer each, written: gradient of the prefix.
    pub prefix: &'a [Tensor<T>],
    /// A layer each, read: gradient of this pass's projections, from the captions that follow it.
    pub projections: &'a [Tensor<T>],
}

impl<T: Float> Saved<T> {
    /// Rows of the pass.
    pub fn rows(&self) -> Rows {
        self.rows
    }

    /// `[items]`: rows of each item that count.
    pub fn lengths(&self) -> Tensor<u32> {
        self.lengths
    }
}

impl<T: Float> QFormer<T> {
    /// Declares the Q-Former under the reference's names: `query_tokens`, `Qformer.bert.embeddings`, `Qformer.bert.encoder.layer`.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &QFormerConfig, encoder_hidden_size: usize) -> Self {
        let embedding = QFormerEmbedding::declare(plan, config);
        plan.under("Qformer.bert.encoder.layer", |plan| {
            let looking = (0..config.num_hidden_layers).filter(|&layer| config.has_cross_attention(layer));
            let name = |layer: usize| ["key", "value"].map(|part| format!("{layer}.crossattention.self.{part}"));
            let names: Vec<String> = looking.flat_map(name).collect();
            QFormer {
                embedding,
                keys: Linear::declare_packed(plan, &names, encoder_hidden_size, config.hidden_size),
                blocks: (0..config.num_hidden_layers).map(|index| QFormerBlock::declare(plan, config, index)).collect(),
                num_query_tokens: config.num_query_tokens,
            }
        })
    }

    /// Numbers a token.
    pub fn width(&self) -> usize {
        self.embedding.words.value.width()
    }

    /// Learned queries.
    pub fn num_query_tokens(&self) -> usize {
        self.num_query_tokens
    }

    /// The word table, `[vocab_size, width]`, and its gradient.
    pub fn words(&self) -> Parameter<T> {
        self.embedding.words
    }

    /// Plans the keys and values of `cells`, whose real lengths are `lengths`.
    pub fn plan_keys(&self, plan: &mut Plan, cells: Dims, lengths: Tensor<u32>) -> CellKeys<T> {
        self.keys.plan(plan, cells.tokens());
        CellKeys { kv: plan.tensor("kv", [cells.tokens(), self.keys.weight.value.rows()]), cells, lengths }
    }

    /// Columns of `all` that belong to each layer, in the layers that look at cells.
    fn layer_columns(&self, all: Tensor<T>) -> Vec<Option<Tensor<T>>> {
        let (width, mut start) = (2 * self.width(), 0);
        let columns = |block: &QFormerBlock<T>| {
            block.has_cross_attention().then(|| {
                start += width;
                all.columns(start - width, width)
            })
        };
        self.blocks.iter().map(columns).collect()
    }

    /// Plans one pass. In training every layer keeps its own activations; in inference all layers share the memory of one.
    pub fn plan(&self, plan: &mut Plan, layout: &Layout<'_, T>) -> Saved<T> {
        let Layout { rows, keys, prefix, training, dropout } = *layout;
        let (tokens, width) = (rows.dims().tokens(), self.width());
        let lengths = plan.tensor("lengths", [rows.items]);
        let key_lengths = prefix.map(|_| plan.tensor("key_lengths", [rows.items]));
        let embedding = self.embedding.plan(plan, rows, dropout);
        let shared: Option<[Tensor<T>; 2]> = (!training).then(|| ["even", "odd"].map(|name| plan.tensor(name, [tokens, width])));
        let columns = keys.map(|keys| self.layer_columns(keys.kv));
        let layer = |plan: &mut Plan, index: usize| {
            let of_layer = keys.zip(columns.as_ref().and_then(|columns| columns[index]));
            let before = prefix.zip(key_lengths).and_then(|(pass, key_lengths)| {
                let qkv = QFormerBlock::projections(&pass.blocks[index])?;
                Some(Prefix { qkv, key_lengths, rows: Rows { queries: pass.rows.queries, ..rows } })
            });
            let layout = block::Layout {
                rows,
                keys: of_layer.map(|(CellKeys { cells, lengths, .. }, kv)| Keys { kv, cells, lengths }),
                prefix: before,
                training,
                dropout,
            };
            match shared {
                Some(outputs) => plan.scope(|plan| self.blocks[index].plan(plan, &layout, outputs[index % 2])),
                None => {
                    let output = plan.tensor("output", [tokens, width]);
                    self.blocks[index].plan(plan, &layout, output)
                }
            }
        };
        let blocks: Vec<_> =
            (0..self.blocks.len()).map(|index| plan.under(&format!("layers.{index}"), |plan| layer(plan, index))).collect();
        let output = blocks.last().map_or(embedding.output, |last| last.output);
        Saved { rows, lengths, key_lengths, embedding, blocks, output }
    }

    /// Plans the gradients of one pass.
    pub fn plan_gradients(&self, plan: &mut Plan, saved: &Saved<T>, dropout: bool) -> Gradients<T> {
        Gradients {
            embedding: plan.under("embeddings", |plan| self.embedding.plan_gradients(plan, saved.rows, dropout)),
            // The first layer has everything that a layer can have.
            block: self.blocks[0].plan_gradients(plan, &saved.blocks[0], dropout),
            output: plan.tensor("doutput", [saved.rows.dims().tokens(), self.width()]),
        }
    }

    /// Plans what a captioning pass hands to the cell pass that it follows: the gradient of each layer's projections.
    pub fn plan_projections(&self, plan: &mut Plan, cells: &Saved<T>) -> Vec<Tensor<T>> {
        let tensor = |index: usize| plan.tensor(&format!("dprojections.{index}"), [cells.rows.query_rows(), 3 * self.width()]);
        (0..self.blocks.len()).map(tensor).collect()
    }

    /// Plans the working space of [`Flows::kv_layer`].
    pub fn plan_kv_layer(&self, plan: &mut Plan, cells: Dims) -> Tensor<T> {
        plan.tensor("dkv_layer", [cells.tokens(), 2 * self.width()])
    }

    /// Uploads the texts of a pass: tokens `[items * text]` and real lengths `[items]`, both empty for a pass without text.
    ///
    /// # Errors
    /// Those of the upload.
    pub fn upload(&self, stream: &Stream, saved: &Saved<T>, token_ids: &[u32], text_lengths: &[u32]) -> Result<()> {
        self.embedding.upload(stream, &saved.embedding, token_ids)?;
        let behind = |queries: usize| -> Vec<u32> {
            let length = |item: usize| queries as u32 + text_lengths.get(item).copied().unwrap_or(0);
            (0..saved.rows.items).map(length).collect()
        };
        stream.upload(saved.lengths, &behind(saved.rows.queries))?;
        saved.key_lengths.map_or(Ok(()), |key_lengths| Ok(stream.upload(key_lengths, &behind(self.num_query_tokens))?))
    }

    /// Writes the keys and values of the cells from their normalised features, `[cells * seq_len, encoder_hidden_size]`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward_keys(&self, stream: &Stream, keys: &CellKeys<T>, features: Tensor<T>) -> Result<()> {
        self.keys.forward(stream, keys.kv, features)
    }

    /// Parameter gradients of the keys and values, and `dfeatures`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward_keys(&self, stream: &Stream, dfeatures: Tensor<T>, dkv: Tensor<T>, features: Tensor<T>) -> Result<()> {
        self.keys.backward(stream, Some((dfeatures, Epilogue::None)), dkv, features)
    }

    fn pass(saved: &Saved<T>, dropout: Option<Dropout>) -> Pass {
        Pass { dims: saved.rows.dims(), lengths: saved.lengths, known_lengths: None, dropout }
    }

    /// Writes `saved.output`.
    ///
    /// # Errors
    /// Those of the kernels; `Index` when a token is outside the word table.
    pub fn forward(&self, stream: &Stream, dropout: Option<Dropout>, saved: &Saved<T>) -> Result<()> {
        let pass = Self::pass(saved, dropout);
        self.embedding.forward(stream, &pass, &saved.embedding)?;
        let mut x = saved.embedding.output;
        for (block, kept) in self.blocks.iter().zip(&saved.blocks) {
            block.forward(stream, &pass, kept, x)?;
            x = kept.output;
        }
        Ok(())
    }

    /// From `gradients.output` to every parameter's gradient, and to the other passes.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(
        &self,
        stream: &Stream,
        dropout: Option<Dropout>,
        saved: &Saved<T>,
        gradients: &Gradients<T>,
        flows: &Flows<'_, T>,
    ) -> Result<()> {
        let (pass, dx) = (Self::pass(saved, dropout), gradients.output);
        let columns = flows.kv.map(|kv| self.layer_columns(kv));
        for (index, block) in self.blocks.iter().enumerate().rev() {
            let x = if index == 0 { saved.embedding.output } else { saved.blocks[index - 1].output };
            let dkv = columns.as_ref().and_then(|columns| columns[index]);
            let exchange = Exchange {
                kv: dkv.map(|dkv| flows.kv_layer.unwrap_or(dkv)),
                prefix: flows.prefix.get(index).copied(),
                qkv: flows.projections.get(index).copied(),
            };
            block.backward(stream, &pass, &saved.blocks[index], &gradients.block, &exchange, dx, dx, x)?;
            if let (Some(total), Some(layer)) = (dkv, flows.kv_layer) {
                reduce::add_assign(stream, reduce::AddAssign { y: total, x: layer })?;
            }
        }
        self.embedding.backward(stream, &pass, &saved.embedding, &gradients.embedding, dx)
    }
}
