//! Matrix products without tensor cores: the f32 path, and elements of 16 bits wherever the tensor-core path's alignment does not hold.
//!
//! A block of 256 threads makes 128 x 128 of `c` in steps of 16 along k; a warp 32 x 64, a thread 8 x 8 in four 4 x 4 parts. Where those
//! would leave most of a device idle, blocks in f32 make 64 x 64, a thread 4 x 4. Each sum is one chain of fused multiply-adds in the
//! order of k. Both operands lie in shared memory as `[k][row]` with rows of 132 or 68 floats, so that a warp that writes 8 k of 4 rows, or
//! 32 rows of one k, meets every bank once, and a thread reads four rows at a time.

use super::Layout;
use super::emit::{Finish, Stored, layout_name};
use super::emit_finish as finish;
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

/// Threads a block: 4 x 2 warps.
pub(super) const THREADS: usize = 256;

const DEPTH: usize = 16;

/// What a block makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Block {
    /// 4 x 4 parts of a thread, down and across.
    parts: usize,
    name: &'static str,
}

/// 128 x 128.
pub(super) const WIDE: Block = Block { parts: 2, name: "simt" };
/// 64 x 64, for f32 without a gate.
pub(super) const NARROW: Block = Block { parts: 1, name: "simt64" };

impl Block {
    /// Rows and columns of `c`.
    pub(super) fn tile(self) -> usize {
        64 * self.parts
    }

    /// Bytes of a row of an operand in shared memory.
    fn row(self) -> usize {
        4 * (self.tile() + 4)
    }

    fn operand(self) -> usize {
        DEPTH * self.row()
    }

    fn stage(self) -> usize {
        2 * self.operand()
    }

    /// Elements of a step of an operand that a thread brings.
    fn copies(self) -> usize {
        4 * self.parts
    }

    /// Blocks that share a multiprocessor.
    fn resident(self, stored: Stored) -> usize {
        match (self, stored.bytes()) {
            (NARROW, _) => 3,
            (_, 4) => 2,
            _ => 1,
        }
    }

    /// Bytes of a row of a warp's part of `c` on its way out.
    fn staged(self) -> usize {
        128 * self.parts
    }

    /// Where the `at`-th element lies that a thread brings, from its first: along k, and down.
    fn copy(self, deep: bool, at: usize) -> (usize, usize) {
        if deep { (8 * (at % 2), 32 * (at / 2)) } else { (THREADS / self.tile() * at, 0) }
    }
}

/// Entry of a variant.
pub(super) fn entry(stored: Stored, layout: Layout, finish: Finish, block: Block) -> String {
    format!("gemm_{}_{}_{}_{}", layout_name(layout), stored.name(), block.name, finish.name())
}

/// One operand: which letter it has, and whether k runs along its rows.
#[derive(Clone, Copy)]
struct Operand {
    name: &'static str,
    extent: &'static str,
    first: &'static str,
    deep: bool,
    stored: Stored,
    /// 2: rows of a warp's 64 columns come from two places, 32 each, that lie n rows apart.
    folds: usize,
    /// Begins at `%from_k` along k.
    partial: bool,
    block: Block,
    shared: usize,
}

