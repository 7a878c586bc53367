//! The PTX of the contrastive loss: which texts there are, and the tile of scores that both passes share.
//!
//! A block makes the scores of one tile: 128 rows of cells with 64 texts, a thread 8 x 4 of them. A cell has 1, 2, 4 or 8 rows of a tile,
//! neighbours that a thread owns together: the maximum over queries needs no exchange, and further queries come in further rounds. Who reads
//! the scores (the sums over texts and cells, or the slopes) takes both sides' share of a tile at once.

use super::emit_tile::{THREADS, Tile};
use super::{emit_backward, emit_combine, emit_forward, emit_gather, emit_product};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

/// Rows of cells of a tile.
pub(super) const OWN: usize = 128;
/// Those of a thread.
const ROWS: usize = OWN / 16;
/// Texts of a tile.
pub(super) const MET: usize = 64;
/// Queries of a cell in a tile.
pub(super) const AT_A_TIME: [usize; 4] = [1, 2, 4, ROWS];
/// Both operands are read along the width.
pub(super) const TILE: Tile = Tile::new(OWN, [true, true]);

/// How many queries of a cell share a tile.
pub(super) fn at_a_time(queries: usize) -> usize {
    queries.next_power_of_two().min(ROWS)
}

/// Every text of this kernel.
pub(super) fn all() -> Vec<Text> {
    let scores = AT_A_TIME.into_iter().flat_map(|per| [emit_forward::text(per), emit_backward::text(per)]);
    let products = emit_product::Side::BOTH.map(emit_product::text);
    scores.chain([emit_combine::text()]).chain(products).chain([emit_gather::cells(), emit_gather::texts()]).collect()
}

/// Parameters that say what the scores are made of, and which slice of them: `side` cells and texts of each group, from `cells_first` and
/// `texts_first` on.
pub(super) fn params(k: &mut Kernel) {
    k.params(".u64", "cells texts classes temperature");
    k.params(".u32", "items group queries width cells_stride texts_stride cells_first texts_first side");
}

/// The group's items: `%count` from `%start` on.
pub(super) fn group(k: &mut Kernel, number: &str) {
    k.regs(Kind::B32, "start count items group side");
    ptx!(k, "ld.param.u32 %items, [items];\nld.param.u32 %group, [group];\nld.param.u32 %side, [side];");
    ptx!(k, "mul.lo.u32 %start, {number}, %group;\nsub.u32 %count, %items, %start;\nmin.u32 %count, %count, %group;");
}

/// Who is who: the block's tile, which does not exist where `%nothing`; and `%inverse`, 1 / temperature (NaN unless the temperature is a
/// positive number).
pub(super) fn positions(k: &mut Kernel, per: usize) {
    TILE.positions(k);
    k.regs(Kind::B32, "group_index first_own first_met own_slots met_slots queries query own_query");
    k.regs(Kind::F32, "temperature inverse scale");
    k.regs(Kind::B64, "query_bytes");
    ptx!(k, "mov.u32 %group_index, %ctaid.x;");
    group(k, "%group_index");
    k.note("The tile's first cell and text, places in the group; and what leads from places to slots of the slice.");
    for (name, side, block, items) in [("own", "cells", "y", OWN / per), ("met", "texts", "z", MET)] {
        ptx!(k, "ld.param.u32 %index, [{side}_first];\nmul.lo.u32 %{name}_slots, %group_index, %side;");
        ptx!(k, "sub.u32 %{name}_slots, %{name}_slots, %index;\nmov.u32 %first_{name}, %ctaid.{block};");
        ptx!(k, "mad.lo.u32 %first_{name}, %first_{name}, {items}, %index;");
    }
    ptx!(k, "setp.ge.u32 %nothing, %first_own, %count;\nsetp.ge.or.u32 %nothing, %first_met, %count, %nothing;");
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
    k.note("The thread's first element of either side, and the bytes between its copies.");
    ptx!(k, "ld.param.u32 %queries, [queries];\nld.param.u32 %depth, [width];\nmov.u32 %met_depth, %depth;");
    for (name, side, per, queries) in [("own", "cells", per, "%queries"), ("met", "texts", 1, "1")] {
        ptx!(k, "ld.param.u64 %{name}, [{side}];\ncvta.to.global.u64 %{name}, %{name};\nld.param.u32 %{name}_stride, [{side}_stride];");
        ptx!(k, "shr.u32 %index, %{name}_row, {};\nadd.u32 %index, %index, %first_{name};", per.trailing_zeros());
        ptx!(k, "add.u32 %index, %index, %start;\nmul.lo.u32 %index, %index, {queries};");
        if name == "own" {
            ptx!(k, "and.b32 %own_query, %own_row, {};\nadd.u32 %index, %index, %own_query;", per - 1);
        }
        ptx!(k, "mul.wide.u32 %{name}_from, %index, %{name}_stride;\ncvt.u64.u32 %bytes, %{name}_k;");
        ptx!(k, "add.u64 %{name}_from, %{name}_from, %bytes;\nshl.b64 %{name}_from, %{name}_from, 2;");
        ptx!(k, "add.u64 %{name}_from, %{name}_from, %{name};\nmul.lo.u32 %index, {queries}, {};", 32 / per);
        ptx!(k, "mul.wide.u32 %{name}_step, %index, %{name}_stride;\nshl.b64 %{name}_step, %{name}_step, 2;");
    }
    ptx!(k, "mul.wide.u32 %query_bytes, %own_stride, {};", 4 * per);
    let [own, met] = TILE.operands();
    own.sizes(k, per, "%first_own", "%count");
    met.sizes(k, 1, "%first_met", "%count");
}

