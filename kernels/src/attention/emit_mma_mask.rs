//! Which elements of a step count: limits of rows, and rows that see themselves.

use super::emit::sight;
use super::emit_mma::Tile;
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, float};

/// `%seen`: below it some query of the block sees keys, 0 where there is no query; `%clear`: below it every query does.
pub(super) fn edges(k: &mut Kernel, tile: Tile) {
    k.regs(Kind::B32, "seen clear row limit slab_row");
    k.regs(Kind::Pred, "inside selfish");
    ptx!(k, "add.u32 %row, %first_row, {};\nsub.u32 %limit, %queries, 1;\nmin.s32 %row, %row, %limit;", tile.rows() - 1);
    sight(k, &Reg::named("seen"), "%row");
    ptx!(k, "setp.lt.u32 %inside, %first_row, %queries;\nselp.u32 %seen, %seen, 0, %inside;");
    sight(k, &Reg::named("clear"), "%first_row");
}

/// Keys, the columns of a step, that a query of the slab does not see count -inf.
pub(super) fn hide_keys(k: &mut Kernel, scores: &[Reg], slab: usize) {
    for half in 0..2 {
        ptx!(k, "add.u32 %row, %first_row, %own_row;\nadd.u32 %row, %row, {};", 16 * slab + 8 * half);
        sight(k, &Reg::named("limit"), "%row");
        ptx!(k, "sub.s32 %limit, %limit, %step_at;\nsub.s32 %limit, %limit, %twice;");
        hide_where(k, scores, half, "setp.gt.s32");
    }
}

/// Queries, the columns of a step, that come before the first to see a key of the slab count -inf.
pub(super) fn hide_queries(k: &mut Kernel, scores: &[Reg], slab: usize) {
    for half in 0..2 {
        ptx!(k, "add.u32 %row, %first_row, %own_row;\nadd.u32 %row, %row, {};", 16 * slab + 8 * half);
        ptx!(k, "sub.s32 %limit, %row, %offset;\nsub.s32 %limit, %limit, %step_at;\nsub.s32 %limit, %limit, %twice;");
        hide_where(k, scores, half, "setp.le.s32");
    }
}

/// Keeps the columns of a slab's row that `%limit` has `relation` to.
fn hide_where(k: &mut Kernel, scores: &[Reg], half: usize, relation: &str) {
    for (eighth, scores) in scores.chunks(4).enumerate() {
        for (column, score) in scores[2 * half..2 * half + 2].iter().enumerate() {
            ptx!(k, "{relation} %inside, %limit, {};", 8 * eighth + column);
            ptx!(k, "selp.f32 {score}, {score}, {}, %inside;", float(f32::NEG_INFINITY));
        }
    }
}

/// `%slab_row`: the first row of the warp's slab.
pub(super) fn slab_row(k: &mut Kernel, slab: usize) {
    ptx!(k, "add.u32 %slab_row, %first_row, %warp_row;\nadd.u32 %slab_row, %slab_row, {};", 16 * slab);
}

/// Goes on at `label` unless some row of the block sees itself behind a prefix.
pub(super) fn skip_unless_selfish(k: &mut Kernel, tile: Tile, label: &str) {
    ptx!(k, "add.u32 %index, %first_row, {};\nsetp.gt.u32 %selfish, %index, %self_from;", tile.rows());
    ptx!(k, "setp.lt.and.u32 %selfish, %first_row, %self_to, %selfish;\n@!%selfish bra.uni {label};");
}

/// Of the products of a slab's rows, from `%slab_row` on, with themselves, those count that belong to one row, behind the prefix.
pub(super) fn hide_others(k: &mut Kernel, scores: &[Reg]) {
    for (index, score) in scores.iter().enumerate() {
        let (eighth, half, column) = (index / 4, index / 2 % 2, index % 2);
        ptx!(k, "add.u32 %row, %twice, {};\nadd.u32 %index, %group_row, {};", 8 * eighth + column, 8 * half);
        ptx!(k, "setp.eq.u32 %selfish, %row, %index;\nadd.u32 %row, %row, %slab_row;");
        ptx!(k, "setp.ge.and.u32 %selfish, %row, %self_from, %selfish;\nsetp.lt.and.u32 %selfish, %row, %self_to, %selfish;");
        ptx!(k, "selp.f32 {score}, {score}, {}, %selfish;", float(f32::NEG_INFINITY));
    }
}
