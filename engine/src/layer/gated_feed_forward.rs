//! `sum = residual + down(silu(gate x) * up x)`.

use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_kernels::swiglu;
use scmmgpt_loader::language::LanguageConfig;

use super::Dropout;
use super::adapted_linear::{self, AdaptedLinear, Shared};
use crate::Result;
use crate::config::Tuning;
use crate::weights::ParameterPlan;

/// Weights of the feed-forward part.
#[derive(Clone, Copy, Debug)]
pub struct GatedFeedForward<T: Float> {
    /// `[2 * intermediate, width]`: gate, then up.
    pub gate_up: AdaptedLinear<T>,
    /// `[width, intermediate]`.
    pub down: AdaptedLinear<T>,
    intermediate: usize,
}

/// What backward needs from forward.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    gate_up_adapters: adapted_linear::Saved<T>,
    down_adapters: adapted_linear::Saved<T>,
    gate_up: Tensor<T>,
    hidden: Tensor<T>,
}

/// Gradients on their way, shared by all layers.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    gate_up: Tensor<T>,
    hidden: Tensor<T>,
}

impl<T: Float> GatedFeedForward<T> {
    /// Declares `mlp` under Hugging Face's names; `site` numbers its first product among those of the model.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &LanguageConfig, tuning: &Tuning, site: u32) -> Self {
        let (width, intermediate) = (config.hidden_size, config.intermediate_size);
        plan.under("mlp", |plan| GatedFeedForward {
            gate_up: AdaptedLinear::declare(plan, &[("gate_proj", intermediate), ("up_proj", intermediate)], width, tuning, site),
            down: AdaptedLinear::declare(plan, &[("down_proj", width)], intermediate, tuning, site + 1),
            intermediate,
        })
    }

    /// Plans what forward keeps.
    pub fn plan(&self, plan: &mut Plan, tokens: usize, shared: Option<Shared<T>>) -> Saved<T> {
        plan.under("feed_forward", |plan| Saved {
            gate_up_adapters: self.gate_up.plan(plan, "gate_up", tokens, shared),
            down_adapters: self.down.plan(plan, "down", tokens, shared),
            gate_up: plan.tensor("gate_up", [tokens, 2 * self.intermediate]),
            hidden: plan.tensor("hidden", [tokens, self.intermediate]),
        })
    }

    /// Plans what backward passes through; one for all layers.
    pub fn plan_gradients(&self, plan: &mut Plan, tokens: usize) -> Gradients<T> {
        plan.under("dfeed_forward", |plan| Gradients {
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
    pub fn forward(
        &self,
        stream: &Stream,
        saved: &Saved<T>,
        sum: Tensor<T>,
        residual: Tensor<T>,
        x: Tensor<T>,
        drawn: Option<Dropout>,
    ) -> Result<()> {
        if self.gate_up.is_adapted(&saved.gate_up_adapters) {
            self.gate_up.forward(stream, &saved.gate_up_adapters, saved.gate_up, x, Epilogue::None, drawn)?;
            let (gate, up) = self.halves(saved.gate_up);
            swiglu::forward(stream, swiglu::Forward { y: saved.hidden, gate, up })?;
        } else {
            self.gate_up.base.forward_with(stream, saved.hidden, x, Epilogue::SwiGlu { gate_up: saved.gate_up })?;
        }
        self.down.forward(stream, &saved.down_adapters, sum, saved.hidden, Epilogue::Residual { residual }, drawn)
    }

    /// From `dsum` to `dx`, without the residual's share, which is `dsum` itself.
    ///
    /// # Errors
    /// Those of the kernels.
    #[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
    pub fn backward(
        &self,
        stream: &Stream,
        saved: &Saved<T>,
        gradients: &Gradients<T>,
        dx: Tensor<T>,
        dsum: Tensor<T>,
        x: Tensor<T>,
        drawn: Option<Dropout>,
    ) -> Result<()> {
        self.down.backward(stream, &saved.down_adapters, gradients.hidden, dsum, saved.hidden, drawn)?;
        let ((gate, up), (dgate, dup)) = (self.halves(saved.gate_up), self.halves(gradients.gate_up));
        swiglu::backward(stream, swiglu::Backward { dgate, dup, dy: gradients.hidden, gate, up })?;
        self.gate_up.backward(stream, &saved.gate_up_adapters, dx, gradients.gate_up, x, drawn)
    }
}
