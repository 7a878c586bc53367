//! Attention in bf16 on tensor cores: tiles in shared memory, copies into them, products out of them, shared by forward and backward.
//!
//! A block owns the rows of a tile (queries, or keys where the gradients of keys and values are made), a warp owns slabs of 16 of them,
//! and the columns come in steps. Lane `4 g + t` holds rows `g` and `g + 8` of a slab and, of every eight columns, numbers `2 t` and
//! `2 t + 1` ([`crate::runtime::emit::fragment`]). A tile's rows have 64, 128 or 256 bytes, swizzled
//! ([`crate::runtime::emit::swizzle`]); what a head lacks of them is 0.

use crate::ptx;
use crate::runtime::emit::swizzle::Swizzle;
use crate::runtime::emit::{Kernel, Kind, Reg, float};

/// Sizes of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tile {
    pub(super) head_dim: usize,
    pub(super) dropout: bool,
    /// Warps a block.
    pub(super) warps: usize,
    /// Slabs of 16 rows a warp.
    pub(super) slabs: usize,
    /// Columns a step.
    pub(super) columns: usize,
}

impl Tile {
    /// The tile of forward: two slabs a warp, as far as registers go.
    pub(super) fn forward(head_dim: usize, dropout: bool) -> Tile {
        let (warps, slabs) = if head_dim <= if dropout { 32 } else { 64 } { (4, 2) } else { (8, 1) };
        Tile { head_dim, dropout, warps, slabs, columns: 64 }
    }

    /// The tile of forward for few queries, such as a projector's: keys and values pass once, through many small blocks a
    /// multiprocessor. A row's bits do not depend on the tile.
    pub(super) fn forward_few(head_dim: usize, dropout: bool) -> Tile {
        let warps = if head_dim <= 64 { 2 } else { 4 };
        Tile { warps, slabs: 1, ..Tile::forward(head_dim, dropout) }
    }

    /// The tile of `dq`.
    pub(super) fn queries(head_dim: usize, dropout: bool) -> Tile {
        Tile { columns: 32, ..Tile::forward(head_dim, dropout) }
    }

    /// The tile of `dk` and `dv`.
    pub(super) fn keys(head_dim: usize, dropout: bool) -> Tile {
        // With more, dropout's words would not fit the 99 KiB of a block on some devices.
        let columns = if head_dim > 64 && dropout { 16 } else { 32 };
        Tile { columns, ..Tile::forward(head_dim, dropout) }
    }

    /// The block's keys stay in registers while `dk` and `dv` are made.
    pub(super) fn keys_are_held(self) -> bool {
        self.slabs == 1
    }

    /// Rows a block.
    pub(super) fn rows(self) -> usize {
        self.warps * self.warp_rows()
    }

    /// Rows a warp.
    pub(super) fn warp_rows(self) -> usize {
        16 * self.slabs
    }

    pub(super) fn threads(self) -> usize {
        32 * self.warps
    }

    /// Steps of 16 elements through a head.
    pub(super) fn depth(self) -> usize {
        self.head_dim.div_ceil(16)
    }

    /// Eights of elements in a head.
    pub(super) fn eighths(self) -> usize {
        self.head_dim / 8
    }

    /// Eights of columns in a step.
    pub(super) fn column_eighths(self) -> usize {
        self.columns / 8
    }

    pub(super) fn swizzle(self) -> Swizzle {
        Swizzle { row_bytes: (2 * self.head_dim).next_power_of_two().max(64) }
    }

    /// Bytes of a row in shared memory.
    pub(super) fn row_bytes(self) -> usize {
        self.swizzle().row_bytes
    }

    /// 16-byte chunks of such a row; as many threads copy it.
    pub(super) fn chunks(self) -> usize {
        self.row_bytes() / 16
    }

    /// Bytes of so many such rows.
    pub(super) fn bytes(self, rows: usize) -> usize {
        self.row_bytes() * rows
    }

