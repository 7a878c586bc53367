//! Expression of any gene in a cell that a few vectors describe: the gene's embedding looks at the cell's keys, and a small network
//! reads what it has seen beside the embedding itself.
//!
//! ```text
//! k, v       = cell_proj(keys)                                      key by key
//! context_g  = out_proj(attention(W_q gene_g, W_k k, W_v v))        logits may have a bias a key
//! output_g   = W2 relu(W1 [context_g, gene_g] + b1) + b2
//! ```
//!
//! A gene's readout, which the reference does not have, adds `readout_g . attention_g` to the first output, with `attention_g` what the
//! gene has seen, before `out_proj`, and `gene_bias_g` to all: what is particular to a gene need not pass the network that all share.
//!
//! The output is the gene's log1p value, or a distribution of its count: ln of its mean in a cell of size 1 and the logit of a zero that is
//! no count, beside a learned dispersion a gene.
//!
//! With one key the softmax is 1 and the context the same for every gene.
//!
//! # Source
//! scMMGPT `blip2_llama.py`, `GeneExpressionModel`, which has one key; the readout's product is that of scGPT's `MVCDecoder`.

use scmmgpt_kernels::embedding;
use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::pool;
use scmmgpt_kernels::reduce::{self, AddAssign};
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use crate::Result;
use crate::config::{ExpressionConfig, ExpressionHead};
use crate::layer::key_attention::{self, KeyDims, Operands};
use crate::layer::linear::Linear;
use crate::weights::{Init, Parameter, ParameterPlan};

/// Stands in front of the names of the decoder's parameters.
pub const PREFIX: &str = "expr_decoder";

/// The readout's biases, by their name behind [`PREFIX`].
pub const GENE_BIAS: &str = "gene_bias.weight";

/// Weights of the decoder.
#[derive(Clone, Copy, Debug)]
pub struct GeneExpression<T: Float> {
    /// `[2 * gene_dim, cell_dim]`: keys, then values.
    cell_proj: Linear<T>,
    /// `[num_genes, gene_dim]`.
    genes: Parameter<T>,
    /// Queries, keys, values.
    in_proj: [Linear<T>; 3],
    out_proj: Linear<T>,
    mlp: [Linear<T>; 2],
    /// `[num_genes, 1]`: ln of the inverse dispersion, where counts are distributed.
    log_theta: Option<Parameter<T>>,
    readout: Option<Readout<T>>,
    num_heads: usize,
}

/// Tables of the readout.
#[derive(Clone, Copy, Debug)]
struct Readout<T: Float> {
    /// `[num_genes, gene_dim]`.
    weight: Parameter<T>,
    /// `[num_genes, outputs]`.
    bias: Parameter<T>,
}

/// What the readout adds, and from what; in backward, the gradients.
#[derive(Clone, Copy, Debug)]
struct Read<T: Float> {
    /// `[items * genes, gene_dim]`: each gene's row.
    rows: Tensor<T>,
    /// `[items * genes, 1]`: the product.
    product: Tensor<T>,
    /// `[items * genes, outputs]`: each gene's bias; in backward `[items * genes, gene_dim]`, of what the gene has seen.
    other: Tensor<T>,
}

/// Sizes of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpressionDims {
    /// Cells.
    pub items: usize,
    /// Genes of a cell.
    pub genes: usize,
    /// Keys of a cell, those that do not count included.
    pub keys: usize,
    /// Whether keys have biases.
    pub biased: bool,
}

impl ExpressionDims {
    /// Genes of all cells.
    pub fn tokens(&self) -> usize {
        self.items * self.genes
    }
}

/// Inputs, what backward needs from forward, and the output.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    /// `[items * genes]`, uploaded by the caller.
    pub gene_ids: Tensor<u32>,
    /// `[items * keys, cell_dim]`, written by the caller.
    pub keys: Tensor<T>,
    /// Its key lengths and biases are uploaded by the caller.
    pub attention: key_attention::Saved<T>,
    kv: Tensor<T>,
    /// `[items * genes, 2 * gene_dim]`: context, gene.
    joined: Tensor<T>,
    hidden: Tensor<T>,
    /// `[items * genes, outputs]`: one, or two of a distribution.
    pub output: Tensor<T>,
    /// `[items * genes, 1]`: the third of a distribution.
    pub log_theta: Option<Tensor<T>>,
    read: Option<Read<T>>,
}

