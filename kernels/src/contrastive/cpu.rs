//! The contrastive loss on the CPU: tiles of scores come and go in each thread's buffers.
//!
//! A group is cut into segments of items, the same ones for cells and for texts. In round `p` the cells of segment `r` meet the texts of
//! segment `(r + p) mod segments`, all `r` at the same time: what belongs to a segment has one writer at a time, and is added to in an
//! order that follows from the sizes alone.

use std::ops::Range;

use rayon::prelude::*;

use super::cpu_tile::{add_columns, add_rows, best_queries, hide, scatter, slopes};
use super::{Backward, Forward};
use crate::gemm::{Layout, multiply};
use crate::runtime::{Cpu, Element, Float, Real, Rows, RowsMut, Stream, with_buffer};
use crate::{Error, Result};

/// Segments that a group is cut into at least, where each has [`FEWEST`] items: work for that many threads.
const SEGMENTS: usize = 8;
/// Items of a segment: whole panels of a product, few enough that a segment of texts stays in the second-level cache.
const FEWEST: usize = 128;
const MOST: usize = 512;
/// Rows of cells that a tile of scores has, unless one cell alone has more.
const ROWS: usize = 288;

/// Sums of gradients that are not kept in the element type itself.
pub(super) fn scratch<T: Float>(items: usize, queries: usize, width: usize) -> usize {
    if T::NAME == T::Acc::NAME { 0 } else { items * (queries + 1) * width * size_of::<T::Acc>() }
}

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, op: &'static str, args: Forward<T>) -> Result<()> {
    let access = stream.access();
    let scale = inverse(op, access.read(args.temperature)[0])?;
    let (cells, texts) = (access.read_rows(args.cells), access.read_rows(args.texts));
    let classes = args.classes.map(|classes| access.read(classes));
    let (rows, columns) = (access.write(args.row_logsumexp), access.write(args.column_logsumexp));
    let all = Group { cells, texts, classes, scale, queries: args.queries, symmetric: args.symmetric };
    let size = group_size(texts.rows(), args.group);
    let losses: Vec<f64> = cpu.install(|| {
        let groups = rows.par_chunks_mut(size).zip(columns.par_chunks_mut(size)).enumerate();
        groups.map(|(index, (rows, columns))| all.part(index * size, rows.len()).loss(rows, columns)).collect()
    });
    access.write(args.loss)[0] = T::Acc::of(losses.iter().sum::<f64>() / losses.len() as f64);
    Ok(())
}

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, op: &'static str, args: Backward<T>) -> Result<()> {
    let access = stream.access();
    let scale = inverse(op, access.read(args.temperature)[0])?;
    let (cells, texts) = (access.read_rows(args.cells), access.read_rows(args.texts));
    let classes = args.classes.map(|classes| access.read(classes));
    let (rows, columns) = (access.read(args.row_logsumexp), access.read(args.column_logsumexp));
    let dloss = access.read(args.dloss)[0];
    let all = Group { cells, texts, classes, scale, queries: args.queries, symmetric: args.symmetric };
    let (width, size) = (texts.width(), group_size(texts.rows(), args.group));
    let groups = texts.rows().div_ceil(size);
    let run = |dcells: RowsMut<'_, T::Acc>, dtexts: RowsMut<'_, T::Acc>| -> f64 {
        let parts: Vec<_> = dcells.into_tiles(size * args.queries, width).into_iter().zip(dtexts.into_tiles(size, width)).collect();
        let sums: Vec<f64> = parts
            .into_par_iter()
            .enumerate()
            .map(|(index, (dcells, dtexts))| {
                let range = index * size..index * size + dtexts.rows();
                let terms = groups * range.len() * if args.symmetric { 2 } else { 1 };
                let weight = dloss / T::Acc::of(terms as f64);
                all.part(range.start, range.len()).gradients(dcells, dtexts, &rows[range.clone()], &columns[range], weight)
            })
            .collect();
        sums.iter().sum()
    };
    let (mut dcells, mut dtexts) = (access.write_rows(args.dcells), access.write_rows(args.dtexts));
    let sums = scratch::<T>(texts.rows(), args.queries, width) / size_of::<T::Acc>();
    let slope = stream.with_scratch(op, sums, |sums: &mut [T::Acc]| {
        let (cell_sums, text_sums) = sums.split_at_mut(sums.len() / (args.queries + 1) * args.queries);
        cpu.install(|| {
            let target = dcells.as_acc().unwrap_or_else(|| RowsMut::of(cell_sums, width));
            let slope = run(target, dtexts.as_acc().unwrap_or_else(|| RowsMut::of(text_sums, width)));
            narrow(&mut dcells, cell_sums);
            narrow(&mut dtexts, text_sums);
            slope
        })
    })?;
    if let Some(dtemperature) = args.dtemperature {
        access.write(dtemperature)[0] -= T::Acc::of(slope) * scale;
    }
    Ok(())
}

