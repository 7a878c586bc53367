//! The value encoder as two plain layers: the reference for the tables.

use rayon::prelude::*;

use super::cpu::View;
use super::cpu_backward::{Sinks, Upstream, add, add_narrow, add_scaled, rows, value_row};
use super::cpu_tables::{COLUMNS, is_off};
use crate::runtime::math::{LANES, tree};
use crate::runtime::{Cpu, Float, Real, with_buffer};
use crate::vectorize;

/// Tokens of one step of backward.
const STEP: usize = 64;
/// Rows a token in backward: hidden units, their gradients, dz, and its addends to the gradients of `LN_v`'s scale and shift.
const ROWS: usize = 5;

/// Scratch elements that [`backward`] needs.
pub(super) fn scratch(width: usize) -> usize {
    STEP * ROWS * width
}

/// `z` of some tokens; a token without a value counts as 0.
pub(super) fn encode<T: Float>(view: &View<T>, z: &mut [T::Acc], values: &[Option<T::Acc>]) {
    let width = view.width();
    with_buffer(values.len() * width, |hidden: &mut [T::Acc]| {
        for (hidden, u) in hidden.chunks_exact_mut(width).zip(values) {
            first_layer::<T>(hidden, view.linear1_weight, view.linear1_bias, u.unwrap_or(T::Acc::ZERO));
        }
        for (column, bias) in view.linear2_bias.iter().enumerate() {
            let weights = view.linear2_weight.row(column);
            for (z, hidden) in z.chunks_exact_mut(width).zip(hidden.chunks_exact(width)) {
                z[column] = dot::<T>(weights, hidden) + bias.to_acc();
            }
        }
    });
}

/// Gradients of the value encoder and the flag, a step of tokens at a time.
pub(super) fn backward<T: Float>(cpu: &Cpu, view: &View<T>, upstream: &Upstream<T>, scratch: &mut [T::Acc], mut sinks: Sinks<T::Acc>) {
    let width = view.width();
    let tokens = view.ids.len();
    for start in (0..tokens).step_by(STEP) {
        let step = &mut scratch[..STEP.min(tokens - start) * ROWS * width];
        cpu.install(|| {
            step.par_chunks_exact_mut(ROWS * width).enumerate().for_each(|(index, token)| {
                token.fill(T::Acc::ZERO);
                let Some(u) = view.value(start + index) else { return };
                let [hidden, dhidden, dz, dweight, dbias] = rows(token, width);
                with_buffer(width, |z: &mut [T::Acc]| {
                    view.encode(z, &[Some(u)]);
                    value_row(view, upstream, start + index, z, dz, dweight, dbias);
                });
                first_layer::<T>(hidden, view.linear1_weight, view.linear1_bias, u);
                for (row, dz) in dz.iter().enumerate() {
                    add_scaled_row::<T>(dhidden, view.linear2_weight.row(row), *dz);
                }
                switch_off(dhidden, hidden);
            });
            let step = &*step;
            let tiles = sinks.linear2_weight.as_mut().map(|sink| sink.reborrow().into_tiles(COLUMNS, width)).unwrap_or_default();
            tiles.into_par_iter().enumerate().for_each(|(tile, mut dweight)| {
                for row in 0..dweight.rows() {
                    for token in step.chunks_exact(ROWS * width) {
                        add_scaled(dweight.row_mut(row), &token[..width], token[2 * width + tile * COLUMNS + row]);
                    }
                }
            });
        });
        for (index, token) in step.chunks_exact(ROWS * width).enumerate() {
            let row = |row: usize| &token[row * width..(row + 1) * width];
            let sums =
                [(&mut sinks.linear1_bias, 1), (&mut sinks.linear2_bias, 2), (&mut sinks.value_weight, 3), (&mut sinks.value_bias, 4)];
            for (sink, from) in sums.into_iter().filter_map(|(sink, from)| sink.as_mut().map(|sink| (sink, from))) {
                add(sink, row(from));
            }
            match (view.value(start + index), &mut sinks.linear1_weight, &mut sinks.flag) {
                (Some(u), Some(sink), _) => add_scaled(sink, row(1), u),
                (None, _, Some(sink)) => add_narrow::<T>(sink, upstream.dy.row(start + index)),
                _ => {}
            }
        }
    }
}

vectorize! {
    fn first_layer<T: Float>(hidden: &mut [T::Acc], weights: &[T], biases: &[T], u: T::Acc) {
        for ((hidden, weight), bias) in hidden.iter_mut().zip(weights).zip(biases) {
            let value = weight.to_acc() * u + bias.to_acc();
            *hidden = if is_off(value) { T::Acc::ZERO } else { value };
        }
    }

    fn dot<T: Float>(weights: &[T], x: &[T::Acc]) -> T::Acc {
        let mut sums = [T::Acc::ZERO; LANES];
        for (weights, x) in weights.chunks(LANES).zip(x.chunks(LANES)) {
            for ((sum, weight), x) in sums.iter_mut().zip(weights).zip(x) {
                *sum += weight.to_acc() * *x;
            }
        }
        tree(sums)
    }

    fn add_scaled_row<T: Float>(total: &mut [T::Acc], x: &[T], scale: T::Acc) {
        for (total, x) in total.iter_mut().zip(x) {
            *total += x.to_acc() * scale;
        }
    }

    /// Takes the gradient from units that were off.
    fn switch_off<A: Real>(dhidden: &mut [A], hidden: &[A]) {
        for (dhidden, hidden) in dhidden.iter_mut().zip(hidden) {
            *dhidden = if is_off(*hidden) { A::ZERO } else { *dhidden };
        }
    }
}
