//! `dk` and `dv` of attention on tensor cores: a block owns keys and walks the queries of all heads that share them, the last first.

use super::emit::read_lengths;
use super::emit_mma::{
    Fragments, Left, Order, Stepped, Stored, Tile, copy_rows, declare_copies, declare_matrix, lane_address, locate, matrix, write_rows,
};
use super::emit_mma_backward::{begin, statistics_of};
use super::emit_mma_dropout as dropout;
use super::emit_mma_mask::{hide_others, hide_queries, skip_unless_selfish, slab_row};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

/// Where things lie in shared memory: k at 0, v, two stages of q, dout and their statistics (at the end both for all the block's rows),
/// dropout's words.
struct Places {
    values: usize,
    ring: usize,
    stage: usize,
    statistics: usize,
    words: usize,
    own_queries: usize,
    own_douts: usize,
    end: usize,
}

fn places(tile: Tile) -> Places {
    let rows = tile.bytes(tile.rows());
    let (statistics, ring) = (tile.bytes(2 * tile.columns), 2 * rows);
    let stage = statistics + 8 * tile.columns;
    // Keys in registers leave their place to the block's own queries.
    let (own_queries, own_douts) = if tile.keys_are_held() { (0, ring) } else { (ring, ring + rows) };
    let words = (ring + 2 * stage).max(own_douts + rows);
    let end = words + if tile.dropout { tile.warps * dropout::TABLE } else { 0 };
    Places { values: rows, ring, stage, statistics, words, own_queries, own_douts, end }
}

/// Dynamic shared memory.
pub(super) fn shared_bytes(tile: Tile) -> usize {
    places(tile).end
}

