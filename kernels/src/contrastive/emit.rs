//! The PTX of the contrastive loss: which texts there are, and the tile of scores that they share.
//!
//! A block owns 64 items of one side (cells or texts) and meets the items of the other side of their group, 64 at a time. For each
//! query it multiplies a 64 x 64 tile out, a thread 4 x 4 of it, and keeps the larger scores in registers: a thread's pairs stay its own,
//! so that the maximum over queries needs no exchange. Each product is one chain of fused multiply-adds in the order of the width, the
//! same whichever side owns.

use super::{emit_backward, emit_forward};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

/// Items that a block owns, and items that it meets at a time.
pub(super) const TILE: usize = 64;
/// Threads a block: 16 x 16.
pub(super) const THREADS: usize = 256;
/// Bytes from one row of a tile in shared memory to the next: 64 floats and four more, so that a warp that writes meets all banks.
pub(super) const PITCH: usize = 4 * (TILE + 4);
const DEPTH: usize = 16;
const OPERAND: usize = DEPTH * PITCH;
const STAGE: usize = 2 * OPERAND;
/// Bytes of both stages of both operands.
pub(super) const STAGES: usize = 2 * STAGE;

/// The side whose items a block owns, or meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owned {
    Cells,
    Texts,
}

impl Owned {
    pub(super) const BOTH: [Owned; 2] = [Owned::Cells, Owned::Texts];

    pub(super) fn name(self) -> &'static str {
        match self {
            Owned::Cells => "cells",
            Owned::Texts => "texts",
        }
    }

    /// What the other side is.
    fn met(self) -> Owned {
        match self {
            Owned::Cells => Owned::Texts,
            Owned::Texts => Owned::Cells,
        }
    }
}

/// Every text of this kernel.
pub(super) fn all() -> Vec<Text> {
    let backward = Owned::BOTH.into_iter().flat_map(|owned| [false, true].map(|many| emit_backward::text(owned, many)));
    Owned::BOTH.map(emit_forward::text).into_iter().chain(backward).collect()
}

/// Parameters that say what the scores are made of.
pub(super) fn params(k: &mut Kernel) {
    k.params(".u64", "cells texts classes temperature");
    k.params(".u32", "items group queries width cells_stride texts_stride");
}

