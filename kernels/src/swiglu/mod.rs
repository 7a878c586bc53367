//! The gate of Llama's feed-forward part: `y = silu(gate) * up`, `silu(x) = x / (1 + exp(-x))`.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cuda;

use crate::Result;
use crate::error::expect_shape;
use crate::runtime::{Float, Stream, Target, Tensor};

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[rows, width]`, written.
    pub y: Tensor<T>,
    /// `[rows, width]`; may be columns of a wider matrix.
    pub gate: Tensor<T>,
    /// `[rows, width]`; may be columns of a wider matrix.
    pub up: Tensor<T>,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// `[rows, width]`, overwritten.
    pub dgate: Tensor<T>,
    /// `[rows, width]`, overwritten.
    pub dup: Tensor<T>,
    /// `[rows, width]`.
    pub dy: Tensor<T>,
    /// `[rows, width]`, as in forward.
    pub gate: Tensor<T>,
    /// `[rows, width]`, as in forward.
    pub up: Tensor<T>,
}

/// `y = silu(gate) * up`.
///
/// # Shapes
/// All `[rows, width]`.
/// # Errors
/// `Shape` when they differ.
/// # Source
/// Shazeer 2020, "GLU variants improve transformer", eq. 6 (SwiGLU without its products).
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "swiglu::forward";
    let shape = [args.gate.rows(), args.gate.width()];
    expect_shape(OP, "up", &shape, &[args.up.rows(), args.up.width()])?;
    expect_shape(OP, "y", &shape, &[args.y.rows(), args.y.width()])?;
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::forward(stream, cpu, args);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::forward(cuda, OP, args),
    }
}

/// With `s = 1 / (1 + exp(-gate))`: `dgate = dy * up * s * (1 + gate * (1 - s))`, `dup = dy * gate * s`.
///
/// # Shapes
/// All `[rows, width]`.
/// # Errors
/// `Shape` when they differ.
/// # Source
/// Derivative of [`forward`].
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "swiglu::backward";
    let shape = [args.gate.rows(), args.gate.width()];
    for (name, tensor) in [("up", args.up), ("dy", args.dy), ("dgate", args.dgate), ("dup", args.dup)] {
        expect_shape(OP, name, &shape, &[tensor.rows(), tensor.width()])?;
    }
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::backward(stream, cpu, args);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::backward(cuda, OP, args),
    }
}
