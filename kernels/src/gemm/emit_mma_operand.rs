//! One operand of a product on tensor cores: from global memory to a stage of shared memory, and from there to registers.
//!
//! `deep`: k runs along the rows, in both memories. Else the rows of both run along m or n, and `ldmatrix` transposes, which it can do
//! with elements of 16 bits alone: those of 32 bits are loaded one by one.

use super::emit::Stored;
use super::emit_few::{fetch_lanes, prepare_lanes};
use super::emit_mma::STEP_BYTES;
use crate::ptx;
use crate::runtime::emit::swizzle::Swizzle;
use crate::runtime::emit::{Kernel, Kind, Reg};

/// Bytes of what one thread copies at a time.
const CHUNK: usize = 16;

/// Rows (or columns) of a part.
const PART: usize = 16;

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
    pub(super) stored: Stored,
    pub(super) deep: bool,
    pub(super) threads: usize,
    /// Where it lies in a stage.
    pub(super) shared: usize,
}

impl Operand {
    /// Parts of a warp's share, across; by lanes its rows of a, and one of b.
    pub(super) fn parts(self) -> usize {
        match (self.by_lanes(), self.name) {
            (false, _) => self.warp / PART,
            (true, "a") => self.warp,
            (true, _) => 1,
        }
    }

    /// Fetched word by word.
    fn by_words(self) -> bool {
        !self.deep && self.stored == Stored::Tf32
    }

    /// Fetched by lanes for products without tensor cores.
    fn by_lanes(self) -> bool {
        self.stored == Stored::F32
    }

    /// Bytes of a row of a stage.
    pub(super) fn row_bytes(self) -> usize {
        self.stored.bytes() * if self.deep { self.depth } else { self.across }
    }

    fn swizzle(self) -> Swizzle {
        Swizzle { row_bytes: self.row_bytes() }
    }

    fn chunk_elements(self) -> usize {
        CHUNK / self.stored.bytes()
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
        match () {
            () if self.deep => self.swizzle().row_bytes / STEP_BYTES,
            () if self.by_words() => 2 * self.parts().min(2),
            () => self.parts(),
        }
    }

    /// Emits what a row's chunks are exclusive-ored with. Of words a warp reads two chunks of four rows at a time, so that the rows
    /// exchange pairs of chunks; a row that all lanes read at once stays as it is.
    pub(super) fn key(self, k: &mut Kernel, row: &str) {
        let (name, swizzle) = (self.name, self.swizzle());
        if self.by_lanes() && name == "a" {
            ptx!(k, "mov.u32 %{name}_key, 0;");
        } else if self.by_words() {
            ptx!(k, "and.b32 %{name}_key, {row}, 3;\nshl.b32 %{name}_key, %{name}_key, 1;");
        } else {
            ptx!(k, "shr.u32 %{name}_key, {row}, {};\nand.b32 %{name}_key, %{name}_key, {};", swizzle.shift(), swizzle.mask());
        }
    }
}

