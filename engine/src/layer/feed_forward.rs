//! `sum = x + dropout(W2 dropout(relu(W1 x + b1)) + b2)`.

use scmmgpt_kernels::dropout;
use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use super::Pass;
use super::linear::Linear;
use super::self_attention::{dropped, residual_dropout};
use crate::Result;
use crate::weights::ParameterPlan;

/// Weights of the feed-forward part.
#[derive(Clone, Copy, Debug)]
pub struct FeedForward<T: Float> {
    /// `[intermediate, width]`.
    pub up: Linear<T>,
    /// `[width, intermediate]`.
    pub down: Linear<T>,
    site: u32,
}

/// What backward needs from forward.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    /// `[tokens, intermediate]`: after the ReLU.
    pub hidden: Tensor<T>,
    /// `[tokens, intermediate]`: after the dropout; the same tensor where there is none.
    pub dropped: Tensor<T>,
}

impl<T: Float> FeedForward<T> {
    /// Declares `linear1` and `linear2`; `site` numbers its two dropouts.
    pub fn declare(plan: &mut ParameterPlan<T>, width: usize, intermediate: usize, site: u32) -> Self {
        FeedForward {
            up: Linear::declare(plan, "linear1", width, intermediate, true),
            down: Linear::declare(plan, "linear2", intermediate, width, true),
            site,
        }
    }

    fn intermediate(&self) -> usize {
        self.down.weight.value.width()
    }

    /// Plans what forward keeps.
    pub fn plan(&self, plan: &mut Plan, tokens: usize, dropout: bool) -> Saved<T> {
        self.up.plan(plan, tokens);
        self.down.plan(plan, tokens);
        plan.under("feed_forward", |plan| {
            let hidden = plan.tensor("hidden", [tokens, self.intermediate()]);
            let dropped = if dropout { plan.tensor("dropped", [tokens, self.intermediate()]) } else { hidden };
            Saved { hidden, dropped }
        })
    }

    /// Plans the gradient of the hidden activations (and of the dropped ones); one for all layers.
    pub fn plan_gradients(&self, plan: &mut Plan, tokens: usize, dropout: bool) -> Saved<T> {
        let hidden = plan.tensor("dhidden", [tokens, self.intermediate()]);
        let dropped = if dropout { plan.tensor("ddropped", [tokens, self.intermediate()]) } else { hidden };
        Saved { hidden, dropped }
    }

    /// `sum = x + dropout(..)`; `projected` is needed only with dropout.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(
        &self,
        stream: &Stream,
        pass: &Pass,
        saved: &Saved<T>,
        sum: Tensor<T>,
        projected: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let epilogue = match self.up.bias {
            Some(bias) => Epilogue::BiasRelu { bias: bias.value },
            None => Epilogue::None,
        };
        self.up.forward_with(stream, saved.hidden, x, epilogue)?;
        if let Some((probability, site)) = pass.dropout_at(self.site) {
            dropout::forward(stream, dropout::Forward { y: saved.dropped, x: saved.hidden, residual: None, probability, site })?;
        }
        residual_dropout(stream, pass, self.site + 1, &self.down, sum, projected, saved.dropped, x)
    }

    /// From `dsum` to `dx = dsum + d(branch)`, with `dbranch` as working space.
    ///
    /// # Errors
    /// Those of the kernels.
    #[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
    pub fn backward(
        &self,
        stream: &Stream,
        pass: &Pass,
        saved: &Saved<T>,
        gradients: &Saved<T>,
        dx: Tensor<T>,
        dbranch: Tensor<T>,
        dsum: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let dprojected = dropped(stream, pass, self.site + 1, dbranch, dsum)?;
        // A dropped unit and a unit below zero both read 0 in `saved.dropped`: the ReLU's mask serves both.
        let masked = Epilogue::ReluMask { output: saved.dropped };
        self.down.backward(stream, Some((gradients.dropped, masked)), dprojected, saved.dropped)?;
        let dhidden = dropped(stream, pass, self.site, gradients.hidden, gradients.dropped)?;
        self.up.backward(stream, Some((dx, Epilogue::Residual { residual: dsum })), dhidden, x)
    }
}
