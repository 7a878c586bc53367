//! Launches of the contrastive loss: a block owns 64 items of one side.

use super::emit::{Owned, THREADS, TILE};
use super::{Backward, Forward, emit_backward, emit_forward};
use crate::runtime::emit::kept;
use crate::runtime::{CudaStream, Float, Launch, Stream, Tensor, entry};
use crate::{Error, Result};

const TEXT: &str = include_str!("contrastive.ptx");

/// What is launched over, the same in both passes.
#[derive(Clone, Copy)]
struct Problem<T: Float> {
    cells: Tensor<T>,
    texts: Tensor<T>,
    classes: Option<Tensor<u32>>,
    temperature: Tensor<T>,
    queries: usize,
    group: usize,
    directions: u32,
}

impl<T: Float> Problem<T> {
    fn new(
        op: &'static str,
        cells: Tensor<T>,
        texts: Tensor<T>,
        classes: Option<Tensor<u32>>,
        temperature: Tensor<T>,
        [queries, group]: [usize; 2],
        symmetric: bool,
    ) -> Result<Problem<T>> {
        if T::NAME != "f32" {
            return Err(Error::NoCudaKernel { op, element: T::NAME });
        }
        if u32::try_from(cells.rows()).is_err() {
            return Err(Error::Argument { op, argument: "cells' rows", value: cells.rows() as f64, expected: "fewer than 2^32" });
        }
        let group = if group == 0 { texts.rows() } else { group.min(texts.rows()) };
        Ok(Problem { cells, texts, classes, temperature, queries, group, directions: if symmetric { 2 } else { 1 } })
    }

    fn groups(&self) -> usize {
        self.texts.rows().div_ceil(self.group)
    }

    fn grid(&self) -> [u32; 3] {
        [self.groups() as u32, self.group.div_ceil(TILE) as u32, 1]
    }

    /// Blocks of the grid: one partial sum each.
    fn blocks(&self) -> usize {
        self.groups() * self.group.div_ceil(TILE)
    }

    fn arguments<'a>(&self, launch: Launch<'a>) -> Launch<'a> {
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
    }
}

/// The items' own scores, or the blocks' partial sums: at most one an item.
pub(super) fn scratch(items: usize) -> usize {
    items * size_of::<f32>()
}

pub(super) fn forward<T: Float>(stream: &Stream, cuda: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let Forward { loss, row_logsumexp, column_logsumexp, cells, texts, classes, temperature, queries, group, symmetric } = args;
    let problem = Problem::new(op, cells, texts, classes, temperature, [queries, group], symmetric)?;
    cuda.need_scratch(op, scratch(texts.rows()))?;
    for (owned, logsumexp) in [(Owned::Cells, row_logsumexp), (Owned::Texts, column_logsumexp)] {
        if owned == Owned::Texts && !symmetric {
            stream.zero(logsumexp);
            continue;
        }
        let entry = emit_forward::entry(owned);
        let text = kept(&entry, || emit_forward::text(owned));
        let mut launch = cuda.launch(text, entry, problem.grid(), THREADS as u32).write("logsumexp", logsumexp);
        if owned == Owned::Cells {
            launch = launch.scratch("diagonal", 0);
        }
        problem.arguments(launch).submit()?;
    }
    cuda.launch(TEXT, entry::<T>(op, "contrastive_loss")?, [1, 1, 1], THREADS as u32)
        .write("loss", loss)
        .read("row_logsumexp", row_logsumexp)
        .read("column_logsumexp", column_logsumexp)
        .scratch("diagonal", 0)
        .value("items", texts.rows() as u32)
        .value("group", problem.group as u32)
        .value("groups", problem.groups() as u32)
        .value("directions", problem.directions)
        .submit()
}

pub(super) fn backward<T: Float>(stream: &Stream, cuda: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let Backward { cells, texts, classes, temperature, queries, group, symmetric, .. } = args;
    let problem = Problem::new(op, cells, texts, classes, temperature, [queries, group], symmetric)?;
    cuda.need_scratch(op, scratch(texts.rows()))?;
    let (rows, columns) = (Some(args.row_logsumexp), symmetric.then_some(args.column_logsumexp));
    for (owned, gradient, own, met) in [(Owned::Cells, args.dcells, rows, columns), (Owned::Texts, args.dtexts, columns, rows)] {
        stream.zero(gradient);
        let many = queries > 1;
        let entry = emit_backward::entry(owned, many);
        let text = kept(&entry, || emit_backward::text(owned, many));
        let mut launch = cuda.launch(text, entry, problem.grid(), THREADS as u32).write("gradient", gradient);
        if owned == Owned::Cells {
            launch = launch.scratch("slope_sums", 0);
        }
        launch = launch.read("dloss", args.dloss).optional("owned_logsumexp", own).optional("met_logsumexp", met);
        problem
            .arguments(launch)
            .value("gradient_stride", gradient.row_stride() as u32)
            .value("groups", problem.groups() as u32)
            .value("directions", problem.directions)
            .submit()?;
    }
    let Some(dtemperature) = args.dtemperature else { return Ok(()) };
    cuda.launch(TEXT, entry::<T>(op, "contrastive_temperature")?, [1, 1, 1], THREADS as u32)
        .write("dtemperature", dtemperature)
        .scratch("slope_sums", 0)
        .value("count", problem.blocks() as u32)
        .submit()
}