/// The module of a variant.
pub(super) fn text(stored: Stored, layout: Layout, finish: Finish, block: Block) -> Text {
    let tile = block.tile();
    let about = format!(
        "c = {}(op(a) op(b)), layout {}, elements {}, sums f32.\n\
         Grid: (ceil(n / {tile}), ceil(m / {tile}){}. Block: 256 threads, 8 warps of {} x {}. Strides count elements.\n\
         Shared: 2 stages of a [16][{row}] and b [16][{row}] f32; after the loop 8 warps x 16 x {} f32 on their way out.",
        finish.name(),
        layout_name(layout),
        stored.name(),
        if finish == Finish::Partial { ", ceil(k / segment)): block z sums k from z segment on into matrix z of c" } else { ")" },
        tile / 4,
        tile / 2,
        tile / 2,
        row = tile + 4,
    );
    let mut k = Kernel::new(entry(stored, layout, finish, block), about);
    let k = &mut k;
    finish.params(k);
    k.block(THREADS, block.resident(stored));
    k.shared(Some(2 * block.stage()));
    let partial = finish == Finish::Partial;
    let a =
        Operand { name: "a", extent: "%m", first: "%first_row", deep: layout != Layout::TN, stored, folds: 1, partial, block, shared: 0 };
    let b = Operand {
        name: "b",
        extent: "%n",
        first: "%first_column",
        deep: layout == Layout::NT,
        stored,
        folds: finish.folds(),
        partial,
        block,
        shared: block.operand(),
    };
    positions(k, finish, block);
    let acc = k.grid(Kind::F32, "acc", 4 * block.parts, 4 * block.parts);
    for register in acc.iter().flatten() {
        ptx!(k, "mov.f32 {register}, {};", float(0.0));
    }
    let (a_waiting, b_waiting) = (prepare(k, a), prepare(k, b));
    main_loop(k, [(a, a_waiting), (b, b_waiting)], block, &acc);
    write_out(k, stored, finish, block, &acc);
    ptx!(k, "ret;");
    k.text()
}

fn positions(k: &mut Kernel, finish: Finish, block: Block) {
    let (tile, parts) = (block.tile(), block.parts);
    k.regs(Kind::B32, "m n k thread lane warp warp_row warp_column lane_row lane_column first_row first_column shared");
    k.regs(Kind::B32, "a_read b_read a_at b_at offset left index");
    k.note(format!("Who computes what: warp w makes rows {} (w & 3) and columns {} (w / 4); lanes are 4 x 8.", tile / 4, tile / 2));
    ptx!(k, "ld.param.u32 %m, [m];\nld.param.u32 %n, [n];\nld.param.u32 %k, [k];");
    if finish == Finish::Partial {
        k.regs(Kind::B32, "segment from_k");
        ptx!(k, "ld.param.u32 %segment, [segment];\nmov.u32 %from_k, %ctaid.z;\nmul.lo.u32 %from_k, %from_k, %segment;");
        ptx!(k, "sub.u32 %k, %k, %from_k;\nmin.u32 %k, %k, %segment;");
    }
    ptx!(k, "mov.u32 %thread, %tid.x;\nand.b32 %lane, %thread, 31;\nshr.u32 %warp, %thread, 5;");
    ptx!(k, "mov.u32 %first_column, %ctaid.x;\nmul.lo.u32 %first_column, %first_column, {};", tile / finish.folds());
    ptx!(k, "mov.u32 %first_row, %ctaid.y;\nshl.b32 %first_row, %first_row, {};", 5 + parts);
    ptx!(k, "and.b32 %warp_row, %warp, 3;\nshl.b32 %warp_row, %warp_row, {};", 3 + parts);
    ptx!(k, "shr.u32 %warp_column, %warp, 2;\nshl.b32 %warp_column, %warp_column, {};", 4 + parts);
    ptx!(k, "shr.u32 %lane_row, %lane, 3;\nand.b32 %lane_column, %lane, 7;");
    ptx!(k, "mov.u32 %shared, shared_memory;");
    ptx!(k, "shl.b32 %index, %lane_row, 2;\nadd.u32 %index, %index, %warp_row;\nshl.b32 %index, %index, 2;");
    ptx!(k, "add.u32 %a_read, %shared, %index;");
    ptx!(k, "shl.b32 %index, %lane_column, 2;\nadd.u32 %index, %index, %warp_column;\nshl.b32 %index, %index, 2;");
    ptx!(k, "add.u32 %b_read, %shared, %index;\nadd.u32 %b_read, %b_read, {};", block.operand());
}

