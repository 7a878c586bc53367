//! Cell-type head: `(layers - 1)` times Linear, ReLU, layer norm, then a Linear to the classes.
//! Names as scGPT's `ClsDecoder`: `cls_decoder._decoder.{0,2,3,5,..}` and `cls_decoder.out_layer`.

use scmmgpt_kernels::activation::{self, Kind};
use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use crate::Result;
use crate::config::ModelConfig;
use crate::layer::linear::Linear;
use crate::layer::norm::{self, Norm};
use crate::weights::ParameterPlan;

/// Weights of the head.
#[derive(Clone, Debug)]
pub struct Classifier<T: Float> {
    hidden: Vec<(Linear<T>, Norm<T>)>,
    out: Linear<T>,
}

/// What backward needs from forward, and the logits.
#[derive(Clone, Debug)]
pub struct Saved<T: Float> {
    hidden: Vec<Hidden<T>>,
    /// `[batch, classes]`.
    pub logits: Tensor<T>,
}

#[derive(Clone, Copy, Debug)]
struct Hidden<T: Float> {
    active: Tensor<T>,
    statistics: norm::Saved<T>,
    normed: Tensor<T>,
}

/// Gradients on their way.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    /// `[batch, classes]`: gradient of the logits.
    pub logits: Tensor<T>,
    before: Tensor<T>,
    active: Tensor<T>,
    normed: Tensor<T>,
}

impl<T: Float> Classifier<T> {
    /// Declares the head for `classes` classes.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &ModelConfig, classes: usize) -> Self {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        plan.under("cls_decoder", |plan| Classifier {
            hidden: (0..config.classifier_layers.saturating_sub(1))
                .map(|index| {
                    let linear = Linear::declare(plan, format!("_decoder.{}", 3 * index), width, width, true);
                    (linear, Norm::declare(plan, format!("_decoder.{}", 3 * index + 2), width, eps))
                })
                .collect(),
            out: Linear::declare(plan, "out_layer", width, classes, true),
        })
    }

    /// Plans what forward keeps.
    pub fn plan(&self, plan: &mut Plan, batch: usize) -> Saved<T> {
        let [classes, width] = [self.out.weight.value.shape()[0], self.out.weight.value.width()];
        self.out.plan(plan, batch);
        plan.under("classifier", |plan| Saved {
            hidden: self
                .hidden
                .iter()
                .map(|(linear, norm)| {
                    linear.plan(plan, batch);
                    Hidden {
                        active: plan.tensor("active", [batch, width]),
                        statistics: norm.plan(plan, "norm", batch),
                        normed: plan.tensor("normed", [batch, width]),
                    }
                })
                .collect(),
            logits: plan.tensor("logits", [batch, classes]),
        })
    }

    /// Plans the gradients.
    pub fn plan_gradients(&self, plan: &mut Plan, batch: usize) -> Gradients<T> {
        let [classes, width] = [self.out.weight.value.shape()[0], self.out.weight.value.width()];
        plan.under("dclassifier", |plan| Gradients {
            logits: plan.tensor("logits", [batch, classes]),
            before: plan.tensor("before", [batch, width]),
            active: plan.tensor("active", [batch, width]),
            normed: plan.tensor("normed", [batch, width]),
        })
    }

    /// Writes `saved.logits` from `cell`, `[batch, width]`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, saved: &Saved<T>, cell: Tensor<T>) -> Result<()> {
        let mut x = cell;
        for ((linear, norm), kept) in self.hidden.iter().zip(&saved.hidden) {
            let epilogue = linear.bias.map_or(Epilogue::None, |bias| Epilogue::BiasRelu { bias: bias.value });
            linear.forward_with(stream, kept.active, x, epilogue)?;
            norm.forward(stream, kept.statistics, kept.normed, kept.active)?;
            x = kept.normed;
        }
        self.out.forward(stream, saved.logits, x)
    }

    /// Writes `dcell` from `gradients.logits`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, stream: &Stream, saved: &Saved<T>, gradients: &Gradients<T>, dcell: Tensor<T>, cell: Tensor<T>) -> Result<()> {
        let g = gradients;
        let input = |index: usize| if index == 0 { cell } else { saved.hidden[index - 1].normed };
        let target = |index: usize| if index == 0 { dcell } else { g.normed };
        let count = self.hidden.len();
        self.out.backward(stream, Some((target(count), Epilogue::None)), g.logits, input(count))?;
        for (index, ((linear, norm), kept)) in self.hidden.iter().zip(&saved.hidden).enumerate().rev() {
            norm.backward(stream, kept.statistics, g.active, g.normed, kept.active)?;
            // ReLU's output is positive exactly where its input was.
            activation::backward(stream, activation::Backward { dx: g.before, dy: g.active, x: kept.active, kind: Kind::Relu })?;
            linear.backward(stream, Some((target(index), Epilogue::None)), g.before, input(index))?;
        }
        Ok(())
    }
}
