//! Launches of `pool.ptx`. Lengths stay on the device: one beyond `seq_len` counts as `seq_len` there.

use super::{Backward, Forward, Kind, ScoreBackward, ScoreForward};
use crate::Result;
use crate::runtime::{CudaStream, Float, elementwise, entry};

const TEXT: &str = include_str!("pool.ptx");

/// Columns, or four rows of a warp each, of every CTA here.
const THREADS: usize = 128;

fn number(kind: Kind) -> u32 {
    match kind {
        Kind::Cls => 0,
        Kind::Mean => 1,
        Kind::Weighted => 2,
    }
}

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let (batch, width) = (args.y.rows(), args.y.width());
    let grid = [batch as u32, width.div_ceil(THREADS) as u32, 1];
    stream
        .launch(TEXT, entry::<T>(op, "pool_forward")?, grid, THREADS as u32)
        .write("y", args.y)
        .read("x", args.x)
        .read("lengths", args.lengths)
        .optional("weights", args.weights)
        .value("seq_len", args.seq_len as u32)
        .value("width", width as u32)
        .value("y_stride", args.y.row_stride() as u32)
        .value("x_stride", args.x.row_stride() as u32)
        .value("kind", number(args.kind))
        .submit()
}

pub(super) fn backward<T: Float>(stream: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let (rows, width) = (args.dx.rows(), args.dx.width());
    let (grid, threads) = elementwise(rows, width);
    stream
        .launch(TEXT, entry::<T>(op, "pool_backward")?, grid, threads)
        .write("dx", args.dx)
        .read("dy", args.dy)
        .read("lengths", args.lengths)
        .optional("weights", args.weights)
        .value("rows", rows as u32)
        .value("seq_len", args.seq_len as u32)
        .value("width", width as u32)
        .value("dx_stride", args.dx.row_stride() as u32)
        .value("dy_stride", args.dy.row_stride() as u32)
        .value("kind", number(args.kind))
        .submit()
}

pub(super) fn score_forward<T: Float>(stream: &CudaStream, op: &'static str, args: ScoreForward<T>) -> Result<()> {
    let (rows, width) = (args.query.rows(), args.query.width());
    stream
        .launch(TEXT, entry::<T>(op, "pool_score_forward")?, [rows.div_ceil(THREADS / 32) as u32, 1, 1], THREADS as u32)
        .write("y", args.y)
        .read("query", args.query)
        .read("cell", args.cell)
        .value("rows", rows as u32)
        .value("seq_len", args.seq_len as u32)
        .value("width", width as u32)
        .value("query_stride", args.query.row_stride() as u32)
        .value("cell_stride", args.cell.row_stride() as u32)
        .submit()
}

pub(super) fn score_backward<T: Float>(stream: &CudaStream, op: &'static str, args: ScoreBackward<T>) -> Result<()> {
    let (batch, width) = (args.cell.rows(), args.cell.width());
    let grid = [batch as u32, width.div_ceil(THREADS) as u32, 1];
    stream
        .launch(TEXT, entry::<T>(op, "pool_score_backward")?, grid, THREADS as u32)
        .write("dquery", args.dquery)
        .write("dcell", args.dcell)
        .read("dy", args.dy)
        .read("query", args.query)
        .read("cell", args.cell)
        .value("seq_len", args.seq_len as u32)
        .value("width", width as u32)
        .value("dquery_stride", args.dquery.row_stride() as u32)
        .value("dcell_stride", args.dcell.row_stride() as u32)
        .value("query_stride", args.query.row_stride() as u32)
        .value("cell_stride", args.cell.row_stride() as u32)
        .submit()
}
