//! Products of few rows, as when one token is generated after the other: the time is that of reading `b`, so that a block takes 32 of its
//! rows only, through a long ring of stages. f32 goes without tensor cores here: the lanes' part of [`super::emit_mma`].
//!
//! k is not split over blocks: a row's sums have the order of the large tiles, and its bits do not depend on how many rows there are.

use super::emit::{Finish, Stored};
use super::emit_finish as finish;
use super::emit_mma::Variant;
use super::emit_mma_operand::Operand;
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, float};

/// Elements along k that a lane fetches of a row, and those of one load.
pub(super) const LANE_STEP: usize = 8;
const QUAD: usize = 4;

/// Where a lane's rows lie: of `a` those of its warp, beginning at `first`, of `b` row `lane`, whose chunks are exchanged.
pub(super) fn prepare_lanes(k: &mut Kernel, operand: Operand, first: &str) {
    let Operand { name, shared, .. } = operand;
    let row_bytes = operand.row_bytes();
    k.regs(Kind::B32, &format!("{name}_fetch_at"));
    let fetch = k.array(Kind::B32, &format!("{name}_fetch"), if name == "a" { 1 } else { row_bytes / 16 });
    k.note(format!("Where this lane's rows of {name} lie."));
    if name == "a" {
        ptx!(k, "mad.lo.u32 {}, {first}, {row_bytes}, %shared;\nadd.u32 {}, {}, {shared};", fetch[0], fetch[0], fetch[0]);
        return;
    }
    operand.key(k, "%lane");
    ptx!(k, "mul.lo.u32 %{name}_key, %{name}_key, 16;\nadd.u32 %{name}_key, %{name}_key, %shared;");
    ptx!(k, "mad.lo.u32 {}, %lane, {row_bytes}, %{name}_key;\nadd.u32 {}, {}, {shared};", fetch[0], fetch[0], fetch[0]);
    for (chunk, further) in fetch.iter().enumerate().skip(1) {
        ptx!(k, "xor.b32 {further}, {}, {};", fetch[0], 16 * chunk);
    }
}

/// Loads a lane's elements of step `step` along k from stage `%read`: by row and k.
pub(super) fn fetch_lanes(k: &mut Kernel, operand: Operand, step: usize, rows: &[Vec<Reg>]) {
    let name = operand.name;
    for (row, registers) in rows.iter().enumerate() {
        for (half, registers) in registers.chunks_exact(QUAD).enumerate() {
            let chunk = step * LANE_STEP / QUAD + half;
            let (address, offset) = if name == "a" { (0, row * operand.row_bytes() + 16 * chunk) } else { (chunk, 0) };
            if name == "b" || (row, half) == (0, 0) {
                ptx!(k, "add.u32 %{name}_fetch_at, %{name}_fetch_{address}, %read;");
            }
            let [r0, r1, r2, r3] = std::array::from_fn(|index| &registers[index]);
            ptx!(k, "ld.shared.v4.f32 {{{r0}, {r1}, {r2}, {r3}}}, [%{name}_fetch_at + {offset}];");
        }
    }
}

/// One step along k of a lane's sums.
pub(super) fn lane_products(k: &mut Kernel, sums: &[Reg], a: &[Vec<Reg>], b: &[Reg]) {
    for (depth, b) in b.iter().enumerate() {
        for (sum, a) in sums.iter().zip(a) {
            ptx!(k, "fma.rn.f32 {sum}, {}, {b}, {sum};", a[depth]);
        }
    }
}

/// A lane's sum, and where it goes from the lane's first row and column on.
struct Sum<'a> {
    row: usize,
    column: usize,
    register: &'a Reg,
}

