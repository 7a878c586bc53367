//! Likelihood of counts under a zero-inflated negative binomial, with the tensors that it needs.

use scmmgpt_kernels::reduce::{self, AddAssign};
use scmmgpt_kernels::runtime::{Float, Plan, Real, Stream, Tensor};
use scmmgpt_kernels::zinb;

use crate::Result;

/// Counts, sizes, weights, loss and what backward needs. Distributions come as `[cells * genes, 2]`: ln of the mean of a cell of size 1,
/// logit of the probability of a zero that is no count; and `[cells * genes, 1]`: ln of the inverse dispersion.
#[derive(Clone, Copy, Debug)]
pub struct CountLoss<T: Float> {
    /// `[cells * genes]`.
    pub counts: Tensor<T::Acc>,
    /// `[cells * genes]`: what a gene weighs.
    pub weights: Tensor<T::Acc>,
    /// `[cells]`: ln of a cell's total / 10,000, or whatever a cell of size 1 holds.
    pub log_sizes: Tensor<T::Acc>,
    /// `[cells, genes]`, each.
    log_mean: Tensor<T>,
    zero_logit: Tensor<T>,
    gradients: [Tensor<T>; 2],
    loss: Tensor<T::Acc>,
    weight_sum: Tensor<T::Acc>,
    dloss: Tensor<T::Acc>,
}

impl<T: Float> CountLoss<T> {
    /// Plans the loss of `cells` of `genes` genes each.
    pub fn plan(plan: &mut Plan, name: &str, cells: usize, genes: usize) -> Self {
        plan.scratch(zinb::scratch::<T>(cells, genes));
        plan.under(name, |plan| CountLoss {
            counts: plan.tensor("counts", [cells, genes]),
            weights: plan.tensor("weights", [cells, genes]),
            log_sizes: plan.tensor("log_sizes", [cells]),
            log_mean: plan.tensor("log_mean", [cells, genes]),
            zero_logit: plan.tensor("zero_logit", [cells, genes]),
            gradients: ["dlog_mean", "dzero_logit"].map(|name| plan.tensor(name, [cells, genes])),
            loss: plan.tensor("loss", [1]),
            weight_sum: plan.tensor("weight_sum", [1]),
            dloss: plan.tensor("dloss", [1]),
        })
    }

    /// The weighted mean of `-ln P(count)`, in nats.
    ///
    /// # Errors
    /// Those of the kernels and the download.
    pub fn forward(&self, stream: &Stream, output: Tensor<T>, log_theta: Tensor<T>) -> Result<f64> {
        let Self { counts: count, weights: weight, log_sizes: log_size, log_mean, zero_logit, loss, weight_sum, .. } = *self;
        for (column, part) in [log_mean, zero_logit].into_iter().enumerate() {
            copy(stream, part.reshape([part.len(), 1]), output.columns(column, 1))?;
        }
        let log_theta = log_theta.reshape(log_mean.shape());
        zinb::forward(stream, zinb::Forward { loss, weight_sum, log_mean, zero_logit, log_theta, log_size, count, weight })?;
        Ok(stream.fetch(loss)?[0].f64())
    }

    /// Writes the gradients of `factor` times it.
    ///
    /// # Errors
    /// Those of the kernels and the upload.
    pub fn backward(&self, stream: &Stream, [doutput, dlog_theta]: [Tensor<T>; 2], log_theta: Tensor<T>, factor: f64) -> Result<()> {
        let Self { counts: count, weights: weight, log_sizes: log_size, log_mean, zero_logit, weight_sum, dloss, .. } = *self;
        let [dlog_mean, dzero_logit] = self.gradients;
        let shape = log_mean.shape();
        let (log_theta, dlog_theta) = (log_theta.reshape(shape), dlog_theta.reshape(shape));
        stream.upload(dloss, &[T::Acc::of(factor)])?;
        let arguments = zinb::Backward {
            dlog_mean,
            dzero_logit,
            dlog_theta,
            dloss,
            log_mean,
            zero_logit,
            log_theta,
            log_size,
            count,
            weight,
            weight_sum,
        };
        zinb::backward(stream, arguments)?;
        stream.zero(doutput);
        for (column, part) in self.gradients.into_iter().enumerate() {
            reduce::add_assign(stream, AddAssign { y: doutput.columns(column, 1), x: part.reshape([part.len(), 1]) })?;
        }
        Ok(())
    }
}

/// A column by itself: added to zeros, which is one call for all rows.
fn copy<T: Float>(stream: &Stream, y: Tensor<T>, x: Tensor<T>) -> Result<()> {
    stream.zero(y);
    Ok(reduce::add_assign(stream, AddAssign { y, x })?)
}
