//! The PTX that scores a base and keeps each query's best rows; [`super::emit_list`] has what a list is and how lists are merged.
//!
//! A block of 128 threads takes 64 queries and walks over the tiles of its segment of the base, 128 rows each. A thread sums 8 x 8 scores
//! in four 4 x 4 parts, every score one chain of fused multiply-adds from the first column to the last, as on the CPU. Both operands come
//! in steps of 8 columns, `[column][row]` in shared memory with rows of 68 and 132 floats: a warp that writes 8 columns of 4 rows meets
//! every bank once, and a thread reads four rows at a time. The scores then cross shared memory, so that a warp has 16 queries to itself,
//! and a lane four rows of the tile. Nobody else touches a query's list, and a score that does not beat its last entry ends there.

use super::Metric;
use super::emit_list::{self as list, LIST_ENTRIES};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

/// Queries of a block.
pub(super) const QUERIES: usize = 64;
/// Base rows of a tile.
pub(super) const ROWS: usize = 128;
/// Threads of a block.
pub(super) const THREADS: usize = 128;

const WARPS: usize = THREADS / 32;
/// Queries of a warp.
const OWN: usize = QUERIES / WARPS;
/// Columns of a step.
const DEPTH: usize = 8;
/// Rows between the copies of a thread.
const APART: usize = THREADS / DEPTH;

// Shared memory: two stages of queries and base rows, the scores of a tile, the last entry of every list.
const QUERY_ROW: usize = 4 * (QUERIES + 4);
const BASE_ROW: usize = 4 * (ROWS + 4);
const BASE: usize = DEPTH * QUERY_ROW;
const STAGE: usize = BASE + DEPTH * BASE_ROW;
const SCORES: usize = 2 * STAGE;
const SCORE_ROW: usize = 4 * ROWS;
const LASTS: usize = SCORES + QUERIES * SCORE_ROW;
const SHARED: usize = LASTS + 8 * QUERIES;

/// Entry of a variant, whose lists have `slots` entries a lane.
pub(super) fn entry(metric: Metric, slots: usize) -> String {
    let metric = match metric {
        Metric::InnerProduct => "inner_product",
        Metric::Euclidean => "euclidean",
    };
    format!("topk_select_f32_{metric}_{}", 32 * slots)
}

/// The module of a variant.
pub(super) fn text(metric: Metric, slots: usize) -> Text {
    let about = format!(
        "The {} best rows of a segment of the base for every query, {}.\n\
         Grid: (ceil(queries / {QUERIES}), segments). Block: {THREADS} threads. Strides count elements.\n\
         lists[segment][query][{}]: descending; nothing beats the first {} - k, so that the k-th best is the last.\n\
         bounds[query], if not null: only entries below it count. tiles: tiles of {ROWS} rows a segment.\n\
         Shared: 2 stages of queries [{DEPTH}][{}] and rows [{DEPTH}][{}] f32, scores [{QUERIES}][{ROWS}] f32, last entries [{QUERIES}] u64.",
        32 * slots,
        if metric == Metric::Euclidean { "by the negative squared distance" } else { "by the inner product" },
        32 * slots,
        32 * slots,
        QUERY_ROW / 4,
        BASE_ROW / 4,
    );
    let mut k = Kernel::new(entry(metric, slots), about);
    let k = &mut k;
    k.params(".u64", "lists bounds query base");
    k.params(".u32", "queries rows width query_stride base_stride k tiles");
    k.block(THREADS, 3);
    k.shared(Some(SHARED));
    positions(k);
    list::declare(k, slots);
    start_lists(k, slots);
    prepare(k, "query", "%queries", "%first_query", QUERIES);
    sizes(k, "query", "%queries", "%first_query", QUERIES);
    prepare(k, "base", "%rows", "%first_row", ROWS);
    let acc = k.grid(Kind::F32, "acc", 8, 8);

    ptx!(k, "setp.ge.u32 %done, %first_row, %end_row;\n@%done ret;\nTILE_LOOP:\n.pragma \"nounroll\";");
    sizes(k, "base", "%rows", "%first_row", ROWS);
    product(k, metric, &acc);
    scores_out(k, metric, &acc);
    select(k, slots);
    k.note("The next tile. Its first barrier comes before anything is written that a slower warp still reads.");
    ptx!(k, "add.u32 %first_row, %first_row, {ROWS};\nmul.wide.u32 %bytes, %base_stride, {};", 4 * ROWS);
    ptx!(k, "add.u64 %base, %base, %bytes;\nsetp.lt.u32 %more, %first_row, %end_row;\n@%more bra TILE_LOOP;\nret;");
    k.text()
}

