//! Attention backward in f32: one text makes `dq` (a block owns queries and walks the keys), one makes `dk` and `dv` (a block owns keys
//! and walks the queries of all heads that share them). Probabilities are computed again from the saved logarithms; every sum belongs to
//! one lane and grows in one order.

use super::emit::{
    COLUMNS, Copy, Fragments, Gather, LENGTHS, SCORE_PITCH, Shape, copy, declare_copy, declare_products, gather, head_of, lengths,
    over_row, positions, products, put_scores,
};
use super::emit_dropout as dropout;
use super::emit_dropout::Rounds;
use super::emit_forward::{address, limit_of, own_row, row_limits};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// Dynamic shared memory of both texts: two tiles of rows, two of columns, scores, statistics of the columns.
pub(super) fn shared_bytes(shape: Shape) -> usize {
    tiles(shape)[5] + 8 * COLUMNS
}

/// Where the tiles begin: rows (two), columns (two), scores, statistics.
fn tiles(shape: Shape) -> [usize; 6] {
    let (row, column) = (shape.row_tile(), shape.column_tile());
    [0, row, 2 * row, 2 * row + column, 2 * (row + column), 2 * (row + column) + shape.score_tile()]
}

fn begin(shape: Shape, pass: &str, outputs: &'static str, strides: &'static str, about: String) -> Kernel {
    let mut kernel = Kernel::new(shape.name(pass), about);
    let k = &mut kernel;
    k.params(".u64", outputs);
    k.params(".u64", "dout saved logsumexp q k v");
    k.params(".u64", LENGTHS);
    k.params(".u32", "query_len key_len num_heads group offset");
    k.params(".u32", strides);
    k.params(".u32", "dout_stride saved_stride q_stride k_stride v_stride");
    k.params(".f32", "score_scale scale");
    dropout::params(k, shape.dropout);
    k.block(shape.threads(), 1);
    k.dynamic_shared(shared_bytes(shape));
    positions(k);
    k.regs(Kind::B32, "num_heads row seen clear step_at column limit_row lane_bytes rows_at columns_at scores_at scores_to own_at");
    k.regs(Kind::B32, "more_rows_at more_columns_at");
    k.regs(Kind::B64, "logsumexp");
    k.regs(Kind::Pred, "inside nothing more selfish first_lane writes unseen");
    k.regs(Kind::F32, "score_scale scale passed t slope");
    ptx!(k, "mov.u32 %item, %ctaid.z;\nmov.u32 %first_row, %ctaid.x;\nshl.b32 %first_row, %first_row, {};", shape.rows().trailing_zeros());
    ptx!(k, "ld.param.u32 %group, [group];\nld.param.u32 %num_heads, [num_heads];");
    ptx!(k, "ld.param.f32 %score_scale, [score_scale];\nld.param.f32 %scale, [scale];");
    dropout::declare(k, shape.dropout);
    lengths(k);
    let [rows, more_rows, columns, more_columns, scores, _] = tiles(shape);
    ptx!(k, "shl.b32 %lane_bytes, %lane_column, 2;\nsetp.eq.u32 %first_lane, %lane_column, 0;");
    ptx!(k, "mad.lo.u32 %rows_at, %own_row, {}, %shared;\nadd.u32 %more_rows_at, %rows_at, {more_rows};", shape.pitch());
    ptx!(k, "add.u32 %rows_at, %rows_at, {rows};\nadd.u32 %own_at, %rows_at, %lane_bytes;");
    ptx!(k, "mad.lo.u32 %columns_at, %lane_column, {}, %shared;\nadd.u32 %more_columns_at, %columns_at, {more_columns};", shape.pitch());
    ptx!(k, "add.u32 %columns_at, %columns_at, {columns};");
    ptx!(k, "mad.lo.u32 %scores_at, %own_row, {SCORE_PITCH}, %shared;\nadd.u32 %scores_at, %scores_at, {scores};");
    ptx!(k, "mad.lo.u32 %scores_to, %lane_column, 16, %scores_at;");
    declare_copy(k);
    kernel
}

