//! From the Q-Former's queries to rows that a language model reads in place of words: `y = W2 relu(W1 x + b1) + b2`.
//!
//! # Source
//! scMMGPT `blip2_llama.py`, `llm_proj` (256 between the two products).

use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use crate::Result;
use crate::layer::linear::Linear;
use crate::weights::ParameterPlan;

/// Weights of the projection.
#[derive(Clone, Copy, Debug)]
pub struct LlmProjection<T: Float> {
    fc1: Linear<T>,
    fc2: Linear<T>,
}

/// What backward needs from forward, and the output; in backward, the gradients of the same.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    hidden: Tensor<T>,
    /// `[rows, hidden_size of the language model]`.
    pub output: Tensor<T>,
}

impl<T: Float> LlmProjection<T> {
    /// Declares `llm_proj.fc1` and `llm_proj.fc2`.
    pub fn declare(plan: &mut ParameterPlan<T>, width: usize, intermediate: usize, output: usize) -> Self {
        plan.under("llm_proj", |plan| LlmProjection {
            fc1: Linear::declare(plan, "fc1", width, intermediate, true),
            fc2: Linear::declare(plan, "fc2", intermediate, output, true),
        })
    }

    /// Plans what forward keeps, or, under another name, its gradients.
    pub fn plan(&self, plan: &mut Plan, name: &str, rows: usize) -> Saved<T> {
        let [intermediate, output] = [&self.fc1, &self.fc2].map(|layer| layer.weight.value.rows());
        [self.fc1, self.fc2].iter().for_each(|layer| layer.plan(plan, rows));
        plan.under(name, |plan| Saved {
            hidden: plan.tensor("hidden", [rows, intermediate]),
            output: plan.tensor("output", [rows, output]),
        })
    }

    /// Writes `saved.output` from `x`, `[rows, width]`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, saved: &Saved<T>, x: Tensor<T>) -> Result<()> {
        let epilogue = self.fc1.bias.map_or(Epilogue::None, |bias| Epilogue::BiasRelu { bias: bias.value });
        self.fc1.forward_with(stream, saved.hidden, x, epilogue)?;
        self.fc2.forward(stream, saved.output, saved.hidden)
    }

    /// Parameter gradients from `gradients.output`, and `dx` where it is wanted.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, stream: &Stream, saved: &Saved<T>, gradients: &Saved<T>, dx: Option<Tensor<T>>, x: Tensor<T>) -> Result<()> {
        let masked = Epilogue::ReluMask { output: saved.hidden };
        self.fc2.backward(stream, Some((gradients.hidden, masked)), gradients.output, saved.hidden)?;
        self.fc1.backward(stream, dx.map(|dx| (dx, Epilogue::None)), gradients.hidden, x)
    }
}
