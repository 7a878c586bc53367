//! Matrix products on tensor cores: operands of 16 bits, or of f32 that are rounded to tf32, and f32 sums.
//!
//! A block makes a tile of `c`. Tiles of both operands come through a ring of stages in shared memory by asynchronous copies; a warp takes
//! parts of 16 rows and of one step along k (32 bytes: 16 elements, of tf32 8) into registers one step ahead of the products that use
//! them: by `ldmatrix`, transposed where k does not run along the rows, or word by word, for it cannot transpose words. Every tile shape
//! sums along k in the same steps, in order: the bits of an element depend on its row of op(a), its column of op(b) and k, never on the
//! tile or on m and n.
//!
//! Edges cost nothing in the loop. Rows and columns beyond the matrix are copies of its last ones, whose sums are not stored; beyond k
//! copies fill with zeros, also in the stages that are started after the last step and that nobody uses.

use super::Layout;
use super::emit::{Finish, Stored, layout_name};
use super::emit_few::{self, LANE_STEP, lane_products};
use super::emit_mma_operand::{Operand, fetch, prepare, prepare_fetch, start_copy};
use super::emit_mma_store::write_out;
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

/// Bytes along k that one matrix instruction reads of a row.
pub(super) const STEP_BYTES: usize = 32;

/// Row tiles that follow each other before the next column of tiles begins, so that they find their columns of b in the cache.
pub(super) const RASTER: usize = 8;

/// What one block computes, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tile {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Along k, a stage: bytes of a row.
    row_bytes: usize,
    pub(super) stages: usize,
    warps_down: usize,
    /// Columns of a warp's part.
    warp_columns: usize,
    /// Blocks that share a multiprocessor.
    blocks: usize,
}

/// For outputs that fill the device with it.
pub(super) const LARGE: Tile = Tile { rows: 128, columns: 256, row_bytes: 128, stages: 3, warps_down: 2, warp_columns: 64, blocks: 1 };
/// For most outputs.
pub(super) const MEDIUM: Tile = Tile { rows: 128, columns: 128, row_bytes: 64, stages: 3, warps_down: 2, warp_columns: 64, blocks: 2 };
/// For 64 rows and less.
pub(super) const SMALL: Tile = Tile { rows: 64, columns: 64, row_bytes: 128, stages: 4, warps_down: 4, warp_columns: 64, blocks: 2 };
/// For so few rows that the time is that of reading b, whose k runs along its rows.
pub(super) const FEW: Tile = Tile { rows: 16, columns: 32, row_bytes: 128, stages: 8, warps_down: 1, warp_columns: 16, blocks: 3 };
/// The same without tensor cores: a lane a column, a warp four rows.
pub(super) const FEW_BY_LANES: Tile = Tile { warps_down: 4, warp_columns: 32, ..FEW };

impl Tile {
    fn warps_across(self) -> usize {
        self.columns / self.warp_columns
    }

    /// Elements along k, a stage.
    pub(super) fn depth(self, stored: Stored) -> usize {
        self.row_bytes / stored.bytes()
    }

    /// Rows of a warp's part.
    pub(super) fn warp_rows(self) -> usize {
        self.rows / self.warps_down
    }

    /// Threads a block.
    pub(super) fn threads(self) -> usize {
        32 * self.warps_down * self.warps_across()
    }

    /// Bytes of both operands' tiles.
    pub(super) fn stage_bytes(self) -> usize {
        self.row_bytes * (self.rows + self.columns)
    }

    /// Dynamic shared memory.
    pub(super) fn shared_bytes(self) -> usize {
        self.stages * self.stage_bytes()
    }
}

/// A text: everything that is compiled into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Variant {
    pub(super) stored: Stored,
    pub(super) layout: Layout,
    pub(super) tile: Tile,
    pub(super) finish: Finish,
}

impl Variant {
    pub(super) fn entry(self) -> String {
        let (Tile { rows, columns, stages, .. }, depth) = (self.tile, self.tile.depth(self.stored));
        let (layout, stored, finish) = (layout_name(self.layout), self.stored.name(), self.finish.name());
        format!("gemm_{layout}_{stored}_{rows}x{columns}x{depth}_s{stages}_{finish}")
    }