/// Declares what the copies of an operand need; returns the registers its elements wait in (of 16 bits: widened on the way).
fn prepare(k: &mut Kernel, operand: Operand) -> Vec<Reg> {
    let Operand { name, extent, first, deep, stored, folds, partial, block, shared } = operand;
    let (tile, bytes) = (block.tile(), stored.bytes());
    k.regs(Kind::B64, &format!("{name} {name}_row_bytes {name}_step {name}_at_bytes"));
    k.regs(Kind::B32, &format!("{name}_stride {name}_write {name}_write_at {name}_k {name}_row {name}_left {name}_size"));
    k.regs(Kind::Pred, &format!("{name}_inside {name}_deep_enough"));
    ptx!(k, "ld.param.u64 %{name}, [{name}];\ncvta.to.global.u64 %{name}, %{name};\nld.param.u32 %{name}_stride, [{name}_stride];");
    let waiting = if stored.bytes() == 2 { k.array(Kind::B16, &format!("{name}_waiting"), block.copies()) } else { Vec::new() };
    if deep {
        k.note(format!("Copies of {name}: this thread brings k = thread % 8 and + 8 of rows thread / 8 + 32 i."));
        let sizes = k.array(Kind::B32, &format!("{name}_row_size"), tile / 32);
        ptx!(k, "and.b32 %{name}_k, %thread, 7;\nshr.u32 %{name}_row, %thread, 3;");
        ptx!(k, "mad.lo.u32 %{name}_write, %{name}_k, {}, %shared;\nshl.b32 %index, %{name}_row, 2;", block.row());
        ptx!(k, "add.u32 %{name}_write, %{name}_write, %index;\nadd.u32 %{name}_write, %{name}_write, {shared};");
        ptx!(k, "add.u32 %{name}_row, %{name}_row, {first};");
        ptx!(k, "mul.wide.u32 %{name}_row_bytes, %{name}_row, %{name}_stride;\ncvt.u64.u32 %{name}_at_bytes, %{name}_k;");
        ptx!(k, "add.u64 %{name}_row_bytes, %{name}_row_bytes, %{name}_at_bytes;");
        ptx!(k, "shl.b64 %{name}_row_bytes, %{name}_row_bytes, {};\nadd.u64 %{name}, %{name}, %{name}_row_bytes;", bytes.trailing_zeros());
        ptx!(k, "mul.wide.u32 %{name}_step, %{name}_stride, {};", 32 * bytes);
        if folds > 1 {
            k.note("From a row of the first range to that of the second, and on.");
            k.regs(Kind::B64, &format!("{name}_over {name}_back"));
            ptx!(
                k,
                "mul.wide.u32 %{name}_over, %{name}_stride, {extent};\nshl.b64 %{name}_over, %{name}_over, {};",
                bytes.trailing_zeros()
            );
            ptx!(k, "sub.u64 %{name}_back, %{name}_step, %{name}_over;");
        }
        for (index, size) in sizes.iter().enumerate() {
            ptx!(k, "add.u32 %index, %{name}_row, {};\nsetp.lt.u32 %{name}_inside, %index, {extent};", 32 * (index / folds));
            ptx!(k, "selp.u32 {size}, {bytes}, 0, %{name}_inside;");
        }
    } else {
        let step = THREADS / tile;
        k.note(format!("Copies of {name}: this thread brings row thread % {tile} of k = thread / {tile} + {step} i."));
        k.regs(Kind::B32, &format!("{name}_row_size"));
        ptx!(k, "and.b32 %{name}_row, %thread, {};\nshr.u32 %{name}_k, %thread, {};", tile - 1, tile.trailing_zeros());
        ptx!(k, "mad.lo.u32 %{name}_write, %{name}_k, {}, %shared;\nshl.b32 %index, %{name}_row, 2;", block.row());
        ptx!(k, "add.u32 %{name}_write, %{name}_write, %index;\nadd.u32 %{name}_write, %{name}_write, {shared};");
        ptx!(k, "add.u32 %{name}_row, %{name}_row, {first};\nsetp.lt.u32 %{name}_inside, %{name}_row, {extent};");
        ptx!(k, "selp.u32 %{name}_row_size, {bytes}, 0, %{name}_inside;");
        ptx!(k, "mul.wide.u32 %{name}_row_bytes, %{name}_k, %{name}_stride;\ncvt.u64.u32 %{name}_at_bytes, %{name}_row;");
        ptx!(k, "add.u64 %{name}_row_bytes, %{name}_row_bytes, %{name}_at_bytes;");
        ptx!(k, "shl.b64 %{name}_row_bytes, %{name}_row_bytes, {};\nadd.u64 %{name}, %{name}, %{name}_row_bytes;", bytes.trailing_zeros());
        ptx!(k, "mul.wide.u32 %{name}_step, %{name}_stride, {};", step * bytes);
    }
    if partial {
        let step = if deep { "1".to_string() } else { format!("%{name}_stride") };
        ptx!(k, "mul.wide.u32 %{name}_at_bytes, %from_k, {step};\nshl.b64 %{name}_at_bytes, %{name}_at_bytes, {};", bytes.trailing_zeros());
        ptx!(k, "add.u64 %{name}, %{name}, %{name}_at_bytes;");
    }
    ptx!(k, "sub.u32 %{name}_left, %k, %{name}_k;");
    waiting
}

