//! The linear path of the cell-type head: `logits = sum_i value_i * weight[gene_i]` over a cell's genes.
//!
//! It stands beside the encoder, as the wide part of a wide-and-deep model: with a few hundred labelled cells most of what can be
//! learned is linear in the expression values, and the encoder only has to learn the rest.
//!
//! # Source
//! Cheng et al. 2016, "Wide & deep learning for recommender systems", section 3. Ours; scGPT has no such path.

use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_kernels::{embedding, pool, reduce};

use crate::Result;
use crate::layer::{Dims, Pass};
use crate::weights::{Init, Parameter, ParameterPlan};

/// Name of the weights in checkpoints.
pub const WEIGHT: &str = "gene_linear.weight";

/// Weights of the path.
#[derive(Clone, Copy, Debug)]
pub struct GeneLinear<T: Float> {
    /// `[vocab_size, classes]`.
    weight: Parameter<T>,
}

/// Working memory of one pass.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    /// `[tokens, classes]`: each token's row; in backward its gradient.
    rows: Tensor<T>,
    /// `[batch, classes]`.
    logits: Tensor<T>,
}

impl<T: Float> GeneLinear<T> {
    /// Declares `gene_linear.weight`.
    pub fn declare(plan: &mut ParameterPlan<T>, vocab_size: usize, classes: usize) -> Self {
        GeneLinear { weight: plan.parameter(WEIGHT, [vocab_size, classes], Init::Zeros) }
    }

    /// Plans a pass.
    pub fn plan(&self, plan: &mut Plan, dims: Dims) -> Saved<T> {
        let classes = self.weight.value.width();
        plan.scratch(embedding::scratch(dims.tokens()));
        plan.under("gene_linear", |plan| Saved {
            rows: plan.tensor("rows", [dims.tokens(), classes]),
            logits: plan.tensor("logits", [dims.batch, classes]),
        })
    }

    /// Adds the path's logits to `logits`, `[batch, classes]`. `values`: `[tokens]`.
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
        embedding::forward(stream, embedding::Forward { y: saved.rows, table: self.weight.value, ids: gene_ids })?;
        let (lengths, seq_len) = (pass.lengths, pass.dims.seq_len);
        let weights = Some(values);
        let kind = pool::Kind::Weighted;
        pool::forward(stream, pool::Forward { y: saved.logits, x: saved.rows, lengths, weights, seq_len, kind })?;
        Ok(reduce::add_assign(stream, reduce::AddAssign { y: logits, x: saved.logits })?)
    }

    /// Adds the weights' gradient from `dlogits`; `padding_id` gets none.
    ///
    /// # Errors
    /// Those of the kernels.
    #[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
    pub fn backward(
        &self,
        stream: &Stream,
        pass: &Pass,
        saved: &Saved<T>,
        dlogits: Tensor<T>,
        gene_ids: Tensor<u32>,
        values: Tensor<T::Acc>,
        padding_id: u32,
    ) -> Result<()> {
        let Some(dtable) = self.weight.gradient else { return Ok(()) };
        let (lengths, seq_len) = (pass.lengths, pass.dims.seq_len);
        let (weights, kind) = (Some(values), pool::Kind::Weighted);
        pool::backward(stream, pool::Backward { dx: saved.rows, dy: dlogits, lengths, weights, seq_len, kind })?;
        let padding_id = Some(padding_id);
        Ok(embedding::backward(stream, embedding::Backward { dtable, dy: saved.rows, ids: gene_ids, padding_id })?)
    }
}