    fn is_few(self) -> bool {
        self.tile.rows == FEW.rows
    }

    /// Without tensor cores.
    fn by_lanes(self) -> bool {
        self.stored == Stored::F32
    }

    fn about(self) -> String {
        let (Tile { rows, columns, stages, .. }, depth) = (self.tile, self.tile.depth(self.stored));
        let grid = if self.finish == Finish::Partial {
            format!(
                "Grid: (ceil(m / {rows}), ceil(n / {columns}), ceil(k / segment)): block z sums k from z segment on into matrix z of c."
            )
        } else {
            format!(
                "Grid: ({RASTER}, ceil(n / {columns}), ceil(m / {})): x and z make the row of tiles; x may be less if z is 1.",
                RASTER * rows
            )
        };
        format!(
            "c = {}(op(a) op(b)), layout {}, elements {}, sums f32. Strides count elements.\n\
             {grid}\n\
             Block: {} threads, warps of {} x {}. Widths, strides and addresses are multiples of 16 bytes.\n\
             Shared: {stages} stages of a and b, {depth} along k each, chunks of 16 bytes exchanged within rows (swizzle){}.\n\
             Registers: {}; af_s_i and bf_s_j operands of even and odd steps along k.",
            self.finish.name(),
            layout_name(self.layout),
            self.stored.name(),
            self.tile.threads(),
            self.tile.warp_rows(),
            self.tile.warp_columns,
            if self.is_few() { "" } else { "; after the loop\n4 KiB a warp for the sums on their way out" },
            if self.by_lanes() { "acc_0_0_r sums of row r, column lane" } else { "acc_i_j_r sums of rows 16 i, columns 8 j" },
        )
    }

    /// Both operands: a in shared memory before b.
    fn operands(self) -> [Operand; 2] {
        let Variant { tile: Tile { rows, columns, row_bytes, .. }, stored, .. } = self;
        let (threads, warp_rows, depth) = (self.tile.threads(), self.tile.warp_rows(), self.tile.depth(stored));
        let operand = |name, across, deep, warp, shared| Operand { name, across, depth, stored, deep, warp, threads, shared };
        [
            operand("a", rows, self.layout != Layout::TN, warp_rows, 0),
            operand("b", columns, self.layout == Layout::NT, self.tile.warp_columns, rows * row_bytes),
        ]
    }

    /// The module.
    pub(super) fn text(self) -> Text {
        let mut kernel = Kernel::new(self.entry(), self.about());
        let k = &mut kernel;
        k.params(".u64", "c a b");
        if self.finish.has_bias() {
            k.params(".u64", "bias");
        }
        if let Some(other) = self.finish.other() {
            k.params(".u64", other);
        }
        k.params(".u32", "m n k c_stride a_stride b_stride");
        if self.finish.other().is_some() {
            k.params(".u32", "other_stride");
        }
        if self.finish == Finish::Partial {
            k.params(".u32", "segment");
        }
        k.block(self.tile.threads(), self.tile.blocks);
        k.dynamic_shared(self.tile.shared_bytes());
        positions(k, self);
        let [a, b] = self.operands();
        prepare(k, a);
        prepare(k, b);
        let acc = main_loop(k, self, a, b);
        if self.is_few() {
            emit_few::write_out(k, self, &acc);
        } else {
            write_out(k, self, &acc);
        }
        ptx!(k, "DONE:\nret;");
        k.text()
    }
}

