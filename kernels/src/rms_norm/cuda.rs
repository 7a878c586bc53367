//! Launches of `rms_norm.ptx`.

use super::{Backward, CHUNK, Forward};
use crate::Result;
use crate::runtime::{CudaStream, Float, variant};

/// In f32 and in bf16.
const TEXTS: [&str; 2] = [include_str!("rms_norm.ptx"), include_str!("bf16.ptx")];

/// Rows a CTA: one a warp.
const ROWS: usize = 4;
/// Threads of every CTA here.
const THREADS: u32 = 128;

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let (rows, width) = (args.x.rows(), args.x.width());
    let (text, entry) = variant::<T>(op, "rms_norm_forward", TEXTS)?;
    stream
        .launch(text, entry, [rows.div_ceil(ROWS) as u32, 1, 1], THREADS)
        .write("y", args.y)
        .write("rstd", args.rstd)
        .read("x", args.x)
        .read("weight", args.weight)
        .value("rows", rows as u32)
        .value("width", width as u32)
        .value("y_stride", args.y.row_stride() as u32)
        .value("x_stride", args.x.row_stride() as u32)
        .value("inverse_width", 1.0 / width as f32)
        .value("eps", args.eps as f32)
        .submit()
}

pub(super) fn backward<T: Float>(stream: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let (rows, width) = (args.x.rows(), args.x.width());
    let chunks = rows.div_ceil(CHUNK);
    // The weight's gradient first: dx may lie where dy does.
    if let Some(dweight) = args.dweight {
        stream.need_scratch(op, super::scratch::<T>(rows, width))?;
        let columns = (width as u32).div_ceil(THREADS);
        let (text, entry) = variant::<T>(op, "rms_norm_partial", TEXTS)?;
        stream
            .launch(text, entry, [columns, chunks as u32, 1], THREADS)
            .scratch("partial", 0)
            .read("dy", args.dy)
            .read("x", args.x)
            .read("rstd", args.rstd)
            .value("rows", rows as u32)
            .value("width", width as u32)
            .value("dy_stride", args.dy.row_stride() as u32)
            .value("x_stride", args.x.row_stride() as u32)
            .value("chunk", CHUNK as u32)
            .submit()?;
        stream
            .launch(TEXTS[0], "rms_norm_combine_f32", [columns, 1, 1], THREADS)
            .write("dweight", dweight)
            .scratch("partial", 0)
            .value("width", width as u32)
            .value("chunks", chunks as u32)
            .submit()?;
    }
    let (text, entry) = variant::<T>(op, "rms_norm_input_gradient", TEXTS)?;
    stream
        .launch(text, entry, [rows.div_ceil(ROWS) as u32, 1, 1], THREADS)
        .write("dx", args.dx)
        .optional("residual", args.residual)
        .read("dy", args.dy)
        .read("x", args.x)
        .read("weight", args.weight)
        .read("rstd", args.rstd)
        .value("rows", rows as u32)
        .value("width", width as u32)
        .value("dx_stride", args.dx.row_stride() as u32)
        .value("residual_stride", args.residual.map_or(0, |residual| residual.row_stride()) as u32)
        .value("dy_stride", args.dy.row_stride() as u32)
        .value("x_stride", args.x.row_stride() as u32)
        .value("inverse_width", 1.0 / width as f32)
        .submit()
}