/// Gradients on their way.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    /// As `keys`: written.
    pub keys: Tensor<T>,
    kv: Tensor<T>,
    attention: Operands<T>,
    joined: Tensor<T>,
    gene: Tensor<T>,
    hidden: Tensor<T>,
    /// As `output`: read.
    pub output: Tensor<T>,
    /// As `log_theta`: read.
    pub log_theta: Option<Tensor<T>>,
    read: Option<Read<T>>,
}

impl<T: Float> GeneExpression<T> {
    /// Declares `expr_decoder` for cells of `cell_dim` numbers a key and a table of `num_genes` genes.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &ExpressionConfig, cell_dim: usize, num_genes: usize) -> Self {
        let ExpressionConfig { gene_dim, num_attention_heads: num_heads, head, gene_readout, .. } = *config;
        let outputs = if head == ExpressionHead::Zinb { 2 } else { 1 };
        plan.under(PREFIX, |plan| {
            let cell_proj = Linear::declare(plan, "cell_proj", cell_dim, 2 * gene_dim, true);
            let genes = plan.parameter("gene_embed.weight", [num_genes, gene_dim], Init::Normal(1.0));
            // PyTorch's attention: uniform within sqrt(6 / (fan_in + fan_out)) of the packed matrix, no bias.
            let bound = (6.0 / (4 * gene_dim) as f64).sqrt();
            let weight = plan.parameter("cross_attn.in_proj_weight", [3 * gene_dim, gene_dim], Init::Uniform(bound));
            let bias = plan.parameter("cross_attn.in_proj_bias", [3 * gene_dim], Init::Zeros);
            let third = |index: usize| {
                let start = index * gene_dim;
                let rows = Parameter {
                    value: weight.value.row_range(start, gene_dim),
                    gradient: weight.gradient.map(|gradient| gradient.row_range(start, gene_dim)),
                };
                let part = Parameter {
                    value: bias.value.columns(start, gene_dim),
                    gradient: bias.gradient.map(|gradient| gradient.columns(start, gene_dim)),
                };
                Linear { weight: rows, bias: Some(part) }
            };
            GeneExpression {
                cell_proj,
                genes,
                in_proj: [0, 1, 2].map(third),
                out_proj: Linear::declare(plan, "cross_attn.out_proj", gene_dim, gene_dim, true),
                mlp: [("mlp.0", 2 * gene_dim, gene_dim), ("mlp.2", gene_dim, outputs)]
                    .map(|(name, input, output)| Linear::declare(plan, name, input, output, true)),
                log_theta: (head == ExpressionHead::Zinb).then(|| plan.parameter("log_theta", [num_genes, 1], Init::Zeros)),
                readout: gene_readout.then(|| Readout {
                    weight: plan.parameter("readout.weight", [num_genes, gene_dim], Init::Zeros),
                    bias: plan.parameter(GENE_BIAS, [num_genes, outputs], Init::Zeros),
                }),
                num_heads,
            }
        })
    }

    fn gene_dim(&self) -> usize {
        self.genes.value.width()
    }

    fn outputs(&self) -> usize {
        self.mlp[1].weight.value.rows()
    }

    fn key_dims(&self, dims: ExpressionDims) -> KeyDims {
        let ExpressionDims { items, genes: queries, keys, biased } = dims;
        KeyDims { items, queries, keys, num_heads: self.num_heads, head_dim: self.gene_dim() / self.num_heads, biased }
    }

    /// Plans one pass; what the caller uploads comes first.
    pub fn plan(&self, plan: &mut Plan, dims: ExpressionDims) -> Saved<T> {
        let (tokens, keys, width) = (dims.tokens(), dims.items * dims.keys, self.gene_dim());
        for (layer, rows) in [(&self.cell_proj, keys), (&self.in_proj[0], tokens), (&self.in_proj[1], keys), (&self.out_proj, tokens)] {
            layer.plan(plan, rows);
        }
        self.mlp.iter().for_each(|layer| layer.plan(plan, tokens));
        plan.under(PREFIX, |plan| Saved {
            gene_ids: plan.tensor("gene_ids", [tokens]),
            keys: plan.tensor("keys", [keys, self.cell_proj.weight.value.width()]),
            attention: key_attention::plan(plan, self.key_dims(dims)),
            kv: plan.tensor("kv", [keys, 2 * width]),
            joined: plan.tensor("joined", [tokens, 2 * width]),
            hidden: plan.tensor("hidden", [tokens, width]),
            output: plan.tensor("output", [tokens, self.outputs()]),
            log_theta: self.log_theta.map(|_| plan.tensor("log_theta", [tokens, 1])),
            read: self.plan_read(plan, tokens, self.outputs()),
        })
    }

    fn plan_read(&self, plan: &mut Plan, tokens: usize, other: usize) -> Option<Read<T>> {
        self.readout.map(|_| Read {
            rows: plan.tensor("readout", [tokens, self.gene_dim()]),
            product: plan.tensor("product", [tokens, 1]),
            other: plan.tensor("readout_other", [tokens, other]),
        })
    }

    /// Plans the gradients of one pass.
    pub fn plan_gradients(&self, plan: &mut Plan, dims: ExpressionDims) -> Gradients<T> {
        let (tokens, keys, width) = (dims.tokens(), dims.items * dims.keys, self.gene_dim());
        plan.scratch(embedding::scratch(tokens));
        plan.under("dexpr_decoder", |plan| Gradients {
            keys: plan.tensor("keys", [keys, self.cell_proj.weight.value.width()]),
            kv: plan.tensor("kv", [keys, 2 * width]),
            attention: key_attention::plan_operands(plan, "attention", self.key_dims(dims)),
            joined: plan.tensor("joined", [tokens, 2 * width]),
            gene: plan.tensor("gene", [tokens, width]),
            hidden: plan.tensor("hidden", [tokens, width]),
            output: plan.tensor("output", [tokens, self.outputs()]),
            log_theta: self.log_theta.map(|_| plan.tensor("log_theta", [tokens, 1])),
            read: self.plan_read(plan, tokens, width),
        })
    }

    /// Left and right half of every row.
    fn halves(&self, both: Tensor<T>) -> [Tensor<T>; 2] {
        [0, self.gene_dim()].map(|start| both.columns(start, self.gene_dim()))
    }

    /// Writes `saved.output` and `saved.log_theta` from the inputs.
    ///
    /// # Errors
    /// Those of the kernels; `Index` when a gene is not in the table.
    pub fn forward(&self, stream: &Stream, saved: &Saved<T>) -> Result<()> {
        let ([context, gene], [k, v], operands) = (self.halves(saved.joined), self.halves(saved.kv), &saved.attention.operands);
        embedding::forward(stream, embedding::Forward { y: gene, table: self.genes.value, ids: saved.gene_ids })?;
        self.cell_proj.forward(stream, saved.kv, saved.keys)?;
        for (layer, (y, x)) in self.in_proj.iter().zip([(operands.q, gene), (operands.k, k), (operands.v, v)]) {
            layer.forward(stream, y, x)?;
        }
        saved.attention.forward(stream)?;
        self.out_proj.forward(stream, context, operands.context)?;
        let epilogue = self.mlp[0].bias.map_or(Epilogue::None, |bias| Epilogue::BiasRelu { bias: bias.value });
        self.mlp[0].forward_with(stream, saved.hidden, saved.joined, epilogue)?;
        self.mlp[1].forward(stream, saved.output, saved.hidden)?;
        self.read(stream, saved)?;
        let Some((parameter, y)) = self.log_theta.zip(saved.log_theta) else { return Ok(()) };
        Ok(embedding::forward(stream, embedding::Forward { y, table: parameter.value, ids: saved.gene_ids })?)
    }

    /// Adds the readout to `saved.output`.
    fn read(&self, stream: &Stream, saved: &Saved<T>) -> Result<()> {
        let Some((readout, read)) = self.readout.zip(saved.read) else { return Ok(()) };
        for (table, y) in [(readout.weight, read.rows), (readout.bias, read.other)] {
            embedding::forward(stream, embedding::Forward { y, table: table.value, ids: saved.gene_ids })?;
        }
        let cell = saved.attention.operands.context;
        pool::score_forward(stream, pool::ScoreForward { y: read.product, query: read.rows, cell, seq_len: 1 })?;
        reduce::add_assign(stream, AddAssign { y: saved.output.columns(0, 1), x: read.product })?;
        Ok(reduce::add_assign(stream, AddAssign { y: saved.output, x: read.other })?)
    }

    /// Writes the gradients of the readout's tables and of what the genes have seen through it.
    fn read_backward(&self, stream: &Stream, saved: &Saved<T>, gradients: &Gradients<T>) -> Result<()> {
        let (Some(readout), Some(read), Some(dread)) = (self.readout, saved.read, gradients.read) else { return Ok(()) };
        stream.zero(dread.product);
        reduce::add_assign(stream, AddAssign { y: dread.product, x: gradients.output.columns(0, 1) })?;
        let arguments = pool::ScoreBackward {
            dquery: dread.rows,
            dcell: dread.other,
            dy: dread.product,
            query: read.rows,
            cell: saved.attention.operands.context,
            seq_len: 1,
        };
        pool::score_backward(stream, arguments)?;
        for (table, dy) in [(readout.weight, dread.rows), (readout.bias, gradients.output)] {
            let Some(dtable) = table.gradient else { continue };
            embedding::backward(stream, embedding::Backward { dtable, dy, ids: saved.gene_ids, padding_id: None })?;
        }
        Ok(())
    }

    /// From `gradients.output` and `gradients.log_theta` to every parameter's gradient and `gradients.keys`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, stream: &Stream, saved: &Saved<T>, gradients: &Gradients<T>) -> Result<()> {
        let (kept, g, attention) = (&saved.attention.operands, gradients, &gradients.attention);
        let ([_, gene], [k, v]) = (self.halves(saved.joined), self.halves(saved.kv));
        let ([dcontext, dgene], [dk, dv]) = (self.halves(g.joined), self.halves(g.kv));
        self.mlp[1].backward(stream, Some((g.hidden, Epilogue::ReluMask { output: saved.hidden })), g.output, saved.hidden)?;
        self.mlp[0].backward(stream, Some((g.joined, Epilogue::None)), g.hidden, saved.joined)?;
        self.read_backward(stream, saved, gradients)?;
        let also = g.read.map_or(Epilogue::None, |read| Epilogue::Residual { residual: read.other });
        self.out_proj.backward(stream, Some((attention.context, also)), dcontext, kept.context)?;
        saved.attention.backward(stream, attention)?;
        self.in_proj[0].backward(stream, Some((g.gene, Epilogue::Residual { residual: dgene })), attention.q, gene)?;
        self.in_proj[1].backward(stream, Some((dk, Epilogue::None)), attention.k, k)?;
        self.in_proj[2].backward(stream, Some((dv, Epilogue::None)), attention.v, v)?;
        self.cell_proj.backward(stream, Some((g.keys, Epilogue::None)), g.kv, saved.keys)?;
        let theta = self.log_theta.and_then(|parameter| parameter.gradient).zip(g.log_theta);
        for (dtable, dy) in self.genes.gradient.map(|gradient| (gradient, g.gene)).into_iter().chain(theta) {
            embedding::backward(stream, embedding::Backward { dtable, dy, ids: saved.gene_ids, padding_id: None })?;
        }
        Ok(())
    }
}
