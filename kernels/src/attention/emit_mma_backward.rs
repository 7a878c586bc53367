//! `dq` of attention on tensor cores, and the statistics of queries that `dk` and `dv` need too.
//!
//! Steps of keys run backwards as in forward. Probabilities are computed again from the saved logarithms; every sum belongs to one lane
//! and grows in one order.

use super::emit::{LENGTHS, lengths};
use super::emit_dropout as philox;
use super::emit_mma::{
    Fragments, Left, Order, Stepped, Stored, Tile, copy_rows, declare_copies, lane_address, matrix, positions, write_rows,
};
use super::emit_mma_dropout as dropout;
use super::emit_mma_mask::{edges, hide_keys, hide_others, skip_unless_selfish, slab_row};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// Statistics of a head are as long as whole blocks of queries, this many.
pub(super) const STATISTICS: usize = 128;

/// Dynamic shared memory of `dq`: q (later dropout's words, then dq) and dout, two stages of keys and values.
pub(super) fn shared_bytes(tile: Tile) -> usize {
    tile.bytes(2 * tile.rows() + 4 * tile.columns)
}

/// What both backward texts begin with.
pub(super) fn begin(tile: Tile, pass: &str, outputs: &'static str, strides: &'static str, shared: usize, about: String) -> Kernel {
    let mut kernel = Kernel::new(tile.name(pass), about);
    let k = &mut kernel;
    k.params(".u64", outputs);
    k.params(".u64", "dout saved logsumexp q k v");
    k.params(".u64", LENGTHS);
    k.params(".u32", "query_len key_len num_heads group offset");
    k.params(".u32", strides);
    k.params(".u32", "dout_stride saved_stride q_stride k_stride v_stride");
    k.params(".f32", "score_scale scale");
    philox::params(k, tile.dropout);
    k.params(".u64", "statistics");
    k.block(tile.threads(), tile.blocks());
    k.dynamic_shared(shared);
    positions(k, tile);
    k.regs(Kind::B32, "num_heads step_at turn ring_to padded");
    k.regs(Kind::B64, "statistics statistics_step");
    k.regs(Kind::Pred, "nothing more");
    k.regs(Kind::F32, "score_scale scale passed");
    ptx!(k, "ld.param.u32 %group, [group];\nld.param.u32 %num_heads, [num_heads];");
    ptx!(k, "ld.param.f32 %score_scale, [score_scale];\nld.param.f32 %scale, [scale];");
    philox::declare(k, tile.dropout);
    lengths(k);
    kernel
}

/// `%statistics`: of the item's head, a logarithm in units of ln 2 with its sign changed and then a delta for each of `%padded` queries.
pub(super) fn statistics_of(k: &mut Kernel) {
    ptx!(k, "ld.param.u64 %statistics, [statistics];\ncvta.to.global.u64 %statistics, %statistics;");
    ptx!(k, "add.u32 %padded, %query_len, {};\nand.b32 %padded, %padded, {:#x};", STATISTICS - 1, (STATISTICS as u32).wrapping_neg());
    ptx!(k, "mul.wide.u32 %statistics_step, %padded, 8;\nmad.lo.u32 %index, %item, %num_heads, %head;");
    ptx!(k, "cvt.u64.u32 %bytes, %index;\nmad.lo.u64 %statistics, %bytes, %statistics_step, %statistics;");
}

