//! Forward on the CPU, and what both passes share: inputs as slices, normalisation of a row.

use rayon::prelude::*;

use super::{Forward, Inputs, Method, cpu_gemm};
use crate::dropout::Mask;
use crate::embedding::check_ids;
use crate::runtime::math::{LANES, tree};
use crate::runtime::{Access, Cpu, Float, Real, Rows, RowsMut, Stream, with_buffer};
use crate::{Result, vectorize};

/// Tokens that one task works on.
const BAND: usize = 64;
/// Tokens whose values are encoded before they are normalised.
const BLOCK: usize = 16;

/// [`Inputs`] as slices.
pub(super) struct View<'a, T: Float> {
    pub(super) ids: &'a [u32],
    pub(super) table: Rows<'a, T>,
    pub(super) gene_weight: &'a [T],
    pub(super) gene_bias: &'a [T],
    pub(super) linear1_weight: &'a [T],
    pub(super) linear1_bias: &'a [T],
    pub(super) linear2_weight: Rows<'a, T>,
    pub(super) linear2_bias: &'a [T],
    pub(super) value_weight: &'a [T],
    pub(super) value_bias: &'a [T],
    pub(super) order: &'a [u32],
    pub(super) method: Method,
    flag: Option<&'a [T]>,
    values: &'a [T::Acc],
    known: Option<(&'a [u32], usize)>,
    breakpoints: &'a [T::Acc],
    slope: Rows<'a, T::Acc>,
    intercept: Rows<'a, T::Acc>,
    clamp: T::Acc,
    mask: Option<Mask>,
}

impl<'a, T: Float> View<'a, T> {
    pub(super) fn open(access: &'a Access, op: &'static str, inputs: Inputs<T>) -> Result<View<'a, T>> {
        let (parameters, tables) = (inputs.parameters, inputs.tables);
        let ids = access.read(inputs.ids);
        check_ids(op, ids, parameters.table.rows())?;
        Ok(View {
            ids,
            table: access.read_rows(parameters.table),
            gene_weight: access.read(parameters.gene_weight),
            gene_bias: access.read(parameters.gene_bias),
            linear1_weight: access.read(parameters.linear1_weight),
            linear1_bias: access.read(parameters.linear1_bias),
            linear2_weight: access.read_rows(parameters.linear2_weight),
            linear2_bias: access.read(parameters.linear2_bias),
            value_weight: access.read(parameters.value_weight),
            value_bias: access.read(parameters.value_bias),
            order: access.read(tables.order),
            method: inputs.method,
            flag: parameters.flag.map(|flag| access.read_rows(flag).row(1)),
            values: access.read(inputs.values),
            known: inputs.generated.map(|generated| (access.read(generated.known_lengths), generated.seq_len)),
            breakpoints: access.read(tables.breakpoints),
            slope: access.read_rows(tables.slope),
            intercept: access.read_rows(tables.intercept),
            clamp: T::Acc::of(inputs.clamp),
            mask: inputs.mask,
        })
    }

    pub(super) fn width(&self) -> usize {
        self.gene_weight.len()
    }

    /// The clamped value of a token; none when it is generated.
    pub(super) fn value(&self, token: usize) -> Option<T::Acc> {
        let generated = self.known.is_some_and(|(lengths, seq_len)| token % seq_len >= lengths[token / seq_len] as usize);
        let value = self.values[token];
        // Not `min`, which would turn NaN into the clamp.
        (!generated).then_some(if value > self.clamp { self.clamp } else { value })
    }

    /// The number of breakpoints below `u`.
    pub(super) fn segment(&self, u: T::Acc) -> usize {
        let (mut base, mut size) = (0, self.breakpoints.len());
        while size > 1 {
            let half = size / 2;
            base += if self.breakpoints[base + half - 1] < u { half } else { 0 };
            size -= half;
        }
        base + usize::from(self.breakpoints.get(base).is_some_and(|point| *point < u))
    }

    /// `z` of `values`, a row each; rows without a value are left alone.
    pub(super) fn encode(&self, z: &mut [T::Acc], values: &[Option<T::Acc>]) {
        match self.method {
            Method::Gemm => cpu_gemm::encode(self, z, values),
            Method::Piecewise => {
                for (z, u) in z.chunks_exact_mut(self.width()).zip(values) {
                    if let Some(u) = u {
                        self.line(z, self.segment(*u), *u);
                    }
                }
            }
        }
    }

    /// `z` of a value in a segment.
    pub(super) fn line(&self, z: &mut [T::Acc], segment: usize, u: T::Acc) {
        line(z, self.slope.row(segment), self.intercept.row(segment), u);
    }

    /// Dropout factors of a token's row.
    pub(super) fn factors(&self, out: &mut [T::Acc], token: usize) {
        match self.mask {
            Some(mask) => mask.factors(out, token * self.width()),
            None => out.fill(T::Acc::ONE),
        }
    }
}