/// Registers of a tile of scores.
pub(super) struct Scores {
    /// `[cell][text]`: the thread's scores, in units of ln 2; -inf for a pair that does not exist or is hidden.
    pub(super) best: Vec<Vec<Reg>>,
    /// The query that each comes from, where that is asked for.
    pub(super) winner: Vec<Vec<Reg>>,
    /// Places in the group of the thread's cells and texts.
    pub(super) own_item: Vec<Reg>,
    pub(super) met_item: Vec<Reg>,
}

/// A thread's neighbouring items from `first` on, and their classes; without classes every item is its own.
fn items(k: &mut Kernel, side: &str, count: usize) -> (Vec<Reg>, Vec<Reg>) {
    let items = k.array(Kind::B32, &format!("{side}_item"), count);
    let classes = k.array(Kind::B32, &format!("{side}_class"), count);
    for (index, (item, class)) in items.iter().zip(&classes).enumerate() {
        ptx!(k, "mad.lo.u32 {item}, %{side}_lane, {count}, %first_{side};\nadd.u32 {item}, {item}, {index};\nmov.u32 {class}, {item};");
        ptx!(k, "setp.lt.and.u32 %inside, {item}, %count, %classed;\nadd.u32 %index, {item}, %start;");
        ptx!(k, "mad.wide.u32 %address, %index, 4, %classes;\n@%inside ld.global.u32 {class}, [%address];");
    }
    (items, classes)
}

/// The scores of the block's tile; `winners`: and the queries that they come from.
pub(super) fn scores(k: &mut Kernel, per: usize, winners: bool) -> Scores {
    k.regs(Kind::B64, "classes");
    k.regs(Kind::B32, "candidate");
    k.regs(Kind::Pred, "wins is_nan exists same more_queries classed");
    let acc = TILE.sums(k);
    let many = per > 1;
    let best = if many { k.grid(Kind::F32, "best", ROWS / per, 4) } else { acc.clone() };
    let winner = if winners { k.grid(Kind::B32, "winner", ROWS / per, 4) } else { Vec::new() };
    if many {
        for best in best.iter().flatten() {
            ptx!(k, "mov.f32 {best}, {};", float(f32::NEG_INFINITY));
        }
        for winner in winner.iter().flatten() {
            ptx!(k, "mov.u32 {winner}, 0;");
        }
    }
    ptx!(k, "mov.u32 %query, 0;\nQUERY_LOOP:\n.pragma \"nounroll\";");
    k.note("A row whose query does not exist has no depth.");
    ptx!(k, "add.u32 %index, %query, %own_query;\nsetp.lt.u32 %exists, %index, %queries;\nselp.u32 %own_depth, %depth, 0, %exists;");
    TILE.multiply(k, &acc);
    if many {
        k.note("The first of equal products stays, and so does a NaN.");
        for (row, acc) in acc.iter().enumerate() {
            ptx!(k, "add.u32 %candidate, %query, {};\nsetp.lt.u32 %exists, %candidate, %queries;", row % per);
            for (column, acc) in acc.iter().enumerate() {
                let best = &best[row / per][column];
                ptx!(k, "setp.nan.f32 %is_nan, {acc}, {acc};\nsetp.gt.or.f32 %wins, {acc}, {best}, %is_nan;");
                ptx!(k, "and.pred %wins, %wins, %exists;\nselp.f32 {best}, {acc}, {best}, %wins;");
                if let Some(winner) = winner.get(row / per) {
                    ptx!(k, "selp.u32 {0}, %candidate, {0}, %wins;", winner[column]);
                }
            }
        }
    }
    ptx!(k, "add.u32 %query, %query, {per};\nadd.u64 %own_from, %own_from, %query_bytes;");
    ptx!(k, "bar.sync 0;\nsetp.lt.u32 %more_queries, %query, %queries;\n@%more_queries bra QUERY_LOOP;");
    k.note("Scores; pairs that do not exist or are of one class are hidden.");
    ptx!(k, "ld.param.u64 %classes, [classes];\nsetp.ne.u64 %classed, %classes, 0;\ncvta.to.global.u64 %classes, %classes;");
    let (own_item, own_class) = items(k, "own", ROWS / per);
    let (met_item, met_class) = items(k, "met", 4);
    for (row, (own, own_class)) in own_item.iter().zip(&own_class).enumerate() {
        for (column, (met, met_class)) in met_item.iter().zip(&met_class).enumerate() {
            let best = &best[row][column];
            ptx!(k, "mul.rn.f32 {best}, {best}, %scale;\nsetp.eq.u32 %same, {own_class}, {met_class};");
            ptx!(k, "setp.ne.and.u32 %same, {own}, {met}, %same;\nsetp.ge.or.u32 %same, {own}, %count, %same;");
            ptx!(k, "setp.ge.or.u32 %same, {met}, %count, %same;\nselp.f32 {best}, {}, {best}, %same;", float(f32::NEG_INFINITY));
        }
    }
    Scores { best, winner, own_item, met_item }
}

/// Block and shared memory of a text of scores.
pub(super) fn begin(k: &mut Kernel, blocks: usize) {
    k.block(THREADS, blocks);
    k.shared(Some(TILE.shared_bytes()));
}
