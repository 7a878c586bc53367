//! From a tile of sums to `c`: the epilogue, applied while the tile is in the first-level cache.

use crate::runtime::{Float, Real, Rows, RowsMut};
use crate::vectorize;

/// Lanes that are finished at a time; the width of every micro-kernel is a multiple.
const LANES: usize = 16;

/// What to do with a tile; see [`super::Epilogue`].
#[derive(Clone, Copy)]
pub(super) enum Finish<'a, C: Float> {
    None,
    Bias(&'a [C]),
    Relu(&'a [C]),
    Gelu(&'a [C]),
    BiasResidual(&'a [C], Rows<'a, C>),
    Residual(Rows<'a, C>),
    ReluMask(Rows<'a, C>),
    GeluMask(Rows<'a, C>),
    /// `c = alpha ab`.
    Scale(C::Acc),
    /// `c += alpha ab`, once a block of depth.
    Add(C::Acc),
}

/// A part of `c` with what its epilogue needs.
pub(super) struct Output<'a, C: Float> {
    pub(super) c: RowsMut<'a, C>,
    pub(super) pre_activation: Option<RowsMut<'a, C>>,
    pub(super) finish: Finish<'a, C>,
    /// First row and column of this part in the whole matrix.
    pub(super) row: usize,
    pub(super) column: usize,
}

impl<'a, C: Float> Output<'a, C> {
    /// True when each block of depth is added to `c` by itself.
    pub(super) fn adds(&self) -> bool {
        matches!(self.finish, Finish::Add(_))
    }

    /// The same part for a shorter time.
    pub(super) fn reborrow(&mut self) -> Output<'_, C> {
        let pre_activation = self.pre_activation.as_mut().map(RowsMut::reborrow);
        Output { c: self.c.reborrow(), pre_activation, finish: self.finish, row: self.row, column: self.column }
    }

    /// Columns before and from `at`.
    pub(super) fn split_columns(self, at: usize) -> (Output<'a, C>, Output<'a, C>) {
        let Output { c, pre_activation, finish, row, column } = self;
        let (left, right) = c.split_columns(at);
        let (pre_left, pre_right) = pre_activation.map(|matrix| matrix.split_columns(at)).unzip();
        let part = |c, pre_activation, column| Output { c, pre_activation, finish, row, column };
        (part(left, pre_left, column), part(right, pre_right, column + at))
    }

    /// Cuts it into tiles of at most `rows x columns`.
    pub(super) fn into_tiles(self, rows: usize, columns: usize) -> Vec<Output<'a, C>> {
        let across = self.c.width().div_ceil(columns).max(1);
        let Output { c, pre_activation, finish, row, column } = self;
        let mut pre_activation = pre_activation.map(|matrix| matrix.into_tiles(rows, columns).into_iter());
        let tile = |(index, c)| {
            let pre_activation = pre_activation.as_mut().and_then(Iterator::next);
            Output { c, pre_activation, finish, row: row + index / across * rows, column: column + index % across * columns }
        };
        c.into_tiles(rows, columns).into_iter().enumerate().map(tile).collect()
    }
}

vectorize! {
    /// Finishes rows `row..row + rows` and columns `column..column + columns` of `output` from a tile of sums, `stride` a row.
    pub(super) fn store<C: Float>(output: &mut Output<'_, C>, row: usize, column: usize, rows: usize, columns: usize, tile: &[C::Acc], stride: usize) {
        for (at, sums) in tile.chunks_exact(stride).take(rows).enumerate() {
            for (start, sums) in sums.as_chunks::<LANES>().0.iter().enumerate() {
                let start = start * LANES;
                if start < columns {
                    lanes(output, row + at, column + start, LANES.min(columns - start), sums);
                }
            }
        }
    }
}

#[inline(always)]
fn lanes<C: Float>(output: &mut Output<'_, C>, row: usize, column: usize, width: usize, sums: &[C::Acc; LANES]) {
    let (global_row, global_column) = (output.row + row, output.column + column);
    let vector = |values: &[C]| load(&values[global_column..global_column + width]);
    let matrix = |values: Rows<'_, C>| load(&values.row(global_row)[global_column..global_column + width]);
    let c = &mut output.c.row_mut(row)[column..column + width];
    let values = match output.finish {
        Finish::None => *sums,
        Finish::Scale(alpha) => sums.map(|sum| sum * alpha),
        Finish::Add(alpha) => zip(load(c), *sums, |c, sum| c + alpha * sum),
        Finish::Bias(bias) => zip(*sums, vector(bias), |sum, bias| sum + bias),
        Finish::Relu(bias) => zip(*sums, vector(bias), |sum, bias| (sum + bias).max(C::Acc::ZERO)),
        Finish::BiasResidual(bias, residual) => {
            zip(zip(*sums, vector(bias), |sum, bias| sum + bias), matrix(residual), |sum, residual| sum + residual)
        }
        Finish::Residual(residual) => zip(*sums, matrix(residual), |sum, residual| sum + residual),
        Finish::ReluMask(mask) => zip(*sums, matrix(mask), |sum, output| if output > C::Acc::ZERO { sum } else { C::Acc::ZERO }),
        Finish::GeluMask(mask) => zip(*sums, matrix(mask), |sum, x| sum * gelu_derivative(x)),
        Finish::Gelu(bias) => {
            let x = zip(*sums, vector(bias), |sum, bias| sum + bias);
            if let Some(matrix) = &mut output.pre_activation {
                keep(&mut matrix.row_mut(row)[column..column + width], &x);
            }
            gelu_lanes(x)
        }
    };
    keep(c, &values);
}

#[inline(always)]
fn zip<A: Real>(left: [A; LANES], right: [A; LANES], body: impl Fn(A, A) -> A) -> [A; LANES] {
    let mut result = [A::ZERO; LANES];
    for lane in 0..LANES {
        result[lane] = body(left[lane], right[lane]);
    }
    result
}

#[inline(always)]
fn gelu_lanes<A: Real>(x: [A; LANES]) -> [A; LANES] {
    zip(x, x, |x, _| gelu(x))
}

#[inline(always)]
fn load<C: Float>(values: &[C]) -> [C::Acc; LANES] {
    let mut result = [C::Acc::ZERO; LANES];
    if let Some(values) = values.first_chunk::<LANES>() {
        for lane in 0..LANES {
            result[lane] = values[lane].to_acc();
        }
    } else {
        for (result, value) in result.iter_mut().zip(values) {
            *result = value.to_acc();
        }
    }
    result
}

#[inline(always)]
fn keep<C: Float>(target: &mut [C], values: &[C::Acc; LANES]) {
    if let Some(target) = target.first_chunk_mut::<LANES>() {
        for lane in 0..LANES {
            target[lane] = C::from_acc(values[lane]);
        }
    } else {
        for (target, value) in target.iter_mut().zip(values) {
            *target = C::from_acc(*value);
        }
    }
}

#[inline(always)]
fn gelu<A: Real>(x: A) -> A {
    A::of(0.5) * x * (A::ONE + (x * A::of(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

/// `Phi(x) + x phi(x)`: the distribution function of the standard normal and its density.
#[inline(always)]
fn gelu_derivative<A: Real>(x: A) -> A {
    let distribution = A::of(0.5) * (A::ONE + (x * A::of(std::f64::consts::FRAC_1_SQRT_2)).erf());
    let density = (A::of(-0.5) * x * x).exp() * A::of(0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2);
    distribution + x * density
}
