//! The way out of a product on tensor cores: sums cross shared memory, so that a lane finishes eight neighbours of a row of `c`, or of f32
//! twice four, 32 columns apart, so that the lanes of a store leave no gaps.
//!
//! A warp sends 16 rows of its 64 columns at a time. Chunk `h` of 16 bytes of the eight columns `u` lies at place
//! `8 h + (u ^ (row & 3) ^ 4 h)` of its row: the lanes that write a fragment, those that read eight columns and those that read twice
//! four meet every bank once.

use super::emit::{Finish, Stored};
use super::emit_finish as finish;
use super::emit_mma::Variant;
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, float};

/// Columns of a warp's part of the tile.
const WARP_COLUMNS: usize = 64;

/// Elements that a lane finishes at a time.
const OCTET: usize = 8;

/// Columns between a lane's first four and its second, of f32.
const APART: usize = 32;

/// Bytes of 16 rows of sums of a warp.
const STAGING: usize = 16 * WARP_COLUMNS * 4;

/// Writes `c` from the sums.
pub(super) fn write_out(k: &mut Kernel, variant: Variant, acc: &[Vec<Vec<Reg>>]) {
    let Variant { stored, finish, .. } = variant;
    let c_stored = if finish.is_wide() { Stored::F32 } else { stored };
    let x = k.array(Kind::F32, "x", OCTET);
    let (bias, other) = (k.array(Kind::F32, "bias", OCTET), k.array(Kind::F32, "other", OCTET));
    k.array(Kind::B32, "packed", OCTET / 2);
    if stored == Stored::F16 {
        k.array(Kind::B16, "half", 2);
    }
    k.regs(Kind::B32, "c_stride other_stride column row octet quad put_at take take_odd take_at part_row rows");
    k.regs(Kind::B64, "c c_at c_step other other_at other_step bias_at bytes matrix");
    k.regs(Kind::Pred, "column_inside inside repeats");
    let put = k.array(Kind::B32, "put", WARP_COLUMNS / OCTET);
    finish::declare(k, finish);

    let neighbours = if c_stored.bytes() == 4 { OCTET / 2 } else { OCTET };
    k.note(format!("Lane l finishes columns {neighbours} (l & 7) of rows l / 8 + 4 i."));
    ptx!(k, "and.b32 %octet, %lane, 7;\nshr.u32 %quad, %lane, 3;");
    ptx!(k, "add.u32 %column, %first_column, %warp_column;\nmad.lo.u32 %column, %octet, {neighbours}, %column;");
    ptx!(k, "setp.lt.u32 %column_inside, %column, %n;");
    if neighbours < OCTET {
        k.regs(Kind::Pred, "apart_inside");
        ptx!(k, "add.u32 %index, %column, {APART};\nsetp.lt.u32 %apart_inside, %index, %n;");
        if finish.reads_other() || finish == Finish::Accumulate {
            for other in &other {
                ptx!(k, "mov.f32 {other}, {};", float(0.0));
            }
        }
    }
    ptx!(k, "add.u32 %row, %first_row, %warp_row;\nadd.u32 %row, %row, %quad;");
    matrix(k, "c", "c", c_stored);
    if finish == Finish::Partial {
        k.note("The matrix of this segment.");
        ptx!(k, "mov.u32 %index, %ctaid.z;\ncvt.u64.u32 %matrix, %index;\nmul.wide.u32 %bytes, %m, %c_stride;");
        ptx!(k, "mul.lo.u64 %bytes, %bytes, %matrix;\nshl.b64 %bytes, %bytes, 2;\nadd.u64 %c_at, %c_at, %bytes;");
    }
    if let Some(name) = finish.other() {
        matrix(k, "other", name, stored);
    }
    if finish.has_bias() {
        for bias in &bias {
            ptx!(k, "mov.f32 {bias}, {};", float(0.0));
        }
        ptx!(
            k,
            "ld.param.u64 %bias_at, [bias];\ncvta.to.global.u64 %bias_at, %bias_at;\nmul.wide.u32 %bytes, %column, {};",
            stored.bytes()
        );
        ptx!(k, "add.u64 %bias_at, %bias_at, %bytes;\n@!%column_inside bra BIAS_READ;");
        load(k, stored, "bias_at", &bias);
        ptx!(k, "BIAS_READ:");
    }

    k.note("Where this lane puts its sums of every eight columns, and where it takes eight columns.");
    ptx!(k, "mad.lo.u32 %shared, %warp, {STAGING}, %shared;");
    ptx!(k, "shr.u32 %part_row, %lane, 2;\nand.b32 %index, %lane, 3;\nmad.lo.u32 %put_at, %part_row, {}, %shared;", 4 * WARP_COLUMNS);
    ptx!(k, "and.b32 %part_row, %part_row, 3;\nshr.u32 %rows, %index, 1;\nmad.lo.u32 %put_at, %rows, {}, %put_at;", 2 * WARP_COLUMNS);
    ptx!(k, "mul.lo.u32 %rows, %rows, 4;\nxor.b32 %part_row, %part_row, %rows;\nmad.lo.u32 %put_at, %part_row, 16, %put_at;");
    ptx!(k, "and.b32 %index, %index, 1;\nmad.lo.u32 %put_at, %index, 8, %put_at;");
    for (octet, put) in put.iter().enumerate() {
        ptx!(k, "xor.b32 {put}, %put_at, {};", 16 * octet);
    }
    ptx!(k, "mad.lo.u32 %take, %quad, {}, %shared;", 4 * WARP_COLUMNS);
    if neighbours < OCTET {
        ptx!(k, "shr.u32 %index, %octet, 1;\nxor.b32 %index, %index, %quad;\nand.b32 %octet, %octet, 1;");
        ptx!(k, "mad.lo.u32 %take, %octet, 128, %take;\nmul.lo.u32 %octet, %octet, 4;\nxor.b32 %index, %index, %octet;");
    } else {
        ptx!(k, "xor.b32 %index, %octet, %quad;");
    }
    ptx!(k, "mad.lo.u32 %take, %index, 16, %take;\nxor.b32 %take_odd, %take, 64;");
    for (part, sums) in acc.iter().enumerate() {
        k.note(format!("Rows {} to {} of the warp.", 16 * part, 16 * part + 15));
        if part > 0 {
            ptx!(k, "bar.warp.sync 0xffffffff;");
        }
        for (sums, put) in sums.iter().zip(&put) {
            let [c0, c1, c2, c3] = std::array::from_fn(|index| &sums[index]);
            ptx!(k, "st.shared.v2.f32 [{put}], {{{c0}, {c1}}};\nst.shared.v2.f32 [{put} + {}], {{{c2}, {c3}}};", STAGING / 2);
        }
        ptx!(k, "bar.warp.sync 0xffffffff;\nmov.u32 %rows, 0;\nROW_LOOP_{part}:\n.pragma \"nounroll\";");
        ptx!(k, "setp.lt.and.u32 %inside, %row, %m, %column_inside;\n@!%inside bra ROW_DONE_{part};");
        take_octet(k, if neighbours < OCTET { 0 } else { 2 * WARP_COLUMNS }, &x);
        finish_octet(k, variant, &x, &bias, &other);
        ptx!(k, "ROW_DONE_{part}:");
        ptx!(k, "add.u32 %row, %row, 4;\nadd.u64 %c_at, %c_at, %c_step;");
        if finish.other().is_some() {
            ptx!(k, "add.u64 %other_at, %other_at, %other_step;");
        }
        ptx!(k, "add.u32 %rows, %rows, {};", 16 * WARP_COLUMNS);
        ptx!(k, "setp.lt.u32 %repeats, %rows, {STAGING};\n@%repeats bra ROW_LOOP_{part};");
    }
}