fn zero(k: &mut Kernel, sums: &[Vec<Reg>]) {
    for sum in sums.iter().flatten() {
        ptx!(k, "mov.f32 {sum}, {};", float(0.0));
    }
}

/// `%logsumexp`: the saved logarithms of the item's head.
fn logsumexp_of(k: &mut Kernel) {
    ptx!(k, "ld.param.u64 %logsumexp, [logsumexp];\ncvta.to.global.u64 %logsumexp, %logsumexp;");
    ptx!(k, "mad.lo.u32 %index, %item, %num_heads, %head;\nmul.wide.u32 %bytes, %index, %query_len;\nshl.b64 %bytes, %bytes, 2;");
    ptx!(k, "add.u64 %logsumexp, %logsumexp, %bytes;");
}

/// `target`: the logarithm of row `row` in units of ln 2 where `guard` holds; +inf, which makes probabilities 0, elsewhere and in rows
/// that saw nothing.
fn load_logarithm(k: &mut Kernel, target: &str, row: &str, guard: &str) {
    ptx!(k, "mul.wide.u32 %bytes, {row}, 4;\nadd.u64 %bytes, %bytes, %logsumexp;\nmov.f32 {target}, {};", float(f32::NEG_INFINITY));
    ptx!(k, "@{guard} ld.global.f32 {target}, [%bytes];\nsetp.eq.f32 %unseen, {target}, {};", float(f32::NEG_INFINITY));
    ptx!(k, "mul.rn.f32 {target}, {target}, {};\nselp.f32 {target}, {}, {target}, %unseen;", float(LOG2_E), float(f32::INFINITY));
}

