//! Products with int8 weights on the CPU: columns over threads. A few rows take the integers as they come from memory; for more, a block
//! of weights is widened first, and multiplied as matrices are. Both sum in the same order, to the same bits.

use rayon::prelude::*;

use super::{Backward, Forward, cpu_simd_few as few};
use crate::gemm::{Layout, multiply};
use crate::runtime::{Cpu, Float, Real, Rows, RowsMut, Stream, with_buffer};
use crate::vectorize;

/// Rows of `y` that are in work at a time.
const BAND: usize = 256;
/// Weights that a thread widens at a time: a share of the second-level cache.
const BLOCK: usize = 1 << 17;

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, args: Forward<T>) {
    let access = stream.access();
    let (x, words, scale) = (access.read_rows(args.x), access.read_rows(args.weight.words), access.read(args.weight.scale));
    let residual = args.residual.map(|residual| access.read_rows(residual));
    let (k, n, threads) = (x.width(), words.rows(), cpu.threads());
    let straight = x.rows() <= few::ROWS && n >= few::GROUP && few::can::<T>(k);
    // A task, in whole groups of columns.
    let share = n.div_ceil(2 * threads).next_multiple_of(few::GROUP);
    let width = if straight { share } else { share.min((BLOCK / k.max(1)).next_multiple_of(4 * few::GROUP)) };
    let mut y = Some(access.write_rows(args.y));
    cpu.install(|| {
        for from in (0..x.rows()).step_by(BAND) {
            let count = BAND.min(x.rows() - from);
            let Some((band, rest)) = y.take().map(|y| y.split_rows(count)) else { return };
            y = Some(rest);
            let x = x.tile(from, count, 0, k);
            band.into_tiles(count, width).into_par_iter().enumerate().for_each(|(task, mut y)| {
                let first = task * width;
                let residual = residual.map(|residual| residual.tile(from, count, first, y.width()));
                let scale = &scale[first..first + y.width()];
                with_buffer(count * y.width(), |sums: &mut [T::Acc]| {
                    if straight && y.width() >= few::GROUP {
                        few::multiply(bytemuck::cast_slice_mut(sums), x, words.tile(first, y.width(), 0, words.width()));
                    } else {
                        widened::<T, _>(words.tile(first, y.width(), 0, words.width()), k, None, |weight| {
                            multiply(RowsMut::of(sums, scale.len()), x, weight, Layout::NT, T::Acc::ONE, false);
                        });
                    }
                    finish::<T>(&mut y, Rows::of(sums, scale.len()), scale, residual);
                });
            });
        }
    });
}

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, args: Backward<T>) {
    let access = stream.access();
    let (dy, words, scale) = (access.read_rows(args.dy), access.read_rows(args.weight.words), access.read(args.weight.scale));
    let (k, n) = (args.dx.width(), dy.width());
    let width = k.div_ceil(2 * cpu.threads()).next_multiple_of(64).min((BLOCK / n.max(1)).next_multiple_of(64));
    let bands = access.write_rows(args.dx).into_tiles(BAND, width);
    let across = k.div_ceil(width);
    cpu.install(|| {
        bands.into_par_iter().enumerate().for_each(|(task, mut dx)| {
            let (from, first) = (task / across * BAND, task % across * width);
            let (rows, columns) = (dx.rows(), dx.width());
            let part = words.tile(0, n, first / super::PACKED, super::words(columns));
            with_buffer(rows * columns, |sums: &mut [T::Acc]| {
                widened::<T::Acc, _>(part, columns, Some(scale), |weight| {
                    multiply(RowsMut::of(sums, columns), dy.tile(from, rows, 0, n), weight, Layout::NN, T::Acc::ONE, false);
                });
                narrow::<T>(&mut dx, Rows::of(sums, columns));
            });
        });
    });
}

/// Hands over the first `k` weights of each row, without their scales or with.
fn widened<T: Float, R>(words: Rows<'_, u32>, k: usize, scale: Option<&[T::Acc]>, body: impl FnOnce(Rows<'_, T>) -> R) -> R {
    with_buffer(words.rows() * k, |weights: &mut [T]| {
        for (row, weights) in weights.chunks_exact_mut(k.max(1)).enumerate() {
            let integers: &[i8] = bytemuck::cast_slice(words.row(row));
            widen::<T>(weights, &integers[..k], scale.map_or(T::Acc::ONE, |scale| scale[row]));
        }
        body(Rows::of(weights, k.max(1)))
    })
}

vectorize! {
    fn widen<T: Float>(weights: &mut [T], integers: &[i8], scale: T::Acc) {
        for (weight, integer) in weights.iter_mut().zip(integers) {
            *weight = T::from_acc(T::Acc::of(f64::from(*integer)) * scale);
        }
    }

    fn finish<T: Float>(y: &mut RowsMut<'_, T>, sums: Rows<'_, T::Acc>, scale: &[T::Acc], residual: Option<Rows<'_, T>>) {
        for row in 0..y.rows() {
            let (y, sums) = (y.row_mut(row), sums.row(row));
            match residual {
                None => y.iter_mut().zip(sums).zip(scale).for_each(|((y, sum), scale)| *y = T::from_acc(*sum * *scale)),
                Some(residual) => {
                    let added = y.iter_mut().zip(sums).zip(scale).zip(residual.row(row));
                    added.for_each(|(((y, sum), scale), residual)| *y = T::from_acc(*sum * *scale + residual.to_acc()));
                }
            }
        }
    }

    fn narrow<T: Float>(dx: &mut RowsMut<'_, T>, sums: Rows<'_, T::Acc>) {
        for row in 0..dx.rows() {
            dx.row_mut(row).iter_mut().zip(sums.row(row)).for_each(|(dx, sum)| *dx = T::from_acc(*sum));
        }
    }
}
