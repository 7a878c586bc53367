//! Masked mean squared error of gene expression: `loss = sum(((prediction - target) * mask)^2) / sum(mask)`.

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
    /// `[1]`, written.
    pub loss: Tensor<T::Acc>,
    /// `[1]`, written: the loss's denominator.
    pub mask_sum: Tensor<T::Acc>,
    /// `[n]`.
    pub prediction: Tensor<T>,
    /// `[n]`.
    pub target: Tensor<T::Acc>,
    /// `[n]`: 1 where the position counts, 0 where it does not.
    pub mask: Tensor<T::Acc>,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// `[n]`, overwritten.
    pub dprediction: Tensor<T>,
    /// `[1]`.
    pub dloss: Tensor<T::Acc>,
    /// `[n]`, as in forward.
    pub prediction: Tensor<T>,
    /// `[n]`, as in forward.
    pub target: Tensor<T::Acc>,
    /// `[n]`, as in forward.
    pub mask: Tensor<T::Acc>,
    /// `[1]`, from forward.
    pub mask_sum: Tensor<T::Acc>,
}

/// `loss = sum(((prediction - target) * mask)^2) / sum(mask)`, 0 when `sum(mask)` is 0. NaN is not masked: 0 times NaN is NaN.
///
/// # Shapes
/// `prediction`, `target`, `mask`: `n` elements in any shape; `loss`, `mask_sum`: `[1]`.
/// # Errors
/// `Shape` when a length differs.
/// # Source
/// scGPT `loss.py`, `masked_mse_loss`.
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "mse::forward";
    check(OP, args.prediction, args.target, args.mask, args.mask_sum)?;
    expect_shape(OP, "loss", &[1], &args.loss.shape())?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::forward(stream, cpu, args),
        Target::Cuda(cuda) => cuda::forward(cuda, OP, args),
    }
}

/// `dprediction = dloss * 2 * (prediction - target) * mask^2 / sum(mask)`, 0 when `sum(mask)` is 0.
///
/// # Shapes
/// As in [`forward`].
/// # Errors
/// `Shape` when a length differs.
/// # Source
/// Derivative of [`forward`].
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "mse::backward";
    check(OP, args.prediction, args.target, args.mask, args.mask_sum)?;
    expect_shape(OP, "dprediction", &[args.prediction.len()], &[args.dprediction.len()])?;
    expect_shape(OP, "dloss", &[1], &args.dloss.shape())?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::backward(stream, cpu, args),
        Target::Cuda(cuda) => cuda::backward(cuda, OP, args),
    }
}

fn check<T: Float>(
    op: &'static str,
    prediction: Tensor<T>,
    target: Tensor<T::Acc>,
    mask: Tensor<T::Acc>,
    mask_sum: Tensor<T::Acc>,
) -> Result<()> {
    expect_shape(op, "target", &[prediction.len()], &[target.len()])?;
    expect_shape(op, "mask", &[prediction.len()], &[mask.len()])?;
    expect_shape(op, "mask_sum", &[1], &mask_sum.shape())
}
