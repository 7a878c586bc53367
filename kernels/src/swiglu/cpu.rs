//! SwiGLU on the CPU: bands of rows over threads.

use rayon::prelude::*;

use super::{Backward, Forward};
use crate::runtime::{Cpu, Float, Real, Stream};
use crate::vectorize;

/// Rows that one task works on.
const BAND: usize = 16;

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, args: Forward<T>) {
    let access = stream.access();
    let (gate, up) = (access.read_rows(args.gate), access.read_rows(args.up));
    let bands = access.write_rows(args.y).into_tiles(BAND, args.y.width().max(1));
    cpu.install(|| {
        bands.into_par_iter().enumerate().for_each(|(band, mut y)| {
            for row in 0..y.rows() {
                value::<T>(y.row_mut(row), gate.row(band * BAND + row), up.row(band * BAND + row));
            }
        });
    });
}

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, args: Backward<T>) {
    let access = stream.access();
    let (gate, up, dy) = (access.read_rows(args.gate), access.read_rows(args.up), access.read_rows(args.dy));
    let width = args.gate.width().max(1);
    let (dgate, dup) = (access.write_rows(args.dgate).into_tiles(BAND, width), access.write_rows(args.dup).into_tiles(BAND, width));
    cpu.install(|| {
        dgate.into_par_iter().zip(dup).enumerate().for_each(|(band, (mut dgate, mut dup))| {
            for row in 0..dgate.rows() {
                let at = band * BAND + row;
                slopes::<T>(dgate.row_mut(row), dup.row_mut(row), dy.row(at), gate.row(at), up.row(at));
            }
        });
    });
}

#[inline(always)]
fn sigmoid<A: Real>(x: A) -> A {
    A::ONE / (A::ONE + (-x).exp())
}

vectorize! {
    fn value<T: Float>(y: &mut [T], gate: &[T], up: &[T]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            let gate = gate.to_acc();
            *y = T::from_acc(gate * sigmoid(gate) * up.to_acc());
        }
    }

    fn slopes<T: Float>(dgate: &mut [T], dup: &mut [T], dy: &[T], gate: &[T], up: &[T]) {
        for ((((dgate, dup), dy), gate), up) in dgate.iter_mut().zip(dup).zip(dy).zip(gate).zip(up) {
            let (dy, gate) = (dy.to_acc(), gate.to_acc());
            let share = sigmoid(gate);
            *dgate = T::from_acc(dy * up.to_acc() * share * (T::Acc::ONE + gate * (T::Acc::ONE - share)));
            *dup = T::from_acc(dy * gate * share);
        }
    }
}
