//! Backward on the CPU: tokens sorted by segment for the value encoder, then by id for the gene tokens.

use rayon::prelude::*;

use super::cpu::{View, WIDE, fold, widen};
use super::cpu_tables::{COLUMNS, starts_active};
use super::{Backward, Inputs, Method, cpu_gemm};
use crate::runtime::{Access, Cpu, Float, Real, Rows, RowsMut, Stream, Tensor, with_buffer};
use crate::{Result, embedding, vectorize};

/// Tokens of one partial sum.
const PIECE: usize = 64;
/// Tokens whose rows, which lie anywhere, are read before they are worked on: many are on their way at a time.
const BLOCK: usize = 8;
/// Partial sums of a piece, each a row: dz, dz u, and the gradients of `LN_v`'s scale and shift.
const SUMS: usize = 4;

/// Bytes of scratch: keys, and partial sums; a piece ends with its segment or after [`PIECE`] tokens.
pub(super) fn scratch<T: Float>(tokens: usize, width: usize, method: Method) -> usize {
    let pieces = tokens / PIECE + tokens.min(width + 2);
    let groups = tokens / PIECE + 1;
    let values = match method {
        Method::Piecewise => pieces * SUMS * width + width.div_ceil(COLUMNS) * 2 * width,
        Method::Gemm => cpu_gemm::scratch(width),
    };
    values.max(groups * 2 * width) * size_of::<T::Acc>() + embedding::scratch(tokens).next_multiple_of(64)
}

/// What arrives from above, and forward's statistics.
pub(super) struct Upstream<'a, T: Float> {
    pub(super) dy: Rows<'a, T>,
    dgene: Option<Rows<'a, T>>,
    gene_mean: &'a [T::Acc],
    gene_rstd: &'a [T::Acc],
    value_mean: &'a [T::Acc],
    value_rstd: &'a [T::Acc],
}

/// The gradients of the value encoder and the flag, to add to.
pub(super) struct Sinks<'a, A: Real> {
    pub(super) linear1_weight: Option<&'a mut [A]>,
    pub(super) linear1_bias: Option<&'a mut [A]>,
    pub(super) linear2_weight: Option<RowsMut<'a, A>>,
    pub(super) linear2_bias: Option<&'a mut [A]>,
    pub(super) value_weight: Option<&'a mut [A]>,
    pub(super) value_bias: Option<&'a mut [A]>,
    /// Row 1.
    pub(super) flag: Option<&'a mut [A]>,
}

impl<A: Real> Sinks<'_, A> {
    fn linear(&self) -> bool {
        self.linear1_weight.is_some() || self.linear1_bias.is_some() || self.linear2_weight.is_some()
    }

    fn any(&self) -> bool {
        self.linear() || [&self.linear2_bias, &self.value_weight, &self.value_bias, &self.flag].iter().any(|sink| sink.is_some())
    }
}

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, op: &'static str, inputs: Inputs<T>, args: Backward<T>) -> Result<()> {
    let access = stream.access();
    let view = View::open(&access, op, inputs)?;
    let saved = args.saved;
    let upstream = Upstream {
        dy: access.read_rows(args.dy),
        dgene: args.dgene.map(|dgene| access.read_rows(dgene)),
        gene_mean: access.read(saved.gene_mean),
        gene_rstd: access.read(saved.gene_rstd),
        value_mean: access.read(saved.value_mean),
        value_rstd: access.read(saved.value_rstd),
    };
    let tokens = view.ids.len();
    let keys = embedding::scratch(tokens);
    stream.with_scratch(op, scratch::<T>(tokens, view.width(), view.method), |bytes: &mut [u8]| {
        let (keys, sums) = bytes.split_at_mut(keys.next_multiple_of(64));
        let keys: &mut [u64] = &mut bytemuck::cast_slice_mut(keys)[..tokens];
        let sums: &mut [T::Acc] = bytemuck::cast_slice_mut(sums);
        let write = |tensor: Option<Tensor<T::Acc>>| tensor.map(|tensor| open(&access, tensor));
        let gradients = args.gradients;
        let sinks = Sinks {
            linear1_weight: write(gradients.linear1_weight),
            linear1_bias: write(gradients.linear1_bias),
            linear2_weight: gradients.linear2_weight.map(|tensor| access.write_rows(tensor)),
            linear2_bias: write(gradients.linear2_bias),
            value_weight: write(gradients.value_weight),
            value_bias: write(gradients.value_bias),
            flag: write(gradients.flag.map(|flag| flag.row_range(1, 1))),
        };
        if sinks.any() {
            match view.method {
                Method::Piecewise => segments(cpu, &view, &upstream, keys, sums, sinks),
                Method::Gemm => cpu_gemm::backward(cpu, &view, &upstream, sums, sinks),
            }
        }
        let (weight, bias) = (write(gradients.gene_weight), write(gradients.gene_bias));
        let table = gradients.table.map(|tensor| access.write_rows(tensor));
        if table.is_some() || weight.is_some() || bias.is_some() {
            genes(cpu, &view, &upstream, keys, sums, (table, weight, bias), args.padding_id);
        }
    })
}