/// Writes `c` from the sums, element by element.
pub(super) fn write_out(k: &mut Kernel, variant: Variant, acc: &[Vec<Vec<Reg>>]) {
    let Variant { stored, finish, .. } = variant;
    k.regs(Kind::B32, "row column c_stride other_stride");
    ptx!(k, "add.u32 %row, %first_row, %warp_row;\nadd.u32 %column, %first_column, %warp_column;");
    let fragments = acc[0].iter().enumerate().flat_map(|(octet, sums)| sums.iter().enumerate().map(move |(at, sum)| (octet, at, sum)));
    let sums: Vec<Sum<'_>> = if stored == Stored::F32 {
        k.note("This lane's column of the warp's four rows.");
        ptx!(k, "add.u32 %column, %column, %lane;");
        fragments.map(|(_, row, register)| Sum { row, column: 0, register }).collect()
    } else {
        k.note("This lane's places in the fragments.");
        ptx!(k, "shr.u32 %index, %lane, 2;\nadd.u32 %row, %row, %index;");
        ptx!(k, "and.b32 %index, %lane, 3;\nmad.lo.u32 %column, %index, 2, %column;");
        fragments.map(|(octet, at, register)| Sum { row: 8 * (at / 2), column: 8 * octet + at % 2, register }).collect()
    };
    k.regs(Kind::B64, "c c_at other other_at bias_at bytes");
    k.regs(Kind::Pred, "inside");
    k.regs(Kind::F32, "x bias other_value");
    if stored.bytes() == 2 {
        k.regs(Kind::B16, "half no_bits");
        ptx!(k, "mov.b16 %no_bits, 0;");
    }
    finish::declare(k, finish);
    matrix(k, "c", "c", stored);
    if let Some(name) = finish.other() {
        matrix(k, "other", name, stored);
    }
    if finish.has_bias() {
        ptx!(k, "ld.param.u64 %bias_at, [bias];\ncvta.to.global.u64 %bias_at, %bias_at;");
        ptx!(k, "mul.wide.u32 %bytes, %column, {};\nadd.u64 %bias_at, %bias_at, %bytes;", stored.bytes());
    }
    let mut at_row = 0;
    for sum in rows_in_order(sums) {
        if sum.row > at_row {
            for name in ["c"].into_iter().chain(finish.other().map(|_| "other")) {
                ptx!(k, "mul.wide.u32 %bytes, %{name}_stride, {};", (sum.row - at_row) * stored.bytes());
                ptx!(k, "add.u64 %{name}_at, %{name}_at, %bytes;");
            }
            ptx!(k, "add.u32 %row, %row, {};", sum.row - at_row);
            at_row = sum.row;
        }
        write(k, stored, finish, &sum);
    }
}

fn rows_in_order(mut sums: Vec<Sum<'_>>) -> Vec<Sum<'_>> {
    sums.sort_by_key(|sum| (sum.row, sum.column));
    sums
}

/// Address of this lane's first element of a matrix.
fn matrix(k: &mut Kernel, register: &str, param: &str, stored: Stored) {
    ptx!(k, "ld.param.u64 %{register}, [{param}];\ncvta.to.global.u64 %{register}, %{register};");
    ptx!(k, "ld.param.u32 %{register}_stride, [{register}_stride];\nmul.wide.u32 %{register}_at, %row, %{register}_stride;");
    ptx!(k, "cvt.u64.u32 %bytes, %column;\nadd.u64 %{register}_at, %{register}_at, %bytes;");
    ptx!(k, "shl.b64 %{register}_at, %{register}_at, {};", stored.bytes().trailing_zeros());
    ptx!(k, "add.u64 %{register}_at, %{register}_at, %{register};");
}

fn write(k: &mut Kernel, stored: Stored, finish: Finish, sum: &Sum<'_>) {
    let Sum { column, register, .. } = *sum;
    let [x, bias, other] = ["x", "bias", "other_value"].map(Reg::named);
    let offset = column * stored.bytes();
    ptx!(k, "add.u32 %index, %column, {column};\nsetp.lt.u32 %inside, %index, %n;\nsetp.lt.and.u32 %inside, %row, %m, %inside;");
    if finish.has_bias() {
        ptx!(k, "mov.f32 {bias}, {};", float(0.0));
        finish::load(k, stored, "%inside", &bias, &format!("%bias_at + {offset}"));
    }
    if finish.reads_other() {
        ptx!(k, "mov.f32 {other}, {};", float(0.0));
        finish::load(k, stored, "%inside", &other, &format!("%other_at + {offset}"));
    }
    ptx!(k, "mov.f32 {x}, {register};");
    finish::apply(k, finish, &x, &bias, &other);
    if finish == Finish::BiasGeluKept {
        finish::store(k, stored, "%inside", &format!("%other_at + {offset}"));
        finish::gelu(k, &x);
    }
    finish::store(k, stored, "%inside", &format!("%c_at + {offset}"));
}
