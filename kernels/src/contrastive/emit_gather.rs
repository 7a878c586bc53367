//! Gradients where a cell has several queries: of each pair the query that won is met, a row of many.
//!
//! That is one product a pair where the scores took one a query: rows are read where they lie, 256 columns at a time, a lane every 32nd.

use super::emit::group;
use super::emit_tile::THREADS;
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

/// Warps a block.
pub(super) const WARPS: usize = THREADS / 32;
/// Columns of a lane at a time.
const COLUMNS: usize = 8;

/// Entries of the cells' gradient and of the texts'.
pub(super) const CELLS: &str = "contrastive_cells_f32_many";
pub(super) const TEXTS: &str = "contrastive_texts_f32_many";

/// Slopes and winners of a slice; who owns what; and the rows of either side.
fn begin(k: &mut Kernel) {
    k.params(".u64", "gradient slopes winners vectors");
    k.params(".u32", "items group queries width gradient_stride vectors_stride first met_first side pitch add");
    k.regs(Kind::B32, "thread lane warp slot group_index place queries width first met_first pitch add stride index column first_column");
    k.regs(Kind::B32, "met_count met left pick winner");
    k.regs(Kind::B64, "slopes winners vectors vectors_step gradient address bytes row");
    k.regs(Kind::Pred, "nothing inside adds more");
    k.regs(Kind::F32, "slope share value before");
    ptx!(k, "mov.u32 %thread, %tid.x;\nand.b32 %lane, %thread, 31;\nshr.u32 %warp, %thread, 5;");
    ptx!(k, "mov.u32 %slot, %ctaid.x;\nld.param.u32 %place, [side];\ndiv.u32 %group_index, %slot, %place;");
    group(k, "%group_index");
    ptx!(k, "mul.lo.u32 %index, %group_index, %side;\nsub.u32 %place, %slot, %index;\nld.param.u32 %first, [first];");
    ptx!(k, "ld.param.u32 %met_first, [met_first];\nadd.u32 %index, %place, %first;\nsetp.ge.u32 %nothing, %index, %count;");
    ptx!(k, "setp.ge.or.u32 %nothing, %met_first, %count, %nothing;\n@%nothing ret;");
    ptx!(k, "sub.u32 %met_count, %count, %met_first;\nmin.u32 %met_count, %met_count, %side;");
    ptx!(k, "ld.param.u32 %queries, [queries];\nld.param.u32 %width, [width];\nld.param.u32 %pitch, [pitch];");
    for name in ["slopes", "winners", "vectors", "gradient"] {
        ptx!(k, "ld.param.u64 %{name}, [{name}];\ncvta.to.global.u64 %{name}, %{name};");
    }
    ptx!(k, "ld.param.u32 %add, [add];\nsetp.ne.u32 %adds, %add, 0;");
}

fn lanes_sums() -> Vec<Reg> {
    (0..COLUMNS).map(|column| Reg::named(&format!("sum_{column}"))).collect()
}

/// A lane's columns from `%first_column` on.
fn start_columns(k: &mut Kernel) {
    ptx!(k, "add.u32 %column, %first_column, %lane;");
    for (at, sum) in lanes_sums().iter().enumerate() {
        ptx!(k, "add.u32 %index, %column, {};\nsetp.lt.u32 %exists_{at}, %index, %width;\nmov.f32 {sum}, {};", 32 * at, float(0.0));
    }
}

/// Adds `%share` times the row at `%row` to the lane's sums.
fn meet(k: &mut Kernel) {
    ptx!(k, "mad.wide.u32 %row, %column, 4, %row;");
    for at in 0..COLUMNS {
        ptx!(k, "mov.f32 %value_{at}, {};\n@%exists_{at} ld.global.f32 %value_{at}, [%row + {}];", float(0.0), 128 * at);
    }
    for (at, sum) in lanes_sums().iter().enumerate() {
        ptx!(k, "fma.rn.f32 {sum}, %share, %value_{at}, {sum};");
    }
}

fn columns(k: &mut Kernel) {
    k.array(Kind::F32, "sum", COLUMNS);
    k.array(Kind::F32, "value", COLUMNS);
    k.array(Kind::Pred, "exists", COLUMNS);
}