fn positions(k: &mut Kernel) {
    k.regs(Kind::B32, "queries rows width query_stride base_stride k tiles thread lane warp segment first_query first_row end_row shared");
    k.regs(Kind::B32, "query_read base_read score_write score_read last_at index offset left query_at base_at");
    k.regs(Kind::B64, "lists bytes list_at");
    k.regs(Kind::Pred, "done more last inside outside");
    k.note(
        "Who sums what: queries 4 t and 4 t + 32 on, t = lane / 8 + 4 (warp / 2); rows 4 u and 4 u + 64 on, u = lane % 8 + 8 (warp % 2).",
    );
    for name in ["queries", "rows", "width", "query_stride", "base_stride", "k", "tiles"] {
        ptx!(k, "ld.param.u32 %{name}, [{name}];");
    }
    ptx!(k, "mov.u32 %thread, %tid.x;\nand.b32 %lane, %thread, 31;\nshr.u32 %warp, %thread, 5;");
    ptx!(k, "mov.u32 %first_query, %ctaid.x;\nmul.lo.u32 %first_query, %first_query, {QUERIES};");
    ptx!(k, "mov.u32 %segment, %ctaid.y;\nmul.lo.u32 %first_row, %segment, %tiles;\nadd.u32 %end_row, %first_row, %tiles;");
    ptx!(k, "mul.lo.u32 %first_row, %first_row, {ROWS};\nmul.lo.u32 %end_row, %end_row, {ROWS};\nmin.u32 %end_row, %end_row, %rows;");
    ptx!(k, "mov.u32 %shared, shared_memory;");
    ptx!(k, "shr.u32 %offset, %lane, 3;\nshr.u32 %index, %warp, 1;\nmad.lo.u32 %offset, %index, 4, %offset;");
    ptx!(k, "mad.lo.u32 %query_read, %offset, 16, %shared;\nmad.lo.u32 %score_write, %offset, {}, %shared;", 4 * SCORE_ROW);
    ptx!(k, "and.b32 %offset, %lane, 7;\nand.b32 %index, %warp, 1;\nmad.lo.u32 %offset, %index, 8, %offset;");
    ptx!(k, "mad.lo.u32 %base_read, %offset, 16, %shared;\nmad.lo.u32 %score_write, %offset, 16, %score_write;");
    k.note(format!("Who selects what: warp w has queries {OWN} w on, lane l rows l, l + 32, l + 64 and l + 96 of the tile."));
    ptx!(k, "mul.lo.u32 %score_read, %warp, {};\nadd.u32 %score_read, %score_read, %shared;", OWN * SCORE_ROW);
    ptx!(k, "mad.lo.u32 %score_read, %lane, 4, %score_read;\nmad.lo.u32 %last_at, %warp, {}, %shared;", 8 * OWN);
}

/// The warp's lists, in memory, with nothing in them but what keeps the first places.
fn start_lists(k: &mut Kernel, slots: usize) {
    k.regs(Kind::Pred, "taken");
    k.note("Empty lists: the first places are taken, all others 0.");
    ptx!(k, "mov.u32 %index, %nctaid.x;\nmul.lo.u32 %index, %index, {QUERIES};\nmad.lo.u32 %index, %segment, %index, %first_query;");
    ptx!(k, "mad.lo.u32 %index, %warp, {OWN}, %index;\nmul.wide.u32 %list_at, %index, {};", 8 * 32 * slots);
    ptx!(k, "mad.wide.u32 %list_at, %lane, {}, %list_at;\nld.param.u64 %lists, [lists];\nadd.u64 %lists, %lists, %list_at;", 8 * slots);
    ptx!(k, "mul.lo.u32 %offset, %lane, {slots};\nsub.u32 %index, {}, %k;", 32 * slots);
    for slot in 0..slots {
        ptx!(k, "setp.lt.u32 %taken, %offset, %index;\nselp.b64 %entry_{slot}, 0xffffffffffffffff, 0, %taken;");
        ptx!(k, "add.u32 %offset, %offset, 1;");
    }
    for query in 0..OWN {
        list::store(k, slots, "%lists", query * 8 * 32 * slots);
    }
    ptx!(k, "mov.b64 %last_entry, 0;\nmad.lo.u32 %index, %lane, 8, %last_at;\nsetp.lt.u32 %inside, %lane, {OWN};");
    ptx!(k, "@%inside st.shared.b64 [%index + {LASTS}], %last_entry;");
}