/// The module that makes `dq`.
pub(super) fn queries(shape: Shape) -> Text {
    let d = shape.head_dim;
    let about = format!(
        "dq of attention, head size {d}: scale * sum over keys of p (dp - delta) k.\n\
         Grid: (ceil(query_len / {}), heads, items). Block: {} threads. saved is forward's out; other words as in forward.\n\
         Shared: q, dout [{}][{d} + 4], k, v [32][{d} + 4] permuted, slopes [{}][36], all f32.",
        shape.rows(),
        shape.threads(),
        shape.rows(),
        shape.rows(),
    );
    let mut kernel = begin(shape, "backward_queries", "dq", "dq_stride", about);
    let k = &mut kernel;
    ptx!(k, "mov.u32 %head, %ctaid.y;\ndiv.u32 %kv_head, %head, %group;");
    if shape.dropout {
        ptx!(k, "mad.lo.u32 %plane, %item, %num_heads, %head;");
    }
    for (name, head, rows) in [
        ("q", "%head", "%query_len"),
        ("dout", "%head", "%query_len"),
        ("saved", "%head", "%query_len"),
        ("dq", "%head", "%query_len"),
        ("k", "%kv_head", "%key_len"),
        ("v", "%kv_head", "%key_len"),
    ] {
        head_of(k, name, head, rows, d);
    }
    logsumexp_of(k);
    let limits = row_limits(k, shape);
    let fragments = declare_products(k);
    let (scores, slopes) = (k.grid(Kind::F32, "score", 4, 4), k.grid(Kind::F32, "slope", 4, 4));
    let sums = k.grid(Kind::F32, "dq", 4, d / 8);
    let (logarithms, deltas) = (k.array(Kind::F32, "logarithm", 4), k.array(Kind::F32, "delta", 4));
    zero(k, &sums);
    let [q_tile, dout_tile, k_tile, v_tile, ..] = tiles(shape);
    let rows = |matrix, tile| Copy { matrix, first: "%first_row", end: "%queries", count: shape.rows(), permuted: false, tile };
    copy(k, shape, rows("q", q_tile));
    copy(k, shape, rows("dout", dout_tile));
    ptx!(k, "cp.async.wait_all;\nbar.sync 0;");
    let (other, own) = fragments.pair();
    for row in 0..4 {
        k.note(format!("Row {row}: delta = dout . out, and its logarithm."));
        ptx!(k, "add.u32 %row, %first_row, %own_row;\nadd.u32 %row, %row, {row};\nsetp.lt.u32 %writes, %row, %queries;");
        address(k, "saved");
        let delta = &deltas[row];
        ptx!(k, "mov.f32 {delta}, {};", float(0.0));
        for element in 0..d / 8 {
            ptx!(k, "mov.f32 {other}, {};\n@%writes ld.global.f32 {other}, [%address + {}];", float(0.0), 32 * element);
            ptx!(k, "ld.shared.f32 {own}, [%own_at + {}];", dout_tile + row * shape.pitch() + 32 * element);
            ptx!(k, "fma.rn.f32 {delta}, {own}, {other}, {delta};");
        }
        over_row(k, "add.rn.f32", &delta.to_string());
        load_logarithm(k, &logarithms[row].to_string(), "%row", "%writes");
    }
    k.regs(Kind::B32, "gather_at");
    ptx!(k, "add.u32 %gather_at, %shared, %lane_bytes;\nadd.u32 %gather_at, %gather_at, {k_tile};");
    ptx!(k, "mov.u32 %step_at, 0;\nsetp.eq.u32 %nothing, %seen, 0;\n@%nothing bra KEYS_DONE;\nKEY_LOOP:\n.pragma \"nounroll\";");
    let columns = |matrix, tile| Copy { matrix, first: "%step_at", end: "%seen", count: COLUMNS, permuted: true, tile };
    copy(k, shape, columns("k", k_tile));
    copy(k, shape, columns("v", v_tile));
    ptx!(k, "cp.async.wait_all;\nbar.sync 0;");
    k.note("q . k and dout . v of 32 keys.");
    products(k, shape, &fragments, &scores, "%rows_at", "%columns_at");
    products(k, shape, &fragments, &slopes, "%more_rows_at", "%more_columns_at");
    ptx!(k, "shl.b32 %column, %lane_column, 2;\nadd.u32 %column, %column, %step_at;");
    for row in 0..4 {
        if shape.dropout {
            ptx!(k, "add.u32 %row, %first_row, %own_row;\nadd.u32 %row, %row, {row};");
            dropout::four(k, Rounds::Unrolled, "%row", "%column", std::array::from_fn(|column| &slopes[row][column]));
        }
        for column in 0..4 {
            let (score, slope, delta) = (&scores[row][column], &slopes[row][column], &deltas[row]);
            probability(k, score, &logarithms[row]);
            ptx!(k, "sub.rn.f32 {slope}, {slope}, {delta};\nmul.rn.f32 {slope}, {slope}, {score};\nadd.u32 %index, %column, {column};");
            ptx!(k, "setp.lt.u32 %inside, %index, {};\nselp.f32 {slope}, {slope}, {}, %inside;", limits[row], float(0.0));
        }
    }
    put_scores(k, &slopes, "%scores_to");
    ptx!(k, "bar.warp.sync 0xffffffff;");
    gather(k, shape, &fragments, &sums, Gather { scores_at: "%scores_at", values_at: "%gather_at", permuted: true });
    ptx!(k, "bar.sync 0;\nadd.u32 %step_at, %step_at, {COLUMNS};\nsetp.lt.u32 %more, %step_at, %seen;\n@%more bra KEY_LOOP;\nKEYS_DONE:");
    let saved = Saved { logarithms: &logarithms, deltas: &deltas };
    queries_see_themselves(k, shape, &fragments, &sums, saved, dout_tile);
    write(k, "dq", "%query_len", &sums, Some("%scale"));
    ptx!(k, "ret;");
    k.text()
}

/// `score <- 2^(score_scale * score - logarithm)`.
fn probability(k: &mut Kernel, score: &Reg, logarithm: &Reg) {
    ptx!(k, "mul.rn.f32 {score}, {score}, %score_scale;\nsub.rn.f32 {score}, {score}, {logarithm};\nex2.approx.ftz.f32 {score}, {score};");
}

