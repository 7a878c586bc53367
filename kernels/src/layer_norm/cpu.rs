//! Layer normalisation on the CPU: one row at a time, rows over threads.

use rayon::prelude::*;

use super::{Backward, CHUNK, Forward};
use crate::Result;
use crate::runtime::math::{LANES, tree};
use crate::runtime::{Cpu, Float, Real, Stream};
use crate::vectorize;

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, args: Forward<T>) -> Result<()> {
    let access = stream.access();
    let (x, weight, bias) = (access.read_rows(args.x), access.read(args.weight), access.read(args.bias));
    let (y, mean, rstd) = (access.write_rows(args.y), access.write(args.mean), access.write(args.rstd));
    let eps = T::Acc::of(args.eps);
    let bands = y.into_tiles(CHUNK, args.y.width().max(1));
    cpu.install(|| {
        bands.into_par_iter().zip(mean.par_chunks_mut(CHUNK)).zip(rstd.par_chunks_mut(CHUNK)).enumerate().for_each(
            |(band, ((mut y, mean), rstd))| {
                for row in 0..y.rows() {
                    let x = x.row(band * CHUNK + row);
                    (mean[row], rstd[row]) = statistics::<T>(x, eps);
                    normalise::<T>(y.row_mut(row), x, weight, bias, mean[row], rstd[row]);
                }
            },
        );
    });
    Ok(())
}

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, args: Backward<T>) -> Result<()> {
    let (rows, width) = (args.x.rows(), args.x.width());
    let access = stream.access();
    let (x, dy, weight) = (access.read_rows(args.x), access.read_rows(args.dy), access.read(args.weight));
    let (mean, rstd) = (access.read(args.mean), access.read(args.rstd));
    let bands = access.write_rows(args.dx).into_tiles(CHUNK, width.max(1));
    let chunks = rows.div_ceil(CHUNK);
    stream.with_scratch("layer_norm::backward", chunks * 2 * width, |partial: &mut [T::Acc]| {
        partial.fill(T::Acc::ZERO);
        cpu.install(|| {
            bands.into_par_iter().zip(partial.par_chunks_mut((2 * width).max(1))).enumerate().for_each(|(band, (mut dx, sums))| {
                let (dweight, dbias) = sums.split_at_mut(width);
                for row in 0..dx.rows() {
                    let at = band * CHUNK + row;
                    let (x, dy) = (x.row(at), dy.row(at));
                    parameters::<T>(dweight, dbias, x, dy, mean[at], rstd[at]);
                    input::<T>(dx.row_mut(row), x, dy, weight, mean[at], rstd[at]);
                }
            });
        });
        for (gradient, start) in [(args.dweight, 0), (args.dbias, width)] {
            let Some(gradient) = gradient else { continue };
            let total = access.write(gradient);
            for sums in partial.chunks_exact(2 * width) {
                add(total, &sums[start..start + width]);
            }
        }
    })
}

vectorize! {
    fn statistics<T: Float>(x: &[T], eps: T::Acc) -> (T::Acc, T::Acc) {
        let scale = T::Acc::of(1.0 / x.len() as f64);
        let mut sums = [T::Acc::ZERO; LANES];
        for block in x.chunks(LANES) {
            for (sum, x) in sums.iter_mut().zip(block) {
                *sum += x.to_acc();
            }
        }
        let mean = tree(sums) * scale;
        let mut squares = [T::Acc::ZERO; LANES];
        for block in x.chunks(LANES) {
            for (square, x) in squares.iter_mut().zip(block) {
                let centred = x.to_acc() - mean;
                *square += centred * centred;
            }
        }
        (mean, T::Acc::ONE / (tree(squares) * scale + eps).sqrt())
    }

    fn normalise<T: Float>(y: &mut [T], x: &[T], weight: &[T], bias: &[T], mean: T::Acc, rstd: T::Acc) {
        for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            *y = T::from_acc((x.to_acc() - mean) * rstd * weight.to_acc() + bias.to_acc());
        }
    }

    fn parameters<T: Float>(dweight: &mut [T::Acc], dbias: &mut [T::Acc], x: &[T], dy: &[T], mean: T::Acc, rstd: T::Acc) {
        for (((dweight, dbias), x), dy) in dweight.iter_mut().zip(dbias).zip(x).zip(dy) {
            *dweight += dy.to_acc() * ((x.to_acc() - mean) * rstd);
            *dbias += dy.to_acc();
        }
    }

    fn input<T: Float>(dx: &mut [T], x: &[T], dy: &[T], weight: &[T], mean: T::Acc, rstd: T::Acc) {
        let scale = T::Acc::of(1.0 / x.len() as f64);
        let (mut sums, mut products) = ([T::Acc::ZERO; LANES], [T::Acc::ZERO; LANES]);
        for ((x, dy), weight) in x.chunks(LANES).zip(dy.chunks(LANES)).zip(weight.chunks(LANES)) {
            for ((((sum, product), x), dy), weight) in sums.iter_mut().zip(&mut products).zip(x).zip(dy).zip(weight) {
                let g = dy.to_acc() * weight.to_acc();
                *sum += g;
                *product += g * ((x.to_acc() - mean) * rstd);
            }
        }
        let (mean_g, mean_gx) = (tree(sums) * scale, tree(products) * scale);
        for (((dx, x), dy), weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
            let xhat = (x.to_acc() - mean) * rstd;
            *dx = T::from_acc(rstd * (dy.to_acc() * weight.to_acc() - mean_g - xhat * mean_gx));
        }
    }

    fn add<A: Real>(total: &mut [A], sums: &[A]) {
        for (total, sum) in total.iter_mut().zip(sums) {
            *total += *sum;
        }
    }
}