/// The module that makes `dk` and `dv`.
pub(super) fn keys(tile: Tile) -> Text {
    let (d, at) = (tile.head_dim, places(tile));
    let about = format!(
        "dk and dv of attention, head size {d}{}, bf16 with sums in f32: scale * sum over queries of p (dp - delta) q, and of p dout.\n\
         Grid: (ceil(key_len / {rows}), kv heads, items). Block: {} threads. Words and statistics as in dq, which runs before.\n\
         Shared: k, v [{rows}], then twice q and dout [{columns} each] and their logarithms and deltas, rows of {} bytes.",
        if tile.dropout { ", with dropout" } else { "" },
        tile.threads(),
        tile.row_bytes(),
        rows = tile.rows(),
        columns = tile.columns,
    );
    let mut kernel = begin(tile, "backward_keys", "dk dv", "dk_stride dv_stride", at.end, about);
    let k = &mut kernel;
    k.regs(Kind::B32, "queries_left start clear_from row limit slab_row own_to statistics_to statistics_at");
    k.regs(Kind::Pred, "inside selfish");
    ptx!(k, "mov.u32 %kv_head, %ctaid.y;");
    for name in ["k", "v"] {
        matrix(k, name, "%kv_head", "%key_len", d);
    }
    for name in ["q", "dout"] {
        declare_matrix(k, name);
    }
    if tile.dropout {
        dropout::declare_by_keys(k, at.words, dropout::TABLE);
    }
    declare_copies(k, tile);
    ptx!(k, "add.u32 %own_to, %shared, %copy_to;\nadd.u32 %ring_to, %own_to, {};", at.ring);
    copy_rows(k, tile, "k", "%own_to", 0, ["0", "%all_keys"]);
    copy_rows(k, tile, "v", "%own_to", at.values, ["0", "%all_keys"]);
    k.note("From %start on some query sees one of these keys, from %clear_from on every query sees all of them.");
    let whole = (tile.columns as u32).wrapping_neg();
    ptx!(k, "sub.s32 %start, %first_row, %offset;\nmax.s32 %start, %start, 0;\nand.b32 %start, %start, {whole:#x};");
    ptx!(k, "add.u32 %clear_from, %first_row, {};\nmin.u32 %clear_from, %clear_from, %keys;", tile.rows());
    ptx!(k, "sub.s32 %clear_from, %clear_from, %offset;\nsub.s32 %clear_from, %clear_from, 1;");
    ptx!(k, "setp.ge.u32 %nothing, %first_row, %keys;\nsetp.ge.or.u32 %nothing, %start, %queries, %nothing;");
    let step = Step::new(k, tile);
    ptx!(k, "mov.u32 %turn, {};", at.stage);
    let (queries, douts) = (Stepped::new(k, tile, "q"), Stepped::new(k, tile, "dout"));
    declare_statistics(k, tile);
    ptx!(k, "@%nothing bra.uni HEADS_DONE;");
    first_head(k, tile, "HEAD_LOOP");
    ptx!(k, "sub.u32 %step_at, %queries, 1;\nand.b32 %step_at, %step_at, {whole:#x};\nsub.u32 %queries_left, %queries, %step_at;");
    for (matrix, offset) in [(&queries, 0), (&douts, tile.bytes(tile.columns))] {
        matrix.start(k, "%step_at");
        matrix.copy(k, "%ring_to", offset, "", Some("%queries_left"));
    }
    copy_first_statistics(k, tile);
    ptx!(k, "setp.lt.s32 %inside, %step_at, %clear_from;\n@%inside bra.uni MASKED_LOOP;");
    for masked in [false, true] {
        let (label, about) = if masked { ("MASKED_LOOP", "some do not see all keys") } else { ("CLEAR_LOOP", "all see every key") };
        ptx!(k, "{label}:\n.pragma \"nounroll\";");
        k.note(format!("{} queries; {about}.", tile.columns));
        ptx!(k, "cp.async.wait_all;\nbar.sync 0;\nsetp.gt.u32 %more, %step_at, %start;\nadd.u32 %ring_to, %ring_to, %turn;");
        for (matrix, offset) in [(&queries, 0), (&douts, tile.bytes(tile.columns))] {
            matrix.copy(k, "%ring_to", offset, "@%more ", None);
        }
        copy_statistics(k, tile);
        step.run(k, tile, masked);
        ptx!(k, "sub.u32 %step_at, %step_at, {};", tile.columns);
        if masked {
            ptx!(k, "@%more bra.uni MASKED_LOOP;");
        } else {
            ptx!(k, "@!%more bra.uni HEAD_DONE;\nsetp.ge.s32 %inside, %step_at, %clear_from;\n@%inside bra.uni CLEAR_LOOP;");
        }
    }
    ptx!(k, "HEAD_DONE:");
    next_head(k, "HEAD_LOOP");
    ptx!(k, "HEADS_DONE:");
    step.finish(k, tile);
    for (name, sums, offset) in [("dk", &step.dk, 0), ("dv", &step.dv, at.values)] {
        matrix(k, name, "%kv_head", "%key_len", d);
        write_rows(k, tile, name, "%key_len", offset, false, sums);
    }
    ptx!(k, "ret;");
    k.text()
}

/// A loop at `label` over the heads of the group, `%head`. Steps leave no registers for the lengths: they are read again here and at
/// the end.
fn first_head(k: &mut Kernel, tile: Tile, label: &str) {
    ptx!(k, "mul.lo.u32 %head, %kv_head, %group;\n{label}:\n.pragma \"nounroll\";");
    read_lengths(k);
    for name in ["q", "dout"] {
        locate(k, name, "%head", "%query_len", tile.head_dim);
    }
    statistics_of(k);
    if tile.dropout {
        ptx!(k, "mad.lo.u32 %plane, %item, %num_heads, %head;");
    }
}

fn next_head(k: &mut Kernel, label: &str) {
    ptx!(k, "add.u32 %head, %head, 1;\nmad.lo.u32 %index, %kv_head, %group, %group;");
    ptx!(k, "setp.lt.u32 %more, %head, %index;\n@%more bra.uni {label};");
}

