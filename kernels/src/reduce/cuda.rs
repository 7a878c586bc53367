//! Launches of `reduce.ptx`.

use super::{AddAssign, CHUNK_ROWS, ColumnSum};
use crate::Result;
use crate::runtime::{CudaStream, Float, Tensor, entry, variant};

const TEXT: &str = include_str!("reduce.ptx");
/// Updates in bf16; sums are of f32.
const BF16: &str = include_str!("bf16.ptx");

/// Threads of a CTA that sums columns or updates, and of one that sums squares.
const THREADS: u32 = 128;
const SUMMING: usize = 256;
/// Elements of a row that a CTA updates.
const COLUMNS: usize = 512;
/// Rows of the tallest grid.
const TALLEST: usize = 65535;
/// Elements of a row that are worth a CTA that sums squares.
const SQUARES: usize = 16 * SUMMING;
/// Partial sums of squares, one a CTA, whatever the tensors; their total lies behind them.
const PARTIALS: usize = 1024;
const TOTAL: usize = PARTIALS * size_of::<f64>();

/// Bytes of scratch that [`squared_norm`] needs.
pub(super) const NORM_SCRATCH: usize = TOTAL + size_of::<f64>();

pub(super) fn column_sum<T: Float>(stream: &CudaStream, op: &'static str, args: ColumnSum<T>) -> Result<()> {
    let (rows, width) = (args.x.rows(), args.x.width());
    let chunks = rows.div_ceil(CHUNK_ROWS);
    let columns = (width as u32).div_ceil(THREADS);
    stream.need_scratch(op, super::scratch::<T>(rows, width))?;
    stream
        .launch(TEXT, entry::<T>(op, "reduce_column_partial")?, [columns, chunks as u32, 1], THREADS)
        .scratch("partial", 0)
        .read("x", args.x)
        .value("rows", rows as u32)
        .value("width", width as u32)
        .value("x_stride", args.x.row_stride() as u32)
        .value("chunk", CHUNK_ROWS as u32)
        .submit()?;
    stream
        .launch(TEXT, entry::<T>(op, "reduce_column_sum")?, [columns, 1, 1], THREADS)
        .write("sum", args.sum)
        .scratch("partial", 0)
        .value("width", width as u32)
        .value("chunks", chunks as u32)
        .submit()
}

/// Rows, and elements of each; a tensor without gaps is one row.
fn shape<T: Float>(tensors: &[Tensor<T>]) -> [usize; 2] {
    match tensors {
        [first, ..] if !tensors.iter().all(Tensor::is_contiguous) => [first.rows(), first.width()],
        [first, ..] => [1, first.len()],
        [] => [0, 0],
    }
}

pub(super) fn squared_norm<T: Float>(stream: &CudaStream, op: &'static str, tensors: &[Tensor<T>]) -> Result<f64> {
    stream.need_scratch(op, NORM_SCRATCH)?;
    stream.zero_scratch(NORM_SCRATCH)?;
    for tensor in tensors {
        let [rows, width] = shape(&[*tensor]);
        let blocks = width.div_ceil(SQUARES).min(PARTIALS);
        stream
            .launch(TEXT, entry::<T>(op, "reduce_squares")?, [blocks as u32, 1, 1], SUMMING as u32)
            .scratch("partial", 0)
            .read("x", *tensor)
            .value("rows", rows as u32)
            .value("width", width as u32)
            .value("x_stride", tensor.row_stride() as u32)
            .submit()?;
    }
    stream
        .launch(TEXT, "reduce_total_f64", [1, 1, 1], SUMMING as u32)
        .scratch("total", TOTAL)
        .scratch("partial", 0)
        .value("count", PARTIALS as u32)
        .submit()?;
    let mut total = [0.0];
    stream.fetch_scratch(TOTAL, &mut total)?;
    Ok(total[0])
}

pub(super) fn add_assign<T: Float>(stream: &CudaStream, op: &'static str, args: AddAssign<T>) -> Result<()> {
    update(stream, op, args.y, Some(args.x), 1.0)
}

pub(super) fn scale<T: Float>(stream: &CudaStream, op: &'static str, tensors: &[Tensor<T>], factor: f64) -> Result<()> {
    tensors.iter().try_for_each(|tensor| update(stream, op, *tensor, None, factor))
}

fn update<T: Float>(stream: &CudaStream, op: &'static str, y: Tensor<T>, x: Option<Tensor<T>>, factor: f64) -> Result<()> {
    let [rows, width] = shape(&[y, x.unwrap_or(y)]);
    let (text, entry) = variant::<T>(op, "reduce_update", [TEXT, BF16])?;
    stream
        .launch(text, entry, [width.div_ceil(COLUMNS) as u32, rows.min(TALLEST) as u32, 1], THREADS)
        .write("y", y)
        .optional("x", x)
        .value("rows", rows as u32)
        .value("width", width as u32)
        .value("y_stride", y.row_stride() as u32)
        .value("x_stride", x.unwrap_or(y).row_stride() as u32)
        .value("factor", factor as f32)
        .submit()
}