/// Starts the copies of one step of an operand; elements outside the matrix become 0.
fn issue(k: &mut Kernel, operand: Operand, waiting: &[Reg]) {
    let Operand { name, deep, stored, block, .. } = operand;
    k.note(format!("Next step of {name}."));
    ptx!(k, "add.u32 %{name}_write_at, %{name}_write, %offset;");
    if deep {
        ptx!(k, "mov.u64 %{name}_at_bytes, %{name};");
    }
    for at in 0..block.copies() {
        let (depth, row) = block.copy(deep, at);
        let size = if deep { format!("%{name}_row_size_{}", at / 2) } else { format!("%{name}_row_size") };
        let source = if deep { format!("%{name}_at_bytes + {}", depth * stored.bytes()) } else { format!("%{name}") };
        ptx!(k, "setp.gt.s32 %{name}_deep_enough, %{name}_left, {depth};");
        ptx!(k, "selp.b32 %{name}_size, {size}, 0, %{name}_deep_enough;");
        if stored == Stored::F32 {
            ptx!(k, "cp.async.ca.shared.global [%{name}_write_at + {}], [{source}], 4, %{name}_size;", depth * block.row() + 4 * row);
        } else if let Some(waiting) = waiting.get(at) {
            ptx!(k, "setp.ne.u32 %{name}_inside, %{name}_size, 0;\nmov.b16 {waiting}, 0;");
            ptx!(k, "@%{name}_inside ld.global.b16 {waiting}, [{source}];");
        }
        if !deep {
            ptx!(k, "add.u64 %{name}, %{name}, %{name}_step;");
        } else if at % 2 == 1 {
            let step = match (operand.folds, at / 2 % 2) {
                (1, _) => "step",
                (_, 0) => "over",
                _ => "back",
            };
            ptx!(k, "add.u64 %{name}_at_bytes, %{name}_at_bytes, %{name}_{step};");
        }
    }
    if deep {
        ptx!(k, "add.u64 %{name}, %{name}, {};", DEPTH * stored.bytes());
    }
    ptx!(k, "sub.u32 %{name}_left, %{name}_left, {DEPTH};");
}

/// Widened elements of 16 bits go to the stage that their copy was started for.
fn land(k: &mut Kernel, operand: Operand, waiting: &[Reg]) {
    let name = operand.name;
    for (at, half) in waiting.iter().enumerate() {
        let (depth, row) = operand.block.copy(operand.deep, at);
        if operand.stored == Stored::Bf16 {
            ptx!(k, "mov.b32 %wide, {{%no_bits, {half}}};");
        } else {
            ptx!(k, "cvt.f32.f16 %wide, {half};");
        }
        ptx!(k, "st.shared.b32 [%{name}_write_at + {}], %wide;", depth * operand.block.row() + 4 * row);
    }
}

