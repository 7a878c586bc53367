//! Cross-entropy of logits with the tensors that it needs.

use scmmgpt_kernels::cross_entropy::{self, Backward, Forward};
use scmmgpt_kernels::runtime::{Float, Plan, Real, Stream, Tensor};

use crate::Result;

/// Targets, loss and what backward needs.
#[derive(Clone, Copy, Debug)]
pub struct ClassLoss<T: Float> {
    /// `[rows]`: a class, or [`cross_entropy::IGNORE`].
    pub targets: Tensor<u32>,
    loss: Tensor<T::Acc>,
    weight_sum: Tensor<T::Acc>,
    dloss: Tensor<T::Acc>,
    logsumexp: Tensor<T::Acc>,
    label_smoothing: f64,
}

impl<T: Float> ClassLoss<T> {
    /// Plans the loss of `rows` rows.
    pub fn plan(plan: &mut Plan, rows: usize, label_smoothing: f64) -> Self {
        plan.scratch(cross_entropy::scratch(rows));
        plan.under("cross_entropy", |plan| ClassLoss {
            targets: plan.tensor("targets", [rows]),
            loss: plan.tensor("loss", [1]),
            weight_sum: plan.tensor("weight_sum", [1]),
            dloss: plan.tensor("dloss", [1]),
            logsumexp: plan.tensor("logsumexp", [rows]),
            label_smoothing,
        })
    }

    /// The mean over the rows that count, in nats.
    ///
    /// # Errors
    /// Those of the kernel and the download.
    pub fn forward(&self, stream: &Stream, logits: Tensor<T>) -> Result<f64> {
        self.start(stream, logits)?;
        self.value(stream)
    }

    /// Queues [`ClassLoss::forward`] without waiting for it.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn start(&self, stream: &Stream, logits: Tensor<T>) -> Result<()> {
        let Self { targets, loss, weight_sum, logsumexp, label_smoothing, .. } = *self;
        let arguments = Forward { loss, logsumexp, weight_sum, logits, targets, class_weight: None, label_smoothing };
        Ok(cross_entropy::forward(stream, arguments)?)
    }

    /// Waits for what was started.
    ///
    /// # Errors
    /// Those of the download.
    pub fn value(&self, stream: &Stream) -> Result<f64> {
        Ok(stream.fetch(self.loss)?[0].f64())
    }

    /// The logits' gradient of `weight` times the loss.
    ///
    /// # Errors
    /// Those of the kernel and the upload.
    pub fn backward(&self, stream: &Stream, dlogits: Tensor<T>, logits: Tensor<T>, weight: f64) -> Result<()> {
        let Self { targets, weight_sum, dloss, logsumexp, label_smoothing, .. } = *self;
        stream.upload(dloss, &[T::Acc::of(weight)])?;
        let arguments = Backward { dlogits, dloss, logits, targets, logsumexp, weight_sum, class_weight: None, label_smoothing };
        Ok(cross_entropy::backward(stream, arguments)?)
    }
}