fn open<A: Real>(access: &Access, tensor: Tensor<A>) -> &mut [A] {
    access.write(tensor)
}

/// `d`: the gradient of a known token's y, becomes dz; adds to the gradients of `LN_v`'s scale and shift. `factors` is overwritten.
pub(super) fn value_row<T: Float>(
    view: &View<T>,
    upstream: &Upstream<T>,
    token: usize,
    z: &[T::Acc],
    d: &mut [T::Acc],
    sums: [&mut [T::Acc]; 2],
    factors: &mut [T::Acc],
) {
    if let Some(mask) = view.mask {
        mask.factors(factors, token * view.width());
        multiply(d, factors);
    }
    let [dweight, dbias] = sums;
    norm_backward::<T>(d, dweight, dbias, z, view.value_weight, upstream.value_mean[token], upstream.value_rstd[token]);
}

/// Sorted tokens `start..end` of one segment.
struct Piece {
    segment: usize,
    start: usize,
    end: usize,
}

fn pieces(keys: &[u64]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::with_capacity(keys.len() / PIECE + 1);
    for (at, key) in keys.iter().enumerate() {
        let segment = embedding::id(*key) as usize;
        match pieces.last_mut() {
            Some(piece) if piece.segment == segment && at - piece.start < PIECE => piece.end = at + 1,
            _ => pieces.push(Piece { segment, start: at, end: at + 1 }),
        }
    }
    pieces
}

/// Value encoder and flag. Generated tokens form a segment of their own, behind all others, whose sum of dy is the flag's gradient.
fn segments<T: Float>(cpu: &Cpu, view: &View<T>, upstream: &Upstream<T>, keys: &mut [u64], scratch: &mut [T::Acc], sinks: Sinks<T::Acc>) {
    let width = view.width();
    embedding::sort(cpu, keys, |token| view.value(token).map_or(width + 1, |u| view.segment(u)) as u32);
    let pieces = pieces(keys);
    let (sums, rest) = scratch.split_at_mut(pieces.len() * SUMS * width);
    cpu.install(|| {
        pieces.par_iter().zip(sums.par_chunks_exact_mut(SUMS * width)).for_each(|(piece, sums)| {
            sums.fill(T::Acc::ZERO);
            let [dz_sum, dzu_sum, dweight, dbias] = rows(sums, width);
            with_buffer((BLOCK + 2) * width, |buffer: &mut [T::Acc]| {
                let (z, rest) = buffer.split_at_mut(width);
                let (factors, block) = rest.split_at_mut(width);
                for keys in keys[piece.start..piece.end].chunks(BLOCK) {
                    for (d, key) in block.chunks_exact_mut(width).zip(keys) {
                        widen::<T>(d, upstream.dy.row(embedding::position(*key)));
                    }
                    for (d, key) in block.chunks_exact_mut(width).zip(keys) {
                        let token = embedding::position(*key);
                        let Some(u) = view.value(token) else {
                            add(dz_sum, d);
                            continue;
                        };
                        view.line(z, piece.segment, u);
                        value_row(view, upstream, token, z, d, [&mut *dweight, &mut *dbias], factors);
                        add_both(dz_sum, dzu_sum, d, u);
                    }
                }
            });
        });
        combine(view, &pieces, sums, &mut rest[..width.div_ceil(COLUMNS) * 2 * width], sinks);
    });
}