/// What a lane keeps of its four query rows.
#[derive(Clone, Copy)]
struct Saved<'a> {
    logarithms: &'a [Reg],
    deltas: &'a [Reg],
}

fn queries_see_themselves(k: &mut Kernel, shape: Shape, fragments: &Fragments, sums: &[Vec<Reg>], saved: Saved<'_>, dout_tile: usize) {
    let (own, other) = fragments.pair();
    k.note("Rows behind a prefix see themselves too.");
    ptx!(k, "add.u32 %index, %first_row, {};\nsetp.gt.u32 %selfish, %index, %self_from;", shape.rows());
    ptx!(k, "setp.lt.and.u32 %selfish, %first_row, %self_to, %selfish;\n@!%selfish bra OWN_DONE;");
    for (row, sums) in sums.iter().enumerate() {
        own_row(k, row);
        for (matrix, tile, target) in [("k", 0, "%t"), ("v", dout_tile, "%slope")] {
            address(k, matrix);
            ptx!(k, "mov.f32 {target}, {};", float(0.0));
            for element in 0..shape.head_dim / 8 {
                ptx!(k, "mov.f32 {other}, {};\n@%selfish ld.global.f32 {other}, [%address + {}];", float(0.0), 32 * element);
                ptx!(k, "ld.shared.f32 {own}, [%own_at + {}];", tile + row * shape.pitch() + 32 * element);
                ptx!(k, "fma.rn.f32 {target}, {own}, {other}, {target};");
            }
            over_row(k, "add.rn.f32", target);
        }
        if shape.dropout {
            dropout::own(k, Rounds::Unrolled, "%row");
            ptx!(k, "mul.rn.f32 %slope, %slope, %keep;");
        }
        probability(k, &Reg::named("t"), &saved.logarithms[row]);
        ptx!(
            k,
            "sub.rn.f32 %slope, %slope, {};\nmul.rn.f32 %slope, %slope, %t;\nselp.f32 %slope, %slope, {}, %selfish;",
            saved.deltas[row],
            float(0.0)
        );
        address(k, "k");
        for (element, sum) in sums.iter().enumerate() {
            ptx!(k, "mov.f32 {other}, {};\n@%selfish ld.global.f32 {other}, [%address + {}];", float(0.0), 32 * element);
            ptx!(k, "fma.rn.f32 {sum}, %slope, {other}, {sum};");
        }
    }
    ptx!(k, "OWN_DONE:");
}

/// Writes the lane's rows below `end` of a gradient.
fn write(k: &mut Kernel, matrix: &str, end: &str, sums: &[Vec<Reg>], scale: Option<&str>) {
    for (row, sums) in sums.iter().enumerate() {
        ptx!(k, "add.u32 %row, %first_row, %own_row;\nadd.u32 %row, %row, {row};\nsetp.lt.u32 %writes, %row, {end};");
        address(k, matrix);
        for (element, sum) in sums.iter().enumerate() {
            if let Some(scale) = scale {
                ptx!(k, "mul.rn.f32 {sum}, {sum}, {scale};");
            }
            ptx!(k, "@%writes st.global.f32 [%address + {}], {sum};", 32 * element);
        }
    }
}

/// Sums of `dk` and `dv` take more than half of the registers above head size 64.
fn rounds(shape: Shape) -> Rounds {
    if shape.head_dim > 64 { Rounds::Looped } else { Rounds::Unrolled }
}

