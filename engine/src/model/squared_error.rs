//! Masked mean squared error with the tensors that it needs.

use scmmgpt_kernels::mse;
use scmmgpt_kernels::runtime::{Float, Plan, Real, Stream, Tensor};

use crate::Result;

/// Targets, mask, loss and what backward needs.
#[derive(Clone, Copy, Debug)]
pub struct SquaredError<T: Float> {
    /// `[n]`.
    pub targets: Tensor<T::Acc>,
    /// `[n]`: 1 where the position counts, else 0.
    pub mask: Tensor<T::Acc>,
    loss: Tensor<T::Acc>,
    mask_sum: Tensor<T::Acc>,
    dloss: Tensor<T::Acc>,
}

impl<T: Float> SquaredError<T> {
    /// Plans the error of `n` predictions.
    pub fn plan(plan: &mut Plan, name: &str, n: usize) -> Self {
        plan.under(name, |plan| SquaredError {
            targets: plan.tensor("targets", [n]),
            mask: plan.tensor("mask", [n]),
            loss: plan.tensor("loss", [1]),
            mask_sum: plan.tensor("mask_sum", [1]),
            dloss: plan.tensor("dloss", [1]),
        })
    }

    /// The mean over what counts.
    ///
    /// # Errors
    /// Those of the kernel and the download.
    pub fn forward(&self, stream: &Stream, prediction: Tensor<T>) -> Result<f64> {
        let Self { targets: target, mask, loss, mask_sum, .. } = *self;
        mse::forward(stream, mse::Forward { loss, mask_sum, prediction, target, mask })?;
        Ok(stream.fetch(loss)?[0].f64())
    }

    /// Writes the gradient of `weight` times it.
    ///
    /// # Errors
    /// Those of the kernel and the upload.
    pub fn backward(&self, stream: &Stream, dprediction: Tensor<T>, prediction: Tensor<T>, weight: f64) -> Result<()> {
        let Self { targets: target, mask, mask_sum, dloss, .. } = *self;
        stream.upload(dloss, &[T::Acc::of(weight)])?;
        Ok(mse::backward(stream, mse::Backward { dprediction, dloss, prediction, target, mask, mask_sum })?)
    }
}
