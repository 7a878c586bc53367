//! Launches of the contrastive loss: slice by slice, a block a tile of scores, then what both sides make of it.

use super::emit::{MET, at_a_time};
use super::emit_gather::{self, WARPS};
use super::emit_product::{self, Side};
use super::emit_tile::THREADS;
use super::slices::{Slices, scratch};
use super::{Backward, Forward, emit_backward, emit_combine, emit_forward};
use crate::runtime::emit::{Text, kept};
use crate::runtime::{CudaStream, Float, Launch, Stream, Tensor, entry};
use crate::{Error, Result};

const TEXT: &str = include_str!("contrastive.ptx");

/// What is launched over, the same in both passes.
#[derive(Clone, Copy)]
struct Problem<'a, T: Float> {
    stream: &'a CudaStream,
    cells: Tensor<T>,
    texts: Tensor<T>,
    classes: Option<Tensor<u32>>,
    temperature: Tensor<T>,
    queries: usize,
    group: usize,
    directions: u32,
    slices: Slices,
}

impl<'a, T: Float> Problem<'a, T> {
    fn new(stream: &'a CudaStream, op: &'static str, args: &Forward<T>) -> Result<Problem<'a, T>> {
        let Forward { cells, texts, classes, temperature, queries, group, symmetric, .. } = *args;
        if T::NAME != "f32" {
            return Err(Error::NoCudaKernel { op, element: T::NAME });
        }
        if u32::try_from(cells.rows()).is_err() {
            return Err(Error::Argument { op, argument: "cells' rows", value: cells.rows() as f64, expected: "fewer than 2^32" });
        }
        let (items, width) = (texts.rows(), texts.width());
        stream.need_scratch(op, scratch(items, queries, width))?;
        let group = if group == 0 { items } else { group.min(items) };
        let (directions, slices) = (if symmetric { 2 } else { 1 }, Slices::new(items, group, queries, width));
        Ok(Problem { stream, cells, texts, classes, temperature, queries, group, directions, slices })
    }

    fn launch(&self, entry: &str, make: impl FnOnce() -> Text, grid: [usize; 3], threads: usize) -> Launch<'a> {
        self.stream.launch(kept(entry, make), entry.to_string(), grid.map(|blocks| blocks as u32), threads as u32)
    }

    fn of_scores(&self, launch: Launch<'a>, [cells_first, texts_first]: [usize; 2]) -> Launch<'a> {
        launch
            .read("cells", self.cells)
            .read("texts", self.texts)
            .optional("classes", self.classes)
            .read("temperature", self.temperature)
            .value("items", self.texts.rows() as u32)
            .value("group", self.group as u32)
            .value("queries", self.queries as u32)
            .value("width", self.texts.width() as u32)
            .value("cells_stride", self.cells.row_stride() as u32)
            .value("texts_stride", self.texts.row_stride() as u32)
            .value("cells_first", cells_first as u32)
            .value("texts_first", texts_first as u32)
            .value("side", self.slices.side as u32)
    }

    /// Combines the shares of one side's sums; `between`: where they wait for the next slice.
    fn combine(&self, logsumexp: Tensor<T::Acc>, [parts, between]: [usize; 2], [first, met_first]: [usize; 2], per: usize) -> Result<()> {
        let Slices { slots, side, .. } = self.slices;
        self.launch(emit_combine::ENTRY, emit_combine::text, [slots.div_ceil(emit_combine::THREADS), 1, 1], emit_combine::THREADS)
            .write("logsumexp", logsumexp)
            .optional_scratch("before", (met_first > 0).then_some(between))
            .optional_scratch("after", (!self.slices.is_last(met_first)).then_some(between))
            .scratch("parts", parts)
            .value("items", self.texts.rows() as u32)
            .value("group", self.group as u32)
            .value("side", side as u32)
            .value("slots", slots as u32)
            .value("first", first as u32)
            .value("met_first", met_first as u32)
            .value("per_part", per as u32)
            .submit()
    }

    /// Adds what the slice's slopes are worth to the gradient of one side, or begins it.
    fn gradient(&self, side: Side, gradient: Tensor<T>, [first, met_first]: [usize; 2]) -> Result<()> {
        let Slices { groups, slots, side: rows, pitch, .. } = self.slices;
        let (width, [slopes, winners, ..]) = (gradient.width(), self.slices.backward());
        let vectors = if side == Side::Cells { self.texts } else { self.cells };
        let many = self.queries > 1;
        let mut launch = match side {
            _ if !many => {
                let grid = [groups, rows.div_ceil(emit_product::TILE), width.div_ceil(emit_product::TILE)];
                self.launch(emit_product::entry(side), || emit_product::text(side), grid, THREADS)
            }
            Side::Cells => self.launch(emit_gather::CELLS, emit_gather::cells, [slots, self.queries.div_ceil(WARPS), 1], THREADS),
            Side::Texts => self.launch(emit_gather::TEXTS, emit_gather::texts, [slots, 1, 1], THREADS),
        };
        launch = launch.write("gradient", gradient).scratch("slopes", slopes);
        if many {
            launch = launch.scratch("winners", winners);
        }
        launch = launch.read("vectors", vectors).value("items", self.texts.rows() as u32).value("group", self.group as u32);
        if many {
            launch = launch.value("queries", self.queries as u32);
        }
        launch
            .value("width", width as u32)
            .value("gradient_stride", gradient.row_stride() as u32)
            .value("vectors_stride", vectors.row_stride() as u32)
            .value("first", first as u32)
            .value("met_first", met_first as u32)
            .value("side", rows as u32)
            .value("pitch", pitch as u32)
            .value("add", u32::from(met_first > 0))
            .submit()
    }
}

