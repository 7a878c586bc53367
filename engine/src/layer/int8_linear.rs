//! `y = x W^T` with a frozen W of one byte a weight, and what stands in for a layer that may be such a one.

use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::int8_gemm::{self, Weight};
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_kernels::swiglu;

use super::linear::Linear;
use crate::Result;
use crate::weights::ParameterPlan;

/// A frozen weight in int8, with a scale for every output.
#[derive(Clone, Copy, Debug)]
pub struct Int8Linear<T: Float> {
    weight: Weight<T>,
}

impl<T: Float> Int8Linear<T> {
    /// Declares checkpoint tensors `(name, outputs)` one below the other; see [`ParameterPlan::quantized`].
    pub fn declare(plan: &mut ParameterPlan<T>, parts: &[(&str, usize)], input: usize) -> Self {
        Int8Linear { weight: plan.quantized(parts, input) }
    }

    /// `y = x W^T + residual`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn forward(&self, stream: &Stream, y: Tensor<T>, x: Tensor<T>, residual: Option<Tensor<T>>) -> Result<()> {
        Ok(int8_gemm::forward(stream, int8_gemm::Forward { y, x, weight: self.weight, residual })?)
    }
}

/// A linear layer without bias, in the type of its activations or frozen in int8.
#[derive(Clone, Copy, Debug)]
pub enum Base<T: Float> {
    /// Weights as parameters.
    Plain(Linear<T>),
    /// Frozen weights.
    Int8(Int8Linear<T>),
}

impl<T: Float> Base<T> {
    /// See [`Linear::plan`].
    pub fn plan(&self, plan: &mut Plan, rows: usize) {
        if let Base::Plain(linear) = self {
            linear.plan(plan, rows);
        }
    }

    /// `y = epilogue(x W^T)`; in int8 the epilogue is none, a residual or, as a pass of its own, the gate.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn forward_with(&self, stream: &Stream, y: Tensor<T>, x: Tensor<T>, epilogue: Epilogue<T>) -> Result<()> {
        match (self, epilogue) {
            (Base::Plain(linear), epilogue) => linear.forward_with(stream, y, x, epilogue),
            (Base::Int8(linear), Epilogue::Residual { residual }) => linear.forward(stream, y, x, Some(residual)),
            (Base::Int8(linear), Epilogue::SwiGlu { gate_up }) => {
                linear.forward(stream, gate_up, x, None)?;
                let (gate, up) = (gate_up.columns(0, y.width()), gate_up.columns(y.width(), y.width()));
                Ok(swiglu::forward(stream, swiglu::Forward { y, gate, up })?)
            }
            (Base::Int8(linear), epilogue) => {
                debug_assert!(matches!(epilogue, Epilogue::None), "layers of a language model have no biases");
                linear.forward(stream, y, x, None)
            }
        }
    }

    /// See [`Linear::backward`]; in int8 there is only `dx`, which has no epilogue.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, stream: &Stream, dx: Option<(Tensor<T>, Epilogue<T>)>, dy: Tensor<T>, x: Tensor<T>) -> Result<()> {
        match (self, dx) {
            (Base::Plain(linear), dx) => linear.backward(stream, dx, dy, x),
            (Base::Int8(_), None) => Ok(()),
            (Base::Int8(linear), Some((dx, epilogue))) => {
                debug_assert!(matches!(epilogue, Epilogue::None), "layers of a language model have no biases");
                Ok(int8_gemm::backward(stream, int8_gemm::Backward { dx, dy, weight: linear.weight })?)
            }
        }
    }

    /// The weights as parameters, where they are.
    pub fn plain(&self) -> Option<Tensor<T>> {
        match self {
            Base::Plain(linear) => Some(linear.weight.value),
            Base::Int8(_) => None,
        }
    }
}
