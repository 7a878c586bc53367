//! One operand of a product on tensor cores: from global memory to a stage of shared memory, and from there to registers.
//!
//! `deep`: k runs along the rows, in both memories. Else the rows of both run along m or n, and `ldmatrix` transposes.

use super::emit_mma::STEP;
use crate::ptx;
use crate::runtime::emit::swizzle::Swizzle;
use crate::runtime::emit::{Kernel, Kind, Reg};

/// Bytes and elements of what one thread copies at a time.
const CHUNK: usize = 16;
const CHUNK_ELEMENTS: usize = 8;

/// An operand's tile.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    /// Its letter.
    pub(super) name: &'static str,
    /// Along m or n, of the block and of a warp.
    pub(super) across: usize,
    pub(super) warp: usize,
    /// Along k, of a stage.
    pub(super) depth: usize,
    pub(super) deep: bool,
    pub(super) threads: usize,
    /// Where it lies in a stage.
    pub(super) shared: usize,
}

impl Operand {
    /// 16 x 16 parts of a warp's share, across.
    pub(super) fn parts(self) -> usize {
        self.warp / STEP
    }

    fn swizzle(self) -> Swizzle {
        Swizzle { row_bytes: 2 * if self.deep { self.depth } else { self.across } }
    }

    fn chunks_a_row(self) -> usize {
        self.swizzle().row_bytes / CHUNK
    }

    /// Rows that the block's threads copy at a time.
    fn rows_at_once(self) -> usize {
        self.threads / self.chunks_a_row()
    }

    /// Copies a thread makes for a stage.
    pub(super) fn copies(self) -> usize {
        let rows = if self.deep { self.across } else { self.depth };
        rows / self.rows_at_once()
    }

    /// Addresses that [`fetch`] needs: along the rows; across them, distances are constants.
    fn addresses(self) -> usize {
        if self.deep { self.depth / STEP } else { self.parts() }
    }
}

/// What the copies need: the tile's address, which moves along k; every copy's offset from it, its place along k and in a stage.
pub(super) fn prepare(k: &mut Kernel, operand: Operand) {
    let Operand { name, deep, shared, depth, .. } = operand;
    let swizzle = operand.swizzle();
    let (extent, first) = if name == "a" { ("%m", "%first_row") } else { ("%n", "%first_column") };
    k.regs(Kind::B64, &format!("{name} {name}_step {name}_tile {name}_from"));
    k.regs(
        Kind::B32,
        &format!("{name}_stride {name}_chunk {name}_row {name}_last {name}_key {name}_write {name}_at {name}_size {name}_row_at"),
    );
    let offsets = k.array(Kind::B32, &format!("{name}_offset"), operand.copies());
    let places = k.array(Kind::B32, &format!("{name}_k"), if deep { 1 } else { operand.copies() });
    k.note(format!(
        "Copies of {name}: this thread brings chunk thread % {} of rows thread / {} + {} i.",
        operand.chunks_a_row(),
        operand.chunks_a_row(),
        operand.rows_at_once()
    ));
    ptx!(k, "ld.param.u64 %{name}, [{name}];\ncvta.to.global.u64 %{name}, %{name};\nld.param.u32 %{name}_stride, [{name}_stride];");
    ptx!(k, "and.b32 %{name}_chunk, %thread, {};", operand.chunks_a_row() - 1);
    ptx!(k, "shr.u32 %{name}_row, %thread, {};", operand.chunks_a_row().trailing_zeros());
    k.note("Its place in a stage.");
    ptx!(k, "shr.u32 %{name}_key, %{name}_row, {};\nand.b32 %{name}_key, %{name}_key, {};", swizzle.shift(), swizzle.mask());
    ptx!(k, "xor.b32 %{name}_key, %{name}_key, %{name}_chunk;\nmul.lo.u32 %{name}_key, %{name}_key, {CHUNK};");
    ptx!(k, "mad.lo.u32 %{name}_write, %{name}_row, {}, %{name}_key;", swizzle.row_bytes);
    ptx!(k, "add.u32 %{name}_write, %{name}_write, %shared;\nadd.u32 %{name}_write, %{name}_write, {shared};");
    if deep {
        k.note("Rows beyond the last are the last.");
        ptx!(k, "mul.wide.u32 %{name}_tile, {first}, %{name}_stride;\ncvt.u64.u32 %{name}_from, %from_k;");
        ptx!(k, "add.u64 %{name}_tile, %{name}_tile, %{name}_from;\nmov.u64 %{name}_step, {};", 2 * depth);
        ptx!(k, "sub.u32 %{name}_last, {extent}, {first};\nsub.u32 %{name}_last, %{name}_last, 1;");
        ptx!(k, "mul.lo.u32 {}, %{name}_chunk, {CHUNK_ELEMENTS};", places[0]);
        for (copy, offset) in offsets.iter().enumerate() {
            ptx!(k, "add.u32 %{name}_row_at, %{name}_row, {};", copy * operand.rows_at_once());
            ptx!(k, "min.u32 %{name}_row_at, %{name}_row_at, %{name}_last;");
            ptx!(k, "mad.lo.u32 {offset}, %{name}_row_at, %{name}_stride, {};\nmul.lo.u32 {offset}, {offset}, 2;", places[0]);
        }
    } else {
        k.note("Chunks beyond the last are the last.");
        ptx!(k, "mul.wide.u32 %{name}_tile, %from_k, %{name}_stride;\ncvt.u64.u32 %{name}_from, {first};");
        ptx!(k, "add.u64 %{name}_tile, %{name}_tile, %{name}_from;\nmul.wide.u32 %{name}_step, %{name}_stride, {};", 2 * depth);
        ptx!(k, "sub.u32 %{name}_last, {extent}, {first};\nsub.u32 %{name}_last, %{name}_last, {CHUNK_ELEMENTS};");
        ptx!(k, "mul.lo.u32 %{name}_chunk, %{name}_chunk, {CHUNK_ELEMENTS};\nmin.u32 %{name}_chunk, %{name}_chunk, %{name}_last;");
        for (copy, (offset, place)) in offsets.iter().zip(&places).enumerate() {
            ptx!(k, "add.u32 {place}, %{name}_row, {};", copy * operand.rows_at_once());
            ptx!(k, "mad.lo.u32 {offset}, {place}, %{name}_stride, %{name}_chunk;\nmul.lo.u32 {offset}, {offset}, 2;");
        }
    }
    ptx!(k, "shl.b64 %{name}_tile, %{name}_tile, 1;\nadd.u64 %{name}, %{name}, %{name}_tile;");
}