/// Who is who: the thread's place, the group's items (`%count`, from item `%start` on), the owned rows, and `%inverse`, 1 / temperature
/// (NaN unless the temperature is a positive number). A block whose tile begins beyond its group has nothing to do.
pub(super) fn positions(k: &mut Kernel, owned: Owned) {
    k.regs(Kind::B32, "shared thread own_lane met_lane copy_row copy_depth start count first_owned items group queries width index");
    k.regs(Kind::B64, "bytes address");
    k.regs(Kind::Pred, "inside nothing");
    k.regs(Kind::F32, "temperature inverse scale");
    ptx!(k, "mov.u32 %shared, shared_memory;\nmov.u32 %thread, %tid.x;");
    ptx!(k, "shr.u32 %own_lane, %thread, 4;\nand.b32 %met_lane, %thread, 15;");
    ptx!(k, "and.b32 %copy_row, %thread, 63;\nshr.u32 %copy_depth, %thread, 6;\nshl.b32 %copy_depth, %copy_depth, 2;");
    ptx!(
        k,
        "ld.param.u32 %items, [items];\nld.param.u32 %group, [group];\nld.param.u32 %queries, [queries];\nld.param.u32 %width, [width];"
    );
    ptx!(
        k,
        "mov.u32 %index, %ctaid.x;\nmul.lo.u32 %start, %index, %group;\nsub.u32 %count, %items, %start;\nmin.u32 %count, %count, %group;"
    );
    ptx!(k, "mov.u32 %first_owned, %ctaid.y;\nshl.b32 %first_owned, %first_owned, {};", TILE.trailing_zeros());
    ptx!(k, "setp.ge.u32 %nothing, %first_owned, %count;");
    ptx!(k, "ld.param.u64 %address, [temperature];\ncvta.to.global.u64 %address, %address;\nld.global.f32 %temperature, [%address];");
    ptx!(k, "div.rn.f32 %inverse, {}, %temperature;", float(1.0));
    ptx!(
        k,
        "setp.gt.f32 %inside, %temperature, {};\nsetp.lt.and.f32 %inside, %temperature, {}, %inside;",
        float(0.0),
        float(f32::INFINITY)
    );
    ptx!(k, "selp.f32 %inverse, %inverse, {}, %inside;", float(f32::NAN));
    k.note("Scores are in units of ln 2.");
    ptx!(k, "mul.rn.f32 %scale, %inverse, {};", float(std::f32::consts::LOG2_E));
    for (side, of) in [("owned", owned), ("met", owned.met())] {
        let matrix = of.name();
        k.regs(Kind::B64, &format!("{side} {side}_row {side}_at {side}_query"));
        k.regs(Kind::B32, &format!("{side}_stride {side}_write {side}_read {side}_size"));
        k.note(format!("{side}: first row of the group, the bytes to the next query, and where this thread's copies and reads lie."));
        ptx!(k, "ld.param.u64 %{side}, [{matrix}];\ncvta.to.global.u64 %{side}, %{side};\nld.param.u32 %{side}_stride, [{matrix}_stride];");
        ptx!(k, "mov.u32 %index, %start;");
        row_of(k, of);
        ptx!(k, "mul.wide.u32 %bytes, %index, %{side}_stride;\nshl.b64 %bytes, %bytes, 2;\nadd.u64 %{side}, %{side}, %bytes;");
        ptx!(k, "mov.u64 %{side}_query, 0;");
        if of == Owned::Cells {
            ptx!(k, "mul.wide.u32 %{side}_query, %{side}_stride, 4;");
        }
        let (lane, operand) = if side == "owned" { ("%own_lane", 0) } else { ("%met_lane", OPERAND) };
        ptx!(k, "mad.lo.u32 %{side}_write, %copy_depth, {PITCH}, %shared;\nshl.b32 %index, %copy_row, 2;");
        ptx!(k, "add.u32 %{side}_write, %{side}_write, %index;\nadd.u32 %{side}_write, %{side}_write, {operand};");
        ptx!(k, "shl.b32 %index, {lane}, 4;\nadd.u32 %{side}_read, %shared, %index;\nadd.u32 %{side}_read, %{side}_read, {operand};");
    }
    copy_row(k, "owned", owned, "%first_owned");
}

/// `%index`, an item, becomes its first row.
pub(super) fn row_of(k: &mut Kernel, side: Owned) {
    if side == Owned::Cells {
        ptx!(k, "mul.lo.u32 %index, %index, %queries;");
    }
}

/// `%{side}_row`: this thread's row of a tile that begins at item `first`, and whether there is one.
fn copy_row(k: &mut Kernel, side: &str, of: Owned, first: &str) {
    ptx!(k, "add.u32 %index, {first}, %copy_row;\nsetp.lt.u32 %inside, %index, %count;\nselp.u32 %{side}_size, 4, 0, %inside;");
    row_of(k, of);
    ptx!(
        k,
        "mul.wide.u32 %{side}_row, %index, %{side}_stride;\ncvt.u64.u32 %bytes, %copy_depth;\nadd.u64 %{side}_row, %{side}_row, %bytes;"
    );
    ptx!(k, "shl.b64 %{side}_row, %{side}_row, 2;\nadd.u64 %{side}_row, %{side}_row, %{side};");
}

/// Registers of a tile of scores.
pub(super) struct Scores {
    /// `[owned][met]`: the thread's scores, in units of ln 2; -inf for a pair that does not exist or is hidden.
    pub(super) best: Vec<Vec<Reg>>,
    /// The query that each comes from.
    pub(super) winner: Vec<Vec<Reg>>,
    acc: Vec<Vec<Reg>>,
    own_part: Vec<Vec<Reg>>,
    met_part: Vec<Vec<Reg>>,
    /// Place in the group of the thread's four items, and their classes.
    pub(super) own_item: Vec<Reg>,
    pub(super) met_item: Vec<Reg>,
    own_class: Vec<Reg>,
    met_class: Vec<Reg>,
}

