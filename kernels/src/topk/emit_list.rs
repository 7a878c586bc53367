//! A warp's sorted list of the best entries, and the PTX that merges the lists of the base's segments.
//!
//! An entry is one number of 64 bits, the larger the better: above the score with its bits in ascending order (0 for NaN, which is thus
//! behind every number), below the complement of the row, so that of equal scores the smaller row wins. 0 is no entry at all. A lane holds
//! `slots` neighbours of the list in registers; an entry x goes in by `list[i] = max(list[i], min(list[i - 1], x))`, everywhere at once.
//! Entries differ and their order is total: what a list ends with does not depend on the order in which they come.

use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

/// Registers of the list itself, see [`load`].
pub(super) const LIST_ENTRIES: &str = "entry";

/// Entry of the merge of lists of `slots` entries a lane.
pub(super) fn name(slots: usize) -> String {
    format!("topk_merge_f32_{}", 32 * slots)
}

/// The module of a merge.
pub(super) fn text(slots: usize) -> Text {
    let entries = 32 * slots;
    let about = format!(
        "The k best of the lists that the segments of the base left for a query, as scores and rows; a warp a query.\n\
         Grid: ceil(queries / 4). Block: 128 threads. lists[segment][query][{entries}], list_rows queries a segment.\n\
         bounds[query]: the k-th entry, below which a later round goes on. Scores and indices go to columns `column` on; strides count\n\
         elements.",
    );
    let mut k = Kernel::new(name(slots), about);
    let k = &mut k;
    k.params(".u64", "scores indices bounds lists");
    k.params(".u32", "queries list_rows segments k column scores_stride indices_stride");
    k.block(128, 1);
    k.regs(Kind::B32, "thread lane query queries list_rows segment segments k column stride place target row key turn");
    k.regs(Kind::B64, "lists step base at bytes");
    k.regs(Kind::F32, "score");
    k.regs(Kind::Pred, "done some taken first wanted none");
    declare(k, slots);
    let candidates = k.array(Kind::B64, "candidate", slots);
    ptx!(k, "mov.u32 %thread, %tid.x;\nand.b32 %lane, %thread, 31;\nshr.u32 %query, %thread, 5;");
    ptx!(k, "mov.u32 %place, %ctaid.x;\nmad.lo.u32 %query, %place, 4, %query;");
    ptx!(k, "ld.param.u32 %queries, [queries];\nsetp.ge.u32 %done, %query, %queries;\n@%done ret;");
    ptx!(k, "ld.param.u64 %lists, [lists];\nmul.wide.u32 %bytes, %query, {};\nadd.u64 %lists, %lists, %bytes;", 8 * entries);
    ptx!(k, "mad.wide.u32 %lists, %lane, {}, %lists;\nld.param.u32 %list_rows, [list_rows];", 8 * slots);
    ptx!(k, "mul.wide.u32 %step, %list_rows, {};\nld.param.u32 %segments, [segments];\nld.param.u32 %k, [k];", 8 * entries);

    k.note("The first segment's list, then what beats its last entry of all others. What keeps their first places is no entry.");
    load(k, slots, LIST_ENTRIES, "%lists");
    last(k, slots);
    ptx!(k, "mov.u32 %segment, 1;\nSEGMENT_LOOP:\n.pragma \"nounroll\";");
    ptx!(k, "setp.ge.u32 %done, %segment, %segments;\n@%done bra SEGMENTS_DONE;\nadd.u64 %lists, %lists, %step;");
    load(k, slots, "candidate", "%lists");
    ptx!(k, "setp.ne.u32 %some, 0, 0;");
    for candidate in &candidates {
        ptx!(k, "setp.eq.u64 %taken, {candidate}, 0xffffffffffffffff;\nselp.b64 {candidate}, 0, {candidate}, %taken;");
        ptx!(k, "setp.gt.or.u64 %some, {candidate}, %last_entry, %some;");
    }
    ptx!(k, "add.u32 %segment, %segment, 1;\nvote.sync.any.pred %some, %some, 0xffffffff;\n@!%some bra SEGMENT_LOOP;");
    for candidate in &candidates {
        offer(k, slots, candidate);
    }
    ptx!(k, "bra.uni SEGMENT_LOOP;\nSEGMENTS_DONE:");

    k.note("Where the next round goes on.");
    ptx!(k, "ld.param.u64 %base, [bounds];\nmad.wide.u32 %at, %query, 8, %base;\nsetp.eq.u32 %first, %lane, 0;");
    ptx!(k, "@%first st.global.b64 [%at], %last_entry;");
    k.note("Back to scores and rows; no entry is -inf and the largest row.");
    ptx!(k, "ld.param.u32 %column, [column];\nmul.lo.u32 %place, %lane, {slots};");
    ptx!(k, "add.u32 %place, %place, %k;\nsub.u32 %place, %place, {entries};");
    for slot in 0..slots {
        ptx!(k, "setp.lt.u32 %wanted, %place, %k;\nmov.b64 {{%row, %key}}, %entry_{slot};\nnot.b32 %row, %row;");
        ptx!(k, "shr.s32 %turn, %key, 31;\nnot.b32 %turn, %turn;\nor.b32 %turn, %turn, 0x80000000;\nxor.b32 %turn, %key, %turn;");
        ptx!(k, "mov.b32 %score, %turn;\nsetp.eq.u32 %none, %key, 0;\nselp.f32 %score, {}, %score, %none;", float(f32::NAN));
        ptx!(k, "setp.eq.u64 %none, %entry_{slot}, 0;\nselp.f32 %score, {}, %score, %none;", float(f32::NEG_INFINITY));
        ptx!(k, "add.u32 %target, %place, %column;\ncvt.u64.u32 %bytes, %target;");
        for (name, kind, value) in [("scores", "f32", "%score"), ("indices", "b32", "%row")] {
            ptx!(k, "ld.param.u64 %base, [{name}];\nld.param.u32 %stride, [{name}_stride];\nmul.wide.u32 %at, %query, %stride;");
            ptx!(k, "add.u64 %at, %at, %bytes;\nshl.b64 %at, %at, 2;\nadd.u64 %at, %base, %at;\n@%wanted st.global.{kind} [%at], {value};");
        }
        ptx!(k, "add.u32 %place, %place, 1;");
    }
    ptx!(k, "ret;");
    k.text()
}

