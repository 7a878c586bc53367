//! The logarithms of the sums over the texts of each cell, or over the cells of each text: online, a tile at a time.

use super::emit::{Owned, STAGES, THREADS, TILE, declare, over_met, params, positions, tile};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Text, float};

/// Entry of a variant.
pub(super) fn entry(owned: Owned) -> String {
    format!("contrastive_forward_{}_f32", owned.name())
}

/// The module of a variant.
pub(super) fn text(owned: Owned) -> Text {
    let about = format!(
        "logsumexp of the scores of each of the {}; from the cells also every item's score with its own text.\n\
         Grid: (groups, ceil(group / 64)). Block: 256 threads, 16 x 16, each 4 x 4 of a 64 x 64 tile. Strides count elements.\n\
         Shared: 2 stages of 16 x 68 f32 of either side.",
        owned.name(),
    );
    let mut kernel = Kernel::new(entry(owned), about);
    let k = &mut kernel;
    k.params(".u64", "logsumexp");
    if owned == Owned::Cells {
        k.params(".u64", "diagonal");
    }
    params(k);
    k.block(THREADS, 2);
    k.shared(Some(STAGES));
    positions(k, owned);
    ptx!(k, "@%nothing ret;");
    let scores = declare(k);
    k.regs(Kind::F32, "passed base factor t total");
    k.regs(Kind::B64, "logsumexp diagonal");
    k.regs(Kind::Pred, "first_lane");
    let (top, sum) = (k.array(Kind::F32, "top", 4), k.array(Kind::F32, "sum", 4));
    for (top, sum) in top.iter().zip(&sum) {
        ptx!(k, "mov.f32 {top}, {};\nmov.f32 {sum}, {};", float(f32::NEG_INFINITY), float(0.0));
    }
    ptx!(k, "ld.param.u64 %logsumexp, [logsumexp];\ncvta.to.global.u64 %logsumexp, %logsumexp;");
    if owned == Owned::Cells {
        ptx!(k, "ld.param.u64 %diagonal, [diagonal];\ncvta.to.global.u64 %diagonal, %diagonal;");
    }
    ptx!(k, "mov.u32 %met_first, 0;\nMET_LOOP:\n.pragma \"nounroll\";");
    tile(k, owned, &scores);
    for (row, (top, sum)) in top.iter().zip(&sum).enumerate() {
        let best = &scores.best[row];
        let item = &scores.own_item[row];
        if owned == Owned::Cells {
            k.note("The item's own text, where the tile has it.");
            ptx!(k, "add.u32 %index, %start, {item};\nmad.wide.u32 %address, %index, 4, %diagonal;");
            for (best, met) in best.iter().zip(&scores.met_item) {
                ptx!(k, "setp.eq.u32 %same, {item}, {met};\nsetp.lt.and.u32 %same, {item}, %count, %same;");
                ptx!(k, "mul.rn.f32 %t, {best}, {};\n@%same st.global.f32 [%address], %t;", float(std::f32::consts::LN_2));
            }
        }
        k.note(format!("Owned item {row}: new maximum, terms, what the sum so far is worth; each lane keeps its share of the sum."));
        ptx!(k, "max.f32 %t, {}, {};\nmax.f32 %t, %t, {};\nmax.f32 %t, %t, {};", best[0], best[1], best[2], best[3]);
        over_met(k, "max.f32", "%t");
        ptx!(k, "max.f32 %t, %t, {top};\nsetp.eq.f32 %inside, %t, {};", float(f32::NEG_INFINITY));
        ptx!(k, "selp.f32 %base, {}, %t, %inside;\nsub.rn.f32 %factor, {top}, %base;\nex2.approx.ftz.f32 %factor, %factor;", float(0.0));
        ptx!(k, "mov.f32 {top}, %t;\nmov.f32 %total, {};", float(0.0));
        for best in best {
            ptx!(k, "sub.rn.f32 %t, {best}, %base;\nex2.approx.ftz.f32 %t, %t;\nadd.rn.f32 %total, %total, %t;");
        }
        ptx!(k, "fma.rn.f32 {sum}, {sum}, %factor, %total;");
    }
    ptx!(k, "add.u32 %met_first, %met_first, {TILE};\nsetp.lt.u32 %more, %met_first, %count;\n@%more bra MET_LOOP;");
    ptx!(k, "setp.eq.u32 %first_lane, %met_lane, 0;");
    for ((top, sum), item) in top.iter().zip(&sum).zip(&scores.own_item) {
        over_met(k, "add.rn.f32", &sum.to_string());
        ptx!(k, "lg2.approx.ftz.f32 %t, {sum};\nadd.rn.f32 %t, %t, {top};\nmul.rn.f32 %t, %t, {};", float(std::f32::consts::LN_2));
        ptx!(k, "setp.lt.and.u32 %inside, {item}, %count, %first_lane;\nadd.u32 %index, %start, {item};");
        ptx!(k, "mad.wide.u32 %address, %index, 4, %logsumexp;\n@%inside st.global.f32 [%address], %t;");
    }
    ptx!(k, "ret;");
    k.text()
}