/// Declares what the copies of an operand need: this thread brings column thread % 8 of rows thread / 8 + 16 i.
fn prepare(k: &mut Kernel, name: &str, extent: &str, first: &str, rows: usize) {
    let row_bytes = if name == "query" { QUERY_ROW } else { BASE_ROW };
    k.note(format!("Copies of {name}: this thread brings column thread % 8 of rows thread / 8 + {APART} i, below {extent}."));
    k.regs(Kind::B64, &format!("{name} {name}_from {name}_step"));
    k.regs(Kind::B32, &format!("{name}_write {name}_size"));
    k.array(Kind::B32, &format!("{name}_row_size"), rows / APART);
    ptx!(k, "and.b32 %index, %thread, {};\nshr.u32 %offset, %thread, 3;", DEPTH - 1);
    ptx!(k, "mad.lo.u32 %{name}_write, %index, {row_bytes}, %shared;\nmad.lo.u32 %{name}_write, %offset, 4, %{name}_write;");
    ptx!(k, "add.u32 %offset, %offset, {first};\nmul.wide.u32 %{name}_from, %offset, %{name}_stride;");
    ptx!(k, "shl.b64 %{name}_from, %{name}_from, 2;\nmad.wide.u32 %{name}_from, %index, 4, %{name}_from;");
    ptx!(k, "ld.param.u64 %{name}, [{name}];\nadd.u64 %{name}, %{name}, %{name}_from;");
    ptx!(k, "mul.wide.u32 %{name}_step, %{name}_stride, {};", 4 * APART);
}

/// Bytes that the copies of an operand bring of each row: none outside.
fn sizes(k: &mut Kernel, name: &str, extent: &str, first: &str, rows: usize) {
    ptx!(k, "shr.u32 %index, %thread, 3;\nadd.u32 %index, %index, {first};");
    for at in 0..rows / APART {
        ptx!(k, "setp.lt.u32 %inside, %index, {extent};\nselp.b32 %{name}_row_size_{at}, 4, 0, %inside;\nadd.u32 %index, %index, {APART};");
    }
}

/// Starts the copies of one step; elements outside the matrices become 0, which adds nothing to a score.
fn issue(k: &mut Kernel) {
    k.note("The next columns of both.");
    ptx!(k, "and.b32 %index, %thread, {};\nsetp.lt.u32 %deep, %index, %left;", DEPTH - 1);
    for (name, rows, shared) in [("query", QUERIES, 0), ("base", ROWS, BASE)] {
        ptx!(k, "add.u32 %index, %{name}_write, %offset;\nmov.b64 %bytes, %{name}_from;");
        for at in 0..rows / APART {
            ptx!(k, "selp.b32 %{name}_size, %{name}_row_size_{at}, 0, %deep;");
            ptx!(k, "cp.async.ca.shared.global [%index + {}], [%bytes], 4, %{name}_size;", shared + 4 * APART * at);
            ptx!(k, "add.u64 %bytes, %bytes, %{name}_step;");
        }
        ptx!(k, "add.u64 %{name}_from, %{name}_from, {};", 4 * DEPTH);
    }
}

/// 8 x 8 sums a thread over all columns; at least one step, be it of zeros.
fn product(k: &mut Kernel, metric: Metric, acc: &[Vec<Reg>]) {
    k.regs(Kind::Pred, "deep");
    k.regs(Kind::F32, "gap");
    let (queries, rows) = (k.array(Kind::F32, "q", 8), k.array(Kind::F32, "b", 8));
    for sum in acc.iter().flatten() {
        ptx!(k, "mov.f32 {sum}, {};", float(0.0));
    }
    ptx!(k, "mov.b64 %query_from, %query;\nmov.b64 %base_from, %base;\nmov.u32 %left, %width;\nmov.u32 %offset, 0;");
    issue(k);
    ptx!(k, "STEP_LOOP:\n.pragma \"nounroll\";");
    k.note("The step that landed is read while the next one comes into the other stage.");
    ptx!(k, "cp.async.wait_all;\nbar.sync 0;");
    ptx!(k, "add.u32 %query_at, %query_read, %offset;\nadd.u32 %base_at, %base_read, %offset;\nxor.b32 %offset, %offset, {STAGE};");
    ptx!(k, "setp.le.u32 %last, %left, {DEPTH};\n@%last bra LAST_STEP;\nsub.u32 %left, %left, {DEPTH};");
    issue(k);
    ptx!(k, "LAST_STEP:");
    for column in 0..DEPTH {
        let parts = [(&queries, "%query_at", column * QUERY_ROW, 2 * QUERIES), (&rows, "%base_at", BASE + column * BASE_ROW, 2 * ROWS)];
        for (registers, base, first, second) in parts {
            for half in 0..2 {
                let [r0, r1, r2, r3] = std::array::from_fn(|index| &registers[4 * half + index]);
                ptx!(k, "ld.shared.v4.f32 {{{r0}, {r1}, {r2}, {r3}}}, [{base} + {}];", first + half * second);
            }
        }
        for (query, sums) in queries.iter().zip(acc) {
            for (row, sum) in rows.iter().zip(sums) {
                match metric {
                    Metric::InnerProduct => ptx!(k, "fma.rn.f32 {sum}, {query}, {row}, {sum};"),
                    Metric::Euclidean => ptx!(k, "sub.rn.f32 %gap, {query}, {row};\nfma.rn.f32 {sum}, %gap, %gap, {sum};"),
                }
            }
        }
    }
    ptx!(k, "@!%last bra STEP_LOOP;");
}

