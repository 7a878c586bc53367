//! Dropout on the CPU: bands of rows over threads, the mask drawn a piece of a row at a time.

use rayon::prelude::*;

use super::Mask;
use crate::runtime::{Cpu, Float, Real, Stream, Tensor};
use crate::vectorize;

/// Elements that one task works on.
const BAND: usize = 1 << 14;
/// Elements whose factors are drawn before they are used.
const PIECE: usize = 512;

pub(super) fn apply<T: Float>(stream: &Stream, cpu: &Cpu, y: Tensor<T>, x: Tensor<T>, residual: Option<Tensor<T>>, mask: Mask) {
    let access = stream.access();
    let (x, residual) = (access.read_rows(x), residual.map(|residual| access.read_rows(residual)));
    let width = y.width().max(1);
    let rows = (BAND / width).max(1);
    let bands = access.write_rows(y).into_tiles(rows, width);
    cpu.install(|| {
        bands.into_par_iter().enumerate().for_each(|(band, mut y)| {
            let mut factors = [T::Acc::ZERO; PIECE];
            for row in 0..y.rows() {
                let at = band * rows + row;
                let (y, x, residual) = (y.row_mut(row), x.row(at), residual.as_ref().map(|residual| residual.row(at)));
                row_of(y, x, residual, &mut factors, at * width, mask);
            }
        });
    });
}

fn row_of<T: Float>(y: &mut [T], x: &[T], residual: Option<&[T]>, factors: &mut [T::Acc; PIECE], start: usize, mask: Mask) {
    for (index, (y, x)) in y.chunks_mut(PIECE).zip(x.chunks(PIECE)).enumerate() {
        let (from, factors) = (index * PIECE, &mut factors[..x.len()]);
        mask.factors(factors, start + from);
        match residual {
            None => multiply::<T>(y, x, factors),
            Some(residual) => multiply_add::<T>(y, x, factors, &residual[from..]),
        }
    }
}

vectorize! {
    fn multiply<T: Float>(y: &mut [T], x: &[T], factors: &[T::Acc]) {
        for ((y, x), factor) in y.iter_mut().zip(x).zip(factors) {
            *y = T::from_acc(x.to_acc() * *factor);
        }
    }

    fn multiply_add<T: Float>(y: &mut [T], x: &[T], factors: &[T::Acc], residual: &[T]) {
        for (((y, x), factor), residual) in y.iter_mut().zip(x).zip(factors).zip(residual) {
            *y = T::from_acc(x.to_acc() * *factor + residual.to_acc());
        }
    }
}
