//! Attention forward in f32: online softmax over steps of 32 keys.

use super::emit::{
    COLUMNS, Copy, Fragments, Gather, LENGTHS, Shape, copy, declare_copy, declare_products, gather, head_of, lengths, over_row, positions,
    products, put_scores, sight,
};
use super::emit_dropout as dropout;
use super::emit_dropout::Rounds;
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

const MINUS_INFINITY: f32 = f32::NEG_INFINITY;

/// Dynamic shared memory: queries, keys, values, scores.
pub(super) fn shared_bytes(shape: Shape) -> usize {
    shape.row_tile() + 2 * shape.column_tile() + shape.score_tile()
}

/// The module of a variant.
pub(super) fn text(shape: Shape) -> Text {
    let d = shape.head_dim;
    let about = format!(
        "out = softmax(scale q k^T) v and the logarithm of each row's sum, head size {d}{}.\n\
         Grid: (ceil(query_len / {}), heads, items). Block: {} threads. Strides count elements; score_scale is scale / ln 2;\n\
         offset is key_len - query_len under a causal mask, else 2^30.\n\
         Shared: q [{}][{d} + 4], k and v [32][{d} + 4], scores [{}][36], all f32. k lies permuted: key 4 x + j at place x + 8 j.",
        if shape.dropout { ", with dropout" } else { "" },
        shape.rows(),
        shape.threads(),
        shape.rows(),
        shape.rows(),
    );
    let mut kernel = Kernel::new(shape.name("forward"), about);
    let k = &mut kernel;
    k.params(".u64", "out logsumexp q k v");
    k.params(".u64", LENGTHS);
    k.params(".u32", "query_len key_len num_heads group offset out_stride q_stride k_stride v_stride");
    k.params(".f32", "score_scale");
    dropout::params(k, shape.dropout);
    k.block(shape.threads(), 1);
    k.dynamic_shared(shared_bytes(shape));
    positions(k);
    k.regs(Kind::B32, "num_heads row seen clear step_at next column limit_row");
    k.regs(Kind::Pred, "inside unmasked nothing more selfish first_lane writes");
    k.regs(Kind::F32, "score_scale passed base factor t total inverse");
    ptx!(k, "mov.u32 %head, %ctaid.y;\nmov.u32 %item, %ctaid.z;\nmov.u32 %first_row, %ctaid.x;");
    ptx!(k, "shl.b32 %first_row, %first_row, {};", shape.rows().trailing_zeros());
    ptx!(k, "ld.param.u32 %group, [group];\nld.param.u32 %num_heads, [num_heads];\ndiv.u32 %kv_head, %head, %group;");
    ptx!(k, "ld.param.f32 %score_scale, [score_scale];");
    dropout::declare(k, shape.dropout);
    if shape.dropout {
        ptx!(k, "mad.lo.u32 %plane, %item, %num_heads, %head;");
    }
    lengths(k);
    head_of(k, "q", "%head", "%query_len", d);
    head_of(k, "k", "%kv_head", "%key_len", d);
    head_of(k, "v", "%kv_head", "%key_len", d);
    head_of(k, "out", "%head", "%query_len", d);
    let limits = row_limits(k, shape);
    let (q_tile, k_tile) = (0, shape.row_tile());
    let v_tile = k_tile + shape.column_tile();
    let score_tile = v_tile + shape.column_tile();
    k.regs(Kind::B32, "q_at k_at v_at scores_at scores_to lane_bytes");
    ptx!(k, "shl.b32 %lane_bytes, %lane_column, 2;");
    ptx!(k, "mad.lo.u32 %q_at, %own_row, {}, %shared;\nadd.u32 %q_at, %q_at, {q_tile};", shape.pitch());
    ptx!(k, "mad.lo.u32 %k_at, %lane_column, {}, %shared;\nadd.u32 %k_at, %k_at, {k_tile};", shape.pitch());
    ptx!(k, "add.u32 %v_at, %shared, %lane_bytes;\nadd.u32 %v_at, %v_at, {v_tile};");
    ptx!(k, "mad.lo.u32 %scores_at, %own_row, {}, %shared;\nadd.u32 %scores_at, %scores_at, {score_tile};", super::emit::SCORE_PITCH);
    ptx!(k, "mad.lo.u32 %scores_to, %lane_column, 16, %scores_at;");
    declare_copy(k);
    let fragments = declare_products(k);
    let scores = k.grid(Kind::F32, "score", 4, 4);
    let sums = k.grid(Kind::F32, "sum", 4, d / 8);
    let (base, weight) = (k.array(Kind::F32, "top", 4), k.array(Kind::F32, "weight", 4));
    for row in 0..4 {
        ptx!(k, "mov.f32 {}, {};\nmov.f32 {}, {};", base[row], float(MINUS_INFINITY), weight[row], float(0.0));
        for sum in &sums[row] {
            ptx!(k, "mov.f32 {sum}, {};", float(0.0));
        }
    }
    let keys = |first| Copy { matrix: "k", first, end: "%seen", count: COLUMNS, permuted: true, tile: k_tile };
    let values = |first| Copy { matrix: "v", first, end: "%seen", count: COLUMNS, permuted: false, tile: v_tile };
    copy(k, shape, Copy { matrix: "q", first: "%first_row", end: "%queries", count: shape.rows(), permuted: false, tile: q_tile });
    ptx!(k, "mov.u32 %step_at, 0;\nsetp.eq.u32 %nothing, %seen, 0;\n@%nothing bra KEYS_DONE;");
    copy(k, shape, keys("%step_at"));
    ptx!(k, "cp.async.commit_group;");
    copy(k, shape, values("%step_at"));
    ptx!(k, "cp.async.commit_group;");
    ptx!(k, "KEY_LOOP:\n.pragma \"nounroll\";\ncp.async.wait_group 1;\nbar.sync 0;");
    k.note("Scores of 32 keys.");
    products(k, shape, &fragments, &scores, "%q_at", "%k_at");
    ptx!(k, "bar.sync 0;\nadd.u32 %next, %step_at, {COLUMNS};\nsetp.lt.u32 %more, %next, %seen;\n@!%more bra KEYS_COMING;");
    copy(k, shape, keys("%next"));
    ptx!(k, "KEYS_COMING:\ncp.async.commit_group;");
    softmax(k, shape, &scores, &sums, &limits, &base, &weight);
    put_scores(k, &scores, "%scores_to");
    ptx!(k, "cp.async.wait_group 1;\nbar.sync 0;");
    k.note("Values by probabilities.");
    gather(k, shape, &fragments, &sums, Gather { scores_at: "%scores_at", values_at: "%v_at", permuted: false });
    ptx!(k, "bar.sync 0;\n@!%more bra VALUES_COMING;");
    copy(k, shape, values("%next"));
    ptx!(k, "VALUES_COMING:\ncp.async.commit_group;\nmov.u32 %step_at, %next;\n@%more bra KEY_LOOP;");
    ptx!(k, "KEYS_DONE:\ncp.async.wait_all;\nbar.sync 0;");
    own_keys(k, shape, &fragments, &sums, &base, &weight);
    write(k, &sums, &base, &weight);
    ptx!(k, "ret;");
    k.text()
}