/// The module that makes `dq` and the statistics.
pub(super) fn queries(tile: Tile) -> Text {
    let d = tile.head_dim;
    let about = format!(
        "dq of attention, head size {d}{}, bf16 with sums in f32: scale * sum over keys of p (dp - delta) k; and the statistics of queries.\n\
         Grid: (ceil(query_len / {rows}), heads, items). Block: {} threads. saved is forward's out; other words as in forward.\n\
         Statistics: [item, head, 2, query_len rounded up to {STATISTICS}], logarithms in units of ln 2 with their sign changed, deltas.\n\
         Shared: q (later dq), dout [{rows}], then twice k and v [{} each], rows of {} bytes.",
        if tile.dropout { ", with dropout" } else { "" },
        tile.threads(),
        tile.columns,
        tile.row_bytes(),
        rows = tile.rows(),
    );
    let mut kernel = begin(tile, "backward_queries", "dq", "dq_stride", shared_bytes(tile), about);
    let k = &mut kernel;
    k.regs(Kind::B32, "seen_left clear_at q_to");
    ptx!(k, "mov.u32 %head, %ctaid.y;\ndiv.u32 %kv_head, %head, %group;");
    if tile.dropout {
        ptx!(k, "mad.lo.u32 %plane, %item, %num_heads, %head;");
        dropout::declare_by_queries(k, 0, tile.bytes(tile.warp_rows()));
    }
    for name in ["q", "dout", "saved", "dq"] {
        matrix(k, name, "%head", "%query_len", d);
    }
    for name in ["k", "v"] {
        matrix(k, name, "%kv_head", "%key_len", d);
    }
    statistics_of(k);
    edges(k, tile);
    declare_copies(k, tile);
    let ring = 2 * tile.bytes(tile.rows());
    ptx!(k, "add.u32 %q_to, %shared, %copy_to;\nadd.u32 %ring_to, %q_to, {ring};");
    copy_rows(k, tile, "q", "%q_to", 0, ["0", "%queries"]);
    copy_rows(k, tile, "dout", "%q_to", tile.bytes(tile.rows()), ["0", "%queries"]);
    ptx!(
        k,
        "max.u32 %step_at, %seen, 1;\nsub.u32 %step_at, %step_at, 1;\nand.b32 %step_at, %step_at, {:#x};",
        (tile.columns as u32).wrapping_neg()
    );
    ptx!(k, "sub.u32 %seen_left, %seen, %step_at;");
    let (keys, values) = (Stepped::new(k, tile, "k"), Stepped::new(k, tile, "v"));
    keys.start(k, "%step_at");
    values.start(k, "%step_at");
    keys.copy(k, "%ring_to", 0, "", Some("%seen_left"));
    values.copy(k, "%ring_to", tile.bytes(tile.columns), "", Some("%seen_left"));
    make_statistics(k, tile);
    ptx!(k, "cp.async.wait_all;\nbar.sync 0;\nmov.u32 %turn, {};", tile.bytes(2 * tile.columns));
    let step = Step::new(k, tile);
    ptx!(k, "setp.eq.u32 %nothing, %seen, 0;\n@%nothing bra.uni KEYS_DONE;");
    ptx!(k, "add.u32 %clear_at, %step_at, {};\nsetp.le.u32 %inside, %clear_at, %clear;\n@%inside bra.uni CLEAR_LOOP;", tile.columns);
    for masked in [true, false] {
        let (label, about) = if masked { ("MASKED_LOOP", "some rows do not see all of") } else { ("CLEAR_LOOP", "every row sees") };
        ptx!(k, "{label}:\n.pragma \"nounroll\";");
        k.note(format!("{} keys; {about} them.", tile.columns));
        ptx!(k, "cp.async.wait_all;\nbar.sync 0;\nsetp.ne.u32 %more, %step_at, 0;\nadd.u32 %ring_to, %ring_to, %turn;");
        for (matrix, offset) in [(&keys, 0), (&values, tile.bytes(tile.columns))] {
            matrix.copy(k, "%ring_to", offset, "@%more ", None);
        }
        step.run(k, tile, masked);
        ptx!(k, "sub.u32 %step_at, %step_at, {};", tile.columns);
        if masked {
            ptx!(k, "@!%more bra.uni KEYS_DONE;\nadd.u32 %clear_at, %step_at, {};", tile.columns);
            ptx!(k, "setp.gt.u32 %inside, %clear_at, %clear;\n@%inside bra.uni MASKED_LOOP;");
        } else {
            ptx!(k, "@%more bra.uni CLEAR_LOOP;");
        }
    }
    ptx!(k, "KEYS_DONE:\nbar.sync 0;");
    step.own_keys(k, tile);
    for sum in step.sums.iter().flatten() {
        ptx!(k, "mul.rn.f32 {sum}, {sum}, %scale;");
    }
    write_rows(k, tile, "dq", "%query_len", 0, tile.dropout, &step.sums);
    ptx!(k, "ret;");
    k.text()
}