/// The module that makes `dk` and `dv`.
pub(super) fn keys(shape: Shape) -> Text {
    let d = shape.head_dim;
    let about = format!(
        "dk and dv of attention, head size {d}: scale * sum over queries of p (dp - delta) q, and sum of p dout, head after head.\n\
         Grid: (ceil(key_len / {}), kv heads, items). Block: {} threads. saved is forward's out; other words as in forward.\n\
         Shared: k, v [{}][{d} + 4], q, dout [32][{d} + 4] permuted, scores [{}][36], logarithms [32], deltas [32], all f32.",
        shape.rows(),
        shape.threads(),
        shape.rows(),
        shape.rows(),
    );
    let mut kernel = begin(shape, "backward_keys", "dk dv", "dk_stride dv_stride", about);
    let k = &mut kernel;
    ptx!(k, "mov.u32 %kv_head, %ctaid.y;\nmul.lo.u32 %head, %kv_head, %group;");
    for (name, head, rows) in [
        ("k", "%kv_head", "%key_len"),
        ("v", "%kv_head", "%key_len"),
        ("q", "%head", "%query_len"),
        ("dout", "%head", "%query_len"),
        ("saved", "%head", "%query_len"),
    ] {
        head_of(k, name, head, rows, d);
    }
    logsumexp_of(k);
    let fragments = declare_products(k);
    let (scores, slopes) = (k.grid(Kind::F32, "score", 4, 4), k.grid(Kind::F32, "slope", 4, 4));
    let (dk, dv) = (k.grid(Kind::F32, "dk", 4, d / 8), k.grid(Kind::F32, "dv", 4, d / 8));
    let (logarithm, delta) = (&k.reg(Kind::F32, "logarithm"), &k.reg(Kind::F32, "delta"));
    let keep = if shape.dropout { k.array(Kind::F32, "keep_of", 4) } else { Vec::new() };
    k.regs(Kind::B32, "start heads_left key q_gather dout_gather statistics own_statistics limit");
    zero(k, &dk);
    zero(k, &dv);
    let [k_tile, v_tile, q_tile, dout_tile, _, statistics] = tiles(shape);
    let rows = |matrix, tile| Copy { matrix, first: "%first_row", end: "%all_keys", count: shape.rows(), permuted: false, tile };
    copy(k, shape, rows("k", k_tile));
    copy(k, shape, rows("v", v_tile));
    ptx!(
        k,
        "add.u32 %q_gather, %shared, %lane_bytes;\nadd.u32 %dout_gather, %q_gather, {dout_tile};\nadd.u32 %q_gather, %q_gather, {q_tile};"
    );
    ptx!(k, "add.u32 %statistics, %shared, {statistics};\nshl.b32 %index, %lane_column, 4;\nadd.u32 %own_statistics, %statistics, %index;");
    k.note("The first query that sees one of these keys, down to a step.");
    ptx!(k, "sub.s32 %start, %first_row, %offset;\nmax.s32 %start, %start, 0;\nand.b32 %start, %start, 0xffffffe0;");
    ptx!(k, "setp.ge.u32 %nothing, %first_row, %keys;\nselp.u32 %start, %queries, %start, %nothing;\nmov.u32 %heads_left, %group;");
    ptx!(k, "cp.async.wait_all;\nbar.sync 0;\nHEAD_LOOP:\n.pragma \"nounroll\";\nmov.u32 %step_at, %start;");
    if shape.dropout {
        ptx!(k, "mad.lo.u32 %plane, %item, %num_heads, %head;");
    }
    ptx!(k, "setp.ge.u32 %nothing, %step_at, %queries;\n@%nothing bra QUERIES_DONE;\nQUERY_LOOP:\n.pragma \"nounroll\";");
    let columns = |matrix, tile| Copy { matrix, first: "%step_at", end: "%queries", count: COLUMNS, permuted: true, tile };
    copy(k, shape, columns("q", q_tile));
    copy(k, shape, columns("dout", dout_tile));
    ptx!(k, "cp.async.wait_all;\nbar.sync 0;");
    column_statistics(k, shape, &fragments, dout_tile);
    products(k, shape, &fragments, &scores, "%rows_at", "%columns_at");
    products(k, shape, &fragments, &slopes, "%more_rows_at", "%more_columns_at");
    ptx!(k, "bar.sync 0;");
    ptx!(k, "shl.b32 %column, %lane_column, 2;\nadd.u32 %column, %column, %step_at;\nadd.u32 %key, %first_row, %own_row;");
    for column in 0..4 {
        ptx!(k, "add.u32 %row, %column, {column};");
        limit_of(k, &Reg::named("limit"), "%row");
        ptx!(k, "ld.shared.f32 {logarithm}, [%own_statistics + {}];", 4 * column);
        ptx!(k, "ld.shared.f32 {delta}, [%own_statistics + {}];", 4 * (COLUMNS + column));
        if shape.dropout {
            for factor in &keep {
                ptx!(k, "mov.f32 {factor}, {};", float(1.0));
            }
            dropout::four(k, rounds(shape), "%row", "%key", std::array::from_fn(|row| &keep[row]));
        }
        for row in 0..4 {
            let (score, slope) = (&scores[row][column], &slopes[row][column]);
            probability(k, score, logarithm);
            if shape.dropout {
                ptx!(k, "mul.rn.f32 {slope}, {slope}, {};", keep[row]);
            }
            ptx!(k, "sub.rn.f32 {slope}, {slope}, {delta};\nmul.rn.f32 {slope}, {slope}, {score};\nadd.u32 %index, %key, {row};");
            ptx!(k, "setp.lt.u32 %inside, %index, %limit;\nselp.f32 {slope}, {slope}, {zero}, %inside;", zero = float(0.0));
            ptx!(k, "selp.f32 {score}, {score}, {}, %inside;", float(0.0));
            if shape.dropout {
                ptx!(k, "mul.rn.f32 {score}, {score}, {};", keep[row]);
            }
        }
    }
    put_scores(k, &scores, "%scores_to");
    ptx!(k, "bar.warp.sync 0xffffffff;");
    gather(k, shape, &fragments, &dv, Gather { scores_at: "%scores_at", values_at: "%dout_gather", permuted: true });
    ptx!(k, "bar.warp.sync 0xffffffff;");
    put_scores(k, &slopes, "%scores_to");
    ptx!(k, "bar.warp.sync 0xffffffff;");
    gather(k, shape, &fragments, &dk, Gather { scores_at: "%scores_at", values_at: "%q_gather", permuted: true });
    ptx!(
        k,
        "bar.sync 0;\nadd.u32 %step_at, %step_at, {COLUMNS};\nsetp.lt.u32 %more, %step_at, %queries;\n@%more bra QUERY_LOOP;\nQUERIES_DONE:"
    );
    keys_see_themselves(k, shape, &fragments, &dk, &dv, v_tile);
    k.note("The next head of the group.");
    for matrix in ["q", "dout", "saved"] {
        ptx!(k, "add.u64 %{matrix}, %{matrix}, {};", 4 * d);
    }
    ptx!(k, "mul.wide.u32 %bytes, %query_len, 4;\nadd.u64 %logsumexp, %logsumexp, %bytes;\nadd.u32 %head, %head, 1;");
    ptx!(k, "sub.u32 %heads_left, %heads_left, 1;\nsetp.ne.u32 %more, %heads_left, 0;\n@%more bra HEAD_LOOP;");
    head_of(k, "dk", "%kv_head", "%key_len", d);
    write(k, "dk", "%key_len", &dk, Some("%scale"));
    head_of(k, "dv", "%kv_head", "%key_len", d);
    write(k, "dv", "%key_len", &dv, None);
    ptx!(k, "ret;");
    k.text()
}

