//! Sums and whole-tensor updates on the CPU: fixed chunks over threads, partial sums added in order.

use rayon::prelude::*;

use super::{AddAssign, CHUNK_ROWS, ColumnSum};
use crate::Result;
use crate::runtime::math::{LANES, tree};
use crate::runtime::{Access, Cpu, Element, Float, Real, Stream, Tensor};
use crate::vectorize;

/// Elements of one task and one partial sum.
const CHUNK: usize = 1 << 15;

pub(super) fn column_sum<T: Float>(stream: &Stream, cpu: &Cpu, args: ColumnSum<T>) -> Result<()> {
    let (rows, width) = (args.x.rows(), args.x.width());
    let access = stream.access();
    let x = access.read_rows(args.x);
    stream.with_scratch("reduce::column_sum", rows.div_ceil(CHUNK_ROWS) * width, |partial: &mut [T::Acc]| {
        partial.fill(T::Acc::ZERO);
        cpu.install(|| {
            partial.par_chunks_mut(width.max(1)).enumerate().for_each(|(chunk, sums)| {
                let (start, end) = (chunk * CHUNK_ROWS, rows.min((chunk + 1) * CHUNK_ROWS));
                let fours = (end - start) / 4;
                for row in (start..start + 4 * fours).step_by(4) {
                    add_four::<T>(sums, x.row(row), x.row(row + 1), x.row(row + 2), x.row(row + 3));
                }
                for row in start + 4 * fours..end {
                    add_row::<T>(sums, x.row(row));
                }
            });
        });
        let total = access.write(args.sum);
        for sums in partial.chunks_exact(width.max(1)) {
            add_row::<T::Acc>(total, sums);
        }
    })
}

/// Every tensor's elements as slices of at most [`CHUNK`], in order; a strided tensor row by row.
fn chunks<'a, T: Element>(access: &'a Access, tensors: &[Tensor<T>]) -> Vec<&'a [T]> {
    let mut chunks = Vec::new();
    for tensor in tensors {
        if tensor.is_contiguous() {
            chunks.extend(access.read(*tensor).chunks(CHUNK));
        } else {
            let rows = access.read_rows(*tensor);
            chunks.extend((0..rows.rows()).flat_map(|row| rows.row(row).chunks(CHUNK)));
        }
    }
    chunks
}

pub(super) fn squared_norm<A: Real>(stream: &Stream, cpu: &Cpu, tensors: &[Tensor<A>]) -> f64 {
    let access = stream.access();
    let chunks = chunks(&access, tensors);
    let partial: Vec<f64> = cpu.install(|| chunks.into_par_iter().map(squares::<A>).collect());
    partial.iter().sum()
}

pub(super) fn all_finite<T: Float>(stream: &Stream, cpu: &Cpu, tensors: &[Tensor<T>]) -> bool {
    let access = stream.access();
    let chunks = chunks(&access, tensors);
    cpu.install(|| chunks.into_par_iter().all(finite::<T>))
}

pub(super) fn add_assign<T: Float>(stream: &Stream, cpu: &Cpu, args: AddAssign<T>) -> Result<()> {
    let access = stream.access();
    let x = access.read_rows(args.x);
    let band_rows = CHUNK.div_ceil(x.width().max(1));
    let bands = access.write_rows(args.y).into_tiles(band_rows, x.width().max(1));
    cpu.install(|| {
        bands.into_par_iter().enumerate().for_each(|(band, mut y)| {
            for row in 0..y.rows() {
                add::<T>(y.row_mut(row), x.row(band * band_rows + row));
            }
        });
    });
    Ok(())
}

pub(super) fn scale<T: Float>(stream: &Stream, cpu: &Cpu, tensors: &[Tensor<T>], factor: f64) {
    let access = stream.access();
    let factor = T::Acc::of(factor);
    let bands = tensors.iter().flat_map(|tensor| {
        let width = tensor.width().max(1);
        access.write_rows(*tensor).into_tiles(CHUNK.div_ceil(width), width)
    });
    let bands: Vec<_> = bands.collect();
    cpu.install(|| {
        bands.into_par_iter().for_each(|mut band| {
            for row in 0..band.rows() {
                multiply::<T>(band.row_mut(row), factor);
            }
        });
    });
}

vectorize! {
    fn add_row<T: Float>(sums: &mut [T::Acc], x: &[T]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x.to_acc();
        }
    }

    /// Four rows in one pass over the sums.
    fn add_four<T: Float>(sums: &mut [T::Acc], a: &[T], b: &[T], c: &[T], d: &[T]) {
        for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *sum += (a.to_acc() + b.to_acc()) + (c.to_acc() + d.to_acc());
        }
    }

    fn squares<A: Real>(x: &[A]) -> f64 {
        let (blocks, rest) = x.as_chunks::<LANES>();
        let mut sums = [0.0f64; LANES];
        for block in blocks {
            for (sum, x) in sums.iter_mut().zip(block) {
                *sum += x.f64() * x.f64();
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *sum += x.f64() * x.f64();
        }
        tree(sums)
    }

    fn finite<T: Float>(x: &[T]) -> bool {
        x.chunks(1024).all(|block| block.iter().fold(true, |finite, x| finite & x.to_acc().is_finite()))
    }

    fn add<T: Float>(y: &mut [T], x: &[T]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = T::from_acc(y.to_acc() + x.to_acc());
        }
    }

    fn multiply<T: Float>(x: &mut [T], factor: T::Acc) {
        for x in x {
            *x = T::from_acc(x.to_acc() * factor);
        }
    }
}
