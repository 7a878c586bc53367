//! Launches of `select.ptx`.

use super::Forward;
use crate::Result;
use crate::runtime::{CudaStream, Float, elementwise, entry};

const TEXT: &str = include_str!("select.ptx");

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let (rows, width) = (args.y.rows(), args.y.width());
    let (grid, threads) = elementwise(rows, width);
    let stride = |tensor: Option<crate::runtime::Tensor<T>>| tensor.map_or(0, |tensor| tensor.row_stride() as u32);
    stream
        .launch(TEXT, entry::<T>(op, "select_forward")?, grid, threads)
        .write("y", args.y)
        .optional("head", args.head)
        .optional("tail", args.tail)
        .read("lengths", args.lengths)
        .value("rows", rows as u32)
        .value("seq_len", args.seq_len as u32)
        .value("width", width as u32)
        .value("y_stride", args.y.row_stride() as u32)
        .value("head_stride", stride(args.head))
        .value("tail_stride", stride(args.tail))
        .submit()
}
