//! Launches of `dropout.ptx`.

use super::Mask;
use crate::Result;
use crate::runtime::{CudaStream, Float, Tensor, elementwise, entry};

const TEXT: &str = include_str!("dropout.ptx");

/// `y = mask * x / (1 - p) + residual`.
pub(super) fn apply<T: Float>(
    stream: &CudaStream,
    op: &'static str,
    y: Tensor<T>,
    x: Tensor<T>,
    residual: Option<Tensor<T>>,
    mask: Mask,
) -> Result<()> {
    let (rows, width) = (x.rows(), x.width());
    let (grid, threads) = elementwise(rows, width);
    let site = mask.site();
    stream
        .launch(TEXT, entry::<T>(op, "dropout_apply")?, grid, threads)
        .write("y", y)
        .read("x", x)
        .optional("residual", residual)
        .value("rows", rows as u32)
        .value("width", width as u32)
        .value("y_stride", y.row_stride() as u32)
        .value("x_stride", x.row_stride() as u32)
        .value("residual_stride", residual.map_or(0, |residual| residual.row_stride() as u32))
        .value("threshold", mask.threshold())
        .value("scale", mask.scale() as f32)
        .value("seed", site.seed)
        .value("step", site.step as u32)
        .value("site", site.site)
        .submit()
}