    /// Rows that the block copies at a time.
    pub(super) fn rows_at_once(self) -> usize {
        self.threads() / self.chunks()
    }

    /// Blocks that a multiprocessor has room for.
    pub(super) fn blocks(self) -> usize {
        8 / self.warps
    }

    pub(super) fn name(self, pass: &str) -> String {
        let dropout = if self.dropout { "_dropout" } else { "" };
        format!("attention_{pass}_bf16_d{}_{}x{}_w{}{dropout}", self.head_dim, self.rows(), self.columns, self.warps)
    }
}

/// Thread, lane and warp; `%own_row` is the lane's first row within the tile, `%twice` its first column within eight.
pub(super) fn positions(k: &mut Kernel, tile: Tile) {
    k.regs(Kind::B32, "shared thread lane warp group_row twice warp_row own_row first_row item head kv_head group index place");
    k.regs(Kind::B64, "address bytes");
    ptx!(k, "mov.u32 %shared, shared_memory;\nmov.u32 %thread, %tid.x;\nand.b32 %lane, %thread, 31;\nshr.u32 %warp, %thread, 5;");
    ptx!(k, "shr.u32 %group_row, %lane, 2;\nand.b32 %twice, %lane, 3;\nshl.b32 %twice, %twice, 1;");
    ptx!(k, "mul.lo.u32 %warp_row, %warp, {};\nadd.u32 %own_row, %warp_row, %group_row;", tile.warp_rows());
    ptx!(k, "mov.u32 %item, %ctaid.z;\nmov.u32 %first_row, %ctaid.x;\nmul.lo.u32 %first_row, %first_row, {};", tile.rows());
}

/// What a thread copies: chunk `%chunk` of every `rows_at_once`-th row from `%copy_row` on, to `%copy_to` within a tile. `%chunk_size`
/// is 0 for what the head lacks.
pub(super) fn declare_copies(k: &mut Kernel, tile: Tile) {
    let (chunks, swizzle) = (tile.chunks(), tile.swizzle());
    k.regs(Kind::B32, "chunk copy_row copy_to chunk_bytes chunk_size copy_size staged out_0 out_1 out_2 out_3");
    k.regs(Kind::Pred, "copied written");
    k.note("A thread's chunk and rows of a copy.");
    ptx!(k, "and.b32 %chunk, %thread, {};\nshr.u32 %copy_row, %thread, {};", chunks - 1, chunks.trailing_zeros());
    ptx!(k, "shl.b32 %chunk_bytes, %chunk, 4;\nsetp.lt.u32 %copied, %chunk, {};\nselp.u32 %chunk_size, 16, 0, %copied;", tile.eighths());
    ptx!(k, "@!%copied mov.u32 %chunk_bytes, 0;");
    ptx!(k, "shr.u32 %place, %copy_row, {};\nand.b32 %place, %place, {};", swizzle.shift(), swizzle.mask());
    ptx!(k, "xor.b32 %place, %place, %chunk;\nshl.b32 %place, %place, 4;");
    ptx!(k, "mad.lo.u32 %copy_to, %copy_row, {}, %place;", tile.row_bytes());
}

/// `%{name}`: address of a matrix' first row of the item and first element of the head; `%{name}_row_step`: bytes from row to row.
pub(super) fn matrix(k: &mut Kernel, name: &str, head: &str, rows: &str, head_dim: usize) {
    declare_matrix(k, name);
    locate(k, name, head, rows, head_dim);
}

pub(super) fn declare_matrix(k: &mut Kernel, name: &str) {
    k.regs(Kind::B64, name);
    k.regs(Kind::B32, &format!("{name}_row_step"));
    ptx!(k, "ld.param.u32 %{name}_row_step, [{name}_stride];\nshl.b32 %{name}_row_step, %{name}_row_step, 1;");
}

