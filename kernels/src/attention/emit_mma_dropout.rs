//! Dropout between the products of a step on tensor cores: a lane draws for one query row and eight keys, and the lanes that hold those
//! probabilities fetch their bits from shared memory.

use super::emit_dropout::{Rounds, words};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind};

/// Shared bytes a warp: 32 calls of Philox, for 16 x 16 probabilities.
pub(super) const TABLE: usize = 512;

/// `%table_to`: the lane's entry of the warp's table, one of those that lie `pitch` bytes apart from `offset` bytes into shared memory on;
/// `%drawn_row` and `%drawn_key`: the
/// query and the key that it draws for, counted from the first of 16 x 16.
fn declare(k: &mut Kernel, offset: usize, pitch: usize) {
    k.regs(Kind::B32, "table_to table_at drawn_row drawn_key word_row word_key bits");
    ptx!(k, "mad.lo.u32 %table_at, %warp, {pitch}, %shared;\nadd.u32 %table_at, %table_at, {offset};");
    ptx!(k, "mad.lo.u32 %table_to, %lane, 16, %table_at;");
    ptx!(k, "and.b32 %drawn_row, %lane, 15;\nshr.u32 %drawn_key, %lane, 4;\nshl.b32 %drawn_key, %drawn_key, 3;");
}

/// Draws for the queries from `row` and the keys from `key` on. `fresh`: since the last draw was read, a barrier has passed.
fn draw(k: &mut Kernel, row: &str, key: &str, [rows_on, keys_on]: [usize; 2], fresh: bool) {
    ptx!(k, "add.u32 %word_row, {row}, %drawn_row;\nadd.u32 %word_row, %word_row, {rows_on};");
    ptx!(k, "add.u32 %word_key, {key}, %drawn_key;\nadd.u32 %word_key, %word_key, {keys_on};");
    words(k, Rounds::Unrolled, "%word_row", "%word_key");
    if !fresh {
        ptx!(k, "bar.warp.sync 0xffffffff;");
    }
    ptx!(k, "st.shared.v4.b32 [%table_to], {{%word_0, %word_1, %word_2, %word_3}};\nbar.warp.sync 0xffffffff;");
}

/// [`declare`], for rows of queries: word `t` of a row's entry decides columns `2 t` and `2 t + 1`.
pub(super) fn declare_by_queries(k: &mut Kernel, offset: usize, pitch: usize) {
    declare(k, offset, pitch);
    k.regs(Kind::B32, "drop_below");
    ptx!(k, "shl.b32 %drop_below, %threshold, 16;\nmad.lo.u32 %table_at, %group_row, 16, %table_at;");
    ptx!(k, "shl.b32 %bits, %twice, 1;\nadd.u32 %table_at, %table_at, %bits;");
}

/// [`declare`], for rows of keys: 16 bits of a query's entry a row.
pub(super) fn declare_by_keys(k: &mut Kernel, offset: usize, pitch: usize) {
    declare(k, offset, pitch);
    ptx!(k, "shl.b32 %bits, %twice, 4;\nadd.u32 %table_at, %table_at, %bits;");
    ptx!(k, "shl.b32 %bits, %group_row, 1;\nadd.u32 %table_at, %table_at, %bits;");
}

/// Visits the `count` accumulators of a slab whose rows are queries, from `row` on, and whose columns are keys, from `key` on, with
/// `%stays` set to whether the element is kept. `fresh`: a barrier has passed since the last visit.
pub(super) fn by_queries(k: &mut Kernel, count: usize, row: &str, key: &str, fresh: bool, mut visit: impl FnMut(&mut Kernel, usize)) {
    for index in (0..count).step_by(2) {
        let (eighth, half) = (index / 4, index / 2 % 2);
        if index % 8 == 0 {
            draw(k, row, key, [0, 8 * eighth], fresh && index == 0);
        }
        ptx!(k, "ld.shared.b32 %bits, [%table_at + {}];", 256 * (eighth % 2) + 128 * half);
        ptx!(k, "setp.ge.u32 %odd, %bits, %drop_below;\nshl.b32 %bits, %bits, 16;\nsetp.ge.u32 %stays, %bits, %drop_below;");
        visit(k, index);
        ptx!(k, "mov.pred %stays, %odd;");
        visit(k, index + 1);
    }
}

/// The same where rows are keys and columns queries.
pub(super) fn by_keys(k: &mut Kernel, count: usize, row: &str, key: &str, fresh: bool, mut visit: impl FnMut(&mut Kernel, usize)) {
    for index in 0..count {
        let (eighth, half, column) = (index / 4, index / 2 % 2, index % 2);
        if index % 8 == 0 {
            draw(k, row, key, [8 * eighth, 0], fresh && index == 0);
        }
        ptx!(k, "ld.shared.u16 %bits, [%table_at + {}];", 256 * half + 128 * (eighth % 2) + 16 * column);
        ptx!(k, "setp.ge.u32 %stays, %bits, %threshold;");
        visit(k, index);
    }
}