/// Starts one copy of the next stage, to `%write`; beyond k it fills with zeros. After the last the tile moves on.
pub(super) fn start_copy(k: &mut Kernel, operand: Operand, copy: usize) {
    let Operand { name, deep, .. } = operand;
    let (rows, row_bytes) = (operand.rows_at_once(), operand.swizzle().row_bytes);
    if copy == 0 {
        ptx!(k, "add.u32 %{name}_at, %{name}_write, %write;");
    }
    if !deep || copy == 0 {
        ptx!(k, "setp.gt.s32 %valid, %left_k, %{name}_k_{copy};\nselp.u32 %{name}_size, {CHUNK}, 0, %valid;");
    }
    ptx!(k, "cvt.u64.u32 %{name}_from, %{name}_offset_{copy};\nadd.u64 %{name}_from, %{name}_from, %{name};");
    ptx!(k, "cp.async.cg.shared.global [%{name}_at + {}], [%{name}_from], {CHUNK}, %{name}_size;", copy * rows * row_bytes);
    if copy + 1 == operand.copies() {
        ptx!(k, "add.u64 %{name}, %{name}, %{name}_step;");
    }
}

/// Which row of a stage this lane gives to `ldmatrix`, within its warp's share: `first` is where the share begins.
pub(super) fn prepare_fetch(k: &mut Kernel, operand: Operand, first: &str) {
    let Operand { name, deep, shared, .. } = operand;
    let swizzle = operand.swizzle();
    // Registers of a go through rows first, those of b through k.
    let (across, along) = if name == "a" { ("%first_half", "%second_half") } else { ("%second_half", "%first_half") };
    k.regs(Kind::B32, &format!("{name}_fetch_row {name}_fetch_chunk {name}_fetch_at"));
    let fetch = k.array(Kind::B32, &format!("{name}_fetch"), operand.addresses());
    k.note(format!("Where this lane's rows of {name} lie."));
    if deep {
        ptx!(k, "mad.lo.u32 %{name}_fetch_row, {across}, 8, %octet_row;\nadd.u32 %{name}_fetch_row, %{name}_fetch_row, {first};");
        ptx!(k, "mov.u32 %{name}_fetch_chunk, {along};");
    } else {
        ptx!(k, "mad.lo.u32 %{name}_fetch_row, {along}, 8, %octet_row;");
        ptx!(k, "shr.u32 %{name}_fetch_chunk, {first}, 3;\nadd.u32 %{name}_fetch_chunk, %{name}_fetch_chunk, {across};");
    }
    ptx!(k, "shr.u32 %{name}_key, %octet_row, {};\nand.b32 %{name}_key, %{name}_key, {};", swizzle.shift(), swizzle.mask());
    ptx!(k, "xor.b32 %{name}_key, %{name}_key, %{name}_fetch_chunk;\nmul.lo.u32 %{name}_key, %{name}_key, {CHUNK};");
    ptx!(k, "mad.lo.u32 {}, %{name}_fetch_row, {}, %{name}_key;", fetch[0], swizzle.row_bytes);
    ptx!(k, "add.u32 {first}, {first}, %shared;\nadd.u32 {first}, {first}, {shared};", first = fetch[0]);
    k.note("32 bytes further along a row, with its chunks exchanged, is 32 exclusive-ored.");
    for (address, further) in fetch.iter().enumerate().skip(1) {
        ptx!(k, "xor.b32 {further}, {}, {};", fetch[0], 2 * CHUNK * address);
    }
}

/// Loads a warp's share of step `step` along k from stage `%read`.
pub(super) fn fetch(k: &mut Kernel, operand: Operand, step: usize, parts: &[Vec<Reg>]) {
    let Operand { name, deep, .. } = operand;
    let sixteen_rows = STEP * operand.swizzle().row_bytes;
    for (part, registers) in parts.iter().enumerate() {
        let (address, rows) = if deep { (step, part) } else { (part, step) };
        let (transposed, offset) = (if deep { "" } else { ".trans" }, rows * sixteen_rows);
        let [r0, r1, r2, r3] = std::array::from_fn(|index| &registers[index]);
        ptx!(k, "add.u32 %{name}_fetch_at, %{name}_fetch_{address}, %read;");
        ptx!(k, "ldmatrix.sync.aligned.m8n8.x4{transposed}.shared.b16 {{{r0}, {r1}, {r2}, {r3}}}, [%{name}_fetch_at + {offset}];");
    }
}
