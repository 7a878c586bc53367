//! Launches of top-k: the base in segments that are searched side by side, then their lists as one; lists longer than a warp's in rounds.

use super::{Forward, emit, emit_list};
use crate::runtime::{CudaStream, Float, emit::kept};
use crate::{Error, Result};

/// Entries of a lane in short and in long lists; a round finds as many rows as the long ones hold.
pub(super) const SLOTS: [usize; 2] = [1, 4];
const ROUND: usize = 32 * SLOTS[1];
/// Blocks that fill a large device, and tiles that are worth a block of their own.
const BLOCKS: usize = 512;
const TILES: usize = 8;

/// How the work is cut, from the shapes alone.
struct Cut {
    /// Blocks side by side over the queries.
    blocks: usize,
    /// Tiles of a segment.
    tiles: usize,
    segments: usize,
    /// Entries of a lane.
    slots: usize,
}

impl Cut {
    fn new(queries: usize, rows: usize, k: usize) -> Cut {
        let (blocks, tiles) = (queries.div_ceil(emit::QUERIES), rows.div_ceil(emit::ROWS));
        let segments = BLOCKS.div_ceil(blocks.max(1)).min(tiles.div_ceil(TILES)).max(1);
        let each = tiles.div_ceil(segments).max(1);
        Cut { blocks, tiles: each, segments: tiles.div_ceil(each).max(1), slots: SLOTS[usize::from(k > 32 * SLOTS[0])] }
    }

    /// Queries that lists are kept for.
    fn list_rows(&self) -> usize {
        self.blocks * emit::QUERIES
    }

    fn list_bytes(&self) -> usize {
        self.segments * self.list_rows() * 32 * self.slots * size_of::<u64>()
    }
}

/// Bytes of scratch: the lists, and a bound a query.
pub(super) fn scratch(queries: usize, rows: usize, k: usize) -> usize {
    let cut = Cut::new(queries, rows, k);
    cut.list_bytes() + cut.list_rows() * size_of::<u64>()
}

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    if T::NAME != "f32" {
        return Err(Error::NoCudaKernel { op, element: T::NAME });
    }
    let (queries, rows, k) = (args.query.rows(), args.base.rows(), args.k);
    let cut = Cut::new(queries, rows, k);
    stream.need_scratch(op, scratch(queries, rows, k))?;
    let (select, merge) = (emit::entry(args.metric, cut.slots), emit_list::name(cut.slots));
    let select_text = kept(&select, || emit::text(args.metric, cut.slots));
    let merge_text = kept(&merge, || emit_list::text(cut.slots));
    for column in (0..k).step_by(ROUND) {
        let found = ROUND.min(k - column);
        stream
            .launch(select_text, select.clone(), [cut.blocks as u32, cut.segments as u32, 1], emit::THREADS as u32)
            .scratch("lists", 0)
            .optional_scratch("bounds", (column > 0).then(|| cut.list_bytes()))
            .read("query", args.query)
            .read("base", args.base)
            .value("queries", queries as u32)
            .value("rows", rows as u32)
            .value("width", args.query.width() as u32)
            .value("query_stride", args.query.row_stride() as u32)
            .value("base_stride", args.base.row_stride() as u32)
            .value("k", found as u32)
            .value("tiles", cut.tiles as u32)
            .submit()?;
        stream
            .launch(merge_text, merge.clone(), [queries.div_ceil(4) as u32, 1, 1], 128)
            .write("scores", args.scores)
            .write("indices", args.indices)
            .scratch("bounds", cut.list_bytes())
            .scratch("lists", 0)
            .value("queries", queries as u32)
            .value("list_rows", cut.list_rows() as u32)
            .value("segments", cut.segments as u32)
            .value("k", found as u32)
            .value("column", column as u32)
            .value("scores_stride", args.scores.row_stride() as u32)
            .value("indices_stride", args.indices.row_stride() as u32)
            .submit()?;
    }
    Ok(())
}
