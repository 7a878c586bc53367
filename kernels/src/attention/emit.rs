//! The PTX of attention: which texts there are, and what they share.
//!
//! All of them work on tiles: the rows of the tile are owned by the block (queries, or keys where the gradients of keys and values are
//! made), its columns come in steps of 32. A warp owns 16 rows; its lanes are 4 x 8, a lane holds four rows and, of each step, the four
//! columns `4 x .. 4 x + 4`. Of a head's elements it holds `x, x + 8, ..`: rows never leave their eight lanes.

use super::emit_mma::Tile;
use super::{emit_backward, emit_decode, emit_forward, emit_mma_backward, emit_mma_forward, emit_mma_keys};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

/// Columns a step.
pub(super) const COLUMNS: usize = 32;
/// Head sizes whose texts are assembled by tests; any multiple of 8 up to [`MAX_HEAD_DIM`] works.
const HEAD_DIMS: [usize; 6] = [8, 16, 24, 32, 64, 128];
/// Largest head: beyond it a lane's sums do not fit its registers.
pub(super) const MAX_HEAD_DIM: usize = 128;

/// Sizes of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) head_dim: usize,
    pub(super) dropout: bool,
}

impl Shape {
    /// Rows a block.
    pub(super) fn rows(self) -> usize {
        if self.head_dim <= 64 { 64 } else { 32 }
    }

    /// Threads a block: 32 for 16 rows.
    pub(super) fn threads(self) -> usize {
        2 * self.rows()
    }

    /// Bytes from one row of a tile to the next: an odd number of 16-byte chunks, so that eight rows meet all banks.
    pub(super) fn pitch(self) -> usize {
        4 * (self.head_dim + 4)
    }

    /// Bytes of a tile of owned rows.
    pub(super) fn row_tile(self) -> usize {
        self.rows() * self.pitch()
    }

    /// Bytes of a tile of columns.
    pub(super) fn column_tile(self) -> usize {
        COLUMNS * self.pitch()
    }

    /// Bytes of a tile of scores.
    pub(super) fn score_tile(self) -> usize {
        self.rows() * SCORE_PITCH
    }

    pub(super) fn name(self, pass: &str) -> String {
        format!("attention_{pass}_f32_d{}{}", self.head_dim, if self.dropout { "_dropout" } else { "" })
    }
}

/// Bytes from one row of scores to the next.
pub(super) const SCORE_PITCH: usize = 4 * (COLUMNS + 4);

/// Every text of this kernel.
pub(super) fn all() -> Vec<Text> {
    let shapes = HEAD_DIMS.into_iter().flat_map(|head_dim| [false, true].map(|dropout| Shape { head_dim, dropout }));
    let on_tensor_cores = HEAD_DIMS.into_iter().flat_map(|head_dim| [false, true].map(|dropout| (head_dim, dropout)));
    let on_tensor_cores = on_tensor_cores.flat_map(|(head_dim, dropout)| {
        let [forward, few] = [Tile::forward, Tile::forward_few].map(|tile| emit_mma_forward::text(tile(head_dim, dropout)));
        let queries = emit_mma_backward::queries(Tile::queries(head_dim, dropout));
        [forward, few, queries, emit_mma_keys::keys(Tile::keys(head_dim, dropout))]
    });
    shapes
        .flat_map(|shape| [emit_forward::text(shape), emit_backward::queries(shape), emit_backward::keys(shape)])
        .chain(on_tensor_cores)
        .chain(emit_decode::all())
        .collect()
}

/// Thread, lane and the four rows of a lane; the item, the head and the first row come from the grid.
pub(super) fn positions(k: &mut Kernel) {
    k.regs(Kind::B32, "shared thread lane warp lane_row lane_column first_row own_row item head kv_head group index");
    k.regs(Kind::B64, "address bytes");
    ptx!(k, "mov.u32 %shared, shared_memory;\nmov.u32 %thread, %tid.x;\nand.b32 %lane, %thread, 31;\nshr.u32 %warp, %thread, 5;");
    ptx!(k, "shr.u32 %lane_row, %lane, 3;\nand.b32 %lane_column, %lane, 7;");
    k.note("Row of the lane's first row within the block's tile: 16 warp + 4 (lane / 8).");
    ptx!(k, "shl.b32 %own_row, %warp, 4;\nshl.b32 %index, %lane_row, 2;\nadd.u32 %own_row, %own_row, %index;");
}

/// What every text is told about lengths and masks, and the item's own: `%queries`, `%keys` (with the prefix: keys that all see),
/// `%self_from` and `%self_to`, the rows that see themselves, and `%offset`, the causal shift (2^30 without one).
pub(super) const LENGTHS: &str = "query_lengths key_lengths known_lengths";

pub(super) fn lengths(k: &mut Kernel) {
    k.regs(Kind::B32, "query_len key_len queries keys all_keys self_from self_to offset");
    k.regs(Kind::B64, "lengths item_bytes");
    k.regs(Kind::Pred, "given");
    read_lengths(k);
}

