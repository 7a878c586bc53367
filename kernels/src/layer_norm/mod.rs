//! Layer normalisation over the last dimension, with an optional residual input.
//!
//! `y = (x - mean) * rstd * weight + bias`, `rstd = 1 / sqrt(variance + eps)`, biased variance.

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
    /// `[rows]`, written: mean of each row.
    pub mean: Tensor<T::Acc>,
    /// `[rows]`, written: reciprocal standard deviation of each row.
    pub rstd: Tensor<T::Acc>,
    /// `[rows, width]`.
    pub x: Tensor<T>,
    /// `[width]`.
    pub weight: Tensor<T>,
    /// `[width]`.
    pub bias: Tensor<T>,
    /// Added to the variance.
    pub eps: f64,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// `[rows, width]`, overwritten.
    pub dx: Tensor<T>,
    /// `[width]`, added to; none when the weight is frozen.
    pub dweight: Option<Tensor<T::Acc>>,
    /// `[width]`, added to; none when the bias is frozen.
    pub dbias: Option<Tensor<T::Acc>>,
    /// `[rows, width]`.
    pub dy: Tensor<T>,
    /// `[rows, width]`, as in forward.
    pub x: Tensor<T>,
    /// `[width]`.
    pub weight: Tensor<T>,
    /// `[rows]`, from forward.
    pub mean: Tensor<T::Acc>,
    /// `[rows]`, from forward.
    pub rstd: Tensor<T::Acc>,
}

/// Rows that one partial sum of `dweight` and `dbias` covers: fixed, so that the order of the sum never depends on the threads.
const CHUNK: usize = 64;

/// Bytes of scratch that [`backward`] needs.
pub fn scratch<T: Float>(rows: usize, width: usize) -> usize {
    rows.div_ceil(CHUNK) * 2 * width * size_of::<T::Acc>()
}

/// `y = (x - mean) * rstd * weight + bias`, row by row.
///
/// # Shapes
/// `x`, `y`: `[rows, width]`; `weight`, `bias`: `[width]`; `mean`, `rstd`: `[rows]`, kept for [`backward`].
/// # Errors
/// `Shape` when a length differs.
/// # Source
/// Ba, Kiros & Hinton 2016, eq. 3 and 4; two-pass variance.
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    let (rows, width) = (args.x.rows(), args.x.width());
    const OP: &str = "layer_norm::forward";
    expect_shape(OP, "y", &[rows, width], &[args.y.rows(), args.y.width()])?;
    expect_shape(OP, "mean", &[rows], &args.mean.shape())?;
    expect_shape(OP, "rstd", &[rows], &args.rstd.shape())?;
    expect_shape(OP, "weight", &[width], &args.weight.shape())?;
    expect_shape(OP, "bias", &[width], &args.bias.shape())?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::forward(stream, cpu, args),
        Target::Cuda(cuda) => cuda::forward(cuda, OP, args),
    }
}

/// With `xhat = (x - mean) * rstd` and `g = dy * weight`: `dx = rstd * (g - mean(g) - xhat * mean(g * xhat))`;
/// `dweight += sum_rows(dy * xhat)`; `dbias += sum_rows(dy)`.
///
/// # Shapes
/// As in [`forward`]. Scratch: [`scratch`].
/// # Errors
/// `Shape` when a length differs, `Scratch` when the stream has too little.
/// # Source
/// Derivative of [`forward`].
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    let (rows, width) = (args.x.rows(), args.x.width());
    const OP: &str = "layer_norm::backward";
    expect_shape(OP, "dx", &[rows, width], &[args.dx.rows(), args.dx.width()])?;
    expect_shape(OP, "dy", &[rows, width], &[args.dy.rows(), args.dy.width()])?;
    expect_shape(OP, "weight", &[width], &args.weight.shape())?;
    expect_shape(OP, "mean", &[rows], &args.mean.shape())?;
    expect_shape(OP, "rstd", &[rows], &args.rstd.shape())?;
    for (name, gradient) in [("dweight", args.dweight), ("dbias", args.dbias)] {
        gradient.map_or(Ok(()), |gradient| expect_shape(OP, name, &[width], &gradient.shape()))?;
    }
    match stream.target() {
        Target::Cpu(cpu) => cpu::backward(stream, cpu, args),
        Target::Cuda(cuda) => cuda::backward(cuda, OP, args),
    }
}
