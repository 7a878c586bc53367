//! Root-mean-square normalisation with its weight and statistic.

use scmmgpt_kernels::rms_norm;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use crate::Result;
use crate::weights::{Init, Parameter, ParameterPlan};

/// Weight of a norm.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<T: Float> {
    /// `[width]`.
    pub weight: Parameter<T>,
    eps: f64,
}

/// The statistic of one application.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    rstd: Tensor<T::Acc>,
}

impl<T: Float> RmsNorm<T> {
    /// Declares `name.weight` (ones).
    pub fn declare(plan: &mut ParameterPlan<T>, name: &str, width: usize, eps: f64) -> Self {
        RmsNorm { weight: plan.under(name, |plan| plan.parameter("weight", [width], Init::Ones)), eps }
    }

    /// Plans the statistic of `rows` rows, and states the scratch of backward.
    pub fn plan(&self, plan: &mut Plan, name: &str, rows: usize) -> Saved<T> {
        plan.scratch(rms_norm::scratch::<T>(rows, self.weight.value.len()));
        plan.under(name, |plan| Saved { rstd: plan.tensor("rstd", [rows]) })
    }

    /// `y = norm(x)`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn forward(&self, stream: &Stream, saved: Saved<T>, y: Tensor<T>, x: Tensor<T>) -> Result<()> {
        Ok(rms_norm::forward(stream, rms_norm::Forward { y, rstd: saved.rstd, x, weight: self.weight.value, eps: self.eps })?)
    }

    /// `dx = residual + d(norm)`, and the weight's gradient.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn backward(
        &self,
        stream: &Stream,
        saved: Saved<T>,
        dx: Tensor<T>,
        residual: Option<Tensor<T>>,
        dy: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let Parameter { value: weight, gradient: dweight } = self.weight;
        Ok(rms_norm::backward(stream, rms_norm::Backward { dx, dweight, residual, dy, x, weight, rstd: saved.rstd })?)
    }
}