/// What the copies need: the tile's address, which moves along k; every copy's offset from it, its place along k and in a stage.
pub(super) fn prepare(k: &mut Kernel, operand: Operand) {
    let Operand { name, deep, shared, depth, stored, .. } = operand;
    let (swizzle, chunk_elements, bytes) = (operand.swizzle(), operand.chunk_elements(), stored.bytes());
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
    operand.key(k, &format!("%{name}_row"));
    ptx!(k, "xor.b32 %{name}_key, %{name}_key, %{name}_chunk;\nmul.lo.u32 %{name}_key, %{name}_key, {CHUNK};");
    ptx!(k, "mad.lo.u32 %{name}_write, %{name}_row, {}, %{name}_key;", swizzle.row_bytes);
    ptx!(k, "add.u32 %{name}_write, %{name}_write, %shared;\nadd.u32 %{name}_write, %{name}_write, {shared};");
    if deep {
        k.note("Rows beyond the last are the last.");
        ptx!(k, "mul.wide.u32 %{name}_tile, {first}, %{name}_stride;\ncvt.u64.u32 %{name}_from, %from_k;");
        ptx!(k, "add.u64 %{name}_tile, %{name}_tile, %{name}_from;\nmov.u64 %{name}_step, {};", bytes * depth);
        ptx!(k, "sub.u32 %{name}_last, {extent}, {first};\nsub.u32 %{name}_last, %{name}_last, 1;");
        ptx!(k, "mul.lo.u32 {}, %{name}_chunk, {chunk_elements};", places[0]);
        for (copy, offset) in offsets.iter().enumerate() {
            ptx!(k, "add.u32 %{name}_row_at, %{name}_row, {};", copy * operand.rows_at_once());
            ptx!(k, "min.u32 %{name}_row_at, %{name}_row_at, %{name}_last;");
            ptx!(k, "mad.lo.u32 {offset}, %{name}_row_at, %{name}_stride, {};\nmul.lo.u32 {offset}, {offset}, {bytes};", places[0]);
        }
    } else {
        k.note("Chunks beyond the last are the last.");
        ptx!(k, "mul.wide.u32 %{name}_tile, %from_k, %{name}_stride;\ncvt.u64.u32 %{name}_from, {first};");
        ptx!(k, "add.u64 %{name}_tile, %{name}_tile, %{name}_from;\nmul.wide.u32 %{name}_step, %{name}_stride, {};", bytes * depth);
        ptx!(k, "sub.u32 %{name}_last, {extent}, {first};\nsub.u32 %{name}_last, %{name}_last, {chunk_elements};");
        ptx!(k, "mul.lo.u32 %{name}_chunk, %{name}_chunk, {chunk_elements};\nmin.u32 %{name}_chunk, %{name}_chunk, %{name}_last;");
        for (copy, (offset, place)) in offsets.iter().zip(&places).enumerate() {
            ptx!(k, "add.u32 {place}, %{name}_row, {};", copy * operand.rows_at_once());
            ptx!(k, "mad.lo.u32 {offset}, {place}, %{name}_stride, %{name}_chunk;\nmul.lo.u32 {offset}, {offset}, {bytes};");
        }
    }
    ptx!(k, "shl.b64 %{name}_tile, %{name}_tile, {};\nadd.u64 %{name}, %{name}, %{name}_tile;", bytes.trailing_zeros());
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

/// Where this lane's words of a stage lie, or the rows that it gives to `ldmatrix`, within its warp's share, which begins at `first`.
pub(super) fn prepare_fetch(k: &mut Kernel, operand: Operand, first: &str) {
    if operand.by_words() {
        return prepare_words(k, operand, first);
    }
    if operand.by_lanes() {
        return prepare_lanes(k, operand, first);
    }
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
    operand.key(k, "%octet_row");
    ptx!(k, "xor.b32 %{name}_key, %{name}_key, %{name}_fetch_chunk;\nmul.lo.u32 %{name}_key, %{name}_key, {CHUNK};");
    ptx!(k, "mad.lo.u32 {}, %{name}_fetch_row, {}, %{name}_key;", fetch[0], swizzle.row_bytes);
    ptx!(k, "add.u32 {first}, {first}, %shared;\nadd.u32 {first}, {first}, {shared};", first = fetch[0]);
    k.note("32 bytes further along a row, with its chunks exchanged, is 32 exclusive-ored.");
    for (address, further) in fetch.iter().enumerate().skip(1) {
        ptx!(k, "xor.b32 {further}, {}, {};", fetch[0], 2 * CHUNK * address);
    }
}

/// Lane 4 g + t reads words (k = t, g), of a part's second eight columns, and of the next four k, from addresses that differ in one bit
/// each: of the chunk's index, whose lowest bit comes from g, two bits are exchanged with the row.
fn prepare_words(k: &mut Kernel, operand: Operand, first: &str) {
    let Operand { name, shared, .. } = operand;
    k.regs(Kind::B32, &format!("{name}_fetch_row {name}_fetch_chunk {name}_fetch_at"));
    let fetch = k.array(Kind::B32, &format!("{name}_fetch"), operand.addresses());
    k.note(format!("Where this lane's words of {name} lie: k = lane % 4, {first} + lane / 4."));
    ptx!(k, "and.b32 %{name}_fetch_row, %lane, 3;\nshr.u32 %{name}_fetch_chunk, %lane, 2;");
    ptx!(k, "add.u32 %{name}_fetch_chunk, %{name}_fetch_chunk, {first};");
    operand.key(k, &format!("%{name}_fetch_row"));
    ptx!(k, "mul.lo.u32 %{name}_key, %{name}_key, {CHUNK};\nmul.lo.u32 %{name}_fetch_chunk, %{name}_fetch_chunk, 4;");
    ptx!(k, "xor.b32 %{name}_key, %{name}_key, %{name}_fetch_chunk;");
    ptx!(k, "mad.lo.u32 {}, %{name}_fetch_row, {}, %{name}_key;", fetch[0], operand.swizzle().row_bytes);
    ptx!(k, "add.u32 {first}, {first}, %shared;\nadd.u32 {first}, {first}, {shared};", first = fetch[0]);
    k.note("8 columns further is 32 exclusive-ored, the next part is 64.");
    for (address, further) in fetch.iter().enumerate().skip(1) {
        ptx!(k, "xor.b32 {further}, {}, {};", fetch[0], 2 * CHUNK * address);
    }
}

fn fetch_words(k: &mut Kernel, operand: Operand, step: usize, parts: &[Vec<Reg>]) {
    let (name, row_bytes) = (operand.name, operand.swizzle().row_bytes);
    // Registers of a go through rows first, those of b through k.
    let [per_half, per_four_k] = if name == "a" { [1, 2] } else { [2, 1] };
    for address in 0..operand.addresses() {
        ptx!(k, "add.u32 %{name}_fetch_at, %{name}_fetch_{address}, %read;");
        for (pair, registers) in parts.iter().skip(address / 2).step_by(2).enumerate() {
            for further in 0..2 {
                let register = &registers[address % 2 * per_half + further * per_four_k];
                let offset = (8 * step + 4 * further) * row_bytes + 2 * PART * 4 * pair;
                ptx!(k, "ld.shared.b32 {register}, [%{name}_fetch_at + {offset}];");
            }
        }
    }
}

/// Loads a warp's share of step `step` along k from stage `%read`.
pub(super) fn fetch(k: &mut Kernel, operand: Operand, step: usize, parts: &[Vec<Reg>]) {
    if operand.by_words() {
        return fetch_words(k, operand, step, parts);
    }
    if operand.by_lanes() {
        return fetch_lanes(k, operand, step, parts);
    }
    let Operand { name, deep, .. } = operand;
    let sixteen_rows = PART * operand.swizzle().row_bytes;
    for (part, registers) in parts.iter().enumerate() {
        let (address, rows) = if deep { (step, part) } else { (part, step) };
        let (transposed, offset) = (if deep { "" } else { ".trans" }, rows * sixteen_rows);
        let [r0, r1, r2, r3] = std::array::from_fn(|index| &registers[index]);
        ptx!(k, "add.u32 %{name}_fetch_at, %{name}_fetch_{address}, %read;");
        ptx!(k, "ldmatrix.sync.aligned.m8n8.x4{transposed}.shared.b16 {{{r0}, {r1}, {r2}, {r3}}}, [%{name}_fetch_at + {offset}];");
    }
}
