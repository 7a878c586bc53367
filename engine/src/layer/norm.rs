//! Layer normalisation with its parameters and statistics.

use scmmgpt_kernels::layer_norm;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use crate::Result;
use crate::weights::{Init, Parameter, ParameterPlan};

/// Weights of a layer norm.
#[derive(Clone, Copy, Debug)]
pub struct Norm<T: Float> {
    /// `[width]`.
    pub weight: Parameter<T>,
    /// `[width]`.
    pub bias: Parameter<T>,
    /// Added to the variance.
    pub eps: f64,
}

/// Statistics of one application.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    /// `[rows]`.
    pub mean: Tensor<T::Acc>,
    /// `[rows]`.
    pub rstd: Tensor<T::Acc>,
}

impl<T: Float> Norm<T> {
    /// Declares `name.weight` (ones) and `name.bias` (zeros).
    pub fn declare(plan: &mut ParameterPlan<T>, name: impl std::fmt::Display, width: usize, eps: f64) -> Self {
        plan.under(name, |plan| Norm {
            weight: plan.parameter("weight", [width], Init::Ones),
            bias: plan.parameter("bias", [width], Init::Zeros),
            eps,
        })
    }

    /// Plans the statistics of `rows` rows, and states the scratch of backward.
    pub fn plan(&self, plan: &mut Plan, name: &str, rows: usize) -> Saved<T> {
        plan.scratch(layer_norm::scratch::<T>(rows, self.weight.value.len()));
        plan.under(name, |plan| Saved { mean: plan.tensor("mean", [rows]), rstd: plan.tensor("rstd", [rows]) })
    }

    /// `y = norm(x)`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn forward(&self, stream: &Stream, saved: Saved<T>, y: Tensor<T>, x: Tensor<T>) -> Result<()> {
        let Saved { mean, rstd } = saved;
        let (weight, bias) = (self.weight.value, self.bias.value);
        Ok(layer_norm::forward(stream, layer_norm::Forward { y, mean, rstd, x, weight, bias, eps: self.eps })?)
    }

    /// `dx`, and the parameters' gradients.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn backward(&self, stream: &Stream, saved: Saved<T>, dx: Tensor<T>, dy: Tensor<T>, x: Tensor<T>) -> Result<()> {
        let Saved { mean, rstd } = saved;
        let (dweight, dbias) = (self.weight.gradient, self.bias.gradient);
        Ok(layer_norm::backward(stream, layer_norm::Backward { dx, dweight, dbias, dy, x, weight: self.weight.value, mean, rstd })?)
    }
}