fn main_loop(k: &mut Kernel, operands: [(Operand, Vec<Reg>); 2], block: Block, acc: &[Vec<Reg>]) {
    let through_registers = !operands[0].1.is_empty();
    k.regs(Kind::Pred, "done last");
    if through_registers {
        k.regs(Kind::B16, "no_bits");
        k.regs(Kind::B32, "wide");
        ptx!(k, "mov.b16 %no_bits, 0;");
    }
    let (a, b) = (k.grid(Kind::F32, "af", 2, 4 * block.parts), k.grid(Kind::F32, "bf", 2, 4 * block.parts));
    ptx!(k, "mov.u32 %offset, 0;\nmov.u32 %left, %k;\nsetp.eq.u32 %done, %k, 0;\n@%done bra PRODUCT_DONE;");
    let start = |k: &mut Kernel| operands.iter().for_each(|(operand, waiting)| issue(k, *operand, waiting));
    let finish = |k: &mut Kernel| {
        if through_registers {
            operands.iter().for_each(|(operand, waiting)| land(k, *operand, waiting));
        } else {
            ptx!(k, "cp.async.wait_all;");
        }
    };
    start(k);
    finish(k);
    ptx!(k, "DEPTH_LOOP:\n.pragma \"nounroll\";");
    k.note("The step that landed is read while the next one comes into the other stage.");
    ptx!(k, "bar.sync 0;");
    ptx!(k, "add.u32 %a_at, %a_read, %offset;\nadd.u32 %b_at, %b_read, %offset;\nxor.b32 %offset, %offset, {};", block.stage());
    ptx!(k, "setp.le.u32 %last, %left, {DEPTH};\n@%last bra LAST_STEP;");
    start(k);
    ptx!(k, "LAST_STEP:");
    let fetch = |k: &mut Kernel, depth: usize| {
        for (registers, address) in [(&a[depth % 2], "%a_at"), (&b[depth % 2], "%b_at")] {
            for part in 0..block.parts {
                let offset = depth * block.row() + part * if address == "%a_at" { 64 } else { 128 };
                let [r0, r1, r2, r3] = std::array::from_fn(|index| &registers[4 * part + index]);
                ptx!(k, "ld.shared.v4.f32 {{{r0}, {r1}, {r2}, {r3}}}, [{address} + {offset}];");
            }
        }
    };
    fetch(k, 0);
    for depth in 0..DEPTH {
        if depth + 1 < DEPTH {
            fetch(k, depth + 1);
        }
        for (row, sums) in acc.iter().enumerate() {
            for (column, sum) in sums.iter().enumerate() {
                ptx!(k, "fma.rn.f32 {sum}, {}, {}, {sum};", a[depth % 2][row], b[depth % 2][column]);
            }
        }
    }
    ptx!(k, "@%last bra PRODUCT_DONE;");
    finish(k);
    ptx!(k, "sub.u32 %left, %left, {DEPTH};\nbra.uni DEPTH_LOOP;");
    ptx!(k, "PRODUCT_DONE:");
}

