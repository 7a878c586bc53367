//! A tile's slopes: scores again, and what the loss changes by with each.

use super::emit::{MET, OWN, Scores, begin, params, positions, scores};
use super::emit_tile::THREADS;
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

/// Entry of a variant: queries of a cell in a tile.
pub(super) fn entry(per: usize) -> String {
    format!("contrastive_backward_f32_{per}")
}

/// The module of a variant.
pub(super) fn text(per: usize) -> Text {
    let about = format!(
        "slopes[slot of a cell][place of a text in the slice] of a tile, in rows of `pitch`, 0 where there is no pair{};\n\
         and the block's sum of slope x score, in units of ln 2. {per} queries of a cell in a tile. A slot is group x side + place in the\n\
         slice. Strides count elements. A logsumexp that is absent belongs to a direction that does not count.\n\
         Grid: (groups, tiles of {} cells, tiles of {MET} texts) of a slice. Block: 256 threads, 16 x 16, each 8 x 4 of a {OWN} x {MET} tile.\n\
         Shared: 2 stages of 16 x 132 and 16 x 68 f32; over them a sum a thread.",
        if per > 1 { ", and winners, the query that each score comes from" } else { "" },
        OWN / per
    );
    let mut kernel = Kernel::new(entry(per), about);
    let k = &mut kernel;
    k.params(".u64", if per > 1 { "slopes winners slope_sums" } else { "slopes slope_sums" });
    k.params(".u64", "dloss row_logsumexp column_logsumexp");
    params(k);
    k.params(".u32", "pitch groups directions");
    begin(k, 2);
    positions(k, per);
    k.regs(Kind::F32, "weight own_weight t other slope_sum");
    ptx!(k, "mov.f32 %slope_sum, {};\n@%nothing bra SLOPES_DONE;", float(0.0));
    let scores = scores(k, per, per > 1);
    k.regs(Kind::Pred, "given");
    k.regs(Kind::B32, "directions terms pitch");
    k.note("weight = dloss / (groups x items of the group x directions) / temperature.");
    ptx!(k, "ld.param.u32 %terms, [groups];\nmul.lo.u32 %terms, %terms, %count;\nld.param.u32 %directions, [directions];");
    ptx!(k, "mul.lo.u32 %terms, %terms, %directions;\ncvt.rn.f32.u32 %t, %terms;");
    ptx!(k, "ld.param.u64 %address, [dloss];\ncvta.to.global.u64 %address, %address;\nld.global.f32 %weight, [%address];");
    ptx!(k, "div.rn.f32 %weight, %weight, %t;\nmul.rn.f32 %weight, %weight, %inverse;");
    ptx!(k, "cvt.rn.f32.u32 %own_weight, %directions;\nmul.rn.f32 %own_weight, %own_weight, %weight;\nneg.f32 %own_weight, %own_weight;");
    let rows = sums(k, "row_logsumexp", &scores.own_item);
    let columns = sums(k, "column_logsumexp", &scores.met_item);
    slopes(k, &scores, &rows, &columns);
    k.note("A thread's four texts are neighbours, and rows whole multiples of 16 bytes.");
    k.regs(Kind::B64, "slopes winners");
    ptx!(k, "ld.param.u64 %slopes, [slopes];\ncvta.to.global.u64 %slopes, %slopes;\nld.param.u32 %pitch, [pitch];");
    if per > 1 {
        ptx!(k, "ld.param.u64 %winners, [winners];\ncvta.to.global.u64 %winners, %winners;");
    }
    ptx!(k, "ld.param.u32 %terms, [texts_first];\nsub.u32 %terms, {}, %terms;", scores.met_item[0]);
    for (row, own) in scores.own_item.iter().enumerate() {
        ptx!(
            k,
            "setp.lt.u32 %inside, {own}, %count;\nsetp.lt.and.u32 %inside, %terms, %pitch, %inside;\nadd.u32 %index, {own}, %own_slots;"
        );
        ptx!(k, "mul.wide.u32 %bytes, %index, %pitch;\ncvt.u64.u32 %address, %terms;\nadd.u64 %bytes, %bytes, %address;");
        ptx!(k, "shl.b64 %bytes, %bytes, 2;\nadd.u64 %address, %slopes, %bytes;");
        let quad = |registers: &[Reg]| registers.iter().map(Reg::to_string).collect::<Vec<_>>().join(", ");
        ptx!(k, "@%inside st.global.v4.f32 [%address], {{{}}};", quad(&scores.best[row]));
        if let Some(winner) = scores.winner.get(row) {
            ptx!(k, "add.u64 %address, %winners, %bytes;\n@%inside st.global.v4.u32 [%address], {{{}}};", quad(winner));
        }
    }
    ptx!(k, "SLOPES_DONE:");
    slope_sum(k);
    ptx!(k, "ret;");
    k.text()
}