/// Logarithm and delta of the step's 32 queries, eight lanes each.
fn column_statistics(k: &mut Kernel, shape: Shape, fragments: &Fragments, dout_tile: usize) {
    let (own, other) = fragments.pair();
    k.note("Logarithms and deltas of the step's queries.");
    for first in (0..COLUMNS).step_by(shape.threads() / 8) {
        ptx!(k, "shr.u32 %index, %thread, 3;\nadd.u32 %index, %index, {first};\nadd.u32 %row, %index, %step_at;");
        ptx!(k, "setp.lt.u32 %writes, %row, %queries;\nand.b32 %copy_place, %index, 3;\nshl.b32 %copy_place, %copy_place, 3;");
        ptx!(k, "shr.u32 %copy_to, %index, 2;\nadd.u32 %copy_place, %copy_place, %copy_to;");
        ptx!(k, "mad.lo.u32 %copy_to, %copy_place, {}, %shared;\nadd.u32 %copy_to, %copy_to, %lane_bytes;", shape.pitch());
        address(k, "saved");
        ptx!(k, "mov.f32 %t, {};", float(0.0));
        for element in 0..shape.head_dim / 8 {
            ptx!(k, "mov.f32 {other}, {};\n@%writes ld.global.f32 {other}, [%address + {}];", float(0.0), 32 * element);
            ptx!(k, "ld.shared.f32 {own}, [%copy_to + {}];\nfma.rn.f32 %t, {own}, {other}, %t;", dout_tile + 32 * element);
        }
        over_row(k, "add.rn.f32", "%t");
        load_logarithm(k, "%slope", "%row", "%writes");
        ptx!(k, "shl.b32 %index, %index, 2;\nadd.u32 %index, %index, %statistics;");
        ptx!(k, "@%first_lane st.shared.f32 [%index], %slope;\n@%first_lane st.shared.f32 [%index + {}], %t;", 4 * COLUMNS);
    }
}

