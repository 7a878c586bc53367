//! Root-mean-square normalisation on the CPU: one row at a time, rows over threads.

use rayon::prelude::*;

use super::{Backward, CHUNK, Forward};
use crate::Result;
use crate::runtime::math::{LANES, tree};
use crate::runtime::{Cpu, Float, Real, Stream};
use crate::vectorize;

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, args: Forward<T>) {
    let access = stream.access();
    let (x, weight) = (access.read_rows(args.x), access.read(args.weight));
    let (y, rstd) = (access.write_rows(args.y), access.write(args.rstd));
    let eps = T::Acc::of(args.eps);
    let bands = y.into_tiles(CHUNK, args.y.width().max(1));
    cpu.install(|| {
        bands.into_par_iter().zip(rstd.par_chunks_mut(CHUNK)).enumerate().for_each(|(band, (mut y, rstd))| {
            for (row, rstd) in rstd.iter_mut().enumerate() {
                let x = x.row(band * CHUNK + row);
                *rstd = T::Acc::ONE / (mean_square::<T>(x) + eps).sqrt();
                normalise::<T>(y.row_mut(row), x, weight, *rstd);
            }
        });
    });
}

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, op: &'static str, args: Backward<T>) -> Result<()> {
    let (rows, width) = (args.x.rows(), args.x.width());
    let access = stream.access();
    let (x, dy, weight) = (access.read_rows(args.x), access.read_rows(args.dy), access.read(args.weight));
    let rstd = access.read(args.rstd);
    let residual = args.residual.map(|residual| access.read_rows(residual));
    let bands = access.write_rows(args.dx).into_tiles(CHUNK, width.max(1));
    stream.with_scratch(op, rows.div_ceil(CHUNK) * width, |partial: &mut [T::Acc]| {
        partial.fill(T::Acc::ZERO);
        cpu.install(|| {
            bands.into_par_iter().zip(partial.par_chunks_mut(width.max(1))).enumerate().for_each(|(band, (mut dx, sums))| {
                for row in 0..dx.rows() {
                    let at = band * CHUNK + row;
                    let (x, dy) = (x.row(at), dy.row(at));
                    parameter::<T>(sums, x, dy, rstd[at]);
                    input::<T>(dx.row_mut(row), x, dy, weight, rstd[at]);
                    if let Some(residual) = residual {
                        add::<T>(dx.row_mut(row), residual.row(at));
                    }
                }
            });
        });
        let Some(gradient) = args.dweight else { return };
        let total = access.write(gradient);
        for sums in partial.chunks_exact(width.max(1)) {
            for (total, sum) in total.iter_mut().zip(sums) {
                *total += *sum;
            }
        }
    })
}

vectorize! {
    fn mean_square<T: Float>(x: &[T]) -> T::Acc {
        let mut squares = [T::Acc::ZERO; LANES];
        for block in x.chunks(LANES) {
            for (square, x) in squares.iter_mut().zip(block) {
                let x = x.to_acc();
                *square += x * x;
            }
        }
        tree(squares) * T::Acc::of(1.0 / x.len() as f64)
    }

    fn normalise<T: Float>(y: &mut [T], x: &[T], weight: &[T], rstd: T::Acc) {
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            let rounded = T::from_acc(x.to_acc() * rstd);
            *y = T::from_acc(rounded.to_acc() * weight.to_acc());
        }
    }

    fn parameter<T: Float>(dweight: &mut [T::Acc], x: &[T], dy: &[T], rstd: T::Acc) {
        for ((dweight, x), dy) in dweight.iter_mut().zip(x).zip(dy) {
            *dweight += dy.to_acc() * (x.to_acc() * rstd);
        }
    }

    fn input<T: Float>(dx: &mut [T], x: &[T], dy: &[T], weight: &[T], rstd: T::Acc) {
        let mut products = [T::Acc::ZERO; LANES];
        for ((x, dy), weight) in x.chunks(LANES).zip(dy.chunks(LANES)).zip(weight.chunks(LANES)) {
            for (((product, x), dy), weight) in products.iter_mut().zip(x).zip(dy).zip(weight) {
                *product += dy.to_acc() * weight.to_acc() * (x.to_acc() * rstd);
            }
        }
        let mean = tree(products) * T::Acc::of(1.0 / x.len() as f64);
        for (((dx, x), dy), weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
            *dx = T::from_acc(rstd * (dy.to_acc() * weight.to_acc() - x.to_acc() * rstd * mean));
        }
    }

    fn add<T: Float>(dx: &mut [T], residual: &[T]) {
        for (dx, residual) in dx.iter_mut().zip(residual) {
            *dx = T::from_acc(dx.to_acc() + residual.to_acc());
        }
    }
}
