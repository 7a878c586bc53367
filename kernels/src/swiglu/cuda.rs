//! Launches of `swiglu.ptx`.

use super::{Backward, Forward};
use crate::Result;
use crate::runtime::{CudaStream, Float, elementwise, variant};

/// In f32 and in bf16.
const TEXTS: [&str; 2] = [include_str!("swiglu.ptx"), include_str!("bf16.ptx")];

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let (rows, width) = (args.gate.rows(), args.gate.width());
    let (grid, threads) = elementwise(rows, width);
    let (text, entry) = variant::<T>(op, "swiglu_forward", TEXTS)?;
    stream
        .launch(text, entry, grid, threads)
        .write("y", args.y)
        .read("gate", args.gate)
        .read("up", args.up)
        .value("rows", rows as u32)
        .value("width", width as u32)
        .value("y_stride", args.y.row_stride() as u32)
        .value("gate_stride", args.gate.row_stride() as u32)
        .value("up_stride", args.up.row_stride() as u32)
        .submit()
}

pub(super) fn backward<T: Float>(stream: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let (rows, width) = (args.gate.rows(), args.gate.width());
    let (grid, threads) = elementwise(rows, width);
    let (text, entry) = variant::<T>(op, "swiglu_backward", TEXTS)?;
    stream
        .launch(text, entry, grid, threads)
        .write("dgate", args.dgate)
        .write("dup", args.dup)
        .read("dy", args.dy)
        .read("gate", args.gate)
        .read("up", args.up)
        .value("rows", rows as u32)
        .value("width", width as u32)
        .value("dgate_stride", args.dgate.row_stride() as u32)
        .value("dup_stride", args.dup.row_stride() as u32)
        .value("dy_stride", args.dy.row_stride() as u32)
        .value("gate_stride", args.gate.row_stride() as u32)
        .value("up_stride", args.up.row_stride() as u32)
        .submit()
}