/// `delta = dout . out` of the warp's rows, a chunk a lane, and their logarithms; padding and rows that saw nothing get -inf, which
/// makes their probabilities 0.
fn make_statistics(k: &mut Kernel, tile: Tile) {
    let chunks = tile.chunks();
    k.regs(Kind::B32, "saved_0 saved_1 saved_2 saved_3 dout_0 dout_1 dout_2 dout_3 part other_part row_chunk");
    k.regs(Kind::F32, "delta natural logarithm");
    k.regs(Kind::B64, "logsumexp place_of");
    k.regs(Kind::Pred, "unseen first_lane");
    ptx!(k, "ld.param.u64 %logsumexp, [logsumexp];\ncvta.to.global.u64 %logsumexp, %logsumexp;");
    ptx!(k, "mad.lo.u32 %index, %item, %num_heads, %head;\nmul.wide.u32 %bytes, %index, %query_len;\nshl.b64 %bytes, %bytes, 2;");
    ptx!(k, "add.u64 %logsumexp, %logsumexp, %bytes;\nand.b32 %row_chunk, %lane, {};\nsetp.eq.u32 %first_lane, %row_chunk, 0;", chunks - 1);
    for row in (0..tile.warp_rows()).step_by(32 / chunks) {
        k.note(format!("Statistics of {} rows.", 32 / chunks));
        ptx!(k, "shr.u32 %row, %lane, {};\nadd.u32 %row, %row, %warp_row;", chunks.trailing_zeros());
        ptx!(k, "add.u32 %row, %row, %first_row;\nadd.u32 %row, %row, {row};");
        ptx!(k, "setp.lt.u32 %inside, %row, %queries;\nsetp.lt.and.u32 %copied, %row_chunk, {}, %inside;", tile.eighths());
        for name in ["saved", "dout"] {
            ptx!(k, "mad.wide.u32 %address, %row, %{name}_row_step, %{name};\nmul.wide.u32 %bytes, %row_chunk, 16;");
            ptx!(k, "add.u64 %address, %address, %bytes;");
            for part in 0..4 {
                ptx!(k, "mov.b32 %{name}_{part}, 0;");
            }
            ptx!(k, "@%copied ld.global.v4.b32 {{%{name}_0, %{name}_1, %{name}_2, %{name}_3}}, [%address];");
        }
        ptx!(k, "mov.f32 %delta, {};", float(0.0));
        for part in 0..4 {
            for (low, mask) in [("shl.b32", "16"), ("and.b32", "0xffff0000")] {
                ptx!(k, "{low} %part, %saved_{part}, {mask};\n{low} %other_part, %dout_{part}, {mask};");
                ptx!(k, "mov.b32 %natural, %part;\nmov.b32 %passed, %other_part;\nfma.rn.f32 %delta, %natural, %passed, %delta;");
            }
        }
        for distance in (0..chunks.trailing_zeros()).map(|bit| 1 << bit) {
            ptx!(k, "shfl.sync.bfly.b32 %passed, %delta, {distance}, 31, 0xffffffff;\nadd.rn.f32 %delta, %delta, %passed;");
        }
        ptx!(k, "mul.wide.u32 %bytes, %row, 4;\nadd.u64 %address, %logsumexp, %bytes;\nmov.f32 %natural, {};", float(f32::NEG_INFINITY));
        ptx!(k, "@%inside ld.global.f32 %natural, [%address];\nsetp.eq.f32 %unseen, %natural, {};", float(f32::NEG_INFINITY));
        ptx!(k, "mul.rn.f32 %logarithm, %natural, {};\nselp.f32 %logarithm, %natural, %logarithm, %unseen;", float(-LOG2_E));
        ptx!(k, "add.u64 %place_of, %statistics, %bytes;\n@%first_lane st.global.f32 [%place_of], %logarithm;");
        ptx!(k, "mul.wide.u32 %bytes, %padded, 4;\nadd.u64 %place_of, %place_of, %bytes;\n@%first_lane st.global.f32 [%place_of], %delta;");
    }
}

