//! The gradients of the owned side: scores again, their slopes, and what these are worth in embeddings.

use super::emit::{Owned, PITCH, STAGES, Scores, THREADS, TILE, declare, params, positions, row_of, tile};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

/// Owned items whose sums a thread keeps in registers at a time.
const ROWS: usize = 16;

/// Entry of a variant: one query a cell, or many.
pub(super) fn entry(owned: Owned, many: bool) -> String {
    format!("contrastive_backward_{}_f32_{}", owned.name(), if many { "many" } else { "one" })
}

/// The module of a variant.
pub(super) fn text(owned: Owned, many: bool) -> Text {
    let about = format!(
        "Gradient of the {}, {} a cell, added to zeros; from the cells also each block's sum of slope x score, in units of ln 2.\n\
         Grid: (groups, ceil(group / 64)). Block: 256 threads, 16 x 16, each 4 x 4 of a 64 x 64 tile of slopes, then one column of the\n\
         width each. Strides count elements. A logsumexp that is absent belongs to a direction that does not count.\n\
         Shared: 2 stages of 16 x 68 f32 of either side; over them slopes [met][68] f32{}.",
        owned.name(),
        if many { "several queries" } else { "one query" },
        if many { "; behind them the queries that won, as u32" } else { "" },
    );
    let mut kernel = Kernel::new(entry(owned, many), about);
    let k = &mut kernel;
    k.params(".u64", "gradient");
    if owned == Owned::Cells {
        k.params(".u64", "slope_sums");
    }
    k.params(".u64", "dloss owned_logsumexp met_logsumexp");
    params(k);
    k.params(".u32", "gradient_stride groups directions");
    k.block(THREADS, if many { 1 } else { 2 });
    k.shared(Some(if many { 2 * STAGES } else { STAGES }));
    positions(k, owned);
    k.regs(Kind::F32, "weight own_weight t other slope slope_sum");
    ptx!(k, "mov.f32 %slope_sum, {};\n@%nothing bra MET_DONE;", float(0.0));
    let scores = declare(k);
    k.regs(Kind::Pred, "given");
    k.regs(Kind::B32, "directions terms slopes_write");
    let own_sums = k.array(Kind::F32, "own_logsumexp", 4);
    let met_sums = k.array(Kind::F32, "met_logsumexp", 4);
    k.note("weight = dloss / (groups x items of the group x directions) / temperature.");
    ptx!(k, "ld.param.u32 %terms, [groups];\nmul.lo.u32 %terms, %terms, %count;\nld.param.u32 %directions, [directions];");
    ptx!(k, "mul.lo.u32 %terms, %terms, %directions;\ncvt.rn.f32.u32 %t, %terms;");
    ptx!(k, "ld.param.u64 %address, [dloss];\ncvta.to.global.u64 %address, %address;\nld.global.f32 %weight, [%address];");
    ptx!(k, "div.rn.f32 %weight, %weight, %t;\nmul.rn.f32 %weight, %weight, %inverse;");
    ptx!(k, "cvt.rn.f32.u32 %own_weight, %directions;\nmul.rn.f32 %own_weight, %own_weight, %weight;\nneg.f32 %own_weight, %own_weight;");
    ptx!(k, "mul.lo.u32 %slopes_write, %met_lane, {};\nadd.u32 %slopes_write, %slopes_write, %shared;", 4 * PITCH);
    ptx!(k, "shl.b32 %index, %own_lane, 4;\nadd.u32 %slopes_write, %slopes_write, %index;");
    sums(k, "owned_logsumexp", &scores.own_item, &own_sums);
    gradient_registers(k, owned, many);
    ptx!(k, "mov.u32 %met_first, 0;\nMET_LOOP:\n.pragma \"nounroll\";");
    tile(k, owned, &scores);
    sums(k, "met_logsumexp", &scores.met_item, &met_sums);
    slopes(k, &scores, &own_sums, &met_sums);
    for met in 0..4 {
        let slopes: Vec<&Reg> = scores.best.iter().map(|row| &row[met]).collect();
        let winners: Vec<&Reg> = scores.winner.iter().map(|row| &row[met]).collect();
        ptx!(k, "st.shared.v4.f32 [%slopes_write + {}], {{{}, {}, {}, {}}};", met * PITCH, slopes[0], slopes[1], slopes[2], slopes[3]);
        if many {
            ptx!(
                k,
                "st.shared.v4.u32 [%slopes_write + {}], {{{}, {}, {}, {}}};",
                STAGES + met * PITCH,
                winners[0],
                winners[1],
                winners[2],
                winners[3]
            );
        }
    }
    ptx!(k, "bar.sync 0;\nsub.u32 %met_count, %count, %met_first;\nmin.u32 %met_count, %met_count, {TILE};");
    match (owned, many) {
        (Owned::Cells, true) => route(k),
        _ => gather(k, many),
    }
    ptx!(k, "bar.sync 0;\nadd.u32 %met_first, %met_first, {TILE};\nsetp.lt.u32 %more, %met_first, %count;\n@%more bra MET_LOOP;");
    ptx!(k, "MET_DONE:");
    if owned == Owned::Cells {
        slope_sum(k);
    }
    ptx!(k, "ret;");
    k.text()
}