/// Per row of the lane, the keys below which it sees (`limit_0..3`); `%seen`: below which any row of the block sees; `%clear`: below
/// which all do.
pub(super) fn row_limits(k: &mut Kernel, shape: Shape) -> Vec<Reg> {
    let limits = k.array(Kind::B32, "limit", 4);
    ptx!(k, "ld.param.u32 %offset, [offset];");
    for (index, limit) in limits.iter().enumerate() {
        ptx!(k, "add.u32 %row, %first_row, %own_row;\nadd.u32 %row, %row, {index};");
        limit_of(k, limit, "%row");
    }
    let (seen, clear) = (Reg::named("seen"), Reg::named("clear"));
    ptx!(k, "add.u32 %row, %first_row, {};\nsub.u32 %limit_row, %queries, 1;\nmin.s32 %row, %row, %limit_row;", shape.rows() - 1);
    ptx!(k, "max.s32 %row, %row, 0;");
    limit_of(k, &seen, "%row");
    ptx!(k, "setp.lt.u32 %inside, %first_row, %queries;\nselp.u32 %seen, %seen, 0, %inside;");
    limit_of(k, &clear, "%first_row");
    ptx!(k, "add.u32 %row, %first_row, {};\nsetp.le.u32 %inside, %row, %queries;\nselp.u32 %clear, %clear, 0, %inside;", shape.rows());
    limits
}