/// The list's registers, and what [`offer`] needs; `%lane` is the kernel's own.
pub(super) fn declare(k: &mut Kernel, slots: usize) {
    k.array(Kind::B64, LIST_ENTRIES, slots);
    k.regs(Kind::B64, "last_entry offered shifted before");
    k.regs(Kind::B32, "votes pick low high entry_key entry_low");
    k.regs(Kind::Pred, "beats picked above nan");
}

/// `candidate` from `%score` and the row `%index`. Adding 0 makes -0 the 0 that it is equal to.
pub(super) fn entry(k: &mut Kernel, candidate: &Reg) {
    ptx!(k, "add.rn.f32 %score, %score, {};\nmov.b32 %entry_key, %score;\nshr.s32 %entry_low, %entry_key, 31;", float(0.0));
    ptx!(k, "or.b32 %entry_low, %entry_low, 0x80000000;\nxor.b32 %entry_key, %entry_key, %entry_low;");
    ptx!(k, "setp.nan.f32 %nan, %score, %score;\nselp.b32 %entry_key, 0, %entry_key, %nan;");
    ptx!(k, "not.b32 %entry_low, %index;\nmov.b64 {candidate}, {{%entry_low, %entry_key}};");
}

/// The lane's part of a list, from global memory to registers `name_0, ..`.
pub(super) fn load(k: &mut Kernel, slots: usize, name: &str, address: &str) {
    match slots {
        1 => ptx!(k, "ld.global.b64 %{name}_0, [{address}];"),
        _ => (0..slots)
            .step_by(2)
            .for_each(|slot| ptx!(k, "ld.global.v2.b64 {{%{name}_{slot}, %{name}_{}}}, [{address} + {}];", slot + 1, 8 * slot)),
    }
}

/// The lane's part of the list, to global memory.
pub(super) fn store(k: &mut Kernel, slots: usize, address: &str, offset: usize) {
    match slots {
        1 => ptx!(k, "st.global.b64 [{address} + {offset}], %entry_0;"),
        _ => (0..slots)
            .step_by(2)
            .for_each(|slot| ptx!(k, "st.global.v2.b64 [{address} + {}], {{%entry_{slot}, %entry_{}}};", offset + 8 * slot, slot + 1)),
    }
}

/// `%last_entry` of the list.
fn last(k: &mut Kernel, slots: usize) {
    ptx!(k, "mov.b64 {{%low, %high}}, %entry_{};", slots - 1);
    ptx!(k, "shfl.sync.idx.b32 %low, %low, 31, 31, 0xffffffff;\nshfl.sync.idx.b32 %high, %high, 31, 31, 0xffffffff;");
    ptx!(k, "mov.b64 %last_entry, {{%low, %high}};");
}

/// Puts every lane's candidate that beats the last entry into the list, one after the other.
pub(super) fn offer(k: &mut Kernel, slots: usize, candidate: &Reg) {
    let (top, done) = (k.label("OFFER"), k.label("OFFERED"));
    ptx!(k, "{top}:\n.pragma \"nounroll\";\nsetp.gt.u64 %beats, {candidate}, %last_entry;");
    ptx!(k, "vote.sync.ballot.b32 %votes, %beats, 0xffffffff;\nsetp.eq.u32 %picked, %votes, 0;\n@%picked bra {done};");
    k.note("One of the lanes gives its candidate away.");
    ptx!(k, "bfind.u32 %pick, %votes;\nmov.b64 {{%low, %high}}, {candidate};");
    ptx!(k, "shfl.sync.idx.b32 %low, %low, %pick, 31, 0xffffffff;\nshfl.sync.idx.b32 %high, %high, %pick, 31, 0xffffffff;");
    ptx!(k, "mov.b64 %offered, {{%low, %high}};\nsetp.eq.u32 %picked, %lane, %pick;\nselp.b64 {candidate}, 0, {candidate}, %picked;");
    k.note("The entry before each lane's first; none before the list's first.");
    ptx!(k, "mov.b64 {{%low, %high}}, %entry_{};", slots - 1);
    ptx!(k, "shfl.sync.up.b32 %low, %low, 1, 0, 0xffffffff;\nshfl.sync.up.b32 %high|%above, %high, 1, 0, 0xffffffff;");
    ptx!(k, "mov.b64 %before, {{%low, %high}};\nselp.b64 %before, %before, 0xffffffffffffffff, %above;");
    for slot in (1..slots).rev() {
        ptx!(k, "min.u64 %shifted, %entry_{}, %offered;\nmax.u64 %entry_{slot}, %entry_{slot}, %shifted;", slot - 1);
    }
    ptx!(k, "min.u64 %shifted, %before, %offered;\nmax.u64 %entry_0, %entry_0, %shifted;");
    last(k, slots);
    ptx!(k, "bra.uni {top};\n{done}:");
}