/// `N` rows of a slice.
pub(super) fn rows<A, const N: usize>(slice: &mut [A], width: usize) -> [&mut [A]; N] {
    let mut rest = slice;
    std::array::from_fn(|_| {
        let (row, tail) = std::mem::take(&mut rest).split_at_mut(width);
        rest = tail;
        row
    })
}

/// One task's columns of the gradients.
struct Tile<'a, A: Real> {
    first: usize,
    linear2_weight: Option<RowsMut<'a, A>>,
    linear2_bias: Option<&'a mut [A]>,
    value_weight: Option<&'a mut [A]>,
    value_bias: Option<&'a mut [A]>,
    flag: Option<&'a mut [A]>,
    /// Both rows of this tile's addends to the first layer's gradients.
    linear1: &'a mut [A],
}

fn combine<T: Float>(view: &View<T>, pieces: &[Piece], sums: &[T::Acc], linear1: &mut [T::Acc], sinks: Sinks<T::Acc>) {
    let (width, linear) = (view.width(), sinks.linear());
    let mut linear2_weight = sinks.linear2_weight.map(|tensor| tensor.into_tiles(COLUMNS, width)).unwrap_or_default().into_iter();
    let mut slices = [sinks.linear2_bias, sinks.value_weight, sinks.value_bias, sinks.flag]
        .map(|sink| sink.map(|sink| sink.chunks_mut(COLUMNS)).into_iter().flatten());
    let tiles: Vec<_> = linear1
        .chunks_exact_mut(2 * width)
        .enumerate()
        .map(|(tile, linear1)| {
            let [linear2_bias, value_weight, value_bias, flag] = slices.each_mut().map(Iterator::next);
            Tile { first: tile * COLUMNS, linear2_weight: linear2_weight.next(), linear2_bias, value_weight, value_bias, flag, linear1 }
        })
        .collect();
    tiles.into_par_iter().for_each(|tile| columns(view, pieces, sums, tile, linear));
    for (sink, start) in [(sinks.linear1_weight, 0), (sinks.linear1_bias, width)] {
        if let Some(sink) = sink {
            linear1.chunks_exact(2 * width).for_each(|addends| add(sink, &addends[start..start + width]));
        }
    }
}