/// The keys below which query row `row` sees; none in padding.
pub(super) fn limit_of(k: &mut Kernel, limit: &Reg, row: &str) {
    sight(k, limit, row);
    ptx!(k, "setp.lt.u32 %inside, {row}, %queries;\nselp.u32 {limit}, {limit}, 0, %inside;");
}

fn softmax(k: &mut Kernel, shape: Shape, scores: &[Vec<Reg>], sums: &[Vec<Reg>], limits: &[Reg], top: &[Reg], weight: &[Reg]) {
    k.note("In units of ln 2; keys that a row does not see count -inf.");
    for score in scores.iter().flatten() {
        ptx!(k, "mul.rn.f32 {score}, {score}, %score_scale;");
    }
    ptx!(
        k,
        "setp.le.u32 %unmasked, %next, %clear;\nshl.b32 %column, %lane_column, 2;\nadd.u32 %column, %column, %step_at;\n@%unmasked bra ALL_SEEN;"
    );
    for column in 0..4 {
        ptx!(k, "add.u32 %index, %column, {column};");
        for (scores, limit) in scores.iter().zip(limits) {
            let score = &scores[column];
            ptx!(k, "setp.lt.u32 %inside, %index, {limit};\nselp.f32 {score}, {score}, {}, %inside;", float(MINUS_INFINITY));
        }
    }
    ptx!(k, "ALL_SEEN:");
    for row in 0..4 {
        k.note(format!("Row {row}: new maximum, probabilities, what the sums so far are worth."));
        let [s0, s1, s2, s3] = std::array::from_fn(|column| &scores[row][column]);
        ptx!(k, "max.f32 %t, {s0}, {s1};\nmax.f32 %t, %t, {s2};\nmax.f32 %t, %t, {s3};");
        over_row(k, "max.f32", "%t");
        raise(k, &top[row]);
        ptx!(k, "mov.f32 %total, {};", float(0.0));
        for score in [s0, s1, s2, s3] {
            ptx!(k, "sub.rn.f32 {score}, {score}, %base;\nex2.approx.ftz.f32 {score}, {score};\nadd.rn.f32 %total, %total, {score};");
        }
        ptx!(k, "fma.rn.f32 {weight}, {weight}, %factor, %total;", weight = weight[row]);
        for sum in &sums[row] {
            ptx!(k, "mul.rn.f32 {sum}, {sum}, %factor;");
        }
        if shape.dropout {
            ptx!(k, "add.u32 %row, %first_row, %own_row;\nadd.u32 %row, %row, {row};");
            dropout::four(k, Rounds::Unrolled, "%row", "%column", [s0, s1, s2, s3]);
        }
    }
}

/// The maximum rises to at least `%t`: `%base` is what exponents are relative to, `%factor` what earlier sums are multiplied by.
fn raise(k: &mut Kernel, top: &Reg) {
    ptx!(k, "max.f32 %t, %t, {top};\nsetp.eq.f32 %inside, %t, {};\nselp.f32 %base, {}, %t, %inside;", float(MINUS_INFINITY), float(0.0));
    ptx!(k, "sub.rn.f32 %factor, {top}, %base;\nex2.approx.ftz.f32 %factor, %factor;\nmov.f32 {top}, %t;");
}