/// The logsumexp of a thread's four items in units of ln 2; +inf, which makes every probability 0, without one.
fn sums(k: &mut Kernel, name: &str, items: &[Reg], sums: &[Reg]) {
    k.note(format!("{name} of four items."));
    ptx!(k, "ld.param.u64 %bytes, [{name}];\nsetp.ne.u64 %given, %bytes, 0;\ncvta.to.global.u64 %bytes, %bytes;");
    for (item, sum) in items.iter().zip(sums) {
        ptx!(
            k,
            "setp.lt.and.u32 %inside, {item}, %count, %given;\nadd.u32 %index, {item}, %start;\nmov.f32 {sum}, {};",
            float(f32::INFINITY)
        );
        ptx!(k, "mad.wide.u32 %address, %index, 4, %bytes;\n@%inside ld.global.f32 {sum}, [%address];");
        ptx!(k, "mul.rn.f32 {sum}, {sum}, {};", float(std::f32::consts::LOG2_E));
    }
}

/// Scores become slopes over temperature; `%slope_sum` grows by slope x score, where hidden scores count nothing.
fn slopes(k: &mut Kernel, scores: &Scores, own_sums: &[Reg], met_sums: &[Reg]) {
    k.note("slope = weight (2^(s - own) + 2^(s - met)), for an item with itself less directions x weight.");
    ptx!(k, "mov.f32 %slope, {};", float(0.0));
    for (row, (own, own_sum)) in scores.own_item.iter().zip(own_sums).enumerate() {
        for (column, (met, met_sum)) in scores.met_item.iter().zip(met_sums).enumerate() {
            let best = &scores.best[row][column];
            ptx!(k, "sub.rn.f32 %t, {best}, {own_sum};\nex2.approx.ftz.f32 %t, %t;");
            ptx!(k, "sub.rn.f32 %other, {best}, {met_sum};\nex2.approx.ftz.f32 %other, %other;\nadd.rn.f32 %t, %t, %other;");
            ptx!(k, "setp.eq.u32 %same, {own}, {met};\nselp.f32 %other, %own_weight, {}, %same;", float(0.0));
            ptx!(k, "fma.rn.f32 %t, %t, %weight, %other;\nsetp.eq.f32 %same, {best}, {};", float(f32::NEG_INFINITY));
            ptx!(k, "selp.f32 %t, {}, %t, %same;\nselp.f32 %other, {}, {best}, %same;", float(0.0), float(0.0));
            ptx!(k, "fma.rn.f32 %slope, %t, %other, %slope;\nmov.f32 {best}, %t;");
        }
    }
    ptx!(k, "add.rn.f32 %slope_sum, %slope_sum, %slope;");
}

