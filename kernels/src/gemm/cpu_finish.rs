//! From a tile of sums to `c`: the epilogue, applied while the tile is in the first-level cache.

use crate::runtime::{Float, Real, Rows, RowsMut};
use crate::vectorize;

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
    /// `c += ab`, once.
    Join,
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
            let (sums, row) = (&sums[..columns], row + at);
            let (global_row, global_column) = (output.row + row, output.column + column);
            let c = &mut output.c.row_mut(row)[column..column + columns];
            let pre_activation = output.pre_activation.as_mut().map(|matrix| &mut matrix.row_mut(row)[column..column + columns]);
            finish_row(output.finish, c, pre_activation, sums, global_row, global_column);
        }
    }
}

/// One row of a tile. The length is not a constant, so that the loops become vector loops instead of straight code.
#[inline(always)]
fn finish_row<C: Float>(finish: Finish<'_, C>, c: &mut [C], kept: Option<&mut [C]>, sums: &[C::Acc], row: usize, column: usize) {
    let columns = column..column + sums.len();
    match finish {
        Finish::None => plain(c, sums, |sum| sum),
        Finish::Scale(alpha) => plain(c, sums, |sum| sum * alpha),
        Finish::Join => {
            for (c, sum) in c.iter_mut().zip(sums) {
                *c = C::from_acc(c.to_acc() + *sum);
            }
        }
        Finish::Add(alpha) => {
            for (c, sum) in c.iter_mut().zip(sums) {
                *c = C::from_acc(c.to_acc() + alpha * *sum);
            }
        }
        Finish::Bias(bias) => with(c, sums, &bias[columns], |sum, bias| sum + bias),
        Finish::Relu(bias) => with(c, sums, &bias[columns], |sum, bias| (sum + bias).max(C::Acc::ZERO)),
        Finish::Residual(residual) => with(c, sums, &residual.row(row)[columns], |sum, residual| sum + residual),
        Finish::BiasResidual(bias, residual) => {
            for (((c, sum), bias), residual) in c.iter_mut().zip(sums).zip(&bias[columns.clone()]).zip(&residual.row(row)[columns]) {
                *c = C::from_acc(*sum + bias.to_acc() + residual.to_acc());
            }
        }
        Finish::ReluMask(mask) => {
            with(c, sums, &mask.row(row)[columns], |sum, output| if output > C::Acc::ZERO { sum } else { C::Acc::ZERO });
        }
        Finish::GeluMask(mask) => with(c, sums, &mask.row(row)[columns], |sum, x| sum * gelu_derivative(x)),
        Finish::Gelu(bias) => match kept {
            None => with(c, sums, &bias[columns], |sum, bias| gelu(sum + bias)),
            Some(kept) => {
                with(kept, sums, &bias[columns.clone()], |sum, bias| sum + bias);
                with(c, sums, &bias[columns], |sum, bias| gelu(sum + bias));
            }
        },
    }
}

#[inline(always)]
fn plain<C: Float>(c: &mut [C], sums: &[C::Acc], body: impl Fn(C::Acc) -> C::Acc) {
    for (c, sum) in c.iter_mut().zip(sums) {
        *c = C::from_acc(body(*sum));
    }
}

#[inline(always)]
fn with<C: Float>(c: &mut [C], sums: &[C::Acc], other: &[C], body: impl Fn(C::Acc, C::Acc) -> C::Acc) {
    for ((c, sum), other) in c.iter_mut().zip(sums).zip(other) {
        *c = C::from_acc(body(*sum, other.to_acc()));
    }
}

#[inline(always)]
fn gelu<A: Real>(x: A) -> A {
    x * normal_distribution(x)
}

/// Distribution function of the standard normal, `(1 + erf(x / sqrt 2)) / 2`. Beyond 6 erf is 1 in f64 too; going further would only
/// reach subnormal numbers, which are slow.
#[inline(always)]
fn normal_distribution<A: Real>(x: A) -> A {
    let limit = A::of(6.0);
    let scaled = (x * A::of(std::f64::consts::FRAC_1_SQRT_2)).max(-limit).min(limit);
    A::of(0.5) * (A::ONE + scaled.erf())
}

/// `Phi(x) + x phi(x)`: the distribution function of the standard normal and its density, which is below 1e-36 beyond 13.
#[inline(always)]
fn gelu_derivative<A: Real>(x: A) -> A {
    let limit = A::of(13.0);
    let near = x.max(-limit).min(limit);
    let density = (A::of(-0.5) * near * near).exp() * A::of(0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2);
    normal_distribution(x) + x * density
}