/// Rows behind the prefix see themselves.
fn own_keys(k: &mut Kernel, shape: Shape, fragments: &Fragments, sums: &[Vec<Reg>], top: &[Reg], weight: &[Reg]) {
    let (query, key) = fragments.pair();
    k.note("Rows behind a prefix see themselves too: the lanes of a row share the product.");
    ptx!(k, "add.u32 %index, %first_row, {};\nsetp.gt.u32 %selfish, %index, %self_from;", shape.rows());
    ptx!(k, "setp.lt.and.u32 %selfish, %first_row, %self_to, %selfish;\n@!%selfish bra OWN_DONE;");
    ptx!(k, "setp.eq.u32 %first_lane, %lane_column, 0;\nadd.u32 %q_at, %q_at, %lane_bytes;");
    for row in 0..4 {
        own_row(k, row);
        address(k, "k");
        ptx!(k, "mov.f32 %t, {};", float(0.0));
        for element in 0..shape.head_dim / 8 {
            ptx!(k, "mov.f32 {key}, {};\n@%selfish ld.global.f32 {key}, [%address + {}];", float(0.0), 32 * element);
            ptx!(k, "ld.shared.f32 {query}, [%q_at + {}];\nfma.rn.f32 %t, {query}, {key}, %t;", row * shape.pitch() + 32 * element);
        }
        over_row(k, "add.rn.f32", "%t");
        ptx!(k, "mul.rn.f32 %t, %t, %score_scale;\nselp.f32 %t, %t, {}, %selfish;\nmov.f32 %total, %t;", float(MINUS_INFINITY));
        raise(k, &top[row]);
        ptx!(k, "sub.rn.f32 %total, %total, %base;\nex2.approx.ftz.f32 %total, %total;\nselp.f32 %t, %total, {}, %first_lane;", float(0.0));
        ptx!(k, "fma.rn.f32 {weight}, {weight}, %factor, %t;", weight = weight[row]);
        if shape.dropout {
            dropout::own(k, Rounds::Unrolled, "%row");
            ptx!(k, "mul.rn.f32 %total, %total, %keep;");
        }
        address(k, "v");
        for (element, sum) in sums[row].iter().enumerate() {
            ptx!(k, "mov.f32 {key}, {};\n@%selfish ld.global.f32 {key}, [%address + {}];", float(0.0), 32 * element);
            ptx!(k, "mul.rn.f32 {sum}, {sum}, %factor;\nfma.rn.f32 {sum}, %total, {key}, {sum};");
        }
    }
    ptx!(k, "OWN_DONE:");
}

/// `%row`, the lane's row number `row`, and `%selfish`: whether it sees itself behind a prefix.
pub(super) fn own_row(k: &mut Kernel, row: usize) {
    ptx!(k, "add.u32 %row, %first_row, %own_row;\nadd.u32 %row, %row, {row};");
    ptx!(k, "setp.ge.u32 %selfish, %row, %self_from;\nsetp.lt.and.u32 %selfish, %row, %self_to, %selfish;");
}

/// `%address` of the lane's first element of row `%row` of a matrix.
pub(super) fn address(k: &mut Kernel, matrix: &str) {
    ptx!(k, "mad.wide.u32 %address, %row, %{matrix}_row_step, %{matrix};");
    ptx!(k, "cvt.u64.u32 %bytes, %lane_bytes;\nadd.u64 %address, %address, %bytes;");
}

fn write(k: &mut Kernel, sums: &[Vec<Reg>], top: &[Reg], weight: &[Reg]) {
    k.regs(Kind::B64, "logsumexp");
    ptx!(k, "ld.param.u64 %logsumexp, [logsumexp];\ncvta.to.global.u64 %logsumexp, %logsumexp;\nsetp.eq.u32 %first_lane, %lane_column, 0;");
    ptx!(k, "mad.lo.u32 %index, %item, %num_heads, %head;\nmul.wide.u32 %bytes, %index, %query_len;\nshl.b64 %bytes, %bytes, 2;");
    ptx!(k, "add.u64 %logsumexp, %logsumexp, %bytes;");
    for row in 0..4 {
        k.note(format!("Row {row}; one that saw nothing gives 0 and -inf."));
        let weight = &weight[row];
        over_row(k, "add.rn.f32", &weight.to_string());
        ptx!(k, "setp.eq.f32 %nothing, {weight}, {};\ndiv.rn.f32 %inverse, {}, {weight};", float(0.0), float(1.0));
        ptx!(k, "selp.f32 %inverse, {}, %inverse, %nothing;", float(0.0));
        ptx!(k, "add.u32 %row, %first_row, %own_row;\nadd.u32 %row, %row, {row};\nsetp.lt.u32 %writes, %row, %query_len;");
        address(k, "out");
        for (element, sum) in sums[row].iter().enumerate() {
            ptx!(k, "mul.rn.f32 {sum}, {sum}, %inverse;\n@%writes st.global.f32 [%address + {}], {sum};", 32 * element);
        }
        ptx!(
            k,
            "lg2.approx.ftz.f32 %t, {weight};\nadd.rn.f32 %t, %t, {};\nmul.rn.f32 %t, %t, {};",
            top[row],
            float(std::f32::consts::LN_2)
        );
        ptx!(k, "selp.f32 %t, {}, %t, %nothing;\nand.pred %writes, %writes, %first_lane;", float(MINUS_INFINITY));
        ptx!(k, "mul.wide.u32 %bytes, %row, 4;\nadd.u64 %bytes, %bytes, %logsumexp;\n@%writes st.global.f32 [%bytes], %t;");
    }
}
