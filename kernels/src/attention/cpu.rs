//! Attention on the CPU, forward: (item, key head, run of queries) over threads, tiles of scores in the first cache.
//!
//! Tiles of queries and of keys lie on grids that start at row 0 of the item, and a tile ends where the item does. What a row sums, and
//! in which order, is therefore settled by its own position, whatever lies beside it.

use rayon::prelude::*;

use super::cpu_tile::{KEYS, Product, QUERIES, ROWS, dot, exp2, hide, keep, multiply, pack, rescale, softmax, transpose, unpack_rows};
use super::{Dims, Dropout, Forward, Mask};
use crate::runtime::math::LANES;
use crate::runtime::{Access, Cpu, Float, Real, Rows, RowsMut, Stream, Tensor, with_buffer};
use crate::{Error, Result};

/// What the rows of one batch item may see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// Query rows that count.
    pub(super) queries: usize,
    /// Keys that count.
    pub(super) keys: usize,
    /// Row `i` sees keys up to `i + offset`.
    causal: Option<isize>,
    /// Prefix mask: rows from here on see themselves.
    known: Option<usize>,
}

impl Item {
    /// Row `row` sees the keys below this.
    pub(super) fn limit(&self, row: usize) -> usize {
        let causal = self.causal.map_or(usize::MAX, |offset| (row as isize + 1 + offset).max(0) as usize);
        self.keys.min(causal).min(self.known.unwrap_or(usize::MAX))
    }

    /// The rows of `first..end` that see themselves on top of that.
    pub(super) fn selves(&self, first: usize, end: usize) -> std::ops::Range<usize> {
        let end = end.min(self.keys);
        self.known.map_or(0..0, |known| known.clamp(first, end.max(first))..end.max(first))
    }
}

/// Reads the lengths of every item.
pub(super) fn items(
    op: &'static str,
    access: &Access,
    dims: &Dims,
    mask: &Mask,
    query_lengths: Option<Tensor<u32>>,
    key_lengths: Option<Tensor<u32>>,
) -> Result<Vec<Item>> {
    let read = |tensor, lengths: Option<Tensor<u32>>, bound: usize| -> Result<Option<&[u32]>> {
        let Some(lengths) = lengths.map(|lengths| access.read(lengths)) else { return Ok(None) };
        match lengths.iter().position(|length| *length as usize > bound) {
            Some(position) => Err(Error::Index { op, tensor, position, index: u64::from(lengths[position]), bound }),
            None => Ok(Some(lengths)),
        }
    };
    let queries = read("query_lengths", query_lengths, dims.query_len)?;
    let keys = read("key_lengths", key_lengths, dims.key_len)?;
    let (causal, known) = match *mask {
        Mask::Full => (None, None),
        Mask::Causal => (Some(dims.key_len as isize - dims.query_len as isize), None),
        Mask::Prefix { known_lengths } => (None, read("known_lengths", Some(known_lengths), dims.key_len)?),
    };
    let of = |lengths: Option<&[u32]>, item: usize| lengths.map(|lengths| lengths[item] as usize);
    let item = |item| Item {
        queries: of(queries, item).unwrap_or(dims.query_len),
        keys: of(keys, item).unwrap_or(dims.key_len),
        causal,
        known: of(known, item),
    };
    Ok((0..dims.batch).map(item).collect())
}

/// Dropout as integers: what is dropped, what the rest is multiplied by, which numbers a tile reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dropping {
    threshold: u32,
    kept: f64,
    dropout: Dropout,
}

impl Dropping {
    pub(super) fn new(dropout: Dropout) -> Dropping {
        let threshold = (f64::from(dropout.probability) * 65536.0).round().min(65535.0) as u32;
        Dropping { threshold, kept: 65536.0 / f64::from(65536 - threshold), dropout }
    }

    /// Factors of the tile that starts at (`row`, `key`) of `plane = batch index * num_heads + head`.
    pub(super) fn tile<A: Real>(&self, factors: &mut [A], width: usize, plane: usize, row: usize, key: usize) {
        let first = row as u64 + ((key as u64 / 8) << 22) + ((plane as u64) << 42);
        keep(factors, width, self.dropout.site, first, self.threshold, A::of(self.kept));
    }

    /// The factor of one element.
    pub(super) fn factor<A: Real>(&self, plane: usize, row: usize, key: usize) -> A {
        let word = self.dropout.site.words(row as u64 + ((key as u64 / 8) << 22) + ((plane as u64) << 42))[key % 8 / 2];
        if (word >> (16 * (key % 2))) & 0xffff < self.threshold { A::ZERO } else { A::of(self.kept) }
    }
}