fn positions(k: &mut Kernel, variant: Variant) {
    let Tile { rows, columns, .. } = variant.tile;
    k.regs(Kind::B32, "m n k thread lane warp first_row first_column warp_row warp_column shared index");
    k.regs(Kind::B32, "from_k left_k octet_row first_half second_half");
    k.regs(Kind::Pred, "outside");
    k.note("Where this block's tile lies, and along k what it sums.");
    ptx!(k, "ld.param.u32 %m, [m];\nld.param.u32 %n, [n];\nld.param.u32 %k, [k];");
    ptx!(k, "mov.u32 %first_row, %ctaid.x;\nmov.u32 %from_k, 0;\nmov.u32 %left_k, %k;");
    if variant.finish == Finish::Partial {
        k.regs(Kind::B32, "segment");
        ptx!(k, "ld.param.u32 %segment, [segment];\nmov.u32 %from_k, %ctaid.z;\nmul.lo.u32 %from_k, %from_k, %segment;");
        ptx!(k, "sub.u32 %left_k, %k, %from_k;\nmin.u32 %left_k, %left_k, %segment;");
    } else {
        ptx!(k, "mov.u32 %index, %ctaid.z;\nmad.lo.u32 %first_row, %index, {RASTER}, %first_row;");
    }
    ptx!(k, "mul.lo.u32 %first_row, %first_row, {rows};\nsetp.ge.u32 %outside, %first_row, %m;\n@%outside bra DONE;");
    ptx!(k, "mov.u32 %first_column, %ctaid.y;\nmul.lo.u32 %first_column, %first_column, {columns};");
    k.note("Which part of it this warp makes.");
    let across = variant.tile.warps_across();
    ptx!(k, "mov.u32 %shared, shared_memory;");
    ptx!(k, "mov.u32 %thread, %tid.x;\nand.b32 %lane, %thread, 31;\nshr.u32 %warp, %thread, 5;");
    ptx!(k, "and.b32 %warp_column, %warp, {};\nmul.lo.u32 %warp_column, %warp_column, {};", across - 1, variant.tile.warp_columns);
    ptx!(k, "shr.u32 %warp_row, %warp, {};\nmul.lo.u32 %warp_row, %warp_row, {};", across.trailing_zeros(), variant.tile.warp_rows());
    if variant.by_lanes() {
        return;
    }
    k.note("ldmatrix takes row octet_row of four 8 x 8 matrices from lanes 0 to 7, 8 to 15, ..: the halves say which of the four.");
    ptx!(k, "and.b32 %octet_row, %lane, 7;\nshr.u32 %second_half, %lane, 4;");
    ptx!(k, "shr.u32 %first_half, %lane, 3;\nand.b32 %first_half, %first_half, 1;");
}