/// Copies of the statistics of a step's queries: 16 bytes a thread, of the first threads.
fn declare_statistics(k: &mut Kernel, tile: Tile) {
    let (at, quads) = (places(tile), tile.columns / 4);
    k.regs(Kind::B64, "statistics_from");
    k.regs(Kind::Pred, "counts counts_more");
    ptx!(k, "setp.lt.u32 %counts, %thread, {};\nmad.lo.u32 %statistics_to, %thread, 16, %shared;", 2 * quads);
    ptx!(k, "add.u32 %statistics_to, %statistics_to, {};", at.ring + at.statistics);
    ptx!(k, "shl.b32 %statistics_at, %twice, 2;\nadd.u32 %statistics_at, %statistics_at, %shared;");
    ptx!(k, "add.u32 %statistics_at, %statistics_at, {};", at.ring + at.statistics);
}

/// Those of the step at `%step_at`.
fn copy_first_statistics(k: &mut Kernel, tile: Tile) {
    let quads = tile.columns / 4;
    ptx!(k, "and.b32 %index, %thread, {};\nshl.b32 %index, %index, 2;\nadd.u32 %index, %index, %step_at;", quads - 1);
    ptx!(k, "shr.u32 %row, %thread, {};\nmad.lo.u32 %index, %row, %padded, %index;", quads.trailing_zeros());
    ptx!(k, "mul.wide.u32 %bytes, %index, 4;\nadd.u64 %statistics_from, %statistics, %bytes;");
    ptx!(k, "@%counts cp.async.cg.shared.global [%statistics_to], [%statistics_from], 16;");
}

/// Those of the step before, to the other stage, where `%more` holds.
fn copy_statistics(k: &mut Kernel, tile: Tile) {
    ptx!(k, "add.u32 %statistics_to, %statistics_to, %turn;\nsub.u64 %statistics_from, %statistics_from, {};", 4 * tile.columns);
    ptx!(k, "and.pred %counts_more, %counts, %more;");
    ptx!(k, "@%counts_more cp.async.cg.shared.global [%statistics_to], [%statistics_from], 16;");
}

/// Registers of a step of queries: scores and the products of values and dout have rows of keys.
struct Step {
    fragments: Fragments,
    keys: Left,
    values: Left,
    scores: Vec<Vec<Reg>>,
    slopes: Vec<Vec<Reg>>,
    dk: Vec<Vec<Reg>>,
    dv: Vec<Vec<Reg>>,
    logarithms: Vec<Reg>,
    deltas: Vec<Reg>,
    columns: Stored,
    gathered: Stored,
    column_lane: Reg,
    gathered_lane: Reg,
}

impl Step {
    fn new(k: &mut Kernel, tile: Tile) -> Step {
        let fragments = Fragments::new(k, tile);
        let (column_lane, gathered_lane) = (k.reg(Kind::B32, "column_lane"), k.reg(Kind::B32, "gathered_lane"));
        let rows = Stored::new(k, tile, "row_at");
        lane_address(k, tile, &column_lane, Order::RowsFirst, "%warp_row", 0);
        rows.point(k, &column_lane);
        let keys = if tile.keys_are_held() {
            ptx!(k, "cp.async.wait_all;\nbar.sync 0;");
            Left::hold(k, tile, "key", &rows, 0)
        } else {
            Left::Kept(rows.clone(), 0)
        };
        let values = Left::Kept(rows, tile.rows());
        let ring = places(tile).ring;
        lane_address(k, tile, &column_lane, Order::ChunksFirst, "0", ring);
        lane_address(k, tile, &gathered_lane, Order::RowsFirst, "0", ring);
        let [scores, slopes] = ["score", "slope"].map(|name| k.grid(Kind::F32, name, tile.slabs, 4 * tile.column_eighths()));
        let [dk, dv] = ["dk_sum", "dv_sum"].map(|name| k.grid(Kind::F32, name, tile.slabs, 4 * tile.eighths()));
        for sum in dk.iter().chain(&dv).flatten() {
            ptx!(k, "mov.f32 {sum}, {};", float(0.0));
        }
        let [logarithms, deltas] = ["logarithm", "delta"].map(|name| k.array(Kind::F32, name, 2 * tile.column_eighths()));
        let (columns, gathered) = (Stored::new(k, tile, "column_at"), Stored::new(k, tile, "gathered_at"));
        Step { fragments, keys, values, scores, slopes, dk, dv, logarithms, deltas, columns, gathered, column_lane, gathered_lane }
    }