/// Sums, and prefix sums over segments, of one tile of columns; in f64, where the difference of total and prefix loses nothing.
fn columns<T: Float>(view: &View<T>, pieces: &[Piece], sums: &[T::Acc], tile: Tile<T::Acc>, linear: bool) {
    let (width, first) = (view.width(), tile.first);
    let count = COLUMNS.min(width - first);
    let known = pieces.partition_point(|piece| piece.segment <= width);
    let part = |piece: usize, row: usize| &sums[(piece * SUMS + row) * width + first..][..count];
    let total = |row: usize, pieces: std::ops::Range<usize>| {
        let mut total = [0.0; COLUMNS];
        pieces.for_each(|piece| widen_add(&mut total, part(piece, row)));
        total
    };
    for (sink, row, pieces) in [
        (tile.linear2_bias, 0, 0..known),
        (tile.value_weight, 2, 0..known),
        (tile.value_bias, 3, 0..known),
        (tile.flag, 0, known..pieces.len()),
    ] {
        if let Some(sink) = sink {
            sink.iter_mut().zip(total(row, pieces)).for_each(|(sink, total)| *sink += T::Acc::of(total));
        }
    }
    if !linear {
        return;
    }
    let totals = [total(0, 0..known), total(1, 0..known)];
    with_buffer(2 * COLUMNS * width, |buffer: &mut [T::Acc]| {
        // Sums of dz and of dz u over the tokens for which a unit is active: `[column][unit]`.
        let (active0, active1) = buffer.split_at_mut(COLUMNS * width);
        let (mut prefixes, mut piece) = ([[0.0; COLUMNS]; 2], 0);
        for (segment, unit) in view.order.iter().enumerate() {
            while piece < known && pieces[piece].segment <= segment {
                prefixes.iter_mut().enumerate().for_each(|(row, prefix)| widen_add(prefix, part(piece, row)));
                piece += 1;
            }
            let unit = *unit as usize;
            let below = starts_active(view.linear1_weight[unit].to_acc(), view.linear1_bias[unit].to_acc());
            let active = |row: usize, column: usize| match below {
                true => T::Acc::of(prefixes[row][column]),
                false => T::Acc::of(totals[row][column] - prefixes[row][column]),
            };
            for column in 0..count {
                active0[column * width + unit] = active(0, column);
                active1[column * width + unit] = active(1, column);
            }
        }
        tile.linear1.fill(T::Acc::ZERO);
        let (dweight1, dbias1) = tile.linear1.split_at_mut(width);
        let mut linear2_weight = tile.linear2_weight;
        for column in 0..count {
            let (sum0, sum1) = (&active0[column * width..][..width], &active1[column * width..][..width]);
            let weights = view.linear2_weight.row(first + column);
            add_product::<T>(dweight1, weights, sum1);
            add_product::<T>(dbias1, weights, sum0);
            if let Some(dweight2) = &mut linear2_weight {
                add_product::<T>(dweight2.row_mut(column), view.linear1_weight, sum1);
                add_product::<T>(dweight2.row_mut(column), view.linear1_bias, sum0);
            }
        }
    });
}

type GeneSinks<'a, A> = (Option<RowsMut<'a, A>>, Option<&'a mut [A]>, Option<&'a mut [A]>);

/// Gene tokens: normalisation backwards, straight into the table's gradient.
fn genes<T: Float>(
    cpu: &Cpu,
    view: &View<T>,
    upstream: &Upstream<T>,
    keys: &mut [u64],
    scratch: &mut [T::Acc],
    sinks: GeneSinks<T::Acc>,
    padding_id: Option<u32>,
) {
    let width = view.width();
    let (table, weight, bias) = sinks;
    embedding::sort(cpu, keys, |token| view.ids[token]);
    let groups = embedding::groups(keys, table, padding_id);
    let sums = &mut scratch[..groups.len() * 2 * width];
    cpu.install(|| {
        groups.into_par_iter().zip(sums.par_chunks_exact_mut(2 * width)).for_each(|(mut group, sums)| {
            sums.fill(T::Acc::ZERO);
            let (dweight, dbias) = sums.split_at_mut(width);
            with_buffer(2 * BLOCK * width, |buffer: &mut [T::Acc]| {
                let (x, d) = buffer.split_at_mut(BLOCK * width);
                for keys in group.keys.chunks(BLOCK) {
                    let rows = || keys.iter().map(|key| (embedding::position(*key), embedding::id(*key)));
                    for (((token, id), x), d) in rows().zip(x.chunks_exact_mut(width)).zip(d.chunks_exact_mut(width)) {
                        widen::<T>(x, view.table.row(id as usize));
                        widen::<T>(d, upstream.dy.row(token));
                        if let Some(dgene) = &upstream.dgene {
                            add_narrow::<T>(d, dgene.row(token));
                        }
                    }
                    for (((token, _), x), d) in rows().zip(x.chunks_exact_mut(width)).zip(d.chunks_exact_mut(width)) {
                        let (mean, rstd) = (upstream.gene_mean[token], upstream.gene_rstd[token]);
                        norm_backward::<T>(d, dweight, dbias, x, view.gene_weight, mean, rstd);
                    }
                    let Some(table) = &mut group.rows else { continue };
                    for ((_, id), d) in rows().zip(d.chunks_exact(width)).filter(|((_, id), _)| Some(*id) != padding_id) {
                        add(table.row_mut(id as usize - group.first), d);
                    }
                }
            });
        });
    });
    for (sink, start) in [(weight, 0), (bias, width)] {
        if let Some(sink) = sink {
            sums.chunks_exact(2 * width).for_each(|sums| add(sink, &sums[start..start + width]));
        }
    }
}