pub(super) fn forward<T: Float>(stream: &Stream, cuda: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let problem = Problem::new(cuda, op, &args)?;
    let (per, slices) = (at_a_time(args.queries), problem.slices);
    let [row_parts, column_parts, rows, columns, diagonal, _] = slices.forward();
    let entry_of_scores = emit_forward::entry(per);
    for [cells, texts] in slices.firsts() {
        let launch = problem
            .launch(&entry_of_scores, || emit_forward::text(per), slices.grid(), THREADS)
            .scratch("row_parts", row_parts)
            .optional_scratch("column_parts", args.symmetric.then_some(column_parts))
            .scratch("diagonal", diagonal);
        problem.of_scores(launch, [cells, texts]).value("slots", slices.slots as u32).submit()?;
        problem.combine(args.row_logsumexp, [row_parts, rows], [cells, texts], MET)?;
        if args.symmetric {
            problem.combine(args.column_logsumexp, [column_parts, columns], [texts, cells], slices.own)?;
        }
    }
    if !args.symmetric {
        stream.zero(args.column_logsumexp);
    }
    cuda.launch(TEXT, entry::<T>(op, "contrastive_loss")?, [1, 1, 1], THREADS as u32)
        .write("loss", args.loss)
        .read("row_logsumexp", args.row_logsumexp)
        .read("column_logsumexp", args.column_logsumexp)
        .scratch("diagonal", diagonal)
        .value("items", args.texts.rows() as u32)
        .value("group", problem.group as u32)
        .value("groups", slices.groups as u32)
        .value("directions", problem.directions)
        .submit()
}

pub(super) fn backward<T: Float>(cuda: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let Backward { dcells, dtexts, dtemperature, dloss, row_logsumexp, column_logsumexp, .. } = args;
    let Backward { cells, texts, classes, temperature, queries, group, symmetric, .. } = args;
    let forward = Forward { loss: dloss, row_logsumexp, column_logsumexp, cells, texts, classes, temperature, queries, group, symmetric };
    let problem = Problem::new(cuda, op, &forward)?;
    let (per, slices) = (at_a_time(queries), problem.slices);
    let [slopes, winners, slope_sums, _] = slices.backward();
    let entry_of_scores = emit_backward::entry(per);
    for [cells, texts] in slices.firsts() {
        let mut launch = problem.launch(&entry_of_scores, || emit_backward::text(per), slices.grid(), THREADS).scratch("slopes", slopes);
        if per > 1 {
            launch = launch.scratch("winners", winners);
        }
        launch = launch
            .scratch("slope_sums", slope_sums)
            .read("dloss", dloss)
            .read("row_logsumexp", row_logsumexp)
            .optional("column_logsumexp", symmetric.then_some(column_logsumexp));
        problem
            .of_scores(launch, [cells, texts])
            .value("pitch", slices.pitch as u32)
            .value("groups", slices.groups as u32)
            .value("directions", problem.directions)
            .submit()?;
        problem.gradient(Side::Cells, dcells, [cells, texts])?;
        problem.gradient(Side::Texts, dtexts, [texts, cells])?;
        let Some(dtemperature) = dtemperature else { continue };
        cuda.launch(TEXT, entry::<T>(op, "contrastive_temperature")?, [1, 1, 1], THREADS as u32)
            .write("dtemperature", dtemperature)
            .scratch("slope_sums", slope_sums)
            .value("count", slices.grid().into_iter().product::<usize>() as u32)
            .submit()?;
    }
    Ok(())
}
