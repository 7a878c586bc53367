//! Attention forward on tensor cores: FlashAttention-2 with the last keys first.
//!
//! Steps of keys run backwards, so that those which need a mask or an end come before the loop that has neither, and every copy
//! ahead is of whole steps.

use super::emit::{LENGTHS, lengths};
use super::emit_dropout as philox;
use super::emit_mma::{
    Fragments, Left, Order, Stepped, Stored, Tile, copy_rows, declare_copies, lane_address, matrix, positions, write_rows,
};
use super::emit_mma_dropout as dropout;
use super::emit_mma_mask::{edges, hide_keys, hide_others, skip_unless_selfish, slab_row};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

const MINUS_INFINITY: f32 = f32::NEG_INFINITY;

/// Dynamic shared memory: queries (later dropout's words, then the output), two stages of keys and values.
pub(super) fn shared_bytes(tile: Tile) -> usize {
    tile.bytes(tile.rows() + 4 * tile.columns)
}

/// What a lane keeps: of every slab its accumulators of the output, and of its two rows the maximum and its share of the sum.
struct Rows {
    sums: Vec<Vec<Reg>>,
    top: Vec<Reg>,
    weight: Vec<Reg>,
}

/// The module of a variant.
pub(super) fn text(tile: Tile) -> Text {
    let d = tile.head_dim;
    let about = format!(
        "out = softmax(scale q k^T) v and the logarithm of each row's sum, head size {d}{}, bf16 with sums in f32.\n\
         Grid: (ceil(query_len / {rows}), heads, items). Block: {} threads. Strides count elements; score_scale is scale / ln 2;\n\
         offset is key_len - query_len under a causal mask, else 2^30. Rows begin at multiples of 16 bytes.\n\
         Shared: q (later out) [{rows}], then twice k and v [{} each], rows of {} bytes.",
        if tile.dropout { ", with dropout" } else { "" },
        tile.threads(),
        tile.columns,
        tile.row_bytes(),
        rows = tile.rows(),
    );
    let mut kernel = Kernel::new(tile.name("forward"), about);
    let k = &mut kernel;
    k.params(".u64", "out logsumexp q k v");
    k.params(".u64", LENGTHS);
    k.params(".u32", "query_len key_len num_heads group offset out_stride q_stride k_stride v_stride");
    k.params(".f32", "score_scale");
    philox::params(k, tile.dropout);
    k.block(tile.threads(), tile.blocks());
    k.dynamic_shared(shared_bytes(tile));
    positions(k, tile);
    k.regs(Kind::B32, "num_heads step_at ring_to ring_sum seen_left clear_at");
    k.regs(Kind::Pred, "nothing more writes");
    k.regs(Kind::F32, "score_scale minus_scale passed base factor highest inverse");
    ptx!(k, "mov.u32 %head, %ctaid.y;");
    ptx!(k, "ld.param.u32 %group, [group];\nld.param.u32 %num_heads, [num_heads];\ndiv.u32 %kv_head, %head, %group;");
    ptx!(k, "ld.param.f32 %score_scale, [score_scale];\nneg.f32 %minus_scale, %score_scale;");
    philox::declare(k, tile.dropout);
    if tile.dropout {
        ptx!(k, "mad.lo.u32 %plane, %item, %num_heads, %head;");
        dropout::declare_by_queries(k, 0, tile.bytes(tile.warp_rows()));
    }
    lengths(k);
    for (name, head, rows) in [("q", "%head", "%query_len"), ("k", "%kv_head", "%key_len"), ("v", "%kv_head", "%key_len")] {
        matrix(k, name, head, rows, d);
    }
    edges(k, tile);
    let fragments = Fragments::new(k, tile);
    let rows = Rows {
        sums: k.grid(Kind::F32, "sum", tile.slabs, 4 * tile.eighths()),
        top: k.array(Kind::F32, "top", 2 * tile.slabs),
        weight: k.array(Kind::F32, "weight", 2 * tile.slabs),
    };
    for (top, weight) in rows.top.iter().zip(&rows.weight) {
        ptx!(k, "mov.f32 {top}, {};\nmov.f32 {weight}, {};", float(MINUS_INFINITY), float(0.0));
    }
    for sum in rows.sums.iter().flatten() {
        ptx!(k, "mov.f32 {sum}, {};", float(0.0));
    }
    k.note("The queries and the last step of keys.");
    declare_copies(k, tile);
    k.regs(Kind::B32, "q_to");
    ptx!(k, "add.u32 %q_to, %shared, %copy_to;\nadd.u32 %ring_to, %q_to, {};", tile.bytes(tile.rows()));
    copy_rows(k, tile, "q", "%q_to", 0, ["0", "%queries"]);
    ptx!(
        k,
        "max.u32 %step_at, %seen, 1;\nsub.u32 %step_at, %step_at, 1;\nand.b32 %step_at, %step_at, {:#x};",
        0u32.wrapping_sub(tile.columns as u32)
    );
    ptx!(k, "sub.u32 %seen_left, %seen, %step_at;");
    let (keys, values) = (Stepped::new(k, tile, "k"), Stepped::new(k, tile, "v"));
    keys.start(k, "%step_at");
    values.start(k, "%step_at");
    keys.copy(k, "%ring_to", 0, "", Some("%seen_left"));
    values.copy(k, "%ring_to", tile.bytes(tile.columns), "", Some("%seen_left"));
    ptx!(k, "cp.async.wait_all;\nbar.sync 0;");
    both_stages(k, tile, "%ring_sum", "%ring_to");
    let step = Step::new(k, tile, fragments);
    ptx!(k, "setp.eq.u32 %nothing, %seen, 0;\n@%nothing bra.uni KEYS_DONE;");
    ptx!(k, "add.u32 %clear_at, %step_at, {};\nsetp.le.u32 %inside, %clear_at, %clear;\n@%inside bra.uni CLEAR_LOOP;", tile.columns);
    for masked in [true, false] {
        let (label, about) = if masked { ("MASKED_LOOP", "some rows do not see all of") } else { ("CLEAR_LOOP", "every row sees") };
        ptx!(k, "{label}:\n.pragma \"nounroll\";");
        k.note(format!("{} keys; {about} them.", tile.columns));
        ptx!(k, "cp.async.wait_all;\nbar.sync 0;\nsetp.ne.u32 %more, %step_at, 0;\nsub.u32 %ring_to, %ring_sum, %ring_to;");
        for (matrix, offset) in [(&keys, 0), (&values, tile.bytes(tile.columns))] {
            matrix.copy(k, "%ring_to", offset, "@%more ", None);
        }
        step.run(k, tile, &rows, masked);
        ptx!(k, "sub.u32 %step_at, %step_at, {};", tile.columns);
        if masked {
            ptx!(k, "@!%more bra.uni KEYS_DONE;\nadd.u32 %clear_at, %step_at, {};", tile.columns);
            ptx!(k, "setp.gt.u32 %inside, %clear_at, %clear;\n@%inside bra.uni MASKED_LOOP;");
        } else {
            ptx!(k, "@%more bra.uni CLEAR_LOOP;");
        }
    }
    ptx!(k, "KEYS_DONE:\nbar.sync 0;");
    step.own_keys(k, tile, &rows);
    write(k, tile, &rows);
    ptx!(k, "ret;");
    k.text()
}

