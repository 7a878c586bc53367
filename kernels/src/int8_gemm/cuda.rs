//! Launches of `int8_gemm.ptx` and `bf16.ptx`.

use super::{Backward, Forward};
use crate::Result;
use crate::runtime::{CudaStream, Float, variant};

/// In f32 and in bf16.
const TEXTS: [&str; 2] = [include_str!("int8_gemm.ptx"), include_str!("bf16.ptx")];

/// Threads of every CTA: four warps.
const THREADS: u32 = 128;
/// Outputs a CTA: one a warp.
const OUTPUTS: usize = 4;
/// Rows a warp, or a thread of the gradient: each integer is read once for them.
const ROWS: usize = 4;
/// Most CTAs across the rows; they go on in steps.
const MOST: usize = 65_535;

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let (m, n, k) = (args.x.rows(), args.y.width(), args.x.width());
    let (text, entry) = variant::<T>(op, "int8_gemm_forward", TEXTS)?;
    stream
        .launch(text, entry, [n.div_ceil(OUTPUTS) as u32, m.div_ceil(ROWS).min(MOST) as u32, 1], THREADS)
        .write("y", args.y)
        .read("x", args.x)
        .read("words", args.weight.words)
        .read("scale", args.weight.scale)
        .optional("residual", args.residual)
        .value("m", m as u32)
        .value("n", n as u32)
        .value("k", k as u32)
        .value("y_stride", args.y.row_stride() as u32)
        .value("x_stride", args.x.row_stride() as u32)
        .value("words_stride", args.weight.words.row_stride() as u32)
        .value("residual_stride", args.residual.map_or(0, |residual| residual.row_stride()) as u32)
        .submit()
}

pub(super) fn backward<T: Float>(stream: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let (m, n, k) = (args.dy.rows(), args.dy.width(), args.dx.width());
    let (text, entry) = variant::<T>(op, "int8_gemm_backward", TEXTS)?;
    stream
        .launch(text, entry, [(super::words(k) as u32).div_ceil(THREADS), m.min(MOST) as u32, 1], THREADS)
        .write("dx", args.dx)
        .read("dy", args.dy)
        .read("words", args.weight.words)
        .read("scale", args.weight.scale)
        .value("m", m as u32)
        .value("n", n as u32)
        .value("k", k as u32)
        .value("dx_stride", args.dx.row_stride() as u32)
        .value("dy_stride", args.dy.row_stride() as u32)
        .value("words_stride", args.weight.words.row_stride() as u32)
        .submit()
}