/// Address of this lane's first eight elements of a matrix, and of four rows.
fn matrix(k: &mut Kernel, register: &str, param: &str, stored: Stored) {
    let bytes = stored.bytes();
    ptx!(k, "ld.param.u64 %{register}, [{param}];\ncvta.to.global.u64 %{register}, %{register};");
    ptx!(k, "ld.param.u32 %{register}_stride, [{register}_stride];\nmul.wide.u32 %{register}_at, %row, %{register}_stride;");
    ptx!(k, "cvt.u64.u32 %bytes, %column;\nadd.u64 %{register}_at, %{register}_at, %bytes;");
    ptx!(k, "shl.b64 %{register}_at, %{register}_at, {};\nadd.u64 %{register}_at, %{register}_at, %{register};", bytes.trailing_zeros());
    ptx!(k, "mul.wide.u32 %{register}_step, %{register}_stride, {};", 4 * bytes);
}

/// Eight sums of a row out of shared memory, the second four `further` bytes behind `%take_odd`.
fn take_octet(k: &mut Kernel, further: usize, x: &[Reg]) {
    for (address, offset, x) in [("take", 0, &x[..4]), ("take_odd", further, &x[4..])] {
        let [x0, x1, x2, x3] = std::array::from_fn(|index| &x[index]);
        ptx!(k, "add.u32 %take_at, %{address}, %rows;\nld.shared.v4.f32 {{{x0}, {x1}, {x2}, {x3}}}, [%take_at + {offset}];");
    }
}

