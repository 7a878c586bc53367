//! Launches of `embedding.ptx`, and of `sorted.ptx`, which brings tokens into the order of their ids. Ids stay on the device: one that
//! names no row is not refused there, but gives a row of NaN, which every later sum carries on.

use super::{Backward, Forward};
use crate::Result;
use crate::runtime::{CudaStream, Float, Launch, Tensor, variant};

/// In f32 and in bf16.
const TEXTS: [&str; 2] = [include_str!("embedding.ptx"), include_str!("bf16.ptx")];
const SORTED: &str = include_str!("sorted.ptx");

/// Threads of a CTA, and its warps.
const THREADS: u32 = 128;
const WARPS: usize = 4;
/// Columns that a warp sums.
const COLUMNS: usize = 128;
/// Tokens that a warp sorts.
const TILE: usize = 256;
/// Bits of a digit, and digits.
const BITS: u32 = 5;
const DIGITS: usize = 1 << BITS;

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let tokens = args.ids.len();
    let (text, entry) = variant::<T>(op, "embedding_forward", TEXTS)?;
    stream
        .launch(text, entry, [tokens.div_ceil(WARPS) as u32, 1, 1], THREADS)
        .write("y", args.y)
        .read("table", args.table)
        .read("ids", args.ids)
        .value("tokens", tokens as u32)
        .value("rows", args.table.rows() as u32)
        .value("width", args.table.width() as u32)
        .value("y_stride", args.y.row_stride() as u32)
        .value("table_stride", args.table.row_stride() as u32)
        .submit()
}

pub(super) fn backward<T: Float>(stream: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let (tokens, rows, width) = (args.ids.len(), args.dtable.rows(), args.dtable.width());
    let (text, entry) = variant::<T>(op, "embedding_backward", TEXTS)?;
    let order = sort(stream, op, Ids::Tensor(args.ids), tokens, rows, 0)?;
    stream
        .launch(text, entry, [tokens.div_ceil(WARPS) as u32, width.div_ceil(COLUMNS) as u32, 1], THREADS)
        .write("dtable", args.dtable)
        .read("dy", args.dy)
        .read("ids", args.ids)
        .scratch("order", order)
        .value("tokens", tokens as u32)
        .value("rows", rows as u32)
        .value("width", width as u32)
        .value("dtable_stride", args.dtable.row_stride() as u32)
        .value("dy_stride", args.dy.row_stride() as u32)
        .value("padding_id", args.padding_id.unwrap_or(u32::MAX))
        .submit()
}

/// Bytes of scratch that [`sort`] needs: the tokens twice, and every tile's digits.
pub(crate) fn scratch(tokens: usize) -> usize {
    (2 * tokens + DIGITS * tokens.div_ceil(TILE)) * size_of::<u32>()
}

/// What tokens are sorted by.
#[derive(Clone, Copy)]
pub(crate) enum Ids {
    /// `[tokens]`.
    Tensor(Tensor<u32>),
    /// `[tokens]` in the scratch from this byte on.
    Scratch(usize),
}

impl Ids {
    fn argument(self, launch: Launch<'_>) -> Launch<'_> {
        match self {
            Ids::Tensor(ids) => launch.read("ids", ids),
            Ids::Scratch(start) => launch.scratch("ids", start),
        }
    }
}

/// Sorts the tokens by (id, token) in the scratch from byte `start` on, and returns the byte from which they lie there. Ids that are not
/// below `rows` come last.
pub(crate) fn sort(stream: &CudaStream, op: &'static str, ids: Ids, tokens: usize, rows: usize, start: usize) -> Result<usize> {
    stream.need_scratch(op, start + scratch(tokens))?;
    let tiles = tokens.div_ceil(TILE);
    let lists = [start, start + tokens * size_of::<u32>()];
    let counts = start + 2 * tokens * size_of::<u32>();
    let grid = [tiles.div_ceil(WARPS) as u32, 1, 1];
    // As many digits as `rows`, the largest number that is sorted, has.
    let passes = (u32::BITS - (rows as u32).leading_zeros()).div_ceil(BITS).max(1) as usize;
    for pass in 0..passes {
        let (target, source) = (lists[pass % 2], (pass > 0).then(|| lists[(pass + 1) % 2]));
        let shift = pass as u32 * BITS;
        let launch = stream.launch(SORTED, "embedding_count_u32", grid, THREADS);
        ids.argument(launch.scratch("counts", counts).optional_scratch("source", source))
            .value("tokens", tokens as u32)
            .value("tiles", tiles as u32)
            .value("rows", rows as u32)
            .value("shift", shift)
            .submit()?;
        stream
            .launch(SORTED, "embedding_offsets_u32", [1, 1, 1], (DIGITS * 32) as u32)
            .scratch("counts", counts)
            .value("tiles", tiles as u32)
            .submit()?;
        let launch = stream.launch(SORTED, "embedding_place_u32", grid, THREADS).scratch("order", target);
        ids.argument(launch.scratch("counts", counts).optional_scratch("source", source))
            .value("tokens", tokens as u32)
            .value("tiles", tiles as u32)
            .value("rows", rows as u32)
            .value("shift", shift)
            .submit()?;
    }
    Ok(lists[(passes + 1) % 2])
}