/// Cuts `len` elements off the front of `buffer`, rounded up so that what follows starts on a cache line again.
pub(super) fn carve<'a, A>(buffer: &mut &'a mut [A], len: usize) -> &'a mut [A] {
    let (front, rest) = std::mem::take(buffer).split_at_mut(len.next_multiple_of(LANES));
    *buffer = rest;
    &mut front[..len]
}

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, args: Forward<T>) -> Result<()> {
    let dims = args.dims;
    let access = stream.access();
    let items = items("attention::forward", &access, &dims, &args.mask, args.query_lengths, args.key_lengths)?;
    let (group, width) = (dims.group(), dims.group() * dims.head_dim);
    // Few heads: cut the queries too. Rows do not feel it.
    let cuts = (8 * cpu.threads()).div_ceil(dims.batch * dims.num_kv_heads);
    let run = dims.query_len.div_ceil(cuts).next_multiple_of(QUERIES);
    let (q, k, v) = (access.read_rows(args.q), access.read_rows(args.k), access.read_rows(args.v));
    let outs = access.write_rows(args.out).into_tiles(dims.query_len, width).into_iter().flat_map(|tile| tile.into_tiles(run, width));
    let sums = RowsMut::of(access.write(args.logsumexp), dims.query_len).into_tiles(group, run);
    let tasks: Vec<_> = outs.zip(sums).collect();
    let runs = dims.query_len.div_ceil(run);
    cpu.install(|| {
        tasks.into_par_iter().enumerate().with_max_len(1).for_each(|(task, (out, logsumexp))| {
            let (unit, row) = (task / runs, task % runs * run);
            let (item, kv_head) = (unit / dims.num_kv_heads, unit % dims.num_kv_heads);
            let [k, v] = [k, v].map(|rows| rows.tile(item * dims.key_len, dims.key_len, kv_head * dims.head_dim, dims.head_dim));
            Task {
                q: q.tile(item * dims.query_len + row, out.rows(), kv_head * width, width),
                k,
                v,
                item: items[item],
                row,
                head_dim: dims.head_dim,
                plane: item * dims.num_heads + kv_head * group,
                scale: args.scale,
                dropping: args.dropout.map(Dropping::new),
            }
            .run(out, logsumexp);
        });
    });
    Ok(())
}

/// The query rows from `row` on of one item, for all heads that share one key head.
pub(super) struct Task<'a, T: Float> {
    pub(super) q: Rows<'a, T>,
    pub(super) k: Rows<'a, T>,
    pub(super) v: Rows<'a, T>,
    pub(super) item: Item,
    pub(super) row: usize,
    pub(super) head_dim: usize,
    plane: usize,
    pub(super) scale: f64,
    pub(super) dropping: Option<Dropping>,
}

/// One tile's worth of memory.
struct Tile<'a, A> {
    rows: &'a mut [A],
    lanes: &'a mut [A],
    scores: &'a mut [A],
    keep: &'a mut [A],
    sums: &'a mut [A],
    own: &'a mut [A],
}