/// What the second half of a tile needs: `%gradient_group` and the loops' counters.
fn gradient_registers(k: &mut Kernel, owned: Owned, many: bool) {
    k.regs(Kind::B64, "gradient_group target source source_first column_bytes met_bytes target_bytes");
    k.regs(Kind::B32, "gradient_stride met_count column block_row own_count met_step slopes_at winner_at winner place");
    k.regs(Kind::Pred, "more_columns more_rows more_met");
    k.regs(Kind::F32, "value");
    k.array(Kind::F32, "own_sum", ROWS);
    k.array(Kind::F32, "own_slope", 4);
    k.array(Kind::B32, "own_winner", 4);
    k.array(Kind::Pred, "exists", ROWS);
    ptx!(k, "ld.param.u64 %gradient_group, [gradient];\ncvta.to.global.u64 %gradient_group, %gradient_group;");
    ptx!(k, "ld.param.u32 %gradient_stride, [gradient_stride];\nadd.u32 %index, %start, %first_owned;");
    row_of(k, owned);
    ptx!(
        k,
        "mul.wide.u32 %bytes, %index, %gradient_stride;\nshl.b64 %bytes, %bytes, 2;\nadd.u64 %gradient_group, %gradient_group, %bytes;"
    );
    ptx!(k, "sub.u32 %own_count, %count, %first_owned;\nmin.u32 %own_count, %own_count, {TILE};");
    ptx!(k, "mul.wide.u32 %met_bytes, %met_stride, 4;\nmul.wide.u32 %target_bytes, %gradient_stride, 4;");
    if owned == Owned::Texts && many {
        ptx!(k, "cvt.u64.u32 %bytes, %queries;\nmul.lo.u64 %met_bytes, %met_bytes, %bytes;");
    }
}

/// A thread's columns, 256 apart; `%source_first` is the column in the first met row of the tile.
fn columns(k: &mut Kernel, body: impl FnOnce(&mut Kernel)) {
    ptx!(k, "mov.u32 %column, %thread;\nCOLUMN_LOOP:\n.pragma \"nounroll\";");
    ptx!(k, "setp.lt.u32 %more_columns, %column, %width;\n@!%more_columns bra COLUMNS_DONE;\nmul.wide.u32 %column_bytes, %column, 4;");
    ptx!(k, "cvt.u64.u32 %bytes, %met_first;\nmad.lo.u64 %source_first, %bytes, %met_bytes, %met;");
    ptx!(k, "add.u64 %source_first, %source_first, %column_bytes;");
    body(k);
    ptx!(k, "add.u32 %column, %column, {THREADS};\nbra COLUMN_LOOP;\nCOLUMNS_DONE:");
}

/// Each owned row has one gradient: the slopes of a block of 16 rows are met by one column of the other side. With many queries a met
/// cell gives the row of the query that won.
fn gather(k: &mut Kernel, many: bool) {
    let sums: Vec<Reg> = (0..ROWS).map(|row| Reg::named(&format!("own_sum_{row}"))).collect();
    columns(k, |k| {
        ptx!(k, "mov.u32 %block_row, 0;\nROW_LOOP:\n.pragma \"nounroll\";");
        k.note("Sums so far.");
        ptx!(k, "cvt.u64.u32 %bytes, %block_row;\nmad.lo.u64 %target, %bytes, %target_bytes, %gradient_group;");
        ptx!(k, "add.u64 %target, %target, %column_bytes;\nmov.u64 %address, %target;");
        for (row, sum) in sums.iter().enumerate() {
            ptx!(k, "add.u32 %index, %block_row, {row};\nsetp.lt.u32 %exists_{row}, %index, %own_count;\nmov.f32 {sum}, {};", float(0.0));
            ptx!(k, "@%exists_{row} ld.global.f32 {sum}, [%address];\nadd.u64 %address, %address, %target_bytes;");
        }
        ptx!(k, "shl.b32 %slopes_at, %block_row, 2;\nadd.u32 %slopes_at, %slopes_at, %shared;");
        ptx!(k, "mov.u32 %met_step, 0;\nmov.u64 %source, %source_first;\nMET_ROW_LOOP:\n.pragma \"nounroll\";");
        if !many {
            ptx!(k, "ld.global.f32 %value, [%source];");
        }
        for (part, sums) in sums.chunks(4).enumerate() {
            quad(k, "f32", "own_slope", 16 * part);
            if many {
                quad(k, "u32", "own_winner", STAGES + 16 * part);
            }
            for (index, sum) in sums.iter().enumerate() {
                if many {
                    ptx!(k, "cvt.u64.u32 %bytes, %own_winner_{index};\nmad.lo.u64 %address, %bytes, %met_query, %source;");
                    ptx!(k, "ld.global.f32 %value, [%address];");
                }
                ptx!(k, "fma.rn.f32 {sum}, %own_slope_{index}, %value, {sum};");
            }
        }
        ptx!(k, "add.u64 %source, %source, %met_bytes;\nadd.u32 %slopes_at, %slopes_at, {PITCH};\nadd.u32 %met_step, %met_step, 1;");
        ptx!(k, "setp.lt.u32 %more_met, %met_step, %met_count;\n@%more_met bra MET_ROW_LOOP;");
        for (row, sum) in sums.iter().enumerate() {
            ptx!(k, "@%exists_{row} st.global.f32 [%target], {sum};\nadd.u64 %target, %target, %target_bytes;");
        }
        ptx!(k, "add.u32 %block_row, %block_row, {ROWS};\nsetp.lt.u32 %more_rows, %block_row, %own_count;\n@%more_rows bra ROW_LOOP;");
    });
}

