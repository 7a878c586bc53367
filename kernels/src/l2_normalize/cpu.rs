//! L2 normalisation on the CPU: one row at a time, rows over threads.

use rayon::prelude::*;

use super::{Backward, Forward};
use crate::Result;
use crate::runtime::math::{LANES, tree};
use crate::runtime::{Cpu, Float, Real, Stream};
use crate::vectorize;

/// Rows of one task.
const ROWS: usize = 64;

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, args: Forward<T>) -> Result<()> {
    let access = stream.access();
    let x = access.read_rows(args.x);
    let bands = access.write_rows(args.y).into_tiles(ROWS, x.width().max(1));
    let (norm, eps) = (access.write(args.norm), T::Acc::of(args.eps));
    cpu.install(|| {
        bands.into_par_iter().zip(norm.par_chunks_mut(ROWS)).enumerate().for_each(|(band, (mut y, norm))| {
            for (row, norm) in norm.iter_mut().enumerate() {
                let x = x.row(band * ROWS + row);
                *norm = dot::<T>(x, x).sqrt();
                // Written so that a NaN norm is kept.
                let divisor = if *norm < eps { eps } else { *norm };
                divided::<T>(y.row_mut(row), x, divisor);
            }
        });
    });
    Ok(())
}

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, args: Backward<T>) -> Result<()> {
    let access = stream.access();
    let (y, dy, norm) = (access.read_rows(args.y), access.read_rows(args.dy), access.read(args.norm));
    let bands = access.write_rows(args.dx).into_tiles(ROWS, y.width().max(1));
    let eps = T::Acc::of(args.eps);
    cpu.install(|| {
        bands.into_par_iter().enumerate().for_each(|(band, mut dx)| {
            for row in 0..dx.rows() {
                let at = band * ROWS + row;
                let (y, dy, dx) = (y.row(at), dy.row(at), dx.row_mut(row));
                if norm[at] < eps {
                    divided::<T>(dx, dy, eps);
                } else {
                    tangent::<T>(dx, dy, y, dot::<T>(y, dy), norm[at]);
                }
            }
        });
    });
    Ok(())
}

vectorize! {
    fn dot<T: Float>(a: &[T], b: &[T]) -> T::Acc {
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        let mut sums = [T::Acc::ZERO; LANES];
        for (a, b) in a.iter().zip(b) {
            for lane in 0..LANES {
                sums[lane] += a[lane].to_acc() * b[lane].to_acc();
            }
        }
        for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
            *sum += a.to_acc() * b.to_acc();
        }
        tree(sums)
    }

    fn divided<T: Float>(y: &mut [T], x: &[T], divisor: T::Acc) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = T::from_acc(x.to_acc() / divisor);
        }
    }

    fn tangent<T: Float>(dx: &mut [T], dy: &[T], y: &[T], along: T::Acc, norm: T::Acc) {
        for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
            *dx = T::from_acc((dy.to_acc() - y.to_acc() * along) / norm);
        }
    }
}
