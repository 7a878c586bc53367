//! A tile's share of the sums of exponentials, over its texts for each cell and over its cells for each text.

use super::emit::{MET, OWN, Scores, begin, params, positions, scores};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

/// Entry of a variant: queries of a cell in a tile.
pub(super) fn entry(per: usize) -> String {
    format!("contrastive_forward_f32_{per}")
}

/// The module of a variant.
pub(super) fn text(per: usize) -> Text {
    let about = format!(
        "(m, sum 2^(s - m)) over a tile of the scores s in units of ln 2, m the largest: row_parts[tile of texts][slot of a cell] over the\n\
         texts, column_parts[tile of cells][slot of a text], unless absent, over the cells; and every cell's score with its own text.\n\
         {per} queries of a cell in a tile. A slot is group x side + place in the slice, of `slots`. Strides count elements.\n\
         Grid: (groups, tiles of {} cells, tiles of {MET} texts) of a slice. Block: 256 threads, 16 x 16, each 8 x 4 of a {OWN} x {MET} tile.\n\
         Shared: 2 stages of 16 x 132 and 16 x 68 f32; over them [8 warps][{MET}] (m, sum).",
        OWN / per
    );
    let mut kernel = Kernel::new(entry(per), about);
    let k = &mut kernel;
    k.params(".u64", "row_parts column_parts diagonal");
    params(k);
    k.params(".u32", "slots");
    begin(k, 2);
    positions(k, per);
    ptx!(k, "@%nothing ret;");
    let scores = scores(k, per, false);
    k.regs(Kind::F32, "passed top base total t");
    k.regs(Kind::B64, "parts");
    k.regs(Kind::B32, "slots slot tile");
    k.regs(Kind::Pred, "writes");
    ptx!(k, "ld.param.u32 %slots, [slots];");
    diagonal(k, &scores);
    rows(k, &scores);
    columns(k, &scores);
    ptx!(k, "ret;");
    k.text()
}

fn diagonal(k: &mut Kernel, scores: &Scores) {
    k.note("The cells' own texts, where the tile has them.");
    ptx!(k, "ld.param.u64 %parts, [diagonal];\ncvta.to.global.u64 %parts, %parts;");
    for (own, best) in scores.own_item.iter().zip(&scores.best) {
        ptx!(k, "add.u32 %index, %start, {own};\nmad.wide.u32 %address, %index, 4, %parts;");
        for (best, met) in best.iter().zip(&scores.met_item) {
            ptx!(k, "setp.eq.u32 %same, {own}, {met};\nsetp.lt.and.u32 %same, {own}, %count, %same;");
            ptx!(k, "mul.rn.f32 %t, {best}, {};\n@%same st.global.f32 [%address], %t;", float(std::f32::consts::LN_2));
        }
    }
}

/// `%top` and `%total` of some scores of all lanes that lie so far apart.
fn reduce(k: &mut Kernel, scores: &[&Reg], distances: &[usize]) {
    let pass = |k: &mut Kernel, operation: &str, register: &str| {
        for distance in distances {
            ptx!(k, "shfl.sync.bfly.b32 %passed, {register}, {distance}, 31, 0xffffffff;\n{operation} {register}, {register}, %passed;");
        }
    };
    ptx!(k, "mov.f32 %top, {};\nmov.f32 %total, {};", scores[0], float(0.0));
    for score in &scores[1..] {
        ptx!(k, "max.f32 %top, %top, {score};");
    }
    pass(k, "max.f32", "%top");
    base(k);
    for score in scores {
        ptx!(k, "sub.rn.f32 %t, {score}, %base;\nex2.approx.ftz.f32 %t, %t;\nadd.rn.f32 %total, %total, %t;");
    }
    pass(k, "add.rn.f32", "%total");
}

/// `%base`: `%top`, or 0 where nothing is larger than -inf. A NaN is no maximum, but becomes the sum.
fn base(k: &mut Kernel) {
    ptx!(k, "setp.eq.f32 %inside, %top, {};\nselp.f32 %base, {}, %top, %inside;", float(f32::NEG_INFINITY), float(0.0));
}

