//! Rows of unit length: `y = x / max(||x||, eps)`.

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
    /// `[rows]`, written: `||x||` of each row, as it is.
    pub norm: Tensor<T::Acc>,
    /// `[rows, width]`.
    pub x: Tensor<T>,
    /// Shortest length that is divided by, 1e-12 in torch.
    pub eps: f64,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// `[rows, width]`, overwritten.
    pub dx: Tensor<T>,
    /// `[rows, width]`.
    pub dy: Tensor<T>,
    /// `[rows, width]`, from forward.
    pub y: Tensor<T>,
    /// `[rows]`, from forward.
    pub norm: Tensor<T::Acc>,
    /// As in forward.
    pub eps: f64,
}

/// `y = x / max(norm, eps)`, `norm = sqrt(sum(x^2))`, row by row. NaN in a row makes the whole row NaN.
///
/// # Shapes
/// `x`, `y`: `[rows, width]`; `norm`: `[rows]`, kept for [`backward`].
/// # Errors
/// `Shape` when a length differs.
/// # Source
/// `torch.nn.functional.normalize` with p = 2.
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "l2_normalize::forward";
    expect_shape(OP, "y", &[args.x.rows(), args.x.width()], &[args.y.rows(), args.y.width()])?;
    expect_shape(OP, "norm", &[args.x.rows()], &[args.norm.len()])?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::forward(stream, cpu, args),
        Target::Cuda(cuda) => cuda::forward(cuda, OP, args),
    }
}

/// `dx = (dy - y * sum(y * dy)) / norm`; in rows shorter than `eps`, `dx = dy / eps`.
///
/// # Shapes
/// As in [`forward`].
/// # Errors
/// `Shape` when a length differs.
/// # Source
/// Derivative of [`forward`]; `clamp_min` passes no gradient to the norm below `eps`.
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "l2_normalize::backward";
    let shape = [args.y.rows(), args.y.width()];
    expect_shape(OP, "dx", &shape, &[args.dx.rows(), args.dx.width()])?;
    expect_shape(OP, "dy", &shape, &[args.dy.rows(), args.dy.width()])?;
    expect_shape(OP, "norm", &[args.y.rows()], &[args.norm.len()])?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::backward(stream, cpu, args),
        Target::Cuda(cuda) => cuda::backward(cuda, OP, args),
    }
}
