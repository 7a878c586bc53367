//! The contrastive loss with its temperature, and the similarities that hard negatives are drawn by.

use scmmgpt_kernels::contrastive::{self, Backward, Forward};
use scmmgpt_kernels::gemm::{self, Epilogue, Layout};
use scmmgpt_kernels::runtime::{Float, Plan, Real, Stream, Tensor};

use super::cell_text::Contrast;
use crate::Result;
use crate::config::QFormerConfig;
use crate::weights::{Init, Parameter, ParameterPlan};

/// A learned temperature is kept within these after every step, as BLIP-2 does: below, a single item decides every gradient; above, none.
const TEMPERATURES: [f64; 2] = [0.001, 0.5];

/// The temperature.
#[derive(Clone, Copy, Debug)]
pub struct ContrastiveHead<T: Float> {
    temperature: Parameter<T>,
    fixed: Option<f64>,
    queries: usize,
}

/// What backward needs from forward.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    /// `[items]`: items of equal numbers are not each other's negatives; none: all are.
    pub classes: Option<Tensor<u32>>,
    similarities: Tensor<T>,
    loss: Tensor<T::Acc>,
    dloss: Tensor<T::Acc>,
    row_logsumexp: Tensor<T::Acc>,
    column_logsumexp: Tensor<T::Acc>,
    contrast: Contrast,
}

impl<T: Float> ContrastiveHead<T> {
    /// Declares `temperature` where it is learned; where it is fixed, the configuration has it and no checkpoint.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &QFormerConfig) -> Self {
        let temperature = match config.learn_temperature {
            true => plan.parameter("temperature", [1], Init::Constant(config.temperature)),
            false => Parameter { value: plan.derived().tensor("temperature", [1]), gradient: None },
        };
        let fixed = (!config.learn_temperature).then_some(config.temperature);
        ContrastiveHead { temperature, fixed, queries: config.num_query_tokens }
    }

    /// Sets a fixed temperature, and keeps a learned one within its bounds.
    ///
    /// # Errors
    /// Those of the copies.
    pub fn refresh(&self, stream: &Stream) -> Result<()> {
        let [low, high] = TEMPERATURES;
        let value = match self.fixed {
            Some(fixed) => fixed,
            None => self.temperature(stream)?.clamp(low, high),
        };
        Ok(stream.upload(self.temperature.value, &[T::from_acc(T::Acc::of(value))])?)
    }

    pub(super) fn temperature(&self, stream: &Stream) -> Result<f64> {
        Ok(stream.fetch(self.temperature.value)?[0].to_acc().f64())
    }

    /// Plans loss and similarities of `items` pairs.
    pub fn plan(&self, plan: &mut Plan, items: usize, projection_dim: usize, contrast: Contrast) -> Saved<T> {
        plan.scratch(contrastive::scratch::<T>(items, self.queries, projection_dim));
        plan.under("contrastive", |plan| Saved {
            classes: contrast.mask_same_class.then(|| plan.tensor("classes", [items])),
            similarities: plan.tensor("similarities", [items * self.queries, items]),
            loss: plan.tensor("loss", [1]),
            dloss: plan.tensor("dloss", [1]),
            row_logsumexp: plan.tensor("row_logsumexp", [items]),
            column_logsumexp: plan.tensor("column_logsumexp", [items]),
            contrast,
        })
    }

    /// The loss, in nats, of normalised cells `[items * queries, projection_dim]` and texts `[items, projection_dim]`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn forward(&self, stream: &Stream, saved: &Saved<T>, cells: Tensor<T>, texts: Tensor<T>) -> Result<f64> {
        let Saved { classes, loss, row_logsumexp, column_logsumexp, contrast, .. } = *saved;
        let Contrast { group, symmetric, .. } = contrast;
        let (temperature, queries) = (self.temperature.value, self.queries);
        let arguments = Forward { loss, row_logsumexp, column_logsumexp, cells, texts, classes, temperature, queries, group, symmetric };
        contrastive::forward(stream, arguments)?;
        Ok(stream.fetch(loss)?[0].f64())
    }

    /// `[items, items]`: `max_q <cells[i, q], texts[j]> / temperature`, on the host.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn logits(&self, stream: &Stream, saved: &Saved<T>, cells: Tensor<T>, texts: Tensor<T>) -> Result<Vec<f64>> {
        let items = texts.rows();
        let arguments = gemm::Forward { c: saved.similarities, a: cells, b: texts, layout: Layout::NT, epilogue: Epilogue::None };
        gemm::forward(stream, arguments)?;
        let (similarities, temperature) = (stream.fetch(saved.similarities)?, self.temperature(stream)?);
        let mut logits = vec![f64::NEG_INFINITY; items * items];
        for (of_cell, logits) in similarities.chunks_exact(self.queries * items).zip(logits.chunks_exact_mut(items)) {
            for of_query in of_cell.chunks_exact(items) {
                for (logit, similarity) in logits.iter_mut().zip(of_query) {
                    *logit = logit.max(similarity.to_acc().f64() / temperature);
                }
            }
        }
        Ok(logits)
    }

    /// Gradients of `weight` times the loss: `dcells` and `dtexts` are overwritten, a learned temperature's is added to.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn backward(
        &self,
        stream: &Stream,
        saved: &Saved<T>,
        [dcells, dtexts]: [Tensor<T>; 2],
        [cells, texts]: [Tensor<T>; 2],
        weight: f64,
    ) -> Result<()> {
        let Saved { classes, dloss, row_logsumexp, column_logsumexp, contrast, .. } = *saved;
        stream.upload(dloss, &[T::Acc::of(weight)])?;
        let arguments = Backward {
            dcells,
            dtexts,
            dtemperature: self.temperature.gradient,
            dloss,
            row_logsumexp,
            column_logsumexp,
            cells,
            texts,
            classes,
            temperature: self.temperature.value,
            queries: self.queries,
            group: contrast.group,
            symmetric: contrast.symmetric,
        };
        Ok(contrastive::backward(stream, arguments)?)
    }
}