fn keys_see_themselves(k: &mut Kernel, shape: Shape, fragments: &Fragments, dk: &[Vec<Reg>], dv: &[Vec<Reg>], v_tile: usize) {
    let (own, other) = fragments.pair();
    k.regs(Kind::F32, "dropped");
    k.note("Keys behind a prefix are seen by their own queries.");
    ptx!(k, "add.u32 %index, %first_row, {};\nsetp.gt.u32 %selfish, %index, %self_from;", shape.rows());
    ptx!(k, "setp.lt.and.u32 %selfish, %first_row, %self_to, %selfish;\n@!%selfish bra OWN_DONE;");
    for row in 0..4 {
        own_row(k, row);
        k.note("q . k, dout . v, dout . out.");
        for (matrix, tile, target) in [("q", Some(0), "%t"), ("dout", Some(v_tile), "%slope"), ("saved", None, "%delta")] {
            if tile.is_none() {
                address(k, "dout");
                ptx!(k, "mov.u64 %copy_from, %address;");
            }
            address(k, matrix);
            ptx!(k, "mov.f32 {target}, {};", float(0.0));
            for element in 0..shape.head_dim / 8 {
                ptx!(k, "mov.f32 {other}, {};\n@%selfish ld.global.f32 {other}, [%address + {}];", float(0.0), 32 * element);
                match tile {
                    Some(tile) => ptx!(k, "ld.shared.f32 {own}, [%own_at + {}];", tile + row * shape.pitch() + 32 * element),
                    None => ptx!(k, "mov.f32 {own}, {};\n@%selfish ld.global.f32 {own}, [%copy_from + {}];", float(0.0), 32 * element),
                }
                ptx!(k, "fma.rn.f32 {target}, {own}, {other}, {target};");
            }
            over_row(k, "add.rn.f32", target);
        }
        load_logarithm(k, "%logarithm", "%row", "%selfish");
        probability(k, &Reg::named("t"), &Reg::named("logarithm"));
        ptx!(k, "selp.f32 %t, %t, {}, %selfish;\nmov.f32 %dropped, %t;", float(0.0));
        if shape.dropout {
            dropout::own(k, rounds(shape), "%row");
            ptx!(k, "mul.rn.f32 %slope, %slope, %keep;\nmul.rn.f32 %dropped, %dropped, %keep;");
        }
        ptx!(k, "sub.rn.f32 %slope, %slope, %delta;\nmul.rn.f32 %slope, %slope, %t;\nselp.f32 %slope, %slope, {}, %selfish;", float(0.0));
        for (matrix, weight, sums) in [("dout", "%dropped", &dv[row]), ("q", "%slope", &dk[row])] {
            address(k, matrix);
            for (element, sum) in sums.iter().enumerate() {
                ptx!(k, "mov.f32 {other}, {};\n@%selfish ld.global.f32 {other}, [%address + {}];", float(0.0), 32 * element);
                ptx!(k, "fma.rn.f32 {sum}, {weight}, {other}, {sum};");
            }
        }
    }
    ptx!(k, "OWN_DONE:");
}