/// `sum`: what the addresses of a place in both stages of keys and values add up to, so that one of them less the other is the other. The
/// one in `first` is in the first stage.
fn both_stages(k: &mut Kernel, tile: Tile, sum: &str, first: &str) {
    ptx!(k, "mad.lo.u32 {sum}, {first}, 2, {};", tile.bytes(2 * tile.columns));
}

/// Registers of a step of keys.
struct Step {
    fragments: Fragments,
    queries: Left,
    scores: Vec<Vec<Reg>>,
    keys: Stored,
    values: Stored,
    key_lane: Reg,
    value_lane: Reg,
    /// [`both_stages`] of the lanes.
    lane_sums: [Reg; 2],
}

impl Step {
    fn new(k: &mut Kernel, tile: Tile, fragments: Fragments) -> Step {
        let (key_lane, value_lane) = (k.reg(Kind::B32, "k_lane"), k.reg(Kind::B32, "v_lane"));
        let queries = Stored::new(k, tile, "q_at");
        lane_address(k, tile, &key_lane, Order::RowsFirst, "%warp_row", 0);
        queries.point(k, &key_lane);
        let queries = Left::hold(k, tile, "query", &queries, 0);
        let ring = tile.bytes(tile.rows());
        lane_address(k, tile, &key_lane, Order::ChunksFirst, "0", ring);
        lane_address(k, tile, &value_lane, Order::RowsFirst, "0", ring + tile.bytes(tile.columns));
        let lane_sums = [(&key_lane, "k_lane_sum"), (&value_lane, "v_lane_sum")].map(|(lane, name)| {
            let sum = k.reg(Kind::B32, name);
            both_stages(k, tile, &sum.to_string(), &lane.to_string());
            sum
        });
        let scores = k.grid(Kind::F32, "score", tile.slabs, 4 * tile.column_eighths());
        let (keys, values) = (Stored::new(k, tile, "k_at"), Stored::new(k, tile, "v_at"));
        Step { fragments, queries, scores, keys, values, key_lane, value_lane, lane_sums }
    }