/// Of each cell over the tile's texts: the sixteen lanes that share it.
fn rows(k: &mut Kernel, scores: &Scores) {
    k.note("Shares of the cells' sums.");
    place(k, "row_parts", "z");
    for (own, best) in scores.own_item.iter().zip(&scores.best) {
        reduce(k, &best.iter().collect::<Vec<_>>(), &[1, 2, 4, 8]);
        ptx!(k, "setp.eq.u32 %writes, %met_lane, 0;\nsetp.lt.and.u32 %writes, {own}, %count, %writes;\nadd.u32 %slot, {own}, %own_slots;");
        ptx!(k, "mad.wide.u32 %address, %slot, 8, %parts;\n@%writes st.global.v2.f32 [%address], {{%top, %total}};");
    }
}

/// Of each text over the tile's cells: the two lanes of a warp that share it, then the warps in their order.
fn columns(k: &mut Kernel, scores: &Scores) {
    k.regs(Kind::B32, "warp");
    k.regs(Kind::F32, "warp_top warp_total");
    k.note("Shares of the texts' sums: of each warp in shared memory.");
    ptx!(k, "ld.param.u64 %parts, [column_parts];\nsetp.eq.u64 %inside, %parts, 0;\n@%inside ret;");
    place(k, "column_parts", "y");
    ptx!(
        k,
        "shr.u32 %warp, %thread, 5;\nshl.b32 %warp, %warp, 9;\nadd.u32 %warp, %warp, %shared;\nmad.lo.u32 %warp, %met_lane, 32, %warp;"
    );
    for text in 0..4 {
        reduce(k, &scores.best.iter().map(|cell| &cell[text]).collect::<Vec<_>>(), &[16]);
        ptx!(k, "and.b32 %index, %thread, 16;\nsetp.eq.u32 %writes, %index, 0;");
        ptx!(k, "@%writes st.shared.v2.f32 [%warp + {}], {{%top, %total}};", 8 * text);
    }
    ptx!(k, "bar.sync 0;\nadd.u32 %index, %first_met, %thread;\nsetp.lt.u32 %writes, %thread, {MET};");
    ptx!(k, "setp.lt.and.u32 %writes, %index, %count, %writes;\n@!%writes ret;");
    k.note("A thread a text: the warps' shares.");
    ptx!(k, "add.u32 %slot, %index, %met_slots;\nshl.b32 %warp, %thread, 3;\nadd.u32 %warp, %warp, %shared;");
    ptx!(k, "mov.f32 %top, {};\nmov.f32 %total, {};", float(f32::NEG_INFINITY), float(0.0));
    for warp in 0..8 {
        ptx!(k, "ld.shared.f32 %warp_top, [%warp + {}];\nmax.f32 %top, %top, %warp_top;", 8 * MET * warp);
    }
    base(k);
    for warp in 0..8 {
        ptx!(k, "ld.shared.v2.f32 {{%warp_top, %warp_total}}, [%warp + {}];", 8 * MET * warp);
        ptx!(k, "sub.rn.f32 %t, %warp_top, %base;\nex2.approx.ftz.f32 %t, %t;\nfma.rn.f32 %total, %warp_total, %t, %total;");
    }
    ptx!(k, "mad.wide.u32 %address, %slot, 8, %parts;\nst.global.v2.f32 [%address], {{%top, %total}};");
}

/// `%parts`: where the shares of the block's tile begin.
fn place(k: &mut Kernel, name: &str, block: &str) {
    ptx!(k, "ld.param.u64 %parts, [{name}];\ncvta.to.global.u64 %parts, %parts;\nmov.u32 %tile, %ctaid.{block};");
    ptx!(k, "mul.wide.u32 %bytes, %tile, %slots;\nshl.b64 %bytes, %bytes, 3;\nadd.u64 %parts, %parts, %bytes;");
}