fn scores_out(k: &mut Kernel, metric: Metric, acc: &[Vec<Reg>]) {
    k.note("The scores, where their warps find them.");
    for (query, sums) in acc.iter().enumerate() {
        if metric == Metric::Euclidean {
            for sum in sums {
                ptx!(k, "sub.rn.f32 {sum}, {}, {sum};", float(0.0));
            }
        }
        let at = SCORES + (query % 4 + query / 4 * QUERIES / 2) * SCORE_ROW;
        for (half, sums) in sums.chunks_exact(4).enumerate() {
            let (s0, s1, s2, s3) = (&sums[0], &sums[1], &sums[2], &sums[3]);
            ptx!(k, "st.shared.v4.f32 [%score_write + {}], {{{s0}, {s1}, {s2}, {s3}}};", at + half * SCORE_ROW / 2);
        }
    }
    ptx!(k, "bar.sync 0;");
}

/// A warp's queries, one after the other: entries of the tile that beat the list's last go in.
fn select(k: &mut Kernel, slots: usize) {
    k.regs(Kind::B64, "bounds bound");
    k.regs(Kind::B32, "query_index score_at last_slot turn");
    k.regs(Kind::F32, "score");
    k.regs(Kind::Pred, "some bounded");
    let candidates = k.array(Kind::B64, "candidate", ROWS / 32);
    k.note("One query a turn.");
    ptx!(k, "mad.lo.u32 %query_index, %warp, {OWN}, %first_query;\nmov.u32 %score_at, %score_read;\nmov.u32 %last_slot, %last_at;");
    ptx!(k, "mov.b64 %list_at, %lists;\nld.param.u64 %bounds, [bounds];\nsetp.ne.u64 %bounded, %bounds, 0;\nmov.u32 %turn, 0;");
    ptx!(k, "QUERY_LOOP:\n.pragma \"nounroll\";\nsetp.ge.u32 %done, %query_index, %queries;\n@%done bra QUERIES_DONE;");
    ptx!(k, "ld.shared.b64 %last_entry, [%last_slot + {LASTS}];\nmov.b64 %bound, 0xffffffffffffffff;");
    ptx!(k, "mad.wide.u32 %bytes, %query_index, 8, %bounds;\n@%bounded ld.global.nc.b64 %bound, [%bytes];");
    ptx!(k, "add.u32 %index, %first_row, %lane;\nsetp.ne.u32 %some, 0, 0;");
    for (at, candidate) in candidates.iter().enumerate() {
        ptx!(k, "ld.shared.f32 %score, [%score_at + {}];", SCORES + 128 * at);
        list::entry(k, candidate);
        ptx!(k, "setp.ge.u32 %outside, %index, %rows;\nselp.b64 {candidate}, 0, {candidate}, %outside;\nadd.u32 %index, %index, 32;");
        ptx!(k, "setp.ge.u64 %outside, {candidate}, %bound;\nselp.b64 {candidate}, 0, {candidate}, %outside;");
        ptx!(k, "setp.gt.or.u64 %some, {candidate}, %last_entry, %some;");
    }
    ptx!(k, "vote.sync.any.pred %some, %some, 0xffffffff;\n@!%some bra NEXT_QUERY;");
    list::load(k, slots, LIST_ENTRIES, "%list_at");
    for candidate in &candidates {
        list::offer(k, slots, candidate);
    }
    list::store(k, slots, "%list_at", 0);
    k.note("No lane may still have to read the slot.");
    ptx!(k, "bar.warp.sync 0xffffffff;\nsetp.eq.u32 %inside, %lane, 31;\n@%inside st.shared.b64 [%last_slot + {LASTS}], %last_entry;");
    ptx!(k, "NEXT_QUERY:\nadd.u32 %query_index, %query_index, 1;\nadd.u32 %score_at, %score_at, {SCORE_ROW};");
    ptx!(k, "add.u32 %last_slot, %last_slot, 8;\nadd.u64 %list_at, %list_at, {};", 8 * 32 * slots);
    ptx!(k, "add.u32 %turn, %turn, 1;\nsetp.lt.u32 %more, %turn, {OWN};\n@%more bra QUERY_LOOP;\nQUERIES_DONE:");
}