/// Points a declared matrix at a head.
pub(super) fn locate(k: &mut Kernel, name: &str, head: &str, rows: &str, head_dim: usize) {
    ptx!(k, "ld.param.u64 %{name}, [{name}];\ncvta.to.global.u64 %{name}, %{name};\nmul.lo.u32 %index, %item, {rows};");
    ptx!(k, "mad.wide.u32 %{name}, %index, %{name}_row_step, %{name};");
    ptx!(k, "mul.wide.u32 %bytes, {head}, {};\nadd.u64 %{name}, %{name}, %bytes;", 2 * head_dim);
}

/// A matrix whose rows come a step of columns at a time, the last first: the thread's copies, of rows in falling order too, follow each
/// other at one distance.
pub(super) struct Stepped {
    name: &'static str,
    /// The chunk that the thread copied last.
    from: Reg,
    /// Bytes from the next one to it.
    stride: Reg,
    tile: Tile,
}

impl Stepped {
    /// Steps through matrix `name`.
    pub(super) fn new(k: &mut Kernel, tile: Tile, name: &'static str) -> Stepped {
        let (from, stride) = (k.reg(Kind::B64, format_args!("{name}_from")), k.reg(Kind::B64, format_args!("{name}_copy_stride")));
        ptx!(k, "mul.wide.u32 {stride}, %{name}_row_step, {};", tile.rows_at_once());
        Stepped { name, from, stride, tile }
    }

    /// The next copy is of the step whose first row is row `first` of the matrix.
    pub(super) fn start(&self, k: &mut Kernel, first: &str) {
        let (name, from) = (self.name, &self.from);
        ptx!(k, "add.u32 %index, %copy_row, {first};\nadd.u32 %index, %index, {};", self.tile.columns);
        ptx!(
            k,
            "mad.wide.u32 {from}, %index, %{name}_row_step, %{name};\ncvt.u64.u32 %bytes, %chunk_bytes;\nadd.u64 {from}, {from}, %bytes;"
        );
    }

    /// Copies the step to the tile that begins `offset` bytes behind the address in `to`, where `guard` holds; rows at and beyond `end`,
    /// counted from the step's first, become 0. The next call copies the step before.
    pub(super) fn copy(&self, k: &mut Kernel, to: &str, offset: usize, guard: &str, end: Option<&str>) {
        let from = &self.from;
        for row in (0..self.tile.columns).step_by(self.tile.rows_at_once()).rev() {
            let to = format!("[{to} + {}]", offset + row * self.tile.row_bytes());
            ptx!(k, "sub.u64 {from}, {from}, {};", self.stride);
            match end {
                Some(end) => {
                    ptx!(k, "add.u32 %index, %copy_row, {row};\nsetp.lt.u32 %copied, %index, {end};");
                    ptx!(k, "selp.u32 %copy_size, %chunk_size, 0, %copied;");
                    ptx!(k, "{guard}cp.async.cg.shared.global {to}, [{from}], 16, %copy_size;");
                }
                None if self.tile.eighths() == self.tile.chunks() => ptx!(k, "{guard}cp.async.cg.shared.global {to}, [{from}], 16;"),
                None => ptx!(k, "{guard}cp.async.cg.shared.global {to}, [{from}], 16, %chunk_size;"),
            }
        }
    }
}

/// Copies `count` rows of matrix `name` from row `%first_row` on to the tile at `to` (a register with the thread's place in it); rows
/// outside `from..end` become 0.
pub(super) fn copy_rows(k: &mut Kernel, tile: Tile, name: &str, to: &str, offset: usize, [from, end]: [&str; 2]) {
    k.note(format!("{} rows of {name}.", tile.rows()));
    for row in (0..tile.rows()).step_by(tile.rows_at_once()) {
        ptx!(k, "add.u32 %index, %first_row, %copy_row;\nadd.u32 %index, %index, {row};");
        ptx!(k, "setp.ge.u32 %copied, %index, {from};\nsetp.lt.and.u32 %copied, %index, {end}, %copied;");
        ptx!(k, "selp.u32 %copy_size, %chunk_size, 0, %copied;\nselp.u32 %index, %index, 0, %copied;");
        ptx!(k, "mad.wide.u32 %address, %index, %{name}_row_step, %{name};\ncvt.u64.u32 %bytes, %chunk_bytes;");
        ptx!(k, "add.u64 %address, %address, %bytes;");
        ptx!(k, "cp.async.cg.shared.global [{to} + {}], [%address], 16, %copy_size;", offset + row * tile.row_bytes());
    }
}

