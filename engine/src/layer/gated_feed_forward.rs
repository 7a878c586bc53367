//! `sum = residual + down(silu(gate x) * up x)`.

use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_kernels::swiglu;
use scmmgpt_loader::language::LanguageConfig;

use super::linear::Linear;
use crate::Result;
use crate::weights::ParameterPlan;

/// Weights of the feed-forward part.
#[derive(Clone, Copy, Debug)]
pub struct GatedFeedForward<T: Float> {
    /// `[2 * intermediate, width]`: gate, then up.
    pub gate_up: Linear<T>,
    /// `[width, intermediate]`.
    pub down: Linear<T>,
    intermediate: usize,
}

/// What backward needs from forward; in backward, the gradients of the same.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    gate_up: Tensor<T>,
    hidden: Tensor<T>,
}

impl<T: Float> GatedFeedForward<T> {
    /// Declares `mlp` under Hugging Face's names.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &LanguageConfig) -> Self {
        let (width, intermediate) = (config.hidden_size, config.intermediate_size);
        plan.under("mlp", |plan| GatedFeedForward {
            gate_up: Linear::declare_llama(plan, &[("gate_proj", intermediate), ("up_proj", intermediate)], width),
            down: Linear::declare_llama(plan, &[("down_proj", width)], intermediate),
            intermediate,
        })
    }

    /// Plans what forward keeps, or, under another name, its gradients.
    pub fn plan(&self, plan: &mut Plan, name: &str, tokens: usize) -> Saved<T> {
        self.gate_up.plan(plan, tokens);
        self.down.plan(plan, tokens);
        plan.under(name, |plan| Saved {
            gate_up: plan.tensor("gate_up", [tokens, 2 * self.intermediate]),
            hidden: plan.tensor("hidden", [tokens, self.intermediate]),
        })
    }

    fn halves(&self, gate_up: Tensor<T>) -> (Tensor<T>, Tensor<T>) {
        (gate_up.columns(0, self.intermediate), gate_up.columns(self.intermediate, self.intermediate))
    }

    /// Writes `sum`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, saved: &Saved<T>, sum: Tensor<T>, residual: Tensor<T>, x: Tensor<T>) -> Result<()> {
        self.gate_up.forward(stream, saved.gate_up, x)?;
        let (gate, up) = self.halves(saved.gate_up);
        swiglu::forward(stream, swiglu::Forward { y: saved.hidden, gate, up })?;
        self.down.forward_with(stream, sum, saved.hidden, Epilogue::Residual { residual })
    }

    /// From `dsum` to `dx`, without the residual's share, which is `dsum` itself.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(
        &self,
        stream: &Stream,
        saved: &Saved<T>,
        gradients: &Saved<T>,
        dx: Tensor<T>,
        dsum: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        self.down.backward(stream, Some((gradients.hidden, Epilogue::None)), dsum, saved.hidden)?;
        let ((gate, up), (dgate, dup)) = (self.halves(saved.gate_up), self.halves(gradients.gate_up));
        swiglu::backward(stream, swiglu::Backward { dgate, dup, dy: gradients.hidden, gate, up })?;
        self.gate_up.backward(stream, Some((dx, Epilogue::None)), gradients.gate_up, x)
    }
}
