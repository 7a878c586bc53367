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
/// Tokens that are read, and whose values are encoded, before they are normalised.
const BLOCK: usize = 8;

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
    pub(super) mask: Option<Mask>,
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

    /// `z` of a value in a segment.
    pub(super) fn line(&self, z: &mut [T::Acc], segment: usize, u: T::Acc) {
        line(z, self.slope.row(segment), self.intercept.row(segment), u);
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
    with_buffer((2 * BLOCK + 1) * width, |buffer: &mut [T::Acc]| {
        let (factors, rest) = buffer.split_at_mut(width);
        let (x, z) = rest.split_at_mut(BLOCK * width);
        factors.fill(T::Acc::ONE);
        for start in (0..y.rows()).step_by(BLOCK) {
            let count = BLOCK.min(y.rows() - start);
            let tokens = first + start..first + start + count;
            // The table's rows lie anywhere: read back to back, many are on their way at a time.
            for (x, id) in x.chunks_exact_mut(width).zip(&view.ids[tokens.clone()]) {
                widen::<T>(x, view.table.row(*id as usize));
            }
            let mut values = [None; BLOCK];
            for (value, token) in values.iter_mut().zip(tokens.clone()) {
                *value = view.value(token);
            }
            if view.method == Method::Gemm {
                cpu_gemm::encode(view, &mut z[..count * width], &values[..count]);
            }
            for (((token, value), x), z) in tokens.zip(values).zip(x.chunks_exact_mut(width)).zip(z.chunks_exact_mut(width)) {
                let row = token - first;
                let (mean, rstd) = statistics(x, eps);
                (saved.gene_mean[row], saved.gene_rstd[row]) = (mean, rstd);
                normalise::<T>(x, view.gene_weight, view.gene_bias, mean, rstd);
                if let Some(gene) = &mut gene {
                    store::<T>(gene.row_mut(row), x);
                }
                if let (Method::Piecewise, Some(u)) = (view.method, value) {
                    view.line(z, view.segment(u), u);
                }
                let (mean, rstd) = if value.is_some() { statistics(z, eps) } else { (T::Acc::ZERO, T::Acc::ZERO) };
                (saved.value_mean[row], saved.value_rstd[row]) = (mean, rstd);
                match (value, view.flag) {
                    (Some(_), _) => {
                        if let Some(mask) = view.mask {
                            mask.factors(factors, token * width);
                        }
                        store_known::<T>(y.row_mut(row), x, z, factors, view.value_weight, view.value_bias, mean, rstd);
                    }
                    (None, Some(flag)) => store_generated::<T>(y.row_mut(row), x, flag),
                    // Refused by the check: generated tokens need a flag.
                    (None, None) => store::<T>(y.row_mut(row), x),
                }
            }
        }
    });
}

/// Lanes of a sum over a row: several vectors, so that one addition need not wait for the last.
pub(super) const WIDE: usize = 4 * LANES;

/// Adds the lanes in a fixed order.
#[inline(always)]
pub(super) fn fold<A: Real>(sums: &[A; WIDE]) -> A {
    let mut lanes = [A::ZERO; LANES];
    for (lane, total) in lanes.iter_mut().enumerate() {
        *total = (sums[lane] + sums[lane + LANES]) + (sums[lane + 2 * LANES] + sums[lane + 3 * LANES]);
    }
    tree(lanes)
}

#[inline(always)]
fn mean_of<A: Real>(x: &[A]) -> A {
    let mut sums = [A::ZERO; WIDE];
    let (blocks, rest) = x.as_chunks::<WIDE>();
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += *x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += *x;
    }
    fold(&sums) * A::of(1.0 / x.len() as f64)
}

#[inline(always)]
fn variance_of<A: Real>(x: &[A], mean: A) -> A {
    let mut sums = [A::ZERO; WIDE];
    let (blocks, rest) = x.as_chunks::<WIDE>();
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block) {
            *sum += (*x - mean) * (*x - mean);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += (*x - mean) * (*x - mean);
    }
    fold(&sums) * A::of(1.0 / x.len() as f64)
}

vectorize! {
    fn line<A: Real>(z: &mut [A], slope: &[A], intercept: &[A], u: A) {
        for ((z, slope), intercept) in z.iter_mut().zip(slope).zip(intercept) {
            *z = *slope * u + *intercept;
        }
    }

    /// Mean and reciprocal standard deviation.
    fn statistics<A: Real>(x: &[A], eps: A) -> (A, A) {
        let mean = mean_of(x);
        (mean, A::ONE / (variance_of(x, mean) + eps).sqrt())
    }

    pub(super) fn widen<T: Float>(wide: &mut [T::Acc], x: &[T]) {
        for (wide, x) in wide.iter_mut().zip(x) {
            *wide = x.to_acc();
        }
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

    fn store_known<T: Float>(
        y: &mut [T], gene: &[T::Acc], z: &[T::Acc], factors: &[T::Acc], weight: &[T], bias: &[T], mean: T::Acc, rstd: T::Acc
    ) {
        for (((((y, gene), z), factor), weight), bias) in y.iter_mut().zip(gene).zip(z).zip(factors).zip(weight).zip(bias) {
            let value = (*z - mean) * rstd * weight.to_acc() + bias.to_acc();
            *y = T::from_acc(*gene + value * *factor);
        }
    }

    fn store_generated<T: Float>(y: &mut [T], gene: &[T::Acc], flag: &[T]) {
        for ((y, gene), flag) in y.iter_mut().zip(gene).zip(flag) {
            *y = T::from_acc(*gene + flag.to_acc());
        }
    }
}