/// The logsumexp of a thread's items in units of ln 2; +inf, which makes every probability 0, without one.
fn sums(k: &mut Kernel, name: &str, items: &[Reg]) -> Vec<Reg> {
    let sums = k.array(Kind::F32, name, items.len());
    ptx!(k, "ld.param.u64 %bytes, [{name}];\nsetp.ne.u64 %given, %bytes, 0;\ncvta.to.global.u64 %bytes, %bytes;");
    for (item, sum) in items.iter().zip(&sums) {
        ptx!(k, "setp.lt.and.u32 %inside, {item}, %count, %given;\nadd.u32 %index, {item}, %start;");
        ptx!(k, "mov.f32 {sum}, {};\nmad.wide.u32 %address, %index, 4, %bytes;", float(f32::INFINITY));
        ptx!(k, "@%inside ld.global.f32 {sum}, [%address];\nmul.rn.f32 {sum}, {sum}, {};", float(std::f32::consts::LOG2_E));
    }
    sums
}

/// Scores become slopes over temperature; `%slope_sum` is the sum of slope x score, where hidden scores count nothing.
fn slopes(k: &mut Kernel, scores: &Scores, rows: &[Reg], columns: &[Reg]) {
    k.note("slope = weight (2^(s - row) + 2^(s - column)), for an item with itself less directions x weight.");
    for (row, (own, row_sum)) in scores.own_item.iter().zip(rows).enumerate() {
        for (column, (met, column_sum)) in scores.met_item.iter().zip(columns).enumerate() {
            let best = &scores.best[row][column];
            ptx!(k, "sub.rn.f32 %t, {best}, {row_sum};\nex2.approx.ftz.f32 %t, %t;");
            ptx!(k, "sub.rn.f32 %other, {best}, {column_sum};\nex2.approx.ftz.f32 %other, %other;\nadd.rn.f32 %t, %t, %other;");
            ptx!(k, "setp.eq.u32 %same, {own}, {met};\nselp.f32 %other, %own_weight, {}, %same;", float(0.0));
            ptx!(k, "fma.rn.f32 %t, %t, %weight, %other;\nsetp.eq.f32 %same, {best}, {};", float(f32::NEG_INFINITY));
            ptx!(k, "selp.f32 %t, {}, %t, %same;\nselp.f32 %other, {}, {best}, %same;", float(0.0), float(0.0));
            ptx!(k, "fma.rn.f32 %slope_sum, %t, %other, %slope_sum;\nmov.f32 {best}, %t;");
        }
    }
}

/// The block's sum of slope x score: a tree over its threads.
fn slope_sum(k: &mut Kernel) {
    k.regs(Kind::B32, "own_place half their_place place");
    k.regs(Kind::Pred, "more");
    k.note("The block's sum of slope x score, in a tree.");
    ptx!(k, "shl.b32 %own_place, %thread, 2;\nadd.u32 %own_place, %own_place, %shared;\nst.shared.f32 [%own_place], %slope_sum;");
    ptx!(k, "mov.u32 %half, {};\nTREE:\n.pragma \"nounroll\";\nbar.sync 0;", THREADS / 2);
    ptx!(k, "setp.lt.u32 %inside, %thread, %half;\nshl.b32 %their_place, %half, 2;\nadd.u32 %their_place, %own_place, %their_place;");
    ptx!(k, "@%inside ld.shared.f32 %t, [%their_place];\n@%inside add.rn.f32 %slope_sum, %slope_sum, %t;");
    ptx!(k, "@%inside st.shared.f32 [%own_place], %slope_sum;");
    ptx!(k, "shr.u32 %half, %half, 1;\nsetp.ne.u32 %more, %half, 0;\n@%more bra TREE;");
    ptx!(k, "ld.param.u64 %address, [slope_sums];\ncvta.to.global.u64 %address, %address;");
    ptx!(k, "mov.u32 %index, %ctaid.x;\nmov.u32 %place, %nctaid.y;\nmov.u32 %half, %ctaid.y;\nmad.lo.u32 %index, %index, %place, %half;");
    ptx!(k, "mov.u32 %place, %nctaid.z;\nmov.u32 %half, %ctaid.z;\nmad.lo.u32 %index, %index, %place, %half;");
    ptx!(k, "mad.wide.u32 %address, %index, 4, %address;\nsetp.eq.u32 %inside, %thread, 0;");
    ptx!(k, "@%inside st.global.f32 [%address], %slope_sum;");
}