/// Statistics of one band of tokens, to write.
struct Statistics<'a, A> {
    gene_mean: &'a mut [A],
    gene_rstd: &'a mut [A],
    value_mean: &'a mut [A],
    value_rstd: &'a mut [A],
}

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, op: &'static str, inputs: Inputs<T>, args: Forward<T>) -> Result<()> {
    let access = stream.access();
    let view = View::open(&access, op, inputs)?;
    let width = view.width().max(1);
    let eps = T::Acc::of(args.eps);
    let ys = access.write_rows(args.y).into_tiles(BAND, width);
    let mut genes: Vec<_> =
        args.gene.map(|gene| access.write_rows(gene).into_tiles(BAND, width).into_iter().map(Some).collect()).unwrap_or_default();
    genes.resize_with(ys.len(), || None);
    let saved = [args.saved.gene_mean, args.saved.gene_rstd, args.saved.value_mean, args.saved.value_rstd];
    let [gene_mean, gene_rstd, value_mean, value_rstd] = saved.map(|tensor| access.write(tensor).par_chunks_mut(BAND));
    let statistics = gene_mean.zip(gene_rstd).zip(value_mean).zip(value_rstd);
    cpu.install(|| {
        ys.into_par_iter().zip(genes).zip(statistics).enumerate().for_each(|(index, ((y, gene), statistics))| {
            let (((gene_mean, gene_rstd), value_mean), value_rstd) = statistics;
            band(&view, index * BAND, y, gene, Statistics { gene_mean, gene_rstd, value_mean, value_rstd }, eps);
        });
    });
    Ok(())
}

fn band<T: Float>(view: &View<T>, first: usize, mut y: RowsMut<T>, mut gene: Option<RowsMut<T>>, saved: Statistics<T::Acc>, eps: T::Acc) {
    let width = view.width();
    with_buffer((BLOCK + 2) * width, |buffer: &mut [T::Acc]| {
        let (x_g, rest) = buffer.split_at_mut(width);
        let (factors, z) = rest.split_at_mut(width);
        for start in (0..y.rows()).step_by(BLOCK) {
            let count = BLOCK.min(y.rows() - start);
            let mut values = [None; BLOCK];
            for (index, value) in values[..count].iter_mut().enumerate() {
                *value = view.value(first + start + index);
            }
            view.encode(&mut z[..count * width], &values[..count]);
            for (index, value) in values[..count].iter().enumerate() {
                let (row, token) = (start + index, first + start + index);
                let embedded = view.table.row(view.ids[token] as usize);
                (saved.gene_mean[row], saved.gene_rstd[row]) = widened_statistics::<T>(x_g, embedded, eps);
                normalise::<T>(x_g, view.gene_weight, view.gene_bias, saved.gene_mean[row], saved.gene_rstd[row]);
                if let Some(gene) = &mut gene {
                    store::<T>(gene.row_mut(row), x_g);
                }
                (saved.value_mean[row], saved.value_rstd[row]) = (T::Acc::ZERO, T::Acc::ZERO);
                match (value, view.flag) {
                    (Some(_), _) => {
                        let z = &mut z[index * width..(index + 1) * width];
                        let (mean, rstd) = statistics(z, eps);
                        (saved.value_mean[row], saved.value_rstd[row]) = (mean, rstd);
                        normalise::<T>(z, view.value_weight, view.value_bias, mean, rstd);
                        view.factors(factors, token);
                        store_known::<T>(y.row_mut(row), x_g, z, factors);
                    }
                    (None, Some(flag)) => store_generated::<T>(y.row_mut(row), x_g, flag),
                    // Refused by the check: generated tokens need a flag.
                    (None, None) => store::<T>(y.row_mut(row), x_g),
                }
            }
        }
    });
}

#[inline(always)]
fn row_statistics<A: Real>(x: &[A], eps: A) -> (A, A) {
    let scale = A::of(1.0 / x.len() as f64);
    let mut sums = [A::ZERO; LANES];
    for block in x.chunks(LANES) {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += *x;
        }
    }
    let mean = tree(sums) * scale;
    let mut squares = [A::ZERO; LANES];
    for block in x.chunks(LANES) {
        for (square, x) in squares.iter_mut().zip(block) {
            let centred = *x - mean;
            *square += centred * centred;
        }
    }
    (mean, A::ONE / (tree(squares) * scale + eps).sqrt())
}

vectorize! {
    fn line<A: Real>(z: &mut [A], slope: &[A], intercept: &[A], u: A) {
        for ((z, slope), intercept) in z.iter_mut().zip(slope).zip(intercept) {
            *z = *slope * u + *intercept;
        }
    }

    fn statistics<A: Real>(x: &[A], eps: A) -> (A, A) {
        row_statistics(x, eps)
    }

    fn widened_statistics<T: Float>(wide: &mut [T::Acc], x: &[T], eps: T::Acc) -> (T::Acc, T::Acc) {
        for (wide, x) in wide.iter_mut().zip(x) {
            *wide = x.to_acc();
        }
        row_statistics(wide, eps)
    }

    fn normalise<T: Float>(x: &mut [T::Acc], weight: &[T], bias: &[T], mean: T::Acc, rstd: T::Acc) {
        for ((x, weight), bias) in x.iter_mut().zip(weight).zip(bias) {
            *x = (*x - mean) * rstd * weight.to_acc() + bias.to_acc();
        }
    }

    fn store<T: Float>(y: &mut [T], x: &[T::Acc]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = T::from_acc(*x);
        }
    }

    fn store_known<T: Float>(y: &mut [T], gene: &[T::Acc], value: &[T::Acc], factors: &[T::Acc]) {
        for (((y, gene), value), factor) in y.iter_mut().zip(gene).zip(value).zip(factors) {
            *y = T::from_acc(*gene + *value * *factor);
        }
    }

    fn store_generated<T: Float>(y: &mut [T], gene: &[T::Acc], flag: &[T]) {
        for ((y, gene), flag) in y.iter_mut().zip(gene).zip(flag) {
            *y = T::from_acc(*gene + flag.to_acc());
        }
    }
}