/// Registers of a step of keys: of every slab the scores, the products of dout and values, the sums, and the statistics of its two rows.
struct Step {
    fragments: Fragments,
    queries: Left,
    douts: Left,
    scores: Vec<Vec<Reg>>,
    slopes: Vec<Vec<Reg>>,
    sums: Vec<Vec<Reg>>,
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
        let (queries, douts) = (Left::hold(k, tile, "query", &rows, 0), Left::hold(k, tile, "dout_part", &rows, tile.rows()));
        let ring = 2 * tile.bytes(tile.rows());
        lane_address(k, tile, &column_lane, Order::ChunksFirst, "0", ring);
        lane_address(k, tile, &gathered_lane, Order::RowsFirst, "0", ring);
        let [scores, slopes] = ["score", "slope"].map(|name| k.grid(Kind::F32, name, tile.slabs, 4 * tile.column_eighths()));
        let sums = k.grid(Kind::F32, "sum", tile.slabs, 4 * tile.eighths());
        for sum in sums.iter().flatten() {
            ptx!(k, "mov.f32 {sum}, {};", float(0.0));
        }
        let [logarithms, deltas] = ["logarithm_of", "delta_of"].map(|name| k.array(Kind::F32, name, 2 * tile.slabs));
        k.note("The statistics of the lane's rows.");
        ptx!(k, "add.u32 %row, %first_row, %own_row;\nmul.wide.u32 %bytes, %row, 4;\nadd.u64 %address, %statistics, %bytes;");
        ptx!(k, "mul.wide.u32 %bytes, %padded, 4;\nadd.u64 %place_of, %address, %bytes;");
        for (index, (logarithm, delta)) in logarithms.iter().zip(&deltas).enumerate() {
            ptx!(k, "ld.global.f32 {logarithm}, [%address + {}];\nld.global.f32 {delta}, [%place_of + {}];", 32 * index, 32 * index);
        }
        let (columns, gathered) = (Stored::new(k, tile, "column_at"), Stored::new(k, tile, "gathered_at"));
        Step { fragments, queries, douts, scores, slopes, sums, logarithms, deltas, columns, gathered, column_lane, gathered_lane }
    }

    /// One step over all rows of the warp; then the other stage's turn.
    fn run(&self, k: &mut Kernel, tile: Tile, masked: bool) {
        self.columns.point(k, &self.column_lane);
        self.gathered.point(k, &self.gathered_lane);
        self.fragments.scores(k, &self.queries, 0, &self.columns, 0, &self.scores);
        self.fragments.scores(k, &self.douts, 0, &self.columns, tile.columns, &self.slopes);
        for (slab, scores) in self.scores.iter().enumerate() {
            if masked {
                hide_keys(k, scores, slab);
            }
            self.slope(k, tile, slab, scores, &self.slopes[slab], "%step_at");
        }
        self.fragments.gather(k, &self.slopes, &self.gathered, 0, &self.sums);
        for lane in [&self.column_lane, &self.gathered_lane] {
            ptx!(k, "add.u32 {lane}, {lane}, %turn;");
        }
        ptx!(k, "neg.s32 %turn, %turn;");
    }

    /// `slopes <- p (dp - delta)` of a slab and the keys from `key` on.
    fn slope(&self, k: &mut Kernel, tile: Tile, slab: usize, scores: &[Reg], slopes: &[Reg], key: &str) {
        if tile.dropout {
            slab_row(k, slab);
            dropout::by_queries(k, slopes.len(), "%slab_row", key, slab == 0, |k, index| {
                ptx!(k, "selp.f32 %passed, %kept, {}, %stays;\nmul.rn.f32 {slope}, {slope}, %passed;", float(0.0), slope = slopes[index]);
            });
        }
        for (index, (score, slope)) in scores.iter().zip(slopes).enumerate() {
            let row = 2 * slab + index / 2 % 2;
            ptx!(k, "fma.rn.f32 {score}, {score}, %score_scale, {};\nex2.approx.ftz.f32 {score}, {score};", self.logarithms[row]);
            ptx!(k, "sub.rn.f32 {slope}, {slope}, {};\nmul.rn.f32 {slope}, {slope}, {score};", self.deltas[row]);
        }
    }

    /// Rows behind a prefix see themselves: the diagonal of 16 x 16 products a slab.
    fn own_keys(&self, k: &mut Kernel, tile: Tile) {
        k.note("Rows behind a prefix see themselves too: the block's own keys and values, in the places of the ring and of dout.");
        skip_unless_selfish(k, tile, "OWN_DONE");
        let (values, keys) = (tile.bytes(tile.rows()), 2 * tile.bytes(tile.rows()));
        copy_rows(k, tile, "k", "%q_to", keys, ["%self_from", "%self_to"]);
        copy_rows(k, tile, "v", "%q_to", values, ["%self_from", "%self_to"]);
        lane_address(k, tile, &self.column_lane, Order::ChunksFirst, "%warp_row", values);
        lane_address(k, tile, &self.gathered_lane, Order::RowsFirst, "%warp_row", keys);
        self.columns.point(k, &self.column_lane);
        self.gathered.point(k, &self.gathered_lane);
        ptx!(k, "cp.async.wait_all;\nbar.sync 0;");
        for slab in 0..tile.slabs {
            let (scores, slopes) = ([self.scores[slab][..8].to_vec()], [self.slopes[slab][..8].to_vec()]);
            self.fragments.scores(k, &self.queries, slab, &self.columns, tile.rows() + 16 * slab, &scores);
            self.fragments.scores(k, &self.douts, slab, &self.columns, 16 * slab, &slopes);
            slab_row(k, slab);
            hide_others(k, &scores[0]);
            self.slope(k, tile, slab, &scores[0], &slopes[0], "%slab_row");
            self.fragments.gather(k, &slopes, &self.gathered, 16 * slab, &self.sums[slab..=slab]);
        }
        ptx!(k, "OWN_DONE:");
    }
}