/// Addresses of the lane's row of 8 x 8 matrices in a tile, one for each of the first 32-byte pieces of a row; the exchange of chunks
/// never leaves 128 bytes.
#[derive(Clone)]
pub(super) struct Stored {
    pieces: Vec<Reg>,
    tile: Tile,
}

/// Which row of four 8 x 8 matrices a lane addresses for `ldmatrix`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// Rows 0 and 8, then the chunks: a left operand, or, transposed, two right ones.
    RowsFirst,
    /// Chunks 0 and 1, then rows 8: two right operands.
    ChunksFirst,
}

/// `target`: address of the lane's row of matrices that begin at row `row` of the tile `offset` bytes into shared memory.
pub(super) fn lane_address(k: &mut Kernel, tile: Tile, target: &Reg, order: Order, row: &str, offset: usize) {
    let (row_bit, chunk_bit) = if order == Order::RowsFirst { (3, 4) } else { (4, 3) };
    let swizzle = tile.swizzle();
    ptx!(k, "shr.u32 %index, %lane, {row_bit};\nand.b32 %index, %index, 1;\nshl.b32 %index, %index, 3;");
    ptx!(k, "and.b32 {target}, %lane, 7;\nadd.u32 {target}, {target}, %index;");
    ptx!(k, "shr.u32 %index, {target}, {};\nand.b32 %index, %index, {};", swizzle.shift(), swizzle.mask());
    ptx!(k, "shr.u32 %place, %lane, {chunk_bit};\nand.b32 %place, %place, 1;\nxor.b32 %index, %index, %place;\nshl.b32 %index, %index, 4;");
    ptx!(k, "add.u32 {target}, {target}, {row};\nmad.lo.u32 {target}, {target}, {}, %index;", tile.row_bytes());
    ptx!(k, "add.u32 {target}, {target}, %shared;\nadd.u32 {target}, {target}, {offset};");
}

impl Stored {
    /// Declares the addresses `name_0`, ...
    pub(super) fn new(k: &mut Kernel, tile: Tile, name: &str) -> Stored {
        Stored { pieces: k.array(Kind::B32, name, tile.depth().min(tile.row_bytes() / 32).min(4)), tile }
    }

    /// Points at the tile whose lane address is in `base`.
    pub(super) fn point(&self, k: &mut Kernel, base: &Reg) {
        for (index, piece) in self.pieces.iter().enumerate() {
            ptx!(k, "xor.b32 {piece}, {base}, {};", 32 * index);
        }
    }

    /// Loads four matrices, the first at row `row` and elements `16 * step ..` of the tile.
    pub(super) fn load(&self, k: &mut Kernel, to: &[Reg], row: usize, step: usize, transposed: bool) {
        let (r0, r1, r2, r3) = (&to[0], &to[1], &to[2], &to[3]);
        let offset = row * self.tile.row_bytes() + 128 * (step / 4);
        let (piece, form) = (&self.pieces[step % 4], if transposed { ".trans" } else { "" });
        ptx!(k, "ldmatrix.sync.aligned.m8n8.x4{form}.shared.b16 {{{r0}, {r1}, {r2}, {r3}}}, [{piece} + {offset}];");
    }
}

/// Left operands of products over the head.
pub(super) enum Left {
    /// Four registers a slab and step.
    Held(Vec<Vec<Reg>>),
    /// Loaded each time: rows of a tile from a row on ([`Order::RowsFirst`]).
    Kept(Stored, usize),
}