    /// One step over all rows of the warp; then the other stage's turn.
    fn run(&self, k: &mut Kernel, tile: Tile, rows: &Rows, masked: bool) {
        self.keys.point(k, &self.key_lane);
        self.fragments.scores(k, &self.queries, 0, &self.keys, 0, &self.scores);
        for (slab, scores) in self.scores.iter().enumerate() {
            if masked {
                hide_keys(k, scores, slab);
            }
            softmax(k, scores, &rows.sums[slab], &rows.top[2 * slab..], &rows.weight[2 * slab..], masked);
            if tile.dropout {
                slab_row(k, slab);
                drop(k, slab, scores, "%step_at");
            }
        }
        self.values.point(k, &self.value_lane);
        self.fragments.gather(k, &self.scores, &self.values, 0, &rows.sums);
        for (lane, sum) in [&self.key_lane, &self.value_lane].into_iter().zip(&self.lane_sums) {
            ptx!(k, "sub.u32 {lane}, {sum}, {lane};");
        }
    }

    /// Rows behind a prefix see themselves: 16 x 16 products a slab, of which the diagonal counts.
    fn own_keys(&self, k: &mut Kernel, tile: Tile, rows: &Rows) {
        k.note("Rows behind a prefix see themselves too: the ring takes the block's own keys and values.");
        skip_unless_selfish(k, tile, "OWN_DONE");
        let (ring, values) = (tile.bytes(tile.rows()), 2 * tile.bytes(tile.rows()));
        copy_rows(k, tile, "k", "%q_to", ring, ["%self_from", "%self_to"]);
        copy_rows(k, tile, "v", "%q_to", values, ["%self_from", "%self_to"]);
        lane_address(k, tile, &self.key_lane, Order::ChunksFirst, "%warp_row", ring);
        lane_address(k, tile, &self.value_lane, Order::RowsFirst, "%warp_row", values);
        self.keys.point(k, &self.key_lane);
        self.values.point(k, &self.value_lane);
        ptx!(k, "cp.async.wait_all;\nbar.sync 0;");
        for slab in 0..tile.slabs {
            let scores = [self.scores[slab][..8].to_vec()];
            self.fragments.scores(k, &self.queries, slab, &self.keys, 16 * slab, &scores);
            slab_row(k, slab);
            hide_others(k, &scores[0]);
            softmax(k, &scores[0], &rows.sums[slab], &rows.top[2 * slab..], &rows.weight[2 * slab..], true);
            if tile.dropout {
                drop(k, slab, &scores[0], "%slab_row");
            }
            self.fragments.gather(k, &scores, &self.values, 16 * slab, &rows.sums[slab..=slab]);
        }
        ptx!(k, "OWN_DONE:");
    }
}

fn drop(k: &mut Kernel, slab: usize, scores: &[Reg], key: &str) {
    dropout::by_queries(k, scores.len(), "%slab_row", key, slab == 0, |k, index| {
        ptx!(k, "selp.f32 {score}, {score}, {}, %stays;", float(0.0), score = scores[index]);
    });
}

