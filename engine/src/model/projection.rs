//! Into the space in which cells and texts are compared: `y = normalize(W x + b)`, rows of length 1.

use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::l2_normalize;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use crate::Result;
use crate::layer::linear::Linear;
use crate::weights::ParameterPlan;

/// Lengths below this count as zero (PyTorch's `normalize`).
const EPS: f64 = 1e-12;

/// Weights of one projection.
#[derive(Clone, Copy, Debug)]
pub struct Projection<T: Float> {
    linear: Linear<T>,
}

/// What backward needs from forward; the output last.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    projected: Tensor<T>,
    norm: Tensor<T::Acc>,
    /// `[rows, projection_dim]`, each of length 1.
    pub unit: Tensor<T>,
}

/// Gradients on their way.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    projected: Tensor<T>,
    /// `[rows, projection_dim]`: gradient of `unit`.
    pub unit: Tensor<T>,
}

impl<T: Float> Projection<T> {
    /// Declares `name.weight` and `name.bias`.
    pub fn declare(plan: &mut ParameterPlan<T>, name: &str, width: usize, projection_dim: usize) -> Self {
        Projection { linear: Linear::declare(plan, name, width, projection_dim, true) }
    }

    fn projection_dim(&self) -> usize {
        self.linear.weight.value.rows()
    }

    /// Plans what forward keeps.
    pub fn plan(&self, plan: &mut Plan, name: &str, rows: usize) -> Saved<T> {
        let width = self.projection_dim();
        self.linear.plan(plan, rows);
        plan.under(name, |plan| Saved {
            projected: plan.tensor("projected", [rows, width]),
            norm: plan.tensor("norm", [rows]),
            unit: plan.tensor("unit", [rows, width]),
        })
    }

    /// Plans the gradients.
    pub fn plan_gradients(&self, plan: &mut Plan, name: &str, rows: usize) -> Gradients<T> {
        let width = self.projection_dim();
        plan.under(name, |plan| Gradients {
            projected: plan.tensor("dprojected", [rows, width]),
            unit: plan.tensor("dunit", [rows, width]),
        })
    }

    /// Writes `saved.unit`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, saved: &Saved<T>, x: Tensor<T>) -> Result<()> {
        self.linear.forward(stream, saved.projected, x)?;
        Ok(l2_normalize::forward(stream, l2_normalize::Forward { y: saved.unit, norm: saved.norm, x: saved.projected, eps: EPS })?)
    }

    /// Writes `dx` from `gradients.unit`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, stream: &Stream, saved: &Saved<T>, gradients: &Gradients<T>, dx: Tensor<T>, x: Tensor<T>) -> Result<()> {
        let (y, norm) = (saved.unit, saved.norm);
        l2_normalize::backward(stream, l2_normalize::Backward { dx: gradients.projected, dy: gradients.unit, y, norm, eps: EPS })?;
        self.linear.backward(stream, Some((dx, Epilogue::None)), gradients.projected, x)
    }
}