/// Declares them, and finds the owned items.
pub(super) fn declare(k: &mut Kernel) -> Scores {
    k.regs(Kind::B32, "met_first query depth_left copy_left offset size own_at met_at_shared class_index");
    k.regs(Kind::B64, "classes");
    k.regs(Kind::Pred, "more last deep_enough wins is_nan same more_queries classed");
    let scores = Scores {
        best: k.grid(Kind::F32, "best", 4, 4),
        winner: k.grid(Kind::B32, "winner", 4, 4),
        acc: k.grid(Kind::F32, "acc", 4, 4),
        own_part: k.grid(Kind::F32, "own_part", 2, 4),
        met_part: k.grid(Kind::F32, "met_part", 2, 4),
        own_item: k.array(Kind::B32, "own_item", 4),
        met_item: k.array(Kind::B32, "met_item", 4),
        own_class: k.array(Kind::B32, "own_class", 4),
        met_class: k.array(Kind::B32, "met_class", 4),
    };
    ptx!(k, "ld.param.u64 %classes, [classes];\nsetp.ne.u64 %classed, %classes, 0;\ncvta.to.global.u64 %classes, %classes;");
    items(k, "%first_owned", "%own_lane", &scores.own_item, &scores.own_class);
    scores
}

/// The four items of a thread from `first` on, and their classes; without classes every item is its own.
fn items(k: &mut Kernel, first: &str, lane: &str, items: &[Reg], classes: &[Reg]) {
    for (index, (item, class)) in items.iter().zip(classes).enumerate() {
        ptx!(k, "shl.b32 {item}, {lane}, 2;\nadd.u32 {item}, {item}, {first};\nadd.u32 {item}, {item}, {index};\nmov.u32 {class}, {item};");
        ptx!(k, "setp.lt.and.u32 %inside, {item}, %count, %classed;\nadd.u32 %class_index, {item}, %start;");
        ptx!(k, "mad.wide.u32 %address, %class_index, 4, %classes;\n@%inside ld.global.u32 {class}, [%address];");
    }
}

/// Starts the copies of one step of both operands; elements outside become 0.
fn issue(k: &mut Kernel) {
    for side in ["owned", "met"] {
        ptx!(k, "add.u32 %index, %{side}_write, %offset;");
        for element in 0..4 {
            ptx!(k, "setp.gt.s32 %deep_enough, %copy_left, {element};\nselp.u32 %size, %{side}_size, 0, %deep_enough;");
            ptx!(k, "cp.async.ca.shared.global [%index + {}], [%{side}_at + {}], 4, %size;", element * PITCH, 4 * element);
        }
        ptx!(k, "add.u64 %{side}_at, %{side}_at, {};", 4 * DEPTH);
    }
    ptx!(k, "sub.u32 %copy_left, %copy_left, {DEPTH};");
}

