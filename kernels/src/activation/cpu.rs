//! Activations on the CPU: bands of rows over threads, one loop a function so that each vectorises.

use rayon::prelude::*;

use super::{Backward, Forward, Kind};
use crate::runtime::{Cpu, Float, Real, Stream};
use crate::vectorize;

/// Elements that one task works on.
const BAND: usize = 1 << 14;

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, args: Forward<T>) {
    let access = stream.access();
    let x = access.read_rows(args.x);
    let (width, rows) = band(args.x.width());
    let bands = access.write_rows(args.y).into_tiles(rows, width);
    cpu.install(|| {
        bands.into_par_iter().enumerate().for_each(|(band, mut y)| {
            for row in 0..y.rows() {
                value::<T>(y.row_mut(row), x.row(band * rows + row), args.kind);
            }
        });
    });
}

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, args: Backward<T>) {
    let access = stream.access();
    let (x, dy) = (access.read_rows(args.x), access.read_rows(args.dy));
    let (width, rows) = band(args.x.width());
    let bands = access.write_rows(args.dx).into_tiles(rows, width);
    cpu.install(|| {
        bands.into_par_iter().enumerate().for_each(|(band, mut dx)| {
            for row in 0..dx.rows() {
                let at = band * rows + row;
                slope::<T>(dx.row_mut(row), dy.row(at), x.row(at), args.kind);
            }
        });
    });
}

fn band(width: usize) -> (usize, usize) {
    let width = width.max(1);
    (width, (BAND / width).max(1))
}

#[inline(always)]
fn map<T: Float>(y: &mut [T], x: &[T], f: impl Fn(T::Acc) -> T::Acc) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = T::from_acc(f(x.to_acc()));
    }
}

#[inline(always)]
fn scale<T: Float>(dx: &mut [T], dy: &[T], x: &[T], derivative: impl Fn(T::Acc) -> T::Acc) {
    for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
        *dx = T::from_acc(dy.to_acc() * derivative(x.to_acc()));
    }
}

/// The normal distribution's probability below `x`.
#[inline(always)]
fn normal<A: Real>(x: A) -> A {
    A::of(0.5) * (A::ONE + (x * A::of(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

#[inline(always)]
fn sigmoid<A: Real>(x: A) -> A {
    A::ONE / (A::ONE + (-x).exp())
}

vectorize! {
    fn value<T: Float>(y: &mut [T], x: &[T], kind: Kind) {
        let zero = T::Acc::ZERO;
        match kind {
            Kind::Relu => map(y, x, |x| if x <= zero { zero } else { x }),
            Kind::Gelu => map(y, x, |x| x * normal(x)),
            Kind::LeakyRelu { slope } => {
                let slope = T::Acc::of(slope);
                map(y, x, |x| if x <= zero { slope * x } else { x });
            }
            Kind::Sigmoid => map(y, x, sigmoid),
        }
    }

    fn slope<T: Float>(dx: &mut [T], dy: &[T], x: &[T], kind: Kind) {
        let (zero, one) = (T::Acc::ZERO, T::Acc::ONE);
        match kind {
            Kind::Relu => scale(dx, dy, x, |x| if x <= zero { zero } else { one }),
            Kind::Gelu => {
                // 1 / sqrt(2 pi)
                let density = T::Acc::of(std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2 * 0.5);
                let half = T::Acc::of(-0.5);
                scale(dx, dy, x, |x| normal(x) + x * density * (half * x * x).exp());
            }
            Kind::LeakyRelu { slope } => {
                let slope = T::Acc::of(slope);
                scale(dx, dy, x, |x| if x <= zero { slope } else { one });
            }
            Kind::Sigmoid => scale(dx, dy, x, |x| {
                let y = sigmoid(x);
                y * (one - y)
            }),
        }
    }
}