impl<T: Float> Task<'_, T> {
    fn run(&self, mut out: RowsMut<'_, T>, mut logsumexp: RowsMut<'_, T::Acc>) {
        let d = self.head_dim;
        let end = self.item.queries.clamp(self.row, self.row + out.rows());
        for row in end - self.row..out.rows() {
            out.row_mut(row).fill(T::default());
        }
        for head in 0..logsumexp.rows() {
            logsumexp.row_mut(head)[end - self.row..].fill(T::Acc::NEG_INFINITY);
        }
        if end == self.row {
            return;
        }
        if self.is_one(out.rows()) {
            return self.run_one(out.row_mut(0), &mut logsumexp);
        }
        // Limits rise with the row.
        let seen = self.item.limit(end - 1);
        let packed = seen.next_multiple_of(ROWS) * d;
        let dropped = if self.dropping.is_some() { KEYS * QUERIES } else { 0 };
        let needed = 2 * (packed + LANES) + (3 * d + 2 * LANES + KEYS) * QUERIES + dropped + 2 * d + 4 * LANES;
        with_buffer(needed, |mut buffer: &mut [T::Acc]| {
            let (k, v) = (carve(&mut buffer, packed), carve(&mut buffer, packed));
            pack::<T>(k, d, self.k, seen, T::Acc::ONE);
            pack::<T>(v, d, self.v, seen, T::Acc::ONE);
            let mut tile = Tile {
                rows: carve(&mut buffer, d * QUERIES),
                lanes: carve(&mut buffer, d * QUERIES),
                scores: carve(&mut buffer, KEYS * QUERIES),
                keep: carve(&mut buffer, dropped),
                sums: carve(&mut buffer, d * QUERIES),
                own: carve(&mut buffer, 2 * d),
            };
            let mut bands = out.split_rows(end - self.row).0.into_tiles(QUERIES, d).into_iter();
            for first in (self.row..end).step_by(QUERIES) {
                for (head, out) in bands.by_ref().take(logsumexp.rows()).enumerate() {
                    let at = first - self.row;
                    let logsumexp = &mut logsumexp.row_mut(head)[at..at + out.rows()];
                    self.block(&mut tile, k, v, first, head, out, logsumexp);
                }
            }
        });
    }

    /// One tile of queries of one head over all its keys.
    #[expect(clippy::too_many_arguments, reason = "one call site; the names are the documentation")]
    fn block(
        &self,
        tile: &mut Tile<'_, T::Acc>,
        k: &[T::Acc],
        v: &[T::Acc],
        first: usize,
        head: usize,
        mut out: RowsMut<'_, T>,
        logsumexp: &mut [T::Acc],
    ) {
        let (d, rows) = (self.head_dim, out.rows());
        let width = rows.next_multiple_of(LANES);
        let plane = self.plane + head;
        let sums = &mut tile.sums[..d * width];
        let q = self.q.tile(first - self.row, rows, head * d, d);
        pack::<T>(&mut tile.rows[..rows * d], d, q, rows, T::Acc::of(self.scale * std::f64::consts::LOG2_E));
        transpose(tile.lanes, width, tile.rows, d, rows, d);
        let mut base = [T::Acc::NEG_INFINITY; QUERIES];
        let (mut total, mut factors) = ([T::Acc::ZERO; QUERIES], [T::Acc::ONE; QUERIES]);
        let limits: [u32; QUERIES] = std::array::from_fn(|lane| self.item.limit(first + lane.min(rows - 1)) as u32);
        let seen = limits[QUERIES - 1] as usize;
        if seen == 0 {
            sums.fill(T::Acc::ZERO);
        }
        for key in (0..seen).step_by(KEYS) {
            let keys = KEYS.min(seen - key);
            let m = keys.next_multiple_of(ROWS);
            let scores = &mut tile.scores[..m * width];
            let product = Product { m, n: width, k: d, a_row: d, a_step: 1, b_row: width, c_row: width, add: false };
            product.run(scores, &k[key * d..(key + m) * d], tile.lanes);
            let scores = &mut scores[..keys * width];
            if key + keys > limits[0] as usize {
                hide(scores, width, key, &limits);
            }
            let moved = softmax(scores, width, &mut base, &mut total, &mut factors);
            if let Some(dropping) = self.dropping {
                let keep = &mut tile.keep[..keys * width];
                dropping.tile(keep, width, plane, first, key);
                multiply(scores, keep);
            }
            // The first tile finds sums of 0 or nothing at all.
            if moved && key > 0 {
                rescale(sums, &factors[..width]);
            }
            let product = Product { m: d, n: width, k: keys, a_row: 1, a_step: d, b_row: width, c_row: width, add: key > 0 };
            product.run(sums, &v[key * d..(key + keys) * d], scores);
        }
        for row in self.item.selves(first, first + rows) {
            let lane = row - first;
            let (key, value) = tile.own.split_at_mut(d);
            pack::<T>(key, d, self.k.tile(row, 1, 0, d), 1, T::Acc::ONE);
            pack::<T>(value, d, self.v.tile(row, 1, 0, d), 1, T::Acc::ONE);
            let score = dot(&tile.rows[lane * d..(lane + 1) * d], key);
            let before = base[lane];
            let after = before.max(score);
            let (weight, factor) = (exp2(score - after), exp2(before - after));
            (base[lane], total[lane]) = (after, total[lane] * factor + weight);
            let p = self.dropping.map_or(weight, |dropping| weight * dropping.factor(plane, row, row));
            for (column, value) in value.iter().enumerate() {
                let at = &mut sums[column * width + lane];
                *at = p.mul_add(*value, *at * factor);
            }
        }
        let ln2 = T::Acc::of(std::f64::consts::LN_2);
        for lane in 0..rows {
            let seen = total[lane] != T::Acc::ZERO;
            factors[lane] = if seen { T::Acc::ONE / total[lane] } else { T::Acc::ZERO };
            logsumexp[lane] = if seen { base[lane] * ln2 + total[lane].ln() } else { T::Acc::NEG_INFINITY };
        }
        rescale(sums, &factors[..width]);
        transpose(tile.rows, d, sums, width, d, rows);
        unpack_rows(&mut out, &tile.rows[..rows * d], d, T::Acc::ONE);
    }
}