fn quad(k: &mut Kernel, kind: &str, name: &str, offset: usize) {
    ptx!(k, "ld.shared.v4.{kind} {{%{name}_0, %{name}_1, %{name}_2, %{name}_3}}, [%slopes_at + {offset}];");
}

/// Each slope goes to the owned cell's row of the query that won. A thread alone owns its column of all rows.
fn route(k: &mut Kernel) {
    columns(k, |k| {
        ptx!(k, "mov.u32 %block_row, 0;\nROW_LOOP:\n.pragma \"nounroll\";");
        ptx!(k, "mul.lo.u32 %place, %block_row, %queries;\ncvt.u64.u32 %bytes, %place;");
        ptx!(k, "mad.lo.u64 %target, %bytes, %target_bytes, %gradient_group;\nadd.u64 %target, %target, %column_bytes;");
        ptx!(k, "shl.b32 %slopes_at, %block_row, 2;\nadd.u32 %slopes_at, %slopes_at, %shared;");
        ptx!(k, "mov.u32 %met_step, 0;\nmov.u64 %source, %source_first;\nMET_ROW_LOOP:\n.pragma \"nounroll\";");
        ptx!(k, "ld.global.f32 %value, [%source];\nld.shared.f32 %slope, [%slopes_at];\nld.shared.u32 %winner, [%slopes_at + {STAGES}];");
        ptx!(k, "cvt.u64.u32 %bytes, %winner;\nmad.lo.u64 %address, %bytes, %target_bytes, %target;");
        ptx!(k, "ld.global.f32 %t, [%address];\nfma.rn.f32 %t, %slope, %value, %t;\nst.global.f32 [%address], %t;");
        ptx!(k, "add.u64 %source, %source, %met_bytes;\nadd.u32 %slopes_at, %slopes_at, {PITCH};\nadd.u32 %met_step, %met_step, 1;");
        ptx!(k, "setp.lt.u32 %more_met, %met_step, %met_count;\n@%more_met bra MET_ROW_LOOP;");
        ptx!(k, "add.u32 %block_row, %block_row, 1;\nsetp.lt.u32 %more_rows, %block_row, %own_count;\n@%more_rows bra ROW_LOOP;");
    });
}

/// The block's sum of slope x score: a tree over its threads.
fn slope_sum(k: &mut Kernel) {
    k.regs(Kind::B32, "own_place half their_place");
    k.note("The block's sum of slope x score, in a tree.");
    ptx!(k, "shl.b32 %own_place, %thread, 2;\nadd.u32 %own_place, %own_place, %shared;\nst.shared.f32 [%own_place], %slope_sum;");
    ptx!(k, "mov.u32 %half, {};\nTREE:\n.pragma \"nounroll\";\nbar.sync 0;", THREADS / 2);
    ptx!(k, "setp.lt.u32 %inside, %thread, %half;\nshl.b32 %their_place, %half, 2;\nadd.u32 %their_place, %own_place, %their_place;");
    ptx!(k, "@%inside ld.shared.f32 %t, [%their_place];\n@%inside add.rn.f32 %slope_sum, %slope_sum, %t;");
    ptx!(k, "@%inside st.shared.f32 [%own_place], %slope_sum;");
    ptx!(k, "shr.u32 %half, %half, 1;\nsetp.ne.u32 %more, %half, 0;\n@%more bra TREE;");
    ptx!(k, "ld.param.u64 %address, [slope_sums];\ncvta.to.global.u64 %address, %address;\nmov.u32 %index, %ctaid.x;");
    ptx!(k, "mov.u32 %place, %nctaid.y;\nmov.u32 %half, %ctaid.y;\nmad.lo.u32 %index, %index, %place, %half;");
    ptx!(
        k,
        "mad.wide.u32 %address, %index, 4, %address;\nsetp.eq.u32 %inside, %thread, 0;\n@%inside st.global.f32 [%address], %slope_sum;"
    );
}