/// A warp a row of a cell's gradient: of 32 texts at a time those whose winner is its query, in their order.
pub(super) fn cells() -> Text {
    let about = format!(
        "gradient[i, q] = sum_j slopes[i][j] vectors[j] over the texts j of a slice, from `met_first` on, of which query q won; with `add`,\n\
         added. slopes and winners[group x side + place of a cell][place of a text] in rows of `pitch`. Strides count elements.\n\
         Grid: (slots of cells, ceil(queries / {WARPS})). Block: {WARPS} warps, one a query."
    );
    let mut kernel = Kernel::new(CELLS, about);
    let k = &mut kernel;
    begin(k);
    k.block(THREADS, 4);
    columns(k);
    k.regs(Kind::B32, "query votes");
    k.regs(Kind::Pred, "hit");
    ptx!(
        k,
        "mov.u32 %query, %ctaid.y;\nmad.lo.u32 %query, %query, {WARPS}, %warp;\nsetp.ge.u32 %nothing, %query, %queries;\n@%nothing ret;"
    );
    k.note("The cell's slopes and winners from this lane on, the slice's first text, and the row of the gradient.");
    ptx!(
        k,
        "mul.wide.u32 %bytes, %slot, %pitch;\ncvt.u64.u32 %address, %lane;\nadd.u64 %bytes, %bytes, %address;\nshl.b64 %bytes, %bytes, 2;"
    );
    ptx!(k, "add.u64 %slopes, %slopes, %bytes;\nadd.u64 %winners, %winners, %bytes;");
    ptx!(k, "ld.param.u32 %stride, [vectors_stride];\nmul.wide.u32 %vectors_step, %stride, 4;\nadd.u32 %index, %start, %met_first;");
    ptx!(k, "cvt.u64.u32 %bytes, %index;\nmad.lo.u64 %vectors, %bytes, %vectors_step, %vectors;");
    ptx!(k, "ld.param.u32 %stride, [gradient_stride];\nadd.u32 %index, %start, %first;\nadd.u32 %index, %index, %place;");
    ptx!(k, "mad.lo.u32 %index, %index, %queries, %query;\nmul.wide.u32 %bytes, %index, %stride;\nshl.b64 %bytes, %bytes, 2;");
    ptx!(k, "add.u64 %gradient, %gradient, %bytes;\nmov.u32 %first_column, 0;\nCOLUMN_LOOP:\n.pragma \"nounroll\";");
    start_columns(k);
    ptx!(k, "mov.u32 %met, 0;\nMET_LOOP:\n.pragma \"nounroll\";\nadd.u32 %index, %met, %lane;\nsetp.lt.u32 %inside, %index, %met_count;");
    ptx!(k, "mov.u32 %winner, 0;\nmov.f32 %slope, {};\nmul.wide.u32 %bytes, %met, 4;", float(0.0));
    ptx!(k, "add.u64 %address, %winners, %bytes;\n@%inside ld.global.u32 %winner, [%address];");
    ptx!(k, "add.u64 %address, %slopes, %bytes;\n@%inside ld.global.f32 %slope, [%address];");
    ptx!(k, "setp.eq.and.u32 %hit, %winner, %query, %inside;\nvote.sync.ballot.b32 %votes, %hit, 0xffffffff;");
    ptx!(k, "HIT_LOOP:\n.pragma \"nounroll\";\nsetp.eq.u32 %nothing, %votes, 0;\n@%nothing bra HITS_DONE;");
    ptx!(k, "brev.b32 %pick, %votes;\nclz.b32 %pick, %pick;\nsub.u32 %index, %votes, 1;\nand.b32 %votes, %votes, %index;");
    ptx!(k, "shfl.sync.idx.b32 %share, %slope, %pick, 31, 0xffffffff;\nadd.u32 %index, %met, %pick;");
    ptx!(k, "cvt.u64.u32 %bytes, %index;\nmad.lo.u64 %row, %bytes, %vectors_step, %vectors;");
    meet(k);
    ptx!(k, "bra.uni HIT_LOOP;\nHITS_DONE:\nadd.u32 %met, %met, 32;\nsetp.lt.u32 %more, %met, %met_count;\n@%more bra MET_LOOP;");
    ptx!(k, "mad.wide.u32 %row, %column, 4, %gradient;");
    for (at, sum) in lanes_sums().iter().enumerate() {
        ptx!(k, "and.pred %inside, %exists_{at}, %adds;\nmov.f32 %before, {};", float(0.0));
        ptx!(k, "@%inside ld.global.f32 %before, [%row + {}];\nadd.rn.f32 {sum}, {sum}, %before;", 128 * at);
        ptx!(k, "@%exists_{at} st.global.f32 [%row + {}], {sum};", 128 * at);
    }
    ptx!(k, "add.u32 %first_column, %first_column, {};\nsetp.lt.u32 %more, %first_column, %width;", 32 * COLUMNS);
    ptx!(k, "@%more bra COLUMN_LOOP;\nret;");
    k.text()
}

