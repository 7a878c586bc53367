//! Packing: blocks of the operands, widened and laid out as the micro-kernels read them, padded with zeros.

use crate::runtime::{Float, Real, Rows};
use crate::vectorize;

use super::cpu_simd::{Kernel, transpose};

/// Depth of one block: a sum over k is a sum of sums over blocks of this many products. Fixed, since it decides the bits.
pub(super) const KC: usize = 256;

/// Distance between the rows of a packed panel of `a` that keeps the rows of the operand: off the powers of two, which would map all
/// rows to the same cache sets.
pub(super) const ROW: usize = KC + 16;

/// An operand: a matrix whose rows run along the depth k (`deep`), or across it.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a, T> {
    pub(super) matrix: Rows<'a, T>,
    pub(super) deep: bool,
}

/// Packs `count` rows (from `start`) of op(a), `depth` columns from `from`, in panels of `kernel.rows()`. A deep operand keeps its
/// rows, [`ROW`] apart; any other gives columns of one panel's rows.
pub(super) fn pack_a<T: Float>(
    kernel: Kernel,
    packed: &mut [T::Acc],
    a: Operand<'_, T>,
    start: usize,
    count: usize,
    from: usize,
    depth: usize,
) {
    let rows = kernel.rows();
    for (index, panel) in packed.chunks_exact_mut(kernel.panel_a()).enumerate() {
        let done = index * rows;
        let count = rows.min(count.saturating_sub(done));
        if a.deep {
            deep_a::<T>(panel, a.matrix.tile(start + done, count, from, depth), rows);
        } else {
            across::<T>(panel, a.matrix.tile(from, depth, start + done, count), rows);
        }
    }
}

/// Packs `columns` columns (from `start`) of op(b) and `depth` rows from `from`: rows of `kernel.columns()` elements.
pub(super) fn pack_b<T: Float>(
    kernel: Kernel,
    packed: &mut [T::Acc],
    b: Operand<'_, T>,
    start: usize,
    columns: usize,
    from: usize,
    depth: usize,
) {
    if b.deep {
        deep_b::<T>(packed, b.matrix.tile(start, columns, from, depth), kernel.columns());
    } else {
        across::<T>(packed, b.matrix.tile(from, depth, start, columns), kernel.columns());
    }
}

vectorize! {
    fn deep_a<T: Float>(panel: &mut [T::Acc], a: Rows<'_, T>, rows: usize) {
        let depth = a.width();
        for (row, target) in panel.chunks_exact_mut(ROW).take(rows).enumerate() {
            if row < a.rows() {
                widen(&mut target[..depth], a.row(row));
            } else {
                target[..depth].fill(T::Acc::ZERO);
            }
        }
    }

    fn across<T: Float>(packed: &mut [T::Acc], source: Rows<'_, T>, width: usize) {
        for (row, target) in packed.chunks_exact_mut(width).take(source.rows()).enumerate() {
            let source = source.row(row);
            match source.len() {
                32 => widen_array::<T, 32>(target, source),
                16 => widen_array::<T, 16>(target, source),
                14 => widen_array::<T, 14>(target, source),
                _ => widen(&mut target[..source.len()], source),
            }
            target[source.len()..].fill(T::Acc::ZERO);
        }
    }

    fn deep_b<T: Float>(packed: &mut [T::Acc], b: Rows<'_, T>, width: usize) {
        const SIDE: usize = 16;
        let depth = b.width();
        let mut square = [[T::Acc::ZERO; SIDE]; SIDE];
        for (step, packed) in packed.chunks_mut(SIDE * width).take(depth.div_ceil(SIDE)).enumerate() {
            let from = step * SIDE;
            let to = depth.min(from + SIDE);
            for column in (0..width).step_by(SIDE) {
                for (row, target) in square.iter_mut().enumerate() {
                    if column + row < b.rows() {
                        let source = &b.row(column + row)[from..to];
                        match source.len() {
                            SIDE => widen_array::<T, SIDE>(target, source),
                            length => widen(&mut target[..length], source),
                        }
                    } else {
                        *target = [T::Acc::ZERO; SIDE];
                    }
                }
                transpose(&square, packed, column, width, to - from);
            }
        }
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
