//! Masked-value prediction from the cell embedding (scGPT's "MVC", inner product):
//! `prediction = (W sigmoid(gene2query(gene))) . cell`.

use scmmgpt_kernels::activation::{self, Kind};
use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::pool;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use crate::Result;
use crate::layer::Dims;
use crate::layer::linear::Linear;
use crate::weights::ParameterPlan;

/// Weights of the decoder.
#[derive(Clone, Copy, Debug)]
pub struct MvcDecoder<T: Float> {
    gene2query: Linear<T>,
    product: Linear<T>,
}

/// What backward needs from forward, and the prediction.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    before: Tensor<T>,
    query: Tensor<T>,
    projected: Tensor<T>,
    /// `[tokens]`.
    pub prediction: Tensor<T>,
}

/// Gradients on their way.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    query: Tensor<T>,
    projected: Tensor<T>,
    /// `[tokens]`: gradient of the prediction.
    pub prediction: Tensor<T>,
    /// `[tokens, width]`: gradient of the gene embedding.
    pub gene: Tensor<T>,
    /// `[batch, width]`: gradient of the cell embedding.
    pub cell: Tensor<T>,
}

impl<T: Float> MvcDecoder<T> {
    /// Declares `mvc_decoder`.
    pub fn declare(plan: &mut ParameterPlan<T>, width: usize) -> Self {
        plan.under("mvc_decoder", |plan| MvcDecoder {
            gene2query: Linear::declare(plan, "gene2query", width, width, true),
            product: Linear::declare(plan, "W", width, width, false),
        })
    }

    /// Plans what forward keeps.
    pub fn plan(&self, plan: &mut Plan, tokens: usize) -> Saved<T> {
        let width = self.product.weight.value.width();
        self.gene2query.plan(plan, tokens);
        plan.under("mvc_decoder", |plan| Saved {
            before: plan.tensor("before", [tokens, width]),
            query: plan.tensor("query", [tokens, width]),
            projected: plan.tensor("projected", [tokens, width]),
            prediction: plan.tensor("prediction", [tokens]),
        })
    }

    /// Plans the gradients.
    pub fn plan_gradients(&self, plan: &mut Plan, dims: Dims) -> Gradients<T> {
        let (tokens, width) = (dims.tokens(), self.product.weight.value.width());
        plan.under("dmvc_decoder", |plan| Gradients {
            query: plan.tensor("query", [tokens, width]),
            projected: plan.tensor("projected", [tokens, width]),
            prediction: plan.tensor("prediction", [tokens]),
            gene: plan.tensor("gene", [tokens, width]),
            cell: plan.tensor("cell", [dims.batch, width]),
        })
    }

    /// Writes `saved.prediction` from `gene`, `[tokens, width]`, and `cell`, `[batch, width]`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, saved: &Saved<T>, gene: Tensor<T>, cell: Tensor<T>) -> Result<()> {
        self.gene2query.forward(stream, saved.before, gene)?;
        activation::forward(stream, activation::Forward { y: saved.query, x: saved.before, kind: Kind::Sigmoid })?;
        self.product.forward(stream, saved.projected, saved.query)?;
        let seq_len = saved.prediction.len() / cell.rows();
        let arguments = pool::ScoreForward { y: saved.prediction, query: saved.projected, cell, seq_len };
        Ok(pool::score_forward(stream, arguments)?)
    }

    /// Writes `gradients.gene` and `gradients.cell` from `gradients.prediction`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, stream: &Stream, saved: &Saved<T>, gradients: &Gradients<T>, gene: Tensor<T>, cell: Tensor<T>) -> Result<()> {
        let g = gradients;
        let arguments = pool::ScoreBackward {
            dquery: g.projected,
            dcell: g.cell,
            dy: g.prediction,
            query: saved.projected,
            cell,
            seq_len: saved.prediction.len() / cell.rows(),
        };
        pool::score_backward(stream, arguments)?;
        self.product.backward(stream, Some((g.query, Epilogue::None)), g.projected, saved.query)?;
        // The projected gradient has been read for the last time: it takes the one before the sigmoid.
        let sigmoid = activation::Backward { dx: g.projected, dy: g.query, x: saved.before, kind: Kind::Sigmoid };
        activation::backward(stream, sigmoid)?;
        self.gene2query.backward(stream, Some((g.gene, Epilogue::None)), g.projected, gene)
    }
}
