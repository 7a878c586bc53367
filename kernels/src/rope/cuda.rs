//! Launch of `rope.ptx`.

use super::Rotate;
use crate::Result;
use crate::runtime::{CudaStream, Float, elementwise, variant};

/// In f32 and in bf16.
const TEXTS: [&str; 2] = [include_str!("rope.ptx"), include_str!("bf16.ptx")];

pub(super) fn rotate<T: Float>(stream: &CudaStream, op: &'static str, args: Rotate<T>, direction: f32) -> Result<()> {
    let (rows, width) = (args.x.rows(), args.x.width());
    let (grid, threads) = elementwise(rows, width / 2);
    let (text, entry) = variant::<T>(op, "rope_rotate", TEXTS)?;
    stream
        .launch(text, entry, grid, threads)
        .write("y", args.y)
        .read("x", args.x)
        .read("positions", args.positions)
        .read("cos", args.table.cos)
        .read("sin", args.table.sin)
        .value("rows", rows as u32)
        .value("width", width as u32)
        .value("pairs", args.table.cos.width() as u32)
        .value("y_stride", args.y.row_stride() as u32)
        .value("x_stride", args.x.row_stride() as u32)
        .value("direction", direction)
        .submit()
}