/// A block a text: each warp meets every eighth 32 cells, and the warps' sums are added in their order.
pub(super) fn texts() -> Text {
    let about = format!(
        "gradient[j] = sum_i slopes[i][j] vectors[i, winners[i][j]] over the cells i of a slice, from `met_first` on; with `add`, added.\n\
         slopes and winners[group x side + place of a cell][place of a text] in rows of `pitch`. Strides count elements.\n\
         Grid: (slots of texts). Block: {WARPS} warps, each 32 cells in turn. Shared: [{WARPS} warps][{}] f32.",
        32 * COLUMNS
    );
    let mut kernel = Kernel::new(TEXTS, about);
    let k = &mut kernel;
    begin(k);
    k.block(THREADS, 4);
    k.shared(Some(4 * WARPS * 32 * COLUMNS));
    columns(k);
    k.regs(Kind::B32, "shared lane_place thread_place");
    k.regs(Kind::B64, "item_step");
    k.note("The text's column of slopes and winners, the slice's first cell, and the row of the gradient.");
    ptx!(k, "mul.lo.u32 %index, %group_index, %side;\nmul.wide.u32 %bytes, %index, %pitch;\ncvt.u64.u32 %address, %place;");
    ptx!(k, "add.u64 %bytes, %bytes, %address;\nshl.b64 %bytes, %bytes, 2;");
    ptx!(k, "add.u64 %slopes, %slopes, %bytes;\nadd.u64 %winners, %winners, %bytes;");
    ptx!(k, "ld.param.u32 %stride, [vectors_stride];\nmul.wide.u32 %vectors_step, %stride, 4;\nadd.u32 %index, %start, %met_first;");
    ptx!(k, "cvt.u64.u32 %item_step, %queries;\nmul.lo.u64 %item_step, %item_step, %vectors_step;");
    ptx!(k, "cvt.u64.u32 %bytes, %index;\nmad.lo.u64 %vectors, %bytes, %item_step, %vectors;");
    ptx!(k, "ld.param.u32 %stride, [gradient_stride];\nadd.u32 %index, %start, %first;\nadd.u32 %index, %index, %place;");
    ptx!(k, "mul.wide.u32 %bytes, %index, %stride;\nshl.b64 %bytes, %bytes, 2;\nadd.u64 %gradient, %gradient, %bytes;");
    ptx!(k, "mov.u32 %shared, shared_memory;\nshl.b32 %thread_place, %thread, 2;\nadd.u32 %thread_place, %thread_place, %shared;");
    ptx!(k, "mad.lo.u32 %lane_place, %warp, {}, %shared;\nmad.lo.u32 %lane_place, %lane, 4, %lane_place;", 128 * COLUMNS);
    ptx!(k, "mov.u32 %first_column, 0;\nCOLUMN_LOOP:\n.pragma \"nounroll\";");
    start_columns(k);
    ptx!(k, "shl.b32 %met, %warp, 5;\nMET_LOOP:\n.pragma \"nounroll\";\nsetp.ge.u32 %nothing, %met, %met_count;\n@%nothing bra MET_DONE;");
    ptx!(k, "add.u32 %index, %met, %lane;\nsetp.lt.u32 %inside, %index, %met_count;\nmov.u32 %winner, 0;\nmov.f32 %slope, {};", float(0.0));
    ptx!(k, "mul.wide.u32 %bytes, %index, %pitch;\nshl.b64 %bytes, %bytes, 2;");
    ptx!(k, "add.u64 %address, %winners, %bytes;\n@%inside ld.global.u32 %winner, [%address];");
    ptx!(k, "add.u64 %address, %slopes, %bytes;\n@%inside ld.global.f32 %slope, [%address];");
    ptx!(k, "sub.u32 %left, %met_count, %met;\nmin.u32 %left, %left, 32;\nmov.u32 %pick, 0;\nCELL_LOOP:\n.pragma \"nounroll\";");
    ptx!(k, "shfl.sync.idx.b32 %share, %slope, %pick, 31, 0xffffffff;\nshfl.sync.idx.b32 %stride, %winner, %pick, 31, 0xffffffff;");
    ptx!(k, "add.u32 %index, %met, %pick;\ncvt.u64.u32 %bytes, %index;\nmad.lo.u64 %row, %bytes, %item_step, %vectors;");
    ptx!(k, "cvt.u64.u32 %bytes, %stride;\nmad.lo.u64 %row, %bytes, %vectors_step, %row;");
    meet(k);
    ptx!(k, "add.u32 %pick, %pick, 1;\nsetp.lt.u32 %more, %pick, %left;\n@%more bra CELL_LOOP;");
    ptx!(k, "add.u32 %met, %met, {};\nbra.uni MET_LOOP;\nMET_DONE:", 32 * WARPS);
    k.note("The warps' sums, a thread a column.");
    for (at, sum) in lanes_sums().iter().enumerate() {
        ptx!(k, "st.shared.f32 [%lane_place + {}], {sum};", 128 * at);
    }
    ptx!(k, "bar.sync 0;\nadd.u32 %index, %first_column, %thread;\nsetp.lt.u32 %more, %index, %width;\nmov.f32 %share, {};", float(0.0));
    ptx!(k, "mad.wide.u32 %row, %index, 4, %gradient;\nand.pred %inside, %more, %adds;\n@%inside ld.global.f32 %share, [%row];");
    for warp in 0..WARPS {
        ptx!(k, "ld.shared.f32 %value, [%thread_place + {}];\nadd.rn.f32 %share, %share, %value;", 128 * COLUMNS * warp);
    }
    ptx!(k, "@%more st.global.f32 [%row], %share;\nbar.sync 0;");
    ptx!(k, "add.u32 %first_column, %first_column, {};\nsetp.lt.u32 %more, %first_column, %width;", 32 * COLUMNS);
    ptx!(k, "@%more bra COLUMN_LOOP;\nret;");
    k.text()
}