fn finish_octet(k: &mut Kernel, variant: Variant, x: &[Reg], bias: &[Reg], other: &[Reg]) {
    let Variant { stored, finish, .. } = variant;
    if finish.reads_other() {
        load(k, stored, "other_at", other);
    }
    if finish == Finish::Accumulate {
        load(k, Stored::F32, "c_at", other);
    }
    for ((x, bias), other) in x.iter().zip(bias).zip(other) {
        finish::apply(k, finish, x, bias, other);
    }
    if finish == Finish::BiasGeluKept {
        store(k, stored, "other_at", x);
        x.iter().for_each(|x| finish::gelu(k, x));
    }
    store(k, if finish.is_wide() { Stored::F32 } else { stored }, "c_at", x);
}

/// What goes before the halves of f32: the first is inside where anything is.
const GUARDS: [&str; 2] = ["", "@%apart_inside "];

/// Eight elements, widened.
fn load(k: &mut Kernel, stored: Stored, address: &str, x: &[Reg]) {
    match stored {
        Stored::F32 | Stored::Tf32 => {
            for (half, (x, guard)) in x.chunks_exact(4).zip(GUARDS).enumerate() {
                let [x0, x1, x2, x3] = std::array::from_fn(|index| &x[index]);
                ptx!(k, "{guard}ld.global.v4.f32 {{{x0}, {x1}, {x2}, {x3}}}, [%{address} + {}];", 4 * APART * half);
            }
        }
        Stored::Bf16 | Stored::F16 => {
            ptx!(k, "ld.global.v4.b32 {{%packed_0, %packed_1, %packed_2, %packed_3}}, [%{address}];");
            for (pair, x) in x.chunks_exact(2).enumerate() {
                if stored == Stored::Bf16 {
                    ptx!(k, "shl.b32 {}, %packed_{pair}, 16;\nand.b32 {}, %packed_{pair}, 0xffff0000;", x[0], x[1]);
                } else {
                    ptx!(
                        k,
                        "mov.b32 {{%half_0, %half_1}}, %packed_{pair};\ncvt.f32.f16 {}, %half_0;\ncvt.f32.f16 {}, %half_1;",
                        x[0],
                        x[1]
                    );
                }
            }
        }
    }
}

/// Eight elements, rounded to nearest even if they must be.
fn store(k: &mut Kernel, stored: Stored, address: &str, x: &[Reg]) {
    match stored {
        Stored::F32 | Stored::Tf32 => {
            for (half, (x, guard)) in x.chunks_exact(4).zip(GUARDS).enumerate() {
                let [x0, x1, x2, x3] = std::array::from_fn(|index| &x[index]);
                ptx!(k, "{guard}st.global.v4.f32 [%{address} + {}], {{{x0}, {x1}, {x2}, {x3}}};", 4 * APART * half);
            }
        }
        Stored::Bf16 | Stored::F16 => {
            for (pair, x) in x.chunks_exact(2).enumerate() {
                ptx!(k, "cvt.rn.{}x2.f32 %packed_{pair}, {}, {};", stored.name(), x[1], x[0]);
            }
            ptx!(k, "st.global.v4.b32 [%{address}], {{%packed_0, %packed_1, %packed_2, %packed_3}};");
        }
    }
}
