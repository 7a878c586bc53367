//! Does a text belong to a cell? Two logits from the mean of the query rows of a matching pass: no, yes.
//!
//! The reference takes the mean of the logits of the query rows, which is the same.

use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::pool::{self, Kind};
use scmmgpt_kernels::runtime::{Float, Plan, Real, Stream, Tensor};

use crate::Result;
use crate::layer::class_loss::ClassLoss;
use crate::layer::linear::Linear;
use crate::layer::rows::Rows;
use crate::weights::ParameterPlan;

/// The logit of pairs that belong together.
pub const MATCH: u32 = 1;

/// Weights of the head.
#[derive(Clone, Copy, Debug)]
pub struct MatchingHead<T: Float> {
    linear: Linear<T>,
}

/// What backward needs from forward, and the logits.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    rows: Rows,
    counts: Tensor<u32>,
    mean: Tensor<T>,
    /// Its targets: [`MATCH`], 0, or ignored.
    pub loss: ClassLoss<T>,
    /// `[items, 2]`.
    pub logits: Tensor<T>,
}

/// Gradients on their way.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    logits: Tensor<T>,
    mean: Tensor<T>,
}

impl<T: Float> MatchingHead<T> {
    /// Declares `matching_head`.
    pub fn declare(plan: &mut ParameterPlan<T>, width: usize) -> Self {
        MatchingHead { linear: Linear::declare(plan, "matching_head", width, 2, true) }
    }

    /// Plans what forward keeps of a matching pass with these rows.
    pub fn plan(&self, plan: &mut Plan, rows: Rows) -> Saved<T> {
        self.linear.plan(plan, rows.items);
        plan.under("matching_head", |plan| Saved {
            rows,
            counts: plan.tensor("counts", [rows.items]),
            mean: plan.tensor("mean", [rows.items, self.linear.weight.value.width()]),
            loss: ClassLoss::plan(plan, rows.items, 0.0),
            logits: plan.tensor("logits", [rows.items, 2]),
        })
    }

    /// Plans the gradients.
    pub fn plan_gradients(&self, plan: &mut Plan, rows: Rows) -> Gradients<T> {
        let width = self.linear.weight.value.width();
        plan.under("matching_head", |plan| Gradients {
            logits: plan.tensor("dlogits", [rows.items, 2]),
            mean: plan.tensor("dmean", [rows.items, width]),
        })
    }

    /// Writes `saved.logits` from all rows of the pass, of which the query rows count.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, saved: &Saved<T>, x: Tensor<T>) -> Result<()> {
        let Rows { items, queries, .. } = saved.rows;
        stream.upload(saved.counts, &vec![queries as u32; items])?;
        let seq_len = saved.rows.dims().seq_len;
        let arguments = pool::Forward { y: saved.mean, x, lengths: saved.counts, weights: None, seq_len, kind: Kind::Mean };
        pool::forward(stream, arguments)?;
        self.linear.forward(stream, saved.logits, saved.mean)
    }

    /// Writes `dx` of `weight` times the loss; rows of text get none.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, stream: &Stream, saved: &Saved<T>, gradients: &Gradients<T>, dx: Tensor<T>, weight: f64) -> Result<()> {
        saved.loss.backward(stream, gradients.logits, saved.logits, weight)?;
        self.linear.backward(stream, Some((gradients.mean, Epilogue::None)), gradients.logits, saved.mean)?;
        let (lengths, seq_len) = (saved.counts, saved.rows.dims().seq_len);
        Ok(pool::backward(stream, pool::Backward { dx, dy: gradients.mean, lengths, weights: None, seq_len, kind: Kind::Mean })?)
    }

    /// Probability of each item that text and cell belong together.
    ///
    /// # Errors
    /// Those of the download.
    pub fn probabilities(stream: &Stream, saved: &Saved<T>) -> Result<Vec<f32>> {
        let logits = stream.fetch(saved.logits)?;
        let yes = |pair: &[T]| 1.0 / (1.0 + (pair[0].to_acc().f64() - pair[MATCH as usize].to_acc().f64()).exp());
        Ok(logits.chunks_exact(2).map(|pair| yes(pair) as f32).collect())
    }
}