fn widen_add<A: Real>(total: &mut [f64; COLUMNS], part: &[A]) {
    for (total, part) in total.iter_mut().zip(part) {
        *total += part.f64();
    }
}

vectorize! {
    /// `d`: the gradient of a normalisation's output, becomes that of its input `x`.
    fn norm_backward<T: Float>(
        d: &mut [T::Acc], dweight: &mut [T::Acc], dbias: &mut [T::Acc], x: &[T::Acc], weight: &[T], mean: T::Acc, rstd: T::Acc
    ) {
        for ((((d, x), dweight), dbias), weight) in d.iter_mut().zip(x).zip(dweight).zip(dbias).zip(weight) {
            *dweight += *d * ((*x - mean) * rstd);
            *dbias += *d;
            *d *= weight.to_acc();
        }
        let (mut sums, mut products) = ([T::Acc::ZERO; WIDE], [T::Acc::ZERO; WIDE]);
        let ((blocks, rest), (x_blocks, x_rest)) = (d.as_chunks::<WIDE>(), x.as_chunks::<WIDE>());
        for (d, x) in blocks.iter().zip(x_blocks) {
            for (((sum, product), d), x) in sums.iter_mut().zip(&mut products).zip(d).zip(x) {
                *sum += *d;
                *product += *d * ((*x - mean) * rstd);
            }
        }
        for (((sum, product), d), x) in sums.iter_mut().zip(&mut products).zip(rest).zip(x_rest) {
            *sum += *d;
            *product += *d * ((*x - mean) * rstd);
        }
        let scale = T::Acc::of(1.0 / x.len() as f64);
        let (mean_g, mean_gx) = (fold(&sums) * scale, fold(&products) * scale);
        for (d, x) in d.iter_mut().zip(x) {
            *d = rstd * (*d - mean_g - (*x - mean) * rstd * mean_gx);
        }
    }

    fn multiply<A: Real>(x: &mut [A], factors: &[A]) {
        for (x, factor) in x.iter_mut().zip(factors) {
            *x *= *factor;
        }
    }

    pub(super) fn add_narrow<T: Float>(total: &mut [T::Acc], x: &[T]) {
        for (total, x) in total.iter_mut().zip(x) {
            *total += x.to_acc();
        }
    }

    pub(super) fn add<A: Real>(total: &mut [A], x: &[A]) {
        for (total, x) in total.iter_mut().zip(x) {
            *total += *x;
        }
    }

    pub(super) fn add_scaled<A: Real>(total: &mut [A], x: &[A], scale: A) {
        for (total, x) in total.iter_mut().zip(x) {
            *total += *x * scale;
        }
    }

    fn add_both<A: Real>(total: &mut [A], scaled: &mut [A], x: &[A], scale: A) {
        for ((total, scaled), x) in total.iter_mut().zip(scaled).zip(x) {
            *total += *x;
            *scaled += *x * scale;
        }
    }

    fn add_product<T: Float>(total: &mut [T::Acc], weights: &[T], x: &[T::Acc]) {
        for ((total, weight), x) in total.iter_mut().zip(weights).zip(x) {
            *total += weight.to_acc() * *x;
        }
    }
}