    /// One step over all rows of the warp; then the other stage's turn.
    fn run(&self, k: &mut Kernel, tile: Tile, masked: bool) {
        self.columns.point(k, &self.column_lane);
        self.gathered.point(k, &self.gathered_lane);
        self.fragments.scores(k, &self.keys, 0, &self.columns, 0, &self.scores);
        self.fragments.scores(k, &self.values, 0, &self.columns, tile.columns, &self.slopes);
        for (eighth, (logarithm, delta)) in self.logarithms.chunks(2).zip(self.deltas.chunks(2)).enumerate() {
            ptx!(k, "ld.shared.v2.f32 {{{}, {}}}, [%statistics_at + {}];", logarithm[0], logarithm[1], 32 * eighth);
            ptx!(k, "ld.shared.v2.f32 {{{}, {}}}, [%statistics_at + {}];", delta[0], delta[1], 32 * eighth + 4 * tile.columns);
        }
        for (slab, scores) in self.scores.iter().enumerate() {
            if masked {
                hide_queries(k, scores, slab);
            }
            self.slope(k, tile, slab, scores, &self.slopes[slab], "%step_at");
        }
        self.fragments.gather(k, &self.scores, &self.gathered, tile.columns, &self.dv);
        self.fragments.gather(k, &self.slopes, &self.gathered, 0, &self.dk);
        for at in [&self.column_lane, &self.gathered_lane, &Reg::named("statistics_at")] {
            ptx!(k, "add.u32 {at}, {at}, %turn;");
        }
        ptx!(k, "neg.s32 %turn, %turn;");
    }

    /// Of a slab and the queries from `query` on, `slopes <- p (dp - delta)` and `scores <- p`, what dropout takes left out.
    fn slope(&self, k: &mut Kernel, tile: Tile, slab: usize, scores: &[Reg], slopes: &[Reg], query: &str) {
        let slope = |k: &mut Kernel, index: usize| {
            let (score, slope, column) = (&scores[index], &slopes[index], index / 4 * 2 + index % 2);
            ptx!(k, "fma.rn.f32 {score}, {score}, %score_scale, {};\nex2.approx.ftz.f32 {score}, {score};", self.logarithms[column]);
            if tile.dropout {
                ptx!(k, "selp.f32 %passed, %kept, {}, %stays;\nmul.rn.f32 {slope}, {slope}, %passed;", float(0.0));
            }
            ptx!(k, "sub.rn.f32 {slope}, {slope}, {};\nmul.rn.f32 {slope}, {slope}, {score};", self.deltas[column]);
            if tile.dropout {
                ptx!(k, "selp.f32 {score}, {score}, {}, %stays;", float(0.0));
            }
        };
        if tile.dropout {
            slab_row(k, slab);
            // At head size 128 ptxas spills a register without the barrier.
            let fresh = slab == 0 && tile.eighths() < 16;
            dropout::by_keys(k, scores.len(), query, "%slab_row", fresh, slope);
        } else {
            (0..scores.len()).for_each(|index| slope(k, index));
        }
    }