/// `1 / temperature`.
fn inverse<T: Float>(op: &'static str, temperature: T) -> Result<T::Acc> {
    let temperature = temperature.to_acc();
    if temperature > T::Acc::ZERO && temperature.is_finite() {
        return Ok(T::Acc::ONE / temperature);
    }
    Err(Error::Argument { op, argument: "temperature", value: temperature.f64(), expected: "a positive number" })
}

fn group_size(items: usize, group: usize) -> usize {
    if group == 0 { items } else { group }
}

/// Rounds sums into the rows of a gradient.
fn narrow<T: Float>(target: &mut RowsMut<'_, T>, sums: &[T::Acc]) {
    let width = target.width();
    let rows: Vec<_> = target.reborrow().into_tiles(1, width).into_iter().zip(sums.chunks_exact(width)).collect();
    rows.into_par_iter().for_each(|(mut row, sums)| {
        for (target, sum) in row.row_mut(0).iter_mut().zip(sums) {
            *target = T::from_acc(*sum);
        }
    });
}

/// Items that contrast among themselves.
#[derive(Clone, Copy)]
struct Group<'a, T: Float> {
    cells: Rows<'a, T>,
    texts: Rows<'a, T>,
    classes: Option<&'a [u32]>,
    /// `1 / temperature`.
    scale: T::Acc,
    queries: usize,
    symmetric: bool,
}

/// A running `ln sum exp` of each item of a segment: `largest + ln sum`.
struct Sums<'a, A> {
    items: Range<usize>,
    largest: &'a mut [A],
    sum: &'a mut [A],
}

/// Gradients of the cells or of the texts of a segment.
struct Gradients<'a, A> {
    items: Range<usize>,
    sums: RowsMut<'a, A>,
}

impl<'a, T: Float> Group<'a, T> {
    /// Items `start..start + count` as a group of their own.
    fn part(&self, start: usize, count: usize) -> Group<'a, T> {
        let width = self.texts.width();
        Group {
            cells: self.cells.tile(start * self.queries, count * self.queries, 0, width),
            texts: self.texts.tile(start, count, 0, width),
            classes: self.classes.map(|classes| &classes[start..start + count]),
            ..*self
        }
    }

    /// Items of a segment.
    fn segment(&self) -> usize {
        self.texts.rows().div_ceil(SEGMENTS).next_multiple_of(FEWEST).min(MOST)
    }

    /// The group's loss; `rows` and `columns` receive the logarithms of the sums.
    fn loss(&self, rows: &mut [T::Acc], columns: &mut [T::Acc]) -> f64 {
        let (items, segment) = (self.texts.rows(), self.segment());
        let mut sums = vec![T::Acc::ZERO; 2 * items];
        let (row_sums, column_sums) = sums.split_at_mut(items);
        rows.fill(T::Acc::NEG_INFINITY);
        columns.fill(T::Acc::NEG_INFINITY);
        let diagonal = meet(&mut segments(rows, row_sums, segment), &mut segments(columns, column_sums, segment), |rows, columns| {
            let mut diagonal = 0.0;
            self.tiles(&rows.items, &columns.items, |cells, scores, _| {
                let at = cells.start - rows.items.start..cells.end - rows.items.start;
                diagonal += own(&cells, &columns.items).map(|at| scores[at].f64()).sum::<f64>();
                add_rows(scores, &mut rows.largest[at.clone()], &mut rows.sum[at]);
                if self.symmetric {
                    with_buffer(columns.items.len(), |origins: &mut [T::Acc]| add_columns(scores, columns.largest, columns.sum, origins));
                }
            });
            diagonal
        });
        let mut total = finish(rows, row_sums) - diagonal;
        if self.symmetric {
            total = (total + finish(columns, column_sums) - diagonal) / 2.0;
        } else {
            columns.fill(T::Acc::ZERO);
        }
        total / items as f64
    }

    /// Overwrites the gradients and returns `sum_ij g_ij s_ij`.
    fn gradients(
        &self,
        dcells: RowsMut<'_, T::Acc>,
        dtexts: RowsMut<'_, T::Acc>,
        rows: &[T::Acc],
        columns: &[T::Acc],
        weight: T::Acc,
    ) -> f64 {
        let segment = self.segment();
        let (mut dcells, mut dtexts) = (zeroed(dcells, segment, self.queries), zeroed(dtexts, segment, 1));
        meet(&mut dcells, &mut dtexts, |dcells, dtexts| {
            let mut slope = 0.0;
            let (first, texts) = (dcells.items.start, self.texts.tile(dtexts.items.start, dtexts.items.len(), 0, self.texts.width()));
            self.tiles(&dcells.items.clone(), &dtexts.items, |cells, scores, winners| {
                let own: Vec<_> = own(&cells, &dtexts.items).map(|at| (at, scores[at])).collect();
                let columns = self.symmetric.then(|| &columns[dtexts.items.clone()]);
                slope += slopes(scores, &rows[cells.clone()], columns, weight).f64();
                let twice = if self.symmetric { weight + weight } else { weight };
                for (at, score) in own {
                    scores[at] -= twice;
                    slope -= (twice * score).f64();
                }
                let sources = self.cells.tile(cells.start * self.queries, cells.len() * self.queries, 0, self.cells.width());
                let targets = dcells.sums.reborrow().split_rows((cells.start - first) * self.queries).1;
                let mut targets = targets.split_rows(sources.rows()).0;
                let dtexts = &mut dtexts.sums;
                if self.queries == 1 {
                    let scores = Rows::of(scores, texts.rows());
                    multiply(targets, scores, texts, Layout::NN, self.scale, true);
                    multiply(dtexts.reborrow(), scores, sources, Layout::TN, self.scale, true);
                } else {
                    scatter::<T>(&mut targets, dtexts, scores, winners, sources, texts, self.scale);
                }
            });
            slope
        })
    }

    /// Scores of some cells with some texts, a tile of whole cells at a time: its cells, its scores, and the query that each comes from.
    fn tiles(&self, cells: &Range<usize>, texts: &Range<usize>, mut body: impl FnMut(Range<usize>, &mut [T::Acc], &[u32])) {
        let (width, columns, queries) = (self.texts.width(), texts.len(), self.queries);
        let most = (ROWS / queries).clamp(1, cells.len());
        let (size, products) = (most * columns, if queries > 1 { most * queries * columns } else { 0 });
        with_buffer(size + products, |buffer: &mut [T::Acc]| {
            let (scores, products) = buffer.split_at_mut(size);
            with_buffer(products.len() / queries, |winners: &mut [u32]| {
                for start in cells.clone().step_by(most) {
                    let tile = start..cells.end.min(start + most);
                    let sources = self.cells.tile(start * queries, tile.len() * queries, 0, width);
                    let targets = self.texts.tile(texts.start, columns, 0, width);
                    let scores = &mut scores[..tile.len() * columns];
                    let winners = if queries > 1 { &mut winners[..tile.len() * columns] } else { &mut [] };
                    if queries == 1 {
                        multiply(RowsMut::of(scores, columns), sources, targets, Layout::NT, self.scale, false);
                    } else {
                        let products = &mut products[..tile.len() * queries * columns];
                        multiply(RowsMut::of(products, columns), sources, targets, Layout::NT, self.scale, false);
                        best_queries(scores, winners, products, queries, columns);
                    }
                    if let Some(classes) = self.classes {
                        let own: Vec<_> = own(&tile, texts).map(|at| (at, scores[at])).collect();
                        hide(scores, &classes[tile.clone()], &classes[texts.clone()]);
                        own.into_iter().for_each(|(at, score)| scores[at] = score);
                    }
                    body(tile, scores, winners);
                }
            });
        });
    }
}