/// Sums; returns their registers by 16 rows, 8 columns and place in the fragment.
fn main_loop(k: &mut Kernel, variant: Variant, a: Operand, b: Operand) -> Vec<Vec<Vec<Reg>>> {
    let Variant { stored, tile, .. } = variant;
    let (steps, depth) = (tile.row_bytes / STEP_BYTES, tile.depth(stored));
    let (down, across) = if variant.by_lanes() { (1, 1) } else { (a.parts(), 2 * b.parts()) };
    k.regs(Kind::B32, "read write");
    k.regs(Kind::Pred, "valid wraps done");
    let acc: Vec<_> = (0..down).map(|row| k.grid(Kind::F32, &format!("acc_{row}"), across, 4)).collect();
    let [af, bf] = [("af", a.parts()), ("bf", b.parts())].map(|(name, parts)| {
        let (kind, registers) = if variant.by_lanes() { (Kind::F32, LANE_STEP) } else { (Kind::B32, 4) };
        [0, 1].map(|set| k.grid(kind, &format!("{name}_{set}"), parts, registers))
    });
    prepare_fetch(k, a, "%warp_row");
    prepare_fetch(k, b, "%warp_column");
    for register in acc.iter().flatten().flatten() {
        ptx!(k, "mov.f32 {register}, {};", float(0.0));
    }
    let copies: Vec<_> = [a, b].into_iter().flat_map(|operand| (0..operand.copies()).map(move |copy| (operand, copy))).collect();
    k.note("Fill all stages but one.");
    ptx!(k, "mov.u32 %write, 0;");
    for _ in 0..tile.stages - 1 {
        copies.iter().for_each(|(operand, copy)| start_copy(k, *operand, *copy));
        ptx!(k, "cp.async.commit_group;\nsub.u32 %left_k, %left_k, {depth};");
        ptx!(k, "add.u32 %write, %write, {};", tile.stage_bytes());
    }
    ptx!(k, "mov.u32 %read, 0;\ncp.async.wait_group {};\nbar.sync 0;", tile.stages - 2);
    for (operand, set) in [(a, &af[0]), (b, &bf[0])] {
        fetch(k, operand, 0, set);
    }
    k.note("left_k counts from the stage that is started next, which is as many ahead as the ring has.");
    let last = -((depth * (tile.stages - 1)) as i64);
    ptx!(k, "setp.le.s32 %done, %left_k, {last};\n@%done bra SUMMED;\nDEPTH_LOOP:\n.pragma \"nounroll\";");
    for step in 0..steps {
        let (now, next) = (step % 2, (step + 1) % 2);
        if step + 1 == steps {
            k.note("The next stage has landed, and everybody has read this one, which is overwritten next.");
            ptx!(k, "cp.async.wait_group {};\nbar.sync 0;", tile.stages - 2);
            // The branch also keeps the assembler from making all products before the barrier, and from waiting for operands after it.
            ptx!(k, "setp.le.s32 %done, %left_k, {last};\n@%done bra LAST_STEP;");
            ptx!(k, "mov.u32 %write, %read;\nadd.u32 %read, %read, {};", tile.stage_bytes());
            ptx!(k, "setp.eq.u32 %wraps, %read, {};\nselp.u32 %read, 0, %read, %wraps;", tile.shared_bytes());
        }
        k.note(format!("Operands of step {} of {steps}.", (step + 1) % steps));
        fetch(k, a, (step + 1) % steps, &af[next]);
        fetch(k, b, (step + 1) % steps, &bf[next]);
        // All steps but the last share the copies, so that they do not stand in the way of the operands.
        if let Some(copies) = copies.chunks(copies.len().div_ceil(steps - 1)).nth(step) {
            k.note("Start a part of the stage that the ring has room for.");
            copies.iter().for_each(|(operand, copy)| start_copy(k, *operand, *copy));
        }
        if step + 2 == steps {
            ptx!(k, "cp.async.commit_group;\nsub.u32 %left_k, %left_k, {depth};");
        }
        k.note(format!("Products of step {step}."));
        products(k, stored, &acc, &af[now], &bf[now]);
    }
    ptx!(k, "bra.uni DEPTH_LOOP;\nLAST_STEP:");
    products(k, stored, &acc, &af[1], &bf[1]);
    ptx!(k, "SUMMED:\ncp.async.wait_all;\nbar.sync 0;");
    acc
}

/// One step along k of a warp's part of the tile.
fn products(k: &mut Kernel, stored: Stored, acc: &[Vec<Vec<Reg>>], a: &[Vec<Reg>], b: &[Vec<Reg>]) {
    if stored == Stored::F32 {
        return lane_products(k, &acc[0][0], a, &b[0]);
    }
    let shape = if stored == Stored::Tf32 { "m16n8k8" } else { "m16n8k16" };
    if stored == Stored::Tf32 {
        for operand in a.iter().chain(b).flatten() {
            ptx!(k, "cvt.rna.tf32.f32 {operand}, {operand};");
        }
    }
    for (row, (sums, a)) in acc.iter().zip(a).enumerate() {
        let [a0, a1, a2, a3] = std::array::from_fn(|index| &a[index]);
        for at in 0..sums.len() {
            // There and back, so that neighbours share an operand.
            let column = if row % 2 == 0 { at } else { sums.len() - 1 - at };
            let [b0, b1] = std::array::from_fn(|index| &b[column / 2][2 * (column % 2) + index]);
            let [c0, c1, c2, c3] = std::array::from_fn(|index| &sums[column][index]);
            ptx!(
                k,
                "mma.sync.aligned.{shape}.row.col.f32.{e}.{e}.f32 {{{c0}, {c1}, {c2}, {c3}}}, {{{a0}, {a1}, {a2}, {a3}}}, {{{b0}, {b1}}}, {{{c0}, {c1}, {c2}, {c3}}};",
                e = stored.name()
            );
        }
    }
}
