//! Cross-entropy over a vocabulary in chunks of rows, so that the logits of a whole batch never exist.

use scmmgpt_kernels::cross_entropy;
use scmmgpt_kernels::runtime::{Float, Plan, Real, Stream, Tensor};

use super::language_model::LanguageModel;
use crate::Result;

/// Numbers of logits that exist at a time, about.
const CHUNK: usize = 1 << 24;

/// Memory of one chunk.
#[derive(Clone, Copy, Debug)]
pub struct TokenLoss<T: Float> {
    logits: Tensor<T>,
    dlogits: Option<Tensor<T>>,
    logsumexp: Tensor<T::Acc>,
    loss: Tensor<T::Acc>,
    weight_sum: Tensor<T::Acc>,
    dloss: Tensor<T::Acc>,
}

impl<T: Float> TokenLoss<T> {
    /// Plans the loss of at most `rows` rows over `vocabulary` tokens.
    pub fn plan(plan: &mut Plan, rows: usize, vocabulary: usize, training: bool) -> Self {
        let chunk = (CHUNK / vocabulary).clamp(1, rows.max(1));
        plan.scratch(cross_entropy::scratch(chunk));
        plan.under("token_loss", |plan| TokenLoss {
            logits: plan.tensor("logits", [chunk, vocabulary]),
            dlogits: training.then(|| plan.tensor("dlogits", [chunk, vocabulary])),
            logsumexp: plan.tensor("logsumexp", [chunk]),
            loss: plan.tensor("loss", [1]),
            weight_sum: plan.tensor("weight_sum", [1]),
            dloss: plan.tensor("dloss", [1]),
        })
    }

    /// Mean cross-entropy in nats over the `counted` rows of `hidden` whose target is not [`cross_entropy::IGNORE`], and with `gradient`,
    /// `(dhidden, scale)`, the gradient of `scale` times it, the head's included. 0 when nothing counts.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn run(
        &self,
        stream: &Stream,
        model: &LanguageModel<T>,
        hidden: Tensor<T>,
        targets: Tensor<u32>,
        counted: usize,
        gradient: Option<(Tensor<T>, f64)>,
    ) -> Result<f64> {
        let (rows, largest) = (hidden.rows(), self.logits.rows());
        let mut total = 0.0;
        for start in (0..rows).step_by(largest) {
            let count = largest.min(rows - start);
            let (logits, logsumexp) = (self.logits.row_range(0, count), self.logsumexp.columns(0, count));
            let (hidden, targets) = (hidden.row_range(start, count), targets.columns(start, count));
            model.logits(stream, logits, hidden)?;
            let arguments = cross_entropy::Forward {
                loss: self.loss,
                logsumexp,
                weight_sum: self.weight_sum,
                logits,
                targets,
                class_weight: None,
                label_smoothing: 0.0,
            };
            cross_entropy::forward(stream, arguments)?;
            let share = stream.fetch(self.weight_sum)?[0].f64() / counted.max(1) as f64;
            total += share * stream.fetch(self.loss)?[0].f64();
            let (Some((dhidden, scale)), Some(dlogits)) = (gradient, self.dlogits) else { continue };
            stream.upload(self.dloss, &[T::Acc::of(scale * share)])?;
            let dlogits = dlogits.row_range(0, count);
            let arguments = cross_entropy::Backward {
                dlogits,
                dloss: self.dloss,
                logits,
                targets,
                logsumexp,
                weight_sum: self.weight_sum,
                class_weight: None,
                label_smoothing: 0.0,
            };
            cross_entropy::backward(stream, arguments)?;
            model.logits_backward(stream, dhidden.row_range(start, count), dlogits, hidden)?;
        }
        Ok(total)
    }
}