/// The sums cross shared memory once more, so that a warp writes 32 neighbours of a row of `c`, whatever its alignment.
fn write_out(k: &mut Kernel, stored: Stored, finish: Finish, block: Block, acc: &[Vec<Reg>]) {
    let (parts, staged) = (block.parts, block.staged());
    let c_stored = if finish.is_wide() { Stored::F32 } else { stored };
    k.regs(Kind::B32, "c_stride other_stride stage_write stage_read stage_at row column rows");
    k.regs(Kind::B64, "c c_step c_at other other_step other_at bias_at bytes");
    k.regs(Kind::Pred, "inside_0 inside_1 row_inside more both_0 both_1");
    k.regs(Kind::F32, "x bias_0 bias_1 other_0 other_1");
    if stored.bytes() == 2 {
        k.regs(Kind::B16, "half");
        ptx!(k, "mov.b16 %no_bits, 0;");
    }
    finish::declare(k, finish);
    let wide = |stored: Stored| stored.bytes().trailing_zeros();
    k.note(if block == WIDE { "Lane l writes columns l and l + 32 of the warp's 64." } else { "Lane l writes column l of the warp's 32." });
    ptx!(k, "ld.param.u64 %c, [c];\ncvta.to.global.u64 %c, %c;\nld.param.u32 %c_stride, [c_stride];");
    if finish.folds() > 1 {
        ptx!(k, "shr.u32 %warp_column, %warp_column, 1;");
    }
    ptx!(k, "add.u32 %column, %first_column, %warp_column;\nadd.u32 %column, %column, %lane;");
    ptx!(k, "setp.lt.u32 %inside_0, %column, %n;\nadd.u32 %index, %column, 32;\nsetp.lt.u32 %inside_1, %index, %n;");
    ptx!(k, "add.u32 %row, %first_row, %warp_row;\nmul.wide.u32 %c_at, %row, %c_stride;\ncvt.u64.u32 %bytes, %column;");
    ptx!(k, "add.u64 %c_at, %c_at, %bytes;\nshl.b64 %c_at, %c_at, {};\nadd.u64 %c_at, %c_at, %c;", wide(c_stored));
    ptx!(k, "mul.wide.u32 %c_step, %c_stride, {};", c_stored.bytes());
    if finish == Finish::Partial {
        k.note("The matrix of this segment.");
        ptx!(k, "mov.u32 %index, %ctaid.z;\ncvt.u64.u32 %other, %index;\nmul.wide.u32 %bytes, %m, %c_stride;");
        ptx!(k, "mul.lo.u64 %bytes, %bytes, %other;\nshl.b64 %bytes, %bytes, 2;\nadd.u64 %c_at, %c_at, %bytes;");
    }
    if finish.has_bias() {
        ptx!(k, "ld.param.u64 %bias_at, [bias];\ncvta.to.global.u64 %bias_at, %bias_at;\nshl.b64 %bytes, %bytes, {};", wide(stored));
        ptx!(k, "add.u64 %bias_at, %bias_at, %bytes;\nmov.f32 %bias_0, {zero};\nmov.f32 %bias_1, {zero};", zero = float(0.0));
        for half in 0..parts {
            let (guard, bias) = (format!("%inside_{half}"), Reg::named(&format!("bias_{half}")));
            finish::load(k, stored, &guard, &bias, &format!("%bias_at + {}", half * 32 * stored.bytes()));
        }
    }
    if let Some(other) = finish.other() {
        ptx!(k, "ld.param.u64 %other, [{other}];\ncvta.to.global.u64 %other, %other;\nld.param.u32 %other_stride, [other_stride];");
        ptx!(k, "mul.wide.u32 %other_at, %row, %other_stride;\ncvt.u64.u32 %bytes, %column;\nadd.u64 %other_at, %other_at, %bytes;");
        ptx!(k, "shl.b64 %other_at, %other_at, {};\nadd.u64 %other_at, %other_at, %other;", wide(stored));
        ptx!(k, "mul.wide.u32 %other_step, %other_stride, {};", stored.bytes());
    }
    if finish == Finish::SwiGlu {
        k.regs(Kind::B64, "up_at");
        k.regs(Kind::F32, "up");
        ptx!(k, "mul.wide.u32 %bytes, %n, {};\nadd.u64 %up_at, %other_at, %bytes;", stored.bytes());
    }
    ptx!(k, "shl.b32 %index, %warp, {};\nadd.u32 %stage_read, %shared, %index;", 10 + parts);
    ptx!(k, "shl.b32 %index, %lane_row, {};", 8 + parts);
    ptx!(k, "add.u32 %stage_write, %stage_read, %index;\nshl.b32 %index, %lane_column, 4;\nadd.u32 %stage_write, %stage_write, %index;");
    ptx!(k, "shl.b32 %index, %lane, 2;\nadd.u32 %stage_read, %stage_read, %index;\nbar.sync 0;");
    for half in 0..parts {
        k.note(format!("Rows {} to {} of the warp.", 16 * half, 16 * half + 15));
        if half == 1 {
            ptx!(k, "bar.warp.sync 0xffffffff;");
        }
        for row in 0..4 {
            for part in 0..parts {
                let sums = &acc[4 * half + row][4 * part..];
                let (s0, s1, s2, s3) = (&sums[0], &sums[1], &sums[2], &sums[3]);
                ptx!(k, "st.shared.v4.f32 [%stage_write + {}], {{{s0}, {s1}, {s2}, {s3}}};", staged * row + 128 * part);
            }
        }
        ptx!(k, "bar.warp.sync 0xffffffff;\nmov.u32 %rows, 0;\nmov.u32 %stage_at, %stage_read;");
        ptx!(k, "ROW_LOOP_{half}:\n.pragma \"nounroll\";");
        for row in 0..4 {
            write_row(k, [stored, c_stored], finish, block, row);
        }
        ptx!(
            k,
            "add.u32 %stage_at, %stage_at, {};\nadd.u32 %rows, %rows, 4;\nsetp.lt.u32 %more, %rows, 16;\n@%more bra ROW_LOOP_{half};",
            4 * staged
        );
    }
}

