//! The second half of a BERT layer: `y = norm(x + dropout(W2 gelu(W1 x + b1) + b2))`.

use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use super::Pass;
use super::linear::Linear;
use super::norm::{self, Norm};
use super::self_attention::{dropped, residual_dropout};
use crate::Result;
use crate::weights::ParameterPlan;

/// Weights of the half.
#[derive(Clone, Copy, Debug)]
pub struct BertOutput<T: Float> {
    up: Linear<T>,
    down: Linear<T>,
    norm: Norm<T>,
    site: u32,
}

/// What backward needs from forward; the output last.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    pre_activation: Option<Tensor<T>>,
    hidden: Tensor<T>,
    sum: Tensor<T>,
    statistics: norm::Saved<T>,
    /// `[rows, width]`.
    pub output: Tensor<T>,
}

/// Working space of backward, for at least as many rows as it is used on: every half of a pass shares it.
#[derive(Clone, Copy, Debug)]
pub struct Space<T: Float> {
    /// `[rows, intermediate]`.
    pub hidden: Tensor<T>,
    /// `[rows, width]`.
    pub sum: Tensor<T>,
    /// `[rows, width]`; empty without dropout.
    pub branch: Tensor<T>,
}

impl<T: Float> Space<T> {
    /// The first rows of it.
    pub fn first(&self, rows: usize) -> Space<T> {
        let of = |tensor: Tensor<T>| if tensor.is_empty() { tensor } else { tensor.row_range(0, rows) };
        Space { hidden: of(self.hidden), sum: of(self.sum), branch: of(self.branch) }
    }
}

impl<T: Float> BertOutput<T> {
    /// Declares `intermediateSUFFIX.dense`, `outputSUFFIX.dense` and `outputSUFFIX.LayerNorm`; `site` numbers its dropout.
    pub fn declare(plan: &mut ParameterPlan<T>, suffix: &str, [width, intermediate]: [usize; 2], eps: f64, site: u32) -> Self {
        BertOutput {
            up: Linear::declare_bert(plan, &format!("intermediate{suffix}.dense"), width, intermediate),
            down: Linear::declare_bert(plan, &format!("output{suffix}.dense"), intermediate, width),
            norm: Norm::declare(plan, format!("output{suffix}.LayerNorm"), width, eps),
            site,
        }
    }

    /// Plans what forward keeps for `rows` rows and writes to `output`.
    pub fn plan(&self, plan: &mut Plan, rows: usize, training: bool, output: Tensor<T>) -> Saved<T> {
        let [width, intermediate] = [self.norm.weight.value.len(), self.down.weight.value.width()];
        self.up.plan(plan, rows);
        self.down.plan(plan, rows);
        Saved {
            pre_activation: training.then(|| plan.tensor("pre_activation", [rows, intermediate])),
            hidden: plan.tensor("hidden", [rows, intermediate]),
            sum: plan.tensor("sum", [rows, width]),
            statistics: self.norm.plan(plan, "norm", rows),
            output,
        }
    }

    /// Plans the working space of backward.
    pub fn plan_space(&self, plan: &mut Plan, rows: usize, dropout: bool) -> Space<T> {
        let [width, intermediate] = [self.norm.weight.value.len(), self.down.weight.value.width()];
        Space {
            hidden: plan.tensor("dhidden", [rows, intermediate]),
            sum: plan.tensor("dsum", [rows, width]),
            branch: plan.tensor("dbranch", [if dropout { rows } else { 0 }, width]),
        }
    }

    /// Writes `saved.output`; `projected` is needed only with dropout.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, pass: &Pass, saved: &Saved<T>, projected: Tensor<T>, x: Tensor<T>) -> Result<()> {
        let epilogue = match self.up.bias {
            Some(bias) => Epilogue::BiasGelu { bias: bias.value, pre_activation: saved.pre_activation },
            None => Epilogue::None,
        };
        self.up.forward_with(stream, saved.hidden, x, epilogue)?;
        residual_dropout(stream, pass, self.site, &self.down, saved.sum, projected, saved.hidden, x)?;
        self.norm.forward(stream, saved.statistics, saved.output, saved.sum)
    }

    /// From `dy` to `dx`, which may be the tensor of `dy`: it is written after the last read.
    ///
    /// # Errors
    /// Those of the kernels.
    #[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
    pub fn backward(
        &self,
        stream: &Stream,
        pass: &Pass,
        saved: &Saved<T>,
        space: &Space<T>,
        dx: Tensor<T>,
        dy: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let Some(pre_activation) = saved.pre_activation else { return Ok(()) };
        self.norm.backward(stream, saved.statistics, space.sum, dy, saved.sum)?;
        let dprojected = dropped(stream, pass, self.site, space.branch, space.sum)?;
        let through_gelu = Epilogue::GeluMask { pre_activation };
        self.down.backward(stream, Some((space.hidden, through_gelu)), dprojected, saved.hidden)?;
        self.up.backward(stream, Some((dx, Epilogue::Residual { residual: space.sum })), space.hidden, x)
    }
}
