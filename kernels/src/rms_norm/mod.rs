//! Root-mean-square normalisation over the last dimension: `y = x * rstd * weight`, `rstd = 1 / sqrt(mean(x^2) + eps)`.

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
    /// `[rows]`, written: reciprocal root mean square of each row.
    pub rstd: Tensor<T::Acc>,
    /// `[rows, width]`.
    pub x: Tensor<T>,
    /// `[width]`.
    pub weight: Tensor<T>,
    /// Added to the mean square.
    pub eps: f64,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// `[rows, width]`, overwritten.
    pub dx: Tensor<T>,
    /// `[width]`, added to; none when the weight is frozen.
    pub dweight: Option<Tensor<T::Acc>>,
    /// `[rows, width]`: the gradient of a residual branch around the norm, which joins `dx`.
    pub residual: Option<Tensor<T>>,
    /// `[rows, width]`.
    pub dy: Tensor<T>,
    /// `[rows, width]`, as in forward.
    pub x: Tensor<T>,
    /// `[width]`.
    pub weight: Tensor<T>,
    /// `[rows]`, from forward.
    pub rstd: Tensor<T::Acc>,
}

/// Rows that one partial sum of `dweight` covers: fixed, so that the order of the sum never depends on the threads.
const CHUNK: usize = 64;

/// Bytes of scratch that [`backward`] needs.
pub fn scratch<T: Float>(rows: usize, width: usize) -> usize {
    rows.div_ceil(CHUNK) * width * size_of::<T::Acc>()
}

/// `y = x * rstd * weight`, row by row; `x * rstd` is rounded to the element type before the weight, as Llama does it.
///
/// # Shapes
/// `x`, `y`: `[rows, width]`; `weight`: `[width]`; `rstd`: `[rows]`, kept for [`backward`].
/// # Errors
/// `Shape` when a length differs.
/// # Source
/// Zhang & Sennrich 2019, eq. 4; order of the roundings as in Hugging Face `LlamaRMSNorm`.
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "rms_norm::forward";
    let (rows, width) = (args.x.rows(), args.x.width());
    expect_shape(OP, "y", &[rows, width], &[args.y.rows(), args.y.width()])?;
    expect_shape(OP, "rstd", &[rows], &args.rstd.shape())?;
    expect_shape(OP, "weight", &[width], &args.weight.shape())?;
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::forward(stream, cpu, args);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::forward(cuda, OP, args),
    }
}

/// With `xhat = x * rstd` and `g = dy * weight`: `dx = residual + rstd * (g - xhat * mean(g * xhat))`; `dweight += sum_rows(dy * xhat)`.
///
/// # Shapes
/// As in [`forward`]. Scratch: [`scratch`].
/// # Errors
/// `Shape` when a length differs, `Scratch` when the stream has too little.
/// # Source
/// Derivative of [`forward`].
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "rms_norm::backward";
    let (rows, width) = (args.x.rows(), args.x.width());
    expect_shape(OP, "dx", &[rows, width], &[args.dx.rows(), args.dx.width()])?;
    expect_shape(OP, "dy", &[rows, width], &[args.dy.rows(), args.dy.width()])?;
    expect_shape(OP, "weight", &[width], &args.weight.shape())?;
    expect_shape(OP, "rstd", &[rows], &args.rstd.shape())?;
    args.residual.map_or(Ok(()), |residual| expect_shape(OP, "residual", &[rows, width], &[residual.rows(), residual.width()]))?;
    args.dweight.map_or(Ok(()), |gradient| expect_shape(OP, "dweight", &[width], &gradient.shape()))?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::backward(stream, cpu, OP, args),
        Target::Cuda(cuda) => cuda::backward(cuda, OP, args),
    }
}
