//! Launch of `rope.ptx`.

use super::Rotate;
use crate::Result;
use crate::runtime::{CudaStream, Float, elementwise, entry};

const TEXT: &str = include_str!("rope.ptx");

pub(super) fn rotate<T: Float>(stream: &CudaStream, op: &'static str, args: Rotate<T>, direction: f32) -> Result<()> {
    let (rows, width) = (args.x.rows(), args.x.width());
    let (grid, threads) = elementwise(rows, width / 2);
    stream
        .launch(TEXT, entry::<T>(op, "rope_rotate")?, grid, threads)
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