impl Left {
    /// Declares and loads the registers of a warp's rows.
    pub(super) fn hold(k: &mut Kernel, tile: Tile, name: &str, from: &Stored, row: usize) -> Left {
        let held = k.grid(Kind::B32, name, tile.slabs, 4 * tile.depth());
        for (slab, registers) in held.iter().enumerate() {
            for (step, registers) in registers.chunks(4).enumerate() {
                from.load(k, registers, row + 16 * slab, step, false);
            }
        }
        Left::Held(held)
    }
}

/// `sums += a b`, or `= a b` where `fresh`.
fn multiply(k: &mut Kernel, sums: &[Reg], a: &[Reg], b: &[Reg], fresh: bool) {
    let (d0, d1, d2, d3) = (&sums[0], &sums[1], &sums[2], &sums[3]);
    let (a0, a1, a2, a3) = (&a[0], &a[1], &a[2], &a[3]);
    let (b0, b1) = (&b[0], &b[1]);
    if fresh {
        ptx!(
            k,
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{{d0}, {d1}, {d2}, {d3}}}, {{{a0}, {a1}, {a2}, {a3}}}, {{{b0}, {b1}}}, {{%zero, %zero, %zero, %zero}};"
        );
    } else {
        ptx!(
            k,
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{{d0}, {d1}, {d2}, {d3}}}, {{{a0}, {a1}, {a2}, {a3}}}, {{{b0}, {b1}}}, {{{d0}, {d1}, {d2}, {d3}}};"
        );
    }
}

/// Registers of products: a left operand a slab, two right ones, and 0.
pub(super) struct Fragments {
    left: Vec<Vec<Reg>>,
    right: Vec<Reg>,
    depth: usize,
}

impl Fragments {
    pub(super) fn new(k: &mut Kernel, tile: Tile) -> Fragments {
        k.regs(Kind::F32, "zero");
        ptx!(k, "mov.f32 %zero, {};", float(0.0));
        Fragments { left: k.grid(Kind::B32, "left", tile.slabs, 4), right: k.array(Kind::B32, "right", 4), depth: tile.depth() }
    }

    /// `scores[slab][4 e ..]` = rows of the slab . the eight columns `e`, over the head, of so many slabs from `first` on. The columns are
    /// the rows of a tile from `row` on ([`Order::ChunksFirst`]).
    pub(super) fn scores(&self, k: &mut Kernel, left: &Left, first: usize, columns: &Stored, row: usize, scores: &[Vec<Reg>]) {
        for step in 0..self.depth {
            if let Left::Kept(stored, from) = left {
                for (slab, registers) in self.left[..scores.len()].iter().enumerate() {
                    stored.load(k, registers, from + 16 * (first + slab), step, false);
                }
            }
            for pair in 0..scores[0].len() / 8 {
                columns.load(k, &self.right, row + 16 * pair, step, false);
                for (slab, scores) in scores.iter().enumerate() {
                    let left = match left {
                        Left::Held(registers) => &registers[first + slab][4 * step..],
                        Left::Kept(..) => &self.left[slab],
                    };
                    for (right, scores) in self.right.chunks(2).zip(scores[8 * pair..].chunks(4)) {
                        multiply(k, scores, left, right, step == 0);
                    }
                }
            }
        }
    }

    /// `sums[slab][4 e ..] +=` over the columns, weight by elements `8 e ..` of the column. The columns are the rows of a tile from `row`
    /// on ([`Order::RowsFirst`]); the weights, of [`Fragments::scores`]' form, are rounded to bf16.
    pub(super) fn gather(&self, k: &mut Kernel, weights: &[Vec<Reg>], values: &Stored, row: usize, sums: &[Vec<Reg>]) {
        for step in 0..weights[0].len() / 8 {
            for (left, weights) in self.left.iter().zip(weights) {
                for (left, weights) in left.iter().zip(weights[8 * step..].chunks(2)) {
                    ptx!(k, "cvt.rn.bf16x2.f32 {left}, {}, {};", weights[1], weights[0]);
                }
            }
            for pair in 0..sums[0].len().div_ceil(8) {
                values.load(k, &self.right, row + 16 * step, pair, true);
                for (left, sums) in self.left.iter().zip(sums) {
                    for (right, sums) in self.right.chunks(2).zip(sums[8 * pair..].chunks(4)) {
                        multiply(k, sums, left, right, false);
                    }
                }
            }
        }
    }
}