/// What [`lengths`] declares.
pub(super) fn read_lengths(k: &mut Kernel) {
    ptx!(k, "ld.param.u32 %query_len, [query_len];\nld.param.u32 %key_len, [key_len];\nld.param.u32 %offset, [offset];");
    ptx!(
        k,
        "mul.wide.u32 %item_bytes, %item, 4;\nmov.u32 %queries, %query_len;\nmov.u32 %all_keys, %key_len;\nmov.u32 %self_from, %query_len;"
    );
    for (name, target) in [("query_lengths", "%queries"), ("key_lengths", "%all_keys"), ("known_lengths", "%self_from")] {
        ptx!(k, "ld.param.u64 %lengths, [{name}];\nsetp.ne.u64 %given, %lengths, 0;");
        ptx!(
            k,
            "cvta.to.global.u64 %lengths, %lengths;\nadd.u64 %lengths, %lengths, %item_bytes;\n@%given ld.global.u32 {target}, [%lengths];"
        );
    }
    k.note("A prefix hides the keys behind it from all but themselves.");
    ptx!(k, "min.u32 %self_to, %queries, %all_keys;\nmov.u32 %keys, %all_keys;\n@%given min.u32 %keys, %keys, %self_from;");
    ptx!(k, "selp.u32 %self_to, %self_to, 0, %given;");
}

/// The keys below which query row `row` sees, whether it is padding or not.
pub(super) fn sight(k: &mut Kernel, limit: &Reg, row: &str) {
    ptx!(
        k,
        "add.s32 {limit}, {row}, %offset;\nadd.s32 {limit}, {limit}, 1;\nmax.s32 {limit}, {limit}, 0;\nmin.u32 {limit}, {limit}, %keys;"
    );
}

/// `%head` and `%item` from the grid, and the address `%name` of a matrix's first row of the item and first element of the head.
pub(super) fn head_of(k: &mut Kernel, name: &str, head: &str, rows: &str, head_dim: usize) {
    k.regs(Kind::B64, name);
    k.regs(Kind::B32, &format!("{name}_row_step"));
    ptx!(k, "ld.param.u64 %{name}, [{name}];\ncvta.to.global.u64 %{name}, %{name};\nld.param.u32 %{name}_row_step, [{name}_stride];");
    ptx!(k, "shl.b32 %{name}_row_step, %{name}_row_step, 2;\nmul.lo.u32 %index, %item, {rows};");
    ptx!(k, "mad.wide.u32 %{name}, %index, %{name}_row_step, %{name};");
    ptx!(k, "mul.wide.u32 %bytes, {head}, {};\nadd.u64 %{name}, %{name}, %bytes;", 4 * head_dim);
}

/// Copies `count` rows of a matrix, from row `%first` (a register) on, to a tile; rows at and beyond `end` become 0. With `permuted`
/// row r lies at place `8 (r % 4) + r / 4`: then the columns of a lane, `4 x .. 4 x + 4`, are the places `x, x + 8, ..`.
#[derive(Clone, Copy)]
pub(super) struct Copy<'a> {
    pub(super) matrix: &'a str,
    pub(super) first: &'a str,
    pub(super) end: &'a str,
    pub(super) count: usize,
    pub(super) permuted: bool,
    pub(super) tile: usize,
}

/// Registers of [`copy`].
pub(super) fn declare_copy(k: &mut Kernel) {
    k.regs(Kind::B32, "copy_row copy_column copy_size copy_to copy_at copy_place");
    k.regs(Kind::B64, "copy_from");
    k.regs(Kind::Pred, "copy_inside copy_more");
}

/// A thread takes every `threads`-th element of the tile, four bytes each: any alignment will do.
pub(super) fn copy(k: &mut Kernel, shape: Shape, copy: Copy<'_>) {
    let Copy { matrix, first, end, count, permuted, tile } = copy;
    let (d, threads) = (shape.head_dim, shape.threads());
    let top = k.label("COPY");
    k.note(format!("{count} rows of {matrix} from row {first} on."));
    // As many lanes a row as divide it: neighbours in memory and in the banks.
    let lanes = 1 << d.trailing_zeros().min(5);
    let rows_at_once = threads / lanes;
    ptx!(k, "shr.u32 %copy_at, %thread, {};\nand.b32 %copy_column, %thread, {};", lanes.trailing_zeros(), lanes - 1);
    ptx!(k, "shl.b32 %copy_column, %copy_column, 2;");
    ptx!(k, "{top}:\n.pragma \"nounroll\";");
    ptx!(k, "add.u32 %copy_row, {first}, %copy_at;\nsetp.lt.u32 %copy_inside, %copy_row, {end};\nselp.u32 %copy_size, 4, 0, %copy_inside;");
    ptx!(k, "selp.u32 %copy_row, %copy_row, 0, %copy_inside;");
    ptx!(
        k,
        "mad.wide.u32 %copy_from, %copy_row, %{matrix}_row_step, %{matrix};\ncvt.u64.u32 %bytes, %copy_column;\nadd.u64 %copy_from, %copy_from, %bytes;"
    );
    if permuted {
        ptx!(
            k,
            "and.b32 %copy_place, %copy_at, 3;\nshl.b32 %copy_place, %copy_place, 3;\nshr.u32 %copy_to, %copy_at, 2;\nadd.u32 %copy_place, %copy_place, %copy_to;"
        );
    } else {
        ptx!(k, "mov.u32 %copy_place, %copy_at;");
    }
    ptx!(k, "mad.lo.u32 %copy_to, %copy_place, {}, %shared;\nadd.u32 %copy_to, %copy_to, %copy_column;", shape.pitch());
    for offset in (0..4 * d).step_by(4 * lanes) {
        ptx!(k, "cp.async.ca.shared.global [%copy_to + {}], [%copy_from + {offset}], 4, %copy_size;", tile + offset);
    }
    ptx!(k, "add.u32 %copy_at, %copy_at, {rows_at_once};\nsetp.lt.u32 %copy_more, %copy_at, {count};\n@%copy_more bra {top};");
}