fn write_row(k: &mut Kernel, [stored, c_stored]: [Stored; 2], finish: Finish, block: Block, row: usize) {
    ptx!(k, "setp.lt.u32 %row_inside, %row, %m;");
    for half in 0..block.parts {
        ptx!(k, "and.pred %both_{half}, %row_inside, %inside_{half};");
    }
    if finish == Finish::SwiGlu {
        write_gated(k, stored, row);
    }
    for half in 0..block.parts / finish.folds() {
        let guard = format!("%both_{half}");
        let [x, bias, other] = ["x".to_string(), format!("bias_{half}"), format!("other_{half}")].map(|name| Reg::named(&name));
        let (c_address, other_address) =
            (format!("%c_at + {}", half * 32 * c_stored.bytes()), format!("%other_at + {}", half * 32 * stored.bytes()));
        if finish.reads_other() {
            ptx!(k, "mov.f32 {other}, {};", float(0.0));
            finish::load(k, stored, &guard, &other, &other_address);
        }
        if finish.reads_c() {
            ptx!(k, "mov.f32 {other}, {};", float(0.0));
            finish::load(k, c_stored, &guard, &other, &c_address);
        }
        if finish != Finish::SwiGlu {
            ptx!(k, "ld.shared.f32 {x}, [%stage_at + {}];", block.staged() * row + 128 * half);
        }
        finish::apply(k, finish, &x, &bias, &other);
        if finish == Finish::BiasGeluKept {
            finish::store(k, stored, &guard, &other_address);
            finish::gelu(k, &x);
        }
        finish::store(k, c_stored, &guard, &c_address);
    }
    ptx!(k, "add.u64 %c_at, %c_at, %c_step;\nadd.u32 %row, %row, 1;");
    if finish.other().is_some() {
        ptx!(k, "add.u64 %other_at, %other_at, %other_step;");
    }
    if finish == Finish::SwiGlu {
        ptx!(k, "add.u64 %up_at, %up_at, %other_step;");
    }
}

/// Writes the sums of gate and up, and makes the result in `%x`.
fn write_gated(k: &mut Kernel, stored: Stored, row: usize) {
    let [x, up] = ["x", "up"].map(Reg::named);
    ptx!(k, "ld.shared.f32 {up}, [%stage_at + {}];\nmov.f32 {x}, {up};", 256 * row + 128);
    finish::store(k, stored, "%both_0", "%up_at");
    ptx!(k, "ld.shared.f32 {x}, [%stage_at + {}];", 256 * row);
    finish::store(k, stored, "%both_0", "%other_at");
    finish::swiglu(k, &x, &up);
}
