//! Launches of `activation.ptx`.

use super::{Backward, Forward, Kind};
use crate::Result;
use crate::runtime::{CudaStream, Float, elementwise, entry};

const TEXT: &str = include_str!("activation.ptx");

/// The text's number of a function, and the slope of its negative side.
fn number(kind: Kind) -> (u32, f32) {
    match kind {
        Kind::Relu => (0, 0.0),
        Kind::Gelu => (1, 0.0),
        Kind::LeakyRelu { slope } => (2, slope as f32),
        Kind::Sigmoid => (3, 0.0),
    }
}

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let (rows, width) = (args.x.rows(), args.x.width());
    let ((grid, threads), (kind, slope)) = (elementwise(rows, width), number(args.kind));
    stream
        .launch(TEXT, entry::<T>(op, "activation_forward")?, grid, threads)
        .write("y", args.y)
        .read("x", args.x)
        .value("rows", rows as u32)
        .value("width", width as u32)
        .value("y_stride", args.y.row_stride() as u32)
        .value("x_stride", args.x.row_stride() as u32)
        .value("kind", kind)
        .value("slope", slope)
        .submit()
}

pub(super) fn backward<T: Float>(stream: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let (rows, width) = (args.x.rows(), args.x.width());
    let ((grid, threads), (kind, slope)) = (elementwise(rows, width), number(args.kind));
    stream
        .launch(TEXT, entry::<T>(op, "activation_backward")?, grid, threads)
        .write("dx", args.dx)
        .read("dy", args.dy)
        .read("x", args.x)
        .value("rows", rows as u32)
        .value("width", width as u32)
        .value("dx_stride", args.dx.row_stride() as u32)
        .value("dy_stride", args.dy.row_stride() as u32)
        .value("x_stride", args.x.row_stride() as u32)
        .value("kind", kind)
        .value("slope", slope)
        .submit()
}