/// Registers of [`products`].
pub(super) struct Fragments {
    rows: Vec<Vec<Reg>>,
    columns: Vec<Reg>,
}

impl Fragments {
    /// Two registers that nothing uses between products.
    pub(super) fn pair(&self) -> (Reg, Reg) {
        (self.rows[0][0].clone(), self.columns[0].clone())
    }
}

pub(super) fn declare_products(k: &mut Kernel) -> Fragments {
    Fragments { rows: k.grid(Kind::F32, "row_part", 4, 4), columns: k.array(Kind::F32, "column_part", 4) }
}

/// `sums[i][j] = row i . column j` over the head: four rows of a row tile and the lane's four columns of a permuted column tile.
/// `rows_at` addresses the lane's first row, `columns_at` its first place.
pub(super) fn products(k: &mut Kernel, shape: Shape, fragments: &Fragments, sums: &[Vec<Reg>], rows_at: &str, columns_at: &str) {
    for sum in sums.iter().flatten() {
        ptx!(k, "mov.f32 {sum}, {};", float(0.0));
    }
    for part in 0..shape.head_dim / 4 {
        for (row, registers) in fragments.rows.iter().enumerate() {
            quad(k, registers, rows_at, row * shape.pitch() + 16 * part);
        }
        for column in 0..4 {
            quad(k, &fragments.columns, columns_at, 8 * column * shape.pitch() + 16 * part);
            for element in 0..4 {
                for (row, sums) in sums.iter().enumerate() {
                    let sum = &sums[column];
                    ptx!(k, "fma.rn.f32 {sum}, {}, {}, {sum};", fragments.rows[row][element], fragments.columns[element]);
                }
            }
        }
    }
}

fn quad(k: &mut Kernel, registers: &[Reg], address: &str, offset: usize) {
    let (r0, r1, r2, r3) = (&registers[0], &registers[1], &registers[2], &registers[3]);
    ptx!(k, "ld.shared.v4.f32 {{{r0}, {r1}, {r2}, {r3}}}, [{address} + {offset}];");
}

/// Writes the lane's four by four scores to the tile at `scores_at` (its first row, its first column).
pub(super) fn put_scores(k: &mut Kernel, scores: &[Vec<Reg>], scores_at: &str) {
    for (row, scores) in scores.iter().enumerate() {
        let (s0, s1, s2, s3) = (&scores[0], &scores[1], &scores[2], &scores[3]);
        ptx!(k, "st.shared.v4.f32 [{scores_at} + {}], {{{s0}, {s1}, {s2}, {s3}}};", row * SCORE_PITCH);
    }
}

/// `sums[i][e] += sum over the columns of score (i, column) * element x + 8 e of the column`: `scores_at` addresses the lane's first
/// row of scores, `values_at` element x of place 0 of a column tile.
#[derive(Clone, Copy)]
pub(super) struct Gather<'a> {
    pub(super) scores_at: &'a str,
    pub(super) values_at: &'a str,
    pub(super) permuted: bool,
}

pub(super) fn gather(k: &mut Kernel, shape: Shape, fragments: &Fragments, sums: &[Vec<Reg>], from: Gather<'_>) {
    let value = &fragments.columns[0];
    for part in 0..COLUMNS / 4 {
        for (row, registers) in fragments.rows.iter().enumerate() {
            quad(k, registers, from.scores_at, row * SCORE_PITCH + 16 * part);
        }
        for column in 0..4 {
            let place = if from.permuted { 8 * column + part } else { 4 * part + column };
            for element in 0..shape.head_dim / 8 {
                ptx!(k, "ld.shared.f32 {value}, [{} + {}];", from.values_at, place * shape.pitch() + 32 * element);
                for (row, sums) in sums.iter().enumerate() {
                    let sum = &sums[element];
                    ptx!(k, "fma.rn.f32 {sum}, {}, {value}, {sum};", fragments.rows[row][column]);
                }
            }
        }
    }
}

/// Adds (or takes the maximum of) a register over the eight lanes of a row; all of them get the result.
pub(super) fn over_row(k: &mut Kernel, operation: &str, register: &str) {
    for distance in [1, 2, 4] {
        ptx!(k, "shfl.sync.bfly.b32 %passed, {register}, {distance}, 31, 0xffffffff;\n{operation} {register}, {register}, %passed;");
    }
}
