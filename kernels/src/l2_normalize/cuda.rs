//! Launches of `l2_normalize.ptx`.

use super::{Backward, Forward};
use crate::Result;
use crate::runtime::{CudaStream, Float, entry};

const TEXT: &str = include_str!("l2_normalize.ptx");

/// Rows a CTA: one a warp.
const ROWS: usize = 4;
/// Threads of every CTA here.
const THREADS: u32 = 128;

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let (rows, width) = (args.x.rows(), args.x.width());
    stream
        .launch(TEXT, entry::<T>(op, "l2_normalize_forward")?, [rows.div_ceil(ROWS) as u32, 1, 1], THREADS)
        .write("y", args.y)
        .write("norm", args.norm)
        .read("x", args.x)
        .value("rows", rows as u32)
        .value("width", width as u32)
        .value("y_stride", args.y.row_stride() as u32)
        .value("x_stride", args.x.row_stride() as u32)
        .value("eps", args.eps as f32)
        .submit()
}

pub(super) fn backward<T: Float>(stream: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let (rows, width) = (args.y.rows(), args.y.width());
    stream
        .launch(TEXT, entry::<T>(op, "l2_normalize_backward")?, [rows.div_ceil(ROWS) as u32, 1, 1], THREADS)
        .write("dx", args.dx)
        .read("dy", args.dy)
        .read("y", args.y)
        .read("norm", args.norm)
        .value("rows", rows as u32)
        .value("width", width as u32)
        .value("dx_stride", args.dx.row_stride() as u32)
        .value("dy_stride", args.dy.row_stride() as u32)
        .value("y_stride", args.y.row_stride() as u32)
        .value("eps", args.eps as f32)
        .submit()
}
