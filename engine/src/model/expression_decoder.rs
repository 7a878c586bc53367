//! Expression decoder: a token's vector to its expression value. `decoder.fc.{0,2,4}`: Linear, LeakyReLU(0.01), twice, then Linear to 1.

use scmmgpt_kernels::activation::{self, Kind};
use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use crate::Result;
use crate::layer::linear::Linear;
use crate::weights::ParameterPlan;

const LEAKY: Kind = Kind::LeakyRelu { slope: 0.01 };

/// Weights of the decoder.
#[derive(Clone, Copy, Debug)]
pub struct ExpressionDecoder<T: Float> {
    layers: [Linear<T>; 3],
}

/// What backward needs from forward: before and after each activation, and the prediction.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    before: [Tensor<T>; 2],
    after: [Tensor<T>; 2],
    /// `[tokens, 1]`.
    pub prediction: Tensor<T>,
}

/// Gradients on their way.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    before: Tensor<T>,
    after: Tensor<T>,
    /// `[tokens, 1]`: gradient of the prediction.
    pub prediction: Tensor<T>,
}

impl<T: Float> ExpressionDecoder<T> {
    /// Declares `decoder.fc`.
    pub fn declare(plan: &mut ParameterPlan<T>, width: usize) -> Self {
        plan.under("decoder.fc", |plan| ExpressionDecoder {
            layers: [(0, width), (2, width), (4, 1)].map(|(index, output)| Linear::declare(plan, index, width, output, true)),
        })
    }

    /// Plans what forward keeps.
    pub fn plan(&self, plan: &mut Plan, tokens: usize) -> Saved<T> {
        let width = self.layers[0].weight.value.width();
        self.layers.iter().for_each(|layer| layer.plan(plan, tokens));
        plan.under("decoder", |plan| Saved {
            before: ["before0", "before2"].map(|name| plan.tensor(name, [tokens, width])),
            after: ["after0", "after2"].map(|name| plan.tensor(name, [tokens, width])),
            prediction: plan.tensor("prediction", [tokens, 1]),
        })
    }

    /// Plans the gradients.
    pub fn plan_gradients(&self, plan: &mut Plan, tokens: usize) -> Gradients<T> {
        let width = self.layers[0].weight.value.width();
        plan.under("ddecoder", |plan| Gradients {
            before: plan.tensor("before", [tokens, width]),
            after: plan.tensor("after", [tokens, width]),
            prediction: plan.tensor("prediction", [tokens, 1]),
        })
    }

    /// Writes `saved.prediction` from `hidden`, `[tokens, width]`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, saved: &Saved<T>, hidden: Tensor<T>) -> Result<()> {
        let mut x = hidden;
        for (index, layer) in self.layers[..2].iter().enumerate() {
            layer.forward(stream, saved.before[index], x)?;
            activation::forward(stream, activation::Forward { y: saved.after[index], x: saved.before[index], kind: LEAKY })?;
            x = saved.after[index];
        }
        self.layers[2].forward(stream, saved.prediction, x)
    }

    /// Writes `dhidden` from `gradients.prediction`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(
        &self,
        stream: &Stream,
        saved: &Saved<T>,
        gradients: &Gradients<T>,
        dhidden: Tensor<T>,
        hidden: Tensor<T>,
    ) -> Result<()> {
        let Gradients { before, after, prediction } = *gradients;
        self.layers[2].backward(stream, Some((after, Epilogue::None)), prediction, saved.after[1])?;
        for index in [1, 0] {
            activation::backward(stream, activation::Backward { dx: before, dy: after, x: saved.before[index], kind: LEAKY })?;
            let (dx, x) = if index == 1 { (after, saved.after[0]) } else { (dhidden, hidden) };
            self.layers[index].backward(stream, Some((dx, Epilogue::None)), before, x)?;
        }
        Ok(())
    }
}