    /// Leaves out what hidden keys have gathered, adds what rows behind a prefix see of themselves, and scales.
    fn finish(&self, k: &mut Kernel, tile: Tile) {
        k.note("Keys that nobody else sees begin anew.");
        read_lengths(k);
        ptx!(k, "cp.async.wait_all;\nbar.sync 0;");
        for (slab, half) in (0..tile.slabs).flat_map(|slab| [(slab, 0), (slab, 1)]) {
            ptx!(
                k,
                "add.u32 %row, %first_row, %own_row;\nadd.u32 %row, %row, {};\nsetp.lt.u32 %inside, %row, %keys;",
                16 * slab + 8 * half
            );
            for sum in [&self.dk, &self.dv].into_iter().flat_map(|sums| sums[slab].chunks(4)).flat_map(|four| &four[2 * half..2 * half + 2])
            {
                ptx!(k, "selp.f32 {sum}, {sum}, {}, %inside;", float(0.0));
            }
        }
        self.own_queries(k, tile);
        for sum in self.dk.iter().flatten() {
            ptx!(k, "mul.rn.f32 {sum}, {sum}, %scale;");
        }
        if tile.dropout {
            for sum in self.dv.iter().flatten() {
                ptx!(k, "mul.rn.f32 {sum}, {sum}, %kept;");
            }
        }
    }

    /// Keys behind a prefix are seen by their own queries: the diagonal of 16 x 16 products a slab and head.
    fn own_queries(&self, k: &mut Kernel, tile: Tile) {
        let Places { own_queries, own_douts, .. } = places(tile);
        let douts_on = (own_douts - own_queries) / tile.row_bytes();
        k.note("Keys behind a prefix are seen by their own queries.");
        skip_unless_selfish(k, tile, "OWN_DONE");
        lane_address(k, tile, &self.column_lane, Order::ChunksFirst, "%warp_row", own_queries);
        lane_address(k, tile, &self.gathered_lane, Order::RowsFirst, "%warp_row", own_queries);
        self.columns.point(k, &self.column_lane);
        self.gathered.point(k, &self.gathered_lane);
        first_head(k, tile, "OWN_HEAD_LOOP");
        copy_rows(k, tile, "q", "%own_to", own_queries, ["%self_from", "%self_to"]);
        copy_rows(k, tile, "dout", "%own_to", own_douts, ["%self_from", "%self_to"]);
        ptx!(k, "cp.async.wait_all;\nbar.sync 0;");
        for slab in 0..tile.slabs {
            let (scores, slopes) = ([self.scores[slab][..8].to_vec()], [self.slopes[slab][..8].to_vec()]);
            slab_row(k, slab);
            ptx!(k, "add.u32 %index, %slab_row, %twice;\nmul.wide.u32 %bytes, %index, 4;\nadd.u64 %address, %statistics, %bytes;");
            for (eighth, logarithm) in self.logarithms[..4].chunks(2).enumerate() {
                ptx!(k, "ld.global.v2.f32 {{{}, {}}}, [%address + {}];", logarithm[0], logarithm[1], 32 * eighth);
            }
            ptx!(k, "mul.wide.u32 %bytes, %padded, 4;\nadd.u64 %address, %address, %bytes;");
            for (eighth, delta) in self.deltas[..4].chunks(2).enumerate() {
                ptx!(k, "ld.global.v2.f32 {{{}, {}}}, [%address + {}];", delta[0], delta[1], 32 * eighth);
            }
            self.fragments.scores(k, &self.keys, slab, &self.columns, 16 * slab, &scores);
            self.fragments.scores(k, &self.values, slab, &self.columns, douts_on + 16 * slab, &slopes);
            hide_others(k, &scores[0]);
            self.slope(k, tile, slab, &scores[0], &slopes[0], "%slab_row");
            self.fragments.gather(k, &scores, &self.gathered, douts_on + 16 * slab, &self.dv[slab..=slab]);
            self.fragments.gather(k, &slopes, &self.gathered, 16 * slab, &self.dk[slab..=slab]);
        }
        ptx!(k, "bar.sync 0;");
        next_head(k, "OWN_HEAD_LOOP");
        ptx!(k, "OWN_DONE:");
    }
}
