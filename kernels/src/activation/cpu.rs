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

/// One function and its derivative. A trait and not closures: a closure's call may be left out of line, where it is compiled
/// without the caller's vector instructions.
trait Function<A>: Copy {
    fn value(self, x: A) -> A;
    fn slope(self, x: A) -> A;
}

#[derive(Clone, Copy)]
struct Relu;

impl<A: Real> Function<A> for Relu {
    #[inline(always)]
    fn value(self, x: A) -> A {
        if x <= A::ZERO { A::ZERO } else { x }
    }
    #[inline(always)]
    fn slope(self, x: A) -> A {
        if x <= A::ZERO { A::ZERO } else { A::ONE }
    }
}

#[derive(Clone, Copy)]
struct LeakyRelu<A>(A);

impl<A: Real> Function<A> for LeakyRelu<A> {
    #[inline(always)]
    fn value(self, x: A) -> A {
        if x <= A::ZERO { self.0 * x } else { x }
    }
    #[inline(always)]
    fn slope(self, x: A) -> A {
        if x <= A::ZERO { self.0 } else { A::ONE }
    }
}

#[derive(Clone, Copy)]
struct Gelu;

/// The normal distribution's probability below `x`.
#[inline(always)]
fn normal<A: Real>(x: A) -> A {
    A::of(0.5) * (A::ONE + (x * A::of(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

impl<A: Real> Function<A> for Gelu {
    #[inline(always)]
    fn value(self, x: A) -> A {
        x * normal(x)
    }
    #[inline(always)]
    fn slope(self, x: A) -> A {
        // 1 / sqrt(2 pi)
        let density = A::of(std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2 * 0.5);
        normal(x) + x * density * (A::of(-0.5) * x * x).exp()
    }
}

#[derive(Clone, Copy)]
struct Sigmoid;

impl<A: Real> Function<A> for Sigmoid {
    #[inline(always)]
    fn value(self, x: A) -> A {
        A::ONE / (A::ONE + (-x).exp())
    }
    #[inline(always)]
    fn slope(self, x: A) -> A {
        let y = self.value(x);
        y * (A::ONE - y)
    }
}

#[inline(always)]
fn values<T: Float>(y: &mut [T], x: &[T], function: impl Function<T::Acc>) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = T::from_acc(function.value(x.to_acc()));
    }
}

#[inline(always)]
fn slopes<T: Float>(dx: &mut [T], dy: &[T], x: &[T], function: impl Function<T::Acc>) {
    for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
        *dx = T::from_acc(dy.to_acc() * function.slope(x.to_acc()));
    }
}

vectorize! {
    fn value<T: Float>(y: &mut [T], x: &[T], kind: Kind) {
        match kind {
            Kind::Relu => values(y, x, Relu),
            Kind::Gelu => values(y, x, Gelu),
            Kind::LeakyRelu { slope } => values(y, x, LeakyRelu(T::Acc::of(slope))),
            Kind::Sigmoid => values(y, x, Sigmoid),
        }
    }

    fn slope<T: Float>(dx: &mut [T], dy: &[T], x: &[T], kind: Kind) {
        match kind {
            Kind::Relu => slopes(dx, dy, x, Relu),
            Kind::Gelu => slopes(dx, dy, x, Gelu),
            Kind::LeakyRelu { slope } => slopes(dx, dy, x, LeakyRelu(T::Acc::of(slope))),
            Kind::Sigmoid => slopes(dx, dy, x, Sigmoid),
        }
    }
}
