//! Packing: blocks of the operands, widened and laid out as the micro-kernels read them, padded with zeros.
//!
//! The bf16 kernel takes pairs: two neighbours in k side by side in the place of one f32, the last one beside a zero if it is alone.

use super::cpu_simd::{Kernel, transpose};
use crate::runtime::{Float, Real, Rows};
use crate::vectorize;

/// Depth of one block: a sum over k is a sum of sums over blocks of this many products. Fixed, since it decides the bits.
pub(crate) const KC: usize = 512;

/// Distance between the rows of a packed panel of `a` that keeps the rows of the operand. Off the powers of two, which would map all
/// rows to the same cache sets, and odd, so that the rows enter new cache lines one after the other instead of all at once.
pub(super) const ROW: usize = KC + 17;

/// An operand: a matrix whose rows run along the depth k (`deep`), or across it.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a, T> {
    pub(super) matrix: Rows<'a, T>,
    pub(super) deep: bool,
}

/// A part of an operand: rows of op(a) or columns of op(b), and a range of the depth.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) start: usize,
    pub(super) count: usize,
    pub(super) from: usize,
    pub(super) depth: usize,
}

impl Part {
    fn of<'a, T>(self, operand: Operand<'a, T>) -> Rows<'a, T> {
        let Part { start, count, from, depth } = self;
        if operand.deep { operand.matrix.tile(start, count, from, depth) } else { operand.matrix.tile(from, depth, start, count) }
    }
}

/// Packs rows of op(a) in panels of `kernel.rows()`. A deep operand keeps its rows, [`ROW`] apart; any other gives the columns of one
/// panel after another.
pub(super) fn pack_a<T: Float>(kernel: Kernel, packed: &mut [T::Acc], a: Operand<'_, T>, part: Part) {
    let (rows, pair) = (kernel.rows(), kernel.pair());
    // A few rows of the operand at a time, for all panels: they stay in the first-level cache.
    let depth = if a.deep { KC } else { 32 };
    for done in (0..part.depth).step_by(depth) {
        let depth = depth.min(part.depth - done);
        for (index, panel) in packed.chunks_exact_mut(kernel.panel_a()).enumerate() {
            let start = (index * rows).min(part.count);
            let count = rows.min(part.count - start);
            let source = Part { start: part.start + start, count, from: part.from + done, depth }.of(a);
            if a.deep {
                deep_a::<T>(panel, source, rows, pair);
            } else {
                across::<T>(&mut panel[done / pair * rows..], source, rows, pair);
            }
        }
    }
}

/// Packs at most `kernel.columns()` columns of op(b): a row of them for every packed step of the depth.
pub(super) fn pack_b<T: Float>(kernel: Kernel, packed: &mut [T::Acc], b: Operand<'_, T>, part: Part) {
    if b.deep {
        deep_b::<T>(packed, part.of(b), kernel.columns(), kernel.pair());
    } else {
        across::<T>(packed, part.of(b), kernel.columns(), kernel.pair());
    }
}

vectorize! {
    fn deep_a<T: Float>(panel: &mut [T::Acc], a: Rows<'_, T>, rows: usize, pair: usize) {
        let steps = a.width().div_ceil(pair);
        for (row, target) in panel.chunks_exact_mut(ROW).take(rows).enumerate() {
            if row < a.rows() {
                lay::<T>(&mut target[..steps], a.row(row), pair);
            } else {
                target[..steps].fill(T::Acc::ZERO);
            }
        }
    }

    fn across<T: Float>(packed: &mut [T::Acc], source: Rows<'_, T>, width: usize, pair: usize) {
        let count = source.width();
        for (step, target) in packed.chunks_exact_mut(width).take(source.rows().div_ceil(pair)).enumerate() {
            let (target, padding) = target.split_at_mut(count);
            padding.fill(T::Acc::ZERO);
            if pair == 1 {
                let source = source.row(step);
                match count {
                    64 => widen_array::<T, 64>(target, source),
                    32 => widen_array::<T, 32>(target, source),
                    16 => widen_array::<T, 16>(target, source),
                    6 => widen_array::<T, 6>(target, source),
                    _ => widen(target, source),
                }
            } else {
                let (first, second) = (2 * step, 2 * step + 1);
                let halves: &mut [u16] = bytemuck::cast_slice_mut(target);
                let (first, second) = (source.row(first), (second < source.rows()).then(|| source.row(second)));
                for (index, halves) in halves.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    *halves = [bits(first[index]), second.map_or(0, |row| bits(row[index]))];
                }
            }
        }
    }

    fn deep_b<T: Float>(packed: &mut [T::Acc], b: Rows<'_, T>, width: usize, pair: usize) {
        const SIDE: usize = 16;
        let (depth, steps) = (b.width(), b.width().div_ceil(pair));
        let mut square = [[T::Acc::ZERO; SIDE]; SIDE];
        // Sixteen rows to their end before the next sixteen: as many streams as the hardware fetches ahead.
        for column in (0..width).step_by(SIDE) {
            let rows = SIDE.min(b.rows().saturating_sub(column));
            square[rows..].fill([T::Acc::ZERO; SIDE]);
            for (index, packed) in packed.chunks_mut(SIDE * width).take(steps.div_ceil(SIDE)).enumerate() {
                let from = index * SIDE;
                let count = SIDE.min(steps - from);
                for (row, target) in square[..rows].iter_mut().enumerate() {
                    let source = &b.row(column + row)[from * pair..depth.min((from + SIDE) * pair)];
                    if source.len() == SIDE && pair == 1 {
                        widen_array::<T, SIDE>(target, source);
                    } else {
                        lay::<T>(&mut target[..count], source, pair);
                    }
                }
                transpose(&square, packed, column, width, count);
            }
        }
    }
}

/// A run along the depth, as packed elements.
#[inline(always)]
fn lay<T: Float>(target: &mut [T::Acc], source: &[T], pair: usize) {
    if pair == 1 {
        widen(target, source);
    } else {
        let halves: &mut [u16] = bytemuck::cast_slice_mut(target);
        let (halves, alone) = halves.split_at_mut(source.len());
        halves.copy_from_slice(bytemuck::cast_slice(source));
        alone.fill(0);
    }
}

#[inline(always)]
fn widen<T: Float>(target: &mut [T::Acc], source: &[T]) {
    for (target, source) in target.iter_mut().zip(source) {
        *target = source.to_acc();
    }
}

#[inline(always)]
fn widen_array<T: Float, const N: usize>(target: &mut [T::Acc], source: &[T]) {
    if let (Some(target), Some(source)) = (target.first_chunk_mut::<N>(), source.first_chunk::<N>()) {
        for lane in 0..N {
            target[lane] = source[lane].to_acc();
        }
    }
}

/// The bits of a 16-bit float.
#[inline(always)]
fn bits<T: Float>(value: T) -> u16 {
    bytemuck::cast(value)
}
