//! A linear expert beside the encoder: `logits = bias + sum_i value_i * weight[gene_i]` over a cell's genes.
//!
//! With a few hundred labelled cells most of what can be learned is linear in the expression values. The expert is the logistic
//! regression on the training cells, fitted once and frozen; the encoder and its head are trained without it, and in inference the
//! two are multiplied: `log p = log p_encoder + weight * log p_expert` up to a constant (the weight is part of the stored numbers).
//!
//! # Source
//! Hinton 2002, "Training products of experts by minimizing contrastive divergence", section 1 (product of experts). Ours; scGPT has
//! no such path.

use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_kernels::{embedding, pool, reduce};

use crate::Result;
use crate::layer::{Dims, Pass};
use crate::weights::{Init, Parameter, ParameterPlan};

/// Name of the weights in checkpoints.
pub const WEIGHT: &str = "gene_linear.weight";
/// Name of the bias in checkpoints.
pub const BIAS: &str = "gene_linear.bias";

/// Weights of the expert, frozen.
#[derive(Clone, Copy, Debug)]
pub struct GeneLinear<T: Float> {
    /// `[vocab_size, classes]`.
    weight: Parameter<T>,
    /// `[1, classes]`.
    bias: Parameter<T>,
}

/// Working memory of one pass.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    /// `[tokens, classes]`: each token's row.
    rows: Tensor<T>,
    /// `[batch, classes]`.
    logits: Tensor<T>,
    /// `[batch]`: zeros, the one row of `bias` that every cell reads.
    bias_ids: Tensor<u32>,
}

impl<T: Float> GeneLinear<T> {
    /// Declares `gene_linear.weight` and `gene_linear.bias`.
    pub fn declare(plan: &mut ParameterPlan<T>, vocab_size: usize, classes: usize) -> Self {
        plan.frozen(|plan| GeneLinear {
            weight: plan.parameter(WEIGHT, [vocab_size, classes], Init::Zeros),
            bias: plan.parameter(BIAS, [1, classes], Init::Zeros),
        })
    }

    /// Numbers that the expert gives a cell.
    pub fn width(&self) -> usize {
        self.weight.value.width()
    }

    /// Plans a pass.
    pub fn plan(&self, plan: &mut Plan, dims: Dims) -> Saved<T> {
        let classes = self.width();
        plan.under("gene_linear", |plan| Saved {
            rows: plan.tensor("rows", [dims.tokens(), classes]),
            logits: plan.tensor("logits", [dims.batch, classes]),
            bias_ids: plan.tensor("bias_ids", [dims.batch]),
        })
    }

    /// Adds the expert's logits to `logits`, `[batch, classes]`. `values`: `[tokens]`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(
        &self,
        stream: &Stream,
        pass: &Pass,
        saved: &Saved<T>,
        logits: Tensor<T>,
        gene_ids: Tensor<u32>,
        values: Tensor<T::Acc>,
    ) -> Result<()> {
        let add = |x| reduce::add_assign(stream, reduce::AddAssign { y: logits, x });
        embedding::forward(stream, embedding::Forward { y: saved.rows, table: self.weight.value, ids: gene_ids })?;
        let (lengths, seq_len) = (pass.lengths, pass.dims.seq_len);
        let (weights, kind) = (Some(values), pool::Kind::Weighted);
        pool::forward(stream, pool::Forward { y: saved.logits, x: saved.rows, lengths, weights, seq_len, kind })?;
        add(saved.logits)?;
        stream.zero(saved.bias_ids);
        embedding::forward(stream, embedding::Forward { y: saved.logits, table: self.bias.value, ids: saved.bias_ids })?;
        Ok(add(saved.logits)?)
    }
}