/// Rounds the warp's rows and writes those below `end` to matrix `name`, whole chunks by way of the warp's own part of the tile `offset`
/// bytes into shared memory, which no other warp may be using. `drawn`: the warp's lanes may still be reading draws of dropout there.
pub(super) fn write_rows(k: &mut Kernel, tile: Tile, name: &str, end: &str, offset: usize, drawn: bool, sums: &[Vec<Reg>]) {
    let (swizzle, row_bytes, chunks) = (tile.swizzle(), tile.row_bytes(), tile.chunks());
    k.note(format!("The warp's rows of {name}: to their place in shared memory, then to the matrix."));
    ptx!(k, "shr.u32 %index, %group_row, {};\nand.b32 %index, %index, {};\nshl.b32 %index, %index, 4;", swizzle.shift(), swizzle.mask());
    ptx!(k, "mad.lo.u32 %place, %own_row, {row_bytes}, %index;\nshl.b32 %index, %twice, 1;\nadd.u32 %place, %place, %index;");
    ptx!(k, "add.u32 %place, %place, %shared;");
    if drawn {
        ptx!(k, "bar.warp.sync 0xffffffff;");
    }
    for eighth in 0..tile.eighths() {
        ptx!(k, "xor.b32 %staged, %place, {};", 16 * (eighth % 8));
        for (half, (slab, sums)) in sums.iter().enumerate().flat_map(|slab| [(0, slab), (1, slab)]) {
            let pair = &sums[4 * eighth + 2 * half..];
            let at = offset + (16 * slab + 8 * half) * row_bytes + 128 * (eighth / 8);
            ptx!(k, "cvt.rn.bf16x2.f32 %out_0, {}, {};\nst.shared.b32 [%staged + {at}], %out_0;", pair[1], pair[0]);
        }
    }
    ptx!(k, "bar.warp.sync 0xffffffff;\nand.b32 %chunk, %lane, {};\nsetp.lt.u32 %copied, %chunk, {};", chunks - 1, tile.eighths());
    ptx!(k, "shl.b32 %chunk_bytes, %chunk, 4;");
    for row in (0..tile.warp_rows()).step_by(32 / chunks) {
        ptx!(k, "shr.u32 %index, %lane, {};\nadd.u32 %index, %index, {row};", chunks.trailing_zeros());
        ptx!(k, "shr.u32 %place, %index, {};\nand.b32 %place, %place, {};", swizzle.shift(), swizzle.mask());
        ptx!(k, "xor.b32 %place, %place, %chunk;\nshl.b32 %place, %place, 4;\nadd.u32 %index, %index, %warp_row;");
        ptx!(k, "mad.lo.u32 %place, %index, {row_bytes}, %place;\nadd.u32 %place, %place, %shared;");
        ptx!(k, "add.u32 %index, %index, %first_row;\nsetp.lt.and.u32 %written, %index, {end}, %copied;");
        ptx!(k, "mad.wide.u32 %address, %index, %{name}_row_step, %{name};\ncvt.u64.u32 %bytes, %chunk_bytes;");
        ptx!(k, "add.u64 %address, %address, %bytes;");
        ptx!(k, "ld.shared.v4.b32 {{%out_0, %out_1, %out_2, %out_3}}, [%place + {offset}];");
        ptx!(k, "@%written st.global.v4.b32 [%address], {{%out_0, %out_1, %out_2, %out_3}};");
    }
}