/// Scores of a slab become probabilities relative to the rows' maxima so far; sums follow when those rise. `guarded`: a row may have seen
/// nothing yet.
fn softmax(k: &mut Kernel, scores: &[Reg], sums: &[Reg], top: &[Reg], weight: &[Reg], guarded: bool) {
    let of = |registers: &[Reg], half: usize| -> Vec<Reg> {
        registers.chunks(4).flat_map(|four| four[2 * half..2 * half + 2].to_vec()).collect()
    };
    for half in 0..2 {
        let (scores, sums, top, weight) = (of(scores, half), of(sums, half), &top[half], &weight[half]);
        ptx!(k, "max.f32 %highest, {top}, {};", scores[0]);
        for score in &scores[1..] {
            ptx!(k, "max.f32 %highest, %highest, {score};");
        }
        for distance in [1, 2] {
            ptx!(k, "shfl.sync.bfly.b32 %passed, %highest, {distance}, 31, 0xffffffff;\nmax.f32 %highest, %highest, %passed;");
        }
        ptx!(k, "mul.rn.f32 %base, %highest, %minus_scale;");
        if guarded {
            ptx!(k, "setp.eq.f32 %nothing, %highest, {};\nselp.f32 %base, {}, %base, %nothing;", float(MINUS_INFINITY), float(0.0));
        }
        ptx!(k, "fma.rn.f32 %factor, {top}, %score_scale, %base;\nex2.approx.ftz.f32 %factor, %factor;\nmov.f32 {top}, %highest;");
        for (index, score) in scores.iter().enumerate() {
            ptx!(k, "fma.rn.f32 {score}, {score}, %score_scale, %base;\nex2.approx.ftz.f32 {score}, {score};");
            match index {
                0 => ptx!(k, "fma.rn.f32 {weight}, {weight}, %factor, {score};"),
                _ => ptx!(k, "add.rn.f32 {weight}, {weight}, {score};"),
            }
        }
        for sum in &sums {
            ptx!(k, "mul.rn.f32 {sum}, {sum}, %factor;");
        }
    }
}

/// Divides by the weights; rows that saw nothing and padding give 0 and -inf.
fn write(k: &mut Kernel, tile: Tile, rows: &Rows) {
    k.regs(Kind::B64, "logsumexp");
    k.regs(Kind::Pred, "first_lane");
    matrix(k, "out", "%head", "%query_len", tile.head_dim);
    ptx!(k, "ld.param.u64 %logsumexp, [logsumexp];\ncvta.to.global.u64 %logsumexp, %logsumexp;\nsetp.eq.u32 %first_lane, %twice, 0;");
    ptx!(k, "mad.lo.u32 %index, %item, %num_heads, %head;\nmul.wide.u32 %bytes, %index, %query_len;\nshl.b64 %bytes, %bytes, 2;");
    ptx!(k, "add.u64 %logsumexp, %logsumexp, %bytes;");
    for (slab, sums) in rows.sums.iter().enumerate() {
        for half in 0..2 {
            let (top, weight) = (&rows.top[2 * slab + half], &rows.weight[2 * slab + half]);
            k.note(format!("Row {} of the lane.", 16 * slab + 8 * half));
            for distance in [1, 2] {
                ptx!(k, "shfl.sync.bfly.b32 %passed, {weight}, {distance}, 31, 0xffffffff;\nadd.rn.f32 {weight}, {weight}, %passed;");
            }
            ptx!(k, "add.u32 %row, %first_row, %own_row;\nadd.u32 %row, %row, {};", 16 * slab + 8 * half);
            ptx!(k, "setp.lt.u32 %inside, %row, %queries;\nsetp.gt.and.f32 %inside, {weight}, {}, %inside;", float(0.0));
            ptx!(k, "rcp.approx.ftz.f32 %inverse, {weight};\nselp.f32 %inverse, %inverse, {}, %inside;", float(0.0));
            if tile.dropout {
                ptx!(k, "mul.rn.f32 %inverse, %inverse, %kept;");
            }
            for sum in sums.chunks(4).flat_map(|four| &four[2 * half..2 * half + 2]) {
                ptx!(k, "mul.rn.f32 {sum}, {sum}, %inverse;");
            }
            ptx!(k, "lg2.approx.ftz.f32 %base, {weight};\nfma.rn.f32 %base, {top}, %score_scale, %base;");
            ptx!(
                k,
                "mul.rn.f32 %base, %base, {};\nselp.f32 %base, %base, {}, %inside;",
                float(std::f32::consts::LN_2),
                float(MINUS_INFINITY)
            );
            ptx!(k, "setp.lt.and.u32 %writes, %row, %query_len, %first_lane;");
            ptx!(k, "mul.wide.u32 %bytes, %row, 4;\nadd.u64 %bytes, %bytes, %logsumexp;\n@%writes st.global.f32 [%bytes], %base;");
        }
    }
    write_rows(k, tile, "out", "%query_len", 0, tile.dropout, &rows.sums);
}
