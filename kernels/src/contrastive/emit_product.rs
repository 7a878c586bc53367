//! Gradients where a cell has one query: products of a slice's slopes with the other side's embeddings.

use super::emit::group;
use super::emit_tile::{THREADS, Tile};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Text, float};

/// Rows and columns of a gradient that a block makes.
pub(super) const TILE: usize = 64;

/// The side whose gradient is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Cells,
    Texts,
}

impl Side {
    pub(super) const BOTH: [Side; 2] = [Side::Cells, Side::Texts];
}

/// Entry of a variant.
pub(super) fn entry(side: Side) -> &'static str {
    match side {
        Side::Cells => "contrastive_cells_f32_one",
        Side::Texts => "contrastive_texts_f32_one",
    }
}

/// The module of a variant.
pub(super) fn text(side: Side) -> Text {
    let (what, sum) = match side {
        Side::Cells => ("cells", "sum_j slopes[i][j] vectors[j]"),
        Side::Texts => ("texts", "sum_j slopes[j][i] vectors[j]"),
    };
    let about = format!(
        "gradient[i] = {sum} for the {what} i of a slice, over those that it meets, from `met_first` on; with `add`, added.\n\
         slopes[group x side + place of a cell][place of a text] in rows of `pitch`. Strides count elements.\n\
         Grid: (groups, tiles of {TILE} rows, tiles of {TILE} columns). Block: 256 threads, 16 x 16, each 4 x 4.\n\
         Shared: 2 stages of 16 x 68 f32 of either operand."
    );
    let mut kernel = Kernel::new(entry(side), about);
    let k = &mut kernel;
    k.params(".u64", "gradient slopes vectors");
    k.params(".u32", "items group width gradient_stride vectors_stride first met_first side pitch add");
    let tile = Tile::new(TILE, [side == Side::Cells, false]);
    k.block(THREADS, 3);
    k.shared(Some(tile.shared_bytes()));
    tile.positions(k);
    k.regs(Kind::B32, "group_index first own_first met_first first_column width gradient_stride add row column");
    k.regs(Kind::B64, "gradient gradient_step");
    k.regs(Kind::Pred, "adds column_inside row_inside");
    k.regs(Kind::F32, "before");
    ptx!(k, "mov.u32 %group_index, %ctaid.x;");
    group(k, "%group_index");
    ptx!(k, "ld.param.u32 %first, [first];\nmov.u32 %own_first, %ctaid.y;\nmad.lo.u32 %own_first, %own_first, {TILE}, %first;");
    ptx!(k, "ld.param.u32 %met_first, [met_first];\nsetp.ge.u32 %nothing, %own_first, %count;");
    ptx!(k, "setp.ge.or.u32 %nothing, %met_first, %count, %nothing;\n@%nothing ret;");
    ptx!(k, "mov.u32 %first_column, %ctaid.z;\nmul.lo.u32 %first_column, %first_column, {TILE};\nld.param.u32 %width, [width];");
    ptx!(
        k,
        "sub.u32 %depth, %count, %met_first;\nmin.u32 %depth, %depth, %side;\nmov.u32 %own_depth, %depth;\nmov.u32 %met_depth, %depth;"
    );
    k.note("Slopes: the thread's first element, and the bytes between its copies.");
    ptx!(k, "ld.param.u64 %own, [slopes];\ncvta.to.global.u64 %own, %own;\nld.param.u32 %own_stride, [pitch];");
    let (down, across) = if side == Side::Cells { ("%own_row", "%own_k") } else { ("%own_k", "%own_row") };
    ptx!(k, "sub.u32 %row, %own_first, %first;\nmul.lo.u32 %index, %group_index, %side;\nadd.u32 %index, %index, {down};");
    if side == Side::Cells {
        ptx!(k, "add.u32 %index, %index, %row;\nmov.u32 %column, {across};");
    } else {
        ptx!(k, "add.u32 %column, {across}, %row;");
    }
    ptx!(k, "mul.wide.u32 %own_from, %index, %own_stride;\ncvt.u64.u32 %bytes, %column;\nadd.u64 %own_from, %own_from, %bytes;");
    ptx!(k, "shl.b64 %own_from, %own_from, 2;\nadd.u64 %own_from, %own_from, %own;");
    k.note("The other side's rows.");
    ptx!(k, "ld.param.u64 %met, [vectors];\ncvta.to.global.u64 %met, %met;\nld.param.u32 %met_stride, [vectors_stride];");
    ptx!(k, "add.u32 %index, %start, %met_first;\nadd.u32 %index, %index, %met_k;\nadd.u32 %column, %first_column, %met_row;");
    ptx!(k, "mul.wide.u32 %met_from, %index, %met_stride;\ncvt.u64.u32 %bytes, %column;\nadd.u64 %met_from, %met_from, %bytes;");
    ptx!(k, "shl.b64 %met_from, %met_from, 2;\nadd.u64 %met_from, %met_from, %met;");
    let [own, met] = tile.operands();
    for (name, operand) in [("own", own), ("met", met)] {
        ptx!(k, "mul.wide.u32 %{name}_step, %{name}_stride, {};", 4 * operand.apart());
    }
    own.sizes(k, 1, "%own_first", "%count");
    met.sizes(k, 1, "%first_column", "%width");
    let acc = tile.sums(k);
    tile.multiply(k, &acc);
    k.note("A thread writes four neighbours of four rows.");
    ptx!(k, "mad.lo.u32 %row, %own_lane, 4, %own_first;\nmad.lo.u32 %column, %met_lane, 4, %first_column;\nadd.u32 %index, %start, %row;");
    ptx!(
        k,
        "ld.param.u64 %gradient, [gradient];\ncvta.to.global.u64 %gradient, %gradient;\nld.param.u32 %gradient_stride, [gradient_stride];"
    );
    ptx!(k, "mul.wide.u32 %address, %index, %gradient_stride;\ncvt.u64.u32 %bytes, %column;\nadd.u64 %address, %address, %bytes;");
    ptx!(k, "shl.b64 %address, %address, 2;\nadd.u64 %gradient, %gradient, %address;\nmul.wide.u32 %gradient_step, %gradient_stride, 4;");
    ptx!(k, "ld.param.u32 %add, [add];\nsetp.ne.u32 %adds, %add, 0;");
    for acc in &acc {
        ptx!(k, "setp.lt.u32 %row_inside, %row, %count;");
        for (at, acc) in acc.iter().enumerate() {
            ptx!(k, "add.u32 %index, %column, {at};\nsetp.lt.and.u32 %column_inside, %index, %width, %row_inside;");
            ptx!(k, "and.pred %inside, %column_inside, %adds;\nmov.f32 %before, {};", float(0.0));
            ptx!(k, "@%inside ld.global.f32 %before, [%gradient + {}];\nadd.rn.f32 {acc}, {acc}, %before;", 4 * at);
            ptx!(k, "@%column_inside st.global.f32 [%gradient + {}], {acc};", 4 * at);
        }
        ptx!(k, "add.u32 %row, %row, 1;\nadd.u64 %gradient, %gradient, %gradient_step;");
    }
    ptx!(k, "ret;");
    k.text()
}