/// Positions of the cells' own texts in a tile of scores.
fn own(cells: &Range<usize>, texts: &Range<usize>) -> impl Iterator<Item = usize> {
    let (cells, texts) = (cells.clone(), texts.clone());
    (cells.start.max(texts.start)..cells.end.min(texts.end)).map(move |item| (item - cells.start) * texts.len() + item - texts.start)
}

/// Lets every segment of cells meet every segment of texts, each segment one at a time, and adds what the meetings return.
fn meet<C: Send, T: Send>(cells: &mut [C], texts: &mut [T], body: impl Fn(&mut C, &mut T) -> f64 + Sync) -> f64 {
    let mut total = 0.0;
    for _ in 0..cells.len() {
        let pairs = cells.par_iter_mut().zip(texts.par_iter_mut());
        let sums: Vec<f64> = pairs.map(|(cells, texts)| body(cells, texts)).collect();
        total += sums.iter().sum::<f64>();
        texts.rotate_left(1);
    }
    total
}

fn segments<'a, A>(largest: &'a mut [A], sum: &'a mut [A], segment: usize) -> Vec<Sums<'a, A>> {
    let parts = largest.chunks_mut(segment).zip(sum.chunks_mut(segment)).enumerate();
    parts.map(|(index, (largest, sum))| Sums { items: index * segment..index * segment + sum.len(), largest, sum }).collect()
}

/// Gradients of so many rows an item, set to 0 and cut into segments.
fn zeroed<'a, A: Real>(gradients: RowsMut<'a, A>, segment: usize, rows: usize) -> Vec<Gradients<'a, A>> {
    let width = gradients.width();
    let parts: Vec<_> = gradients.into_tiles(segment * rows, width).into_iter().enumerate().collect();
    let part = |(index, mut sums): (usize, RowsMut<'a, A>)| {
        (0..sums.rows()).for_each(|row| sums.row_mut(row).fill(A::ZERO));
        Gradients { items: index * segment..index * segment + sums.rows() / rows, sums }
    };
    parts.into_par_iter().map(part).collect()
}

/// Largest scores become logarithms of sums, which are added up.
fn finish<A: Real>(largest: &mut [A], sums: &[A]) -> f64 {
    for (largest, sum) in largest.iter_mut().zip(sums) {
        *largest += sum.ln();
    }
    largest.iter().map(|logsumexp| logsumexp.f64()).sum()
}