/// The scores of the owned items with the 64 from `%met_first` on. Every thread has left shared memory before.
pub(super) fn tile(k: &mut Kernel, owned: Owned, scores: &Scores) {
    k.note("A tile: for each query the products, of which the largest stay.");
    copy_row(k, "met", owned.met(), "%met_first");
    items(k, "%met_first", "%met_lane", &scores.met_item, &scores.met_class);
    for (best, winner) in scores.best.iter().flatten().zip(scores.winner.iter().flatten()) {
        ptx!(k, "mov.f32 {best}, {};\nmov.u32 {winner}, 0;", float(f32::NEG_INFINITY));
    }
    ptx!(k, "mov.u32 %query, 0;\nmov.u64 %owned_at, %owned_row;\nmov.u64 %met_at, %met_row;");
    ptx!(k, "QUERY_LOOP:\n.pragma \"nounroll\";");
    for acc in scores.acc.iter().flatten() {
        ptx!(k, "mov.f32 {acc}, {};", float(0.0));
    }
    ptx!(k, "mov.u32 %depth_left, %width;\nsub.u32 %copy_left, %width, %copy_depth;\nmov.u32 %offset, 0;");
    issue(k);
    ptx!(k, "cp.async.wait_all;\nDEPTH_LOOP:\n.pragma \"nounroll\";");
    k.note("The step that landed is read while the next one comes into the other stage.");
    ptx!(k, "bar.sync 0;\nadd.u32 %own_at, %owned_read, %offset;\nadd.u32 %met_at_shared, %met_read, %offset;");
    ptx!(k, "xor.b32 %offset, %offset, {STAGE};\nsetp.le.u32 %last, %depth_left, {DEPTH};\n@%last bra LAST_STEP;");
    issue(k);
    ptx!(k, "LAST_STEP:");
    let fetch = |k: &mut Kernel, depth: usize| {
        for (part, at) in [(&scores.own_part[depth % 2], "%own_at"), (&scores.met_part[depth % 2], "%met_at_shared")] {
            ptx!(k, "ld.shared.v4.f32 {{{}, {}, {}, {}}}, [{at} + {}];", part[0], part[1], part[2], part[3], depth * PITCH);
        }
    };
    fetch(k, 0);
    for depth in 0..DEPTH {
        if depth + 1 < DEPTH {
            fetch(k, depth + 1);
        }
        for (own, acc) in scores.own_part[depth % 2].iter().zip(&scores.acc) {
            for (met, acc) in scores.met_part[depth % 2].iter().zip(acc) {
                ptx!(k, "fma.rn.f32 {acc}, {own}, {met}, {acc};");
            }
        }
    }
    ptx!(k, "cp.async.wait_all;\nsub.u32 %depth_left, %depth_left, {DEPTH};\n@!%last bra DEPTH_LOOP;");
    k.note("The first of equal products stays, and so does a NaN.");
    for ((acc, best), winner) in scores.acc.iter().flatten().zip(scores.best.iter().flatten()).zip(scores.winner.iter().flatten()) {
        ptx!(k, "setp.nan.f32 %is_nan, {acc}, {acc};\nsetp.gt.or.f32 %wins, {acc}, {best}, %is_nan;");
        ptx!(k, "selp.f32 {best}, {acc}, {best}, %wins;\nselp.u32 {winner}, %query, {winner}, %wins;");
    }
    ptx!(k, "add.u32 %query, %query, 1;\ncvt.u64.u32 %bytes, %query;");
    for side in ["owned", "met"] {
        ptx!(k, "mad.lo.u64 %{side}_at, %bytes, %{side}_query, %{side}_row;");
    }
    ptx!(k, "bar.sync 0;\nsetp.lt.u32 %more_queries, %query, %queries;\n@%more_queries bra QUERY_LOOP;");
    k.note("Scores; pairs that do not exist or are of one class are hidden.");
    for (row, (own, own_class)) in scores.own_item.iter().zip(&scores.own_class).enumerate() {
        for (column, (met, met_class)) in scores.met_item.iter().zip(&scores.met_class).enumerate() {
            let best = &scores.best[row][column];
            ptx!(k, "mul.rn.f32 {best}, {best}, %scale;\nsetp.eq.u32 %same, {own_class}, {met_class};");
            ptx!(k, "setp.ne.and.u32 %same, {own}, {met}, %same;\nsetp.ge.or.u32 %same, {own}, %count, %same;");
            ptx!(k, "setp.ge.or.u32 %same, {met}, %count, %same;\nselp.f32 {best}, {}, {best}, %same;", float(f32::NEG_INFINITY));
        }
    }
}

/// Adds (or takes the maximum of) a register over the sixteen lanes of an owned item; all of them get the result.
pub(super) fn over_met(k: &mut Kernel, operation: &str, register: &str) {
    for distance in [1, 2, 4, 8] {
        ptx!(k, "shfl.sync.bfly.b32 %passed, {register}, {distance}, 31, 0xffffffff;\n{operation} {register}, {register}, %passed;");
    }
}
