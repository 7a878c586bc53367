//! Attention on the CPU, backward: one task an (item, key head), which owns every sum it adds to.
//!
//! Query tiles run outside, key tiles inside. `dq` of a tile is finished in the first cache; `dk` and `dv` of the whole item stay in the
//! thread's buffer (the second cache) and gather the query tiles in ascending order, head after head.

use rayon::prelude::*;

use super::Backward;
use super::cpu::{Dropping, Item, carve, items};
use super::cpu_tile::{KEYS, Product, QUERIES, ROWS, axpy, dot, exp2, hide, pack, slopes, transpose, unpack_rows};
use crate::Result;
use crate::runtime::math::LANES;
use crate::runtime::{Cpu, Float, Real, Rows, RowsMut, Stream, with_buffer};

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, args: Backward<T>) -> Result<()> {
    let dims = args.dims;
    let access = stream.access();
    let items = items("attention::backward", &access, &dims, &args.mask, args.query_lengths, args.key_lengths)?;
    let (d, width) = (dims.head_dim, dims.group() * dims.head_dim);
    let by_query = [args.q, args.out, args.dout].map(|tensor| access.read_rows(tensor));
    let by_key = [args.k, args.v].map(|tensor| access.read_rows(tensor));
    let logsumexp = access.read(args.logsumexp);
    let dq = access.write_rows(args.dq).into_tiles(dims.query_len, width);
    let dk = access.write_rows(args.dk).into_tiles(dims.key_len, d);
    let dv = access.write_rows(args.dv).into_tiles(dims.key_len, d);
    let tasks: Vec<_> = dq.into_iter().zip(dk).zip(dv).zip(logsumexp.chunks_exact(dims.group() * dims.query_len)).collect();
    cpu.install(|| {
        tasks.into_par_iter().enumerate().with_max_len(1).for_each(|(task, (((dq, dk), dv), logsumexp))| {
            let (item, kv_head) = (task / dims.num_kv_heads, task % dims.num_kv_heads);
            let [q, out, dout] = by_query.map(|rows| rows.tile(item * dims.query_len, dims.query_len, kv_head * width, width));
            let [k, v] = by_key.map(|rows| rows.tile(item * dims.key_len, dims.key_len, kv_head * d, d));
            Task {
                q,
                out,
                dout,
                k,
                v,
                logsumexp: Rows::of(logsumexp, dims.query_len),
                item: items[item],
                head_dim: d,
                plane: item * dims.num_heads + kv_head * dims.group(),
                scale: args.scale,
                dropping: args.dropout.map(Dropping::new),
            }
            .run(dq, dk, dv);
        });
    });
    Ok(())
}

/// All query rows of one item, for all heads that share one key head.
struct Task<'a, T: Float> {
    q: Rows<'a, T>,
    out: Rows<'a, T>,
    dout: Rows<'a, T>,
    k: Rows<'a, T>,
    v: Rows<'a, T>,
    logsumexp: Rows<'a, T::Acc>,
    item: Item,
    head_dim: usize,
    plane: usize,
    scale: f64,
    dropping: Option<Dropping>,
}

/// Keys, values and their gradients for the whole item.
struct Keys<'a, A> {
    k: &'a mut [A],
    v: &'a mut [A],
    dk: &'a mut [A],
    dv: &'a mut [A],
}

/// One tile's worth of memory: queries as rows and as lanes, scores, and one row of whatever.
struct Tile<'a, A> {
    q: &'a mut [A],
    q_lanes: &'a mut [A],
    dout: &'a mut [A],
    dout_lanes: &'a mut [A],
    dq_lanes: &'a mut [A],
    scores: &'a mut [A],
    slopes: &'a mut [A],
    keep: &'a mut [A],
    own: &'a mut [A],
}

impl<T: Float> Task<'_, T> {
    /// Elements a row of whatever is a right-hand side or a sum by rows: whole vectors.
    fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    fn run(&self, mut dq: RowsMut<'_, T>, mut dk: RowsMut<'_, T>, mut dv: RowsMut<'_, T>) {
        let (d, padded, end) = (self.head_dim, self.padded(), self.item.queries);
        for row in end..dq.rows() {
            dq.row_mut(row).fill(T::default());
        }
        let seen = if end == 0 { 0 } else { self.item.limit(end - 1) };
        // Keys that get a gradient: those seen by others and those seen by themselves.
        let reached = seen.max(self.item.selves(0, end).end).next_multiple_of(ROWS);
        let packed = seen.next_multiple_of(ROWS) * d;
        let (square, dropped) = (KEYS * QUERIES, if self.dropping.is_some() { KEYS * QUERIES } else { 0 });
        let needed = 2 * (packed + reached * padded) + (3 * d + 2 * padded) * QUERIES + 2 * square + dropped + 2 * padded + 16 * LANES;
        with_buffer(needed, |mut buffer: &mut [T::Acc]| {
            let mut keys = Keys {
                k: carve(&mut buffer, packed),
                v: carve(&mut buffer, packed),
                dk: carve(&mut buffer, reached * padded),
                dv: carve(&mut buffer, reached * padded),
            };
            let mut tile = Tile {
                q: carve(&mut buffer, padded * QUERIES),
                q_lanes: carve(&mut buffer, d * QUERIES),
                dout: carve(&mut buffer, padded * QUERIES),
                dout_lanes: carve(&mut buffer, d * QUERIES),
                dq_lanes: carve(&mut buffer, d * QUERIES),
                scores: carve(&mut buffer, square),
                slopes: carve(&mut buffer, square),
                keep: carve(&mut buffer, dropped),
                own: carve(&mut buffer, 2 * padded),
            };
            pack::<T>(keys.k, d, self.k, seen, T::Acc::ONE);
            pack::<T>(keys.v, d, self.v, seen, T::Acc::ONE);
            keys.dk.fill(T::Acc::ZERO);
            keys.dv.fill(T::Acc::ZERO);
            let mut bands = dq.split_rows(end).0.into_tiles(QUERIES, d).into_iter();
            for first in (0..end).step_by(QUERIES) {
                for (head, dq) in bands.by_ref().take(self.logsumexp.rows()).enumerate() {
                    self.block(&mut tile, &mut keys, first, head, dq);
                }
            }
            // The packed queries carry scale / ln 2, see `block`.
            unpack_rows(&mut dk, keys.dk, padded, T::Acc::of(std::f64::consts::LN_2));
            unpack_rows(&mut dv, keys.dv, padded, T::Acc::ONE);
        });
    }

    /// One tile of queries of one head over all its keys: finishes `dq`, adds to `dk` and `dv`.
    fn block(&self, tile: &mut Tile<'_, T::Acc>, keys: &mut Keys<'_, T::Acc>, first: usize, head: usize, mut dq: RowsMut<'_, T>) {
        let (d, padded, rows, plane) = (self.head_dim, self.padded(), dq.rows(), self.plane + head);
        let width = rows.next_multiple_of(LANES);
        let [q, out, dout] = [self.q, self.out, self.dout].map(|source| source.tile(first, rows, head * d, d));
        pack::<T>(&mut tile.q[..rows * padded], padded, q, rows, T::Acc::of(self.scale * std::f64::consts::LOG2_E));
        // `dq_lanes` holds the outputs until it is needed.
        pack::<T>(&mut tile.dq_lanes[..rows * d], d, out, rows, T::Acc::ONE);
        pack::<T>(&mut tile.dout[..rows * padded], padded, dout, rows, T::Acc::ONE);
        transpose(tile.q_lanes, width, tile.q, padded, rows, d);
        transpose(tile.dout_lanes, width, tile.dout, padded, rows, d);
        let (mut logsumexp, mut delta) = ([-T::Acc::NEG_INFINITY; QUERIES], [T::Acc::ZERO; QUERIES]);
        for lane in 0..rows {
            let natural = self.logsumexp.row(head)[first + lane];
            // A row that saw nothing: +inf makes every probability 0.
            if natural != T::Acc::NEG_INFINITY {
                logsumexp[lane] = natural * T::Acc::of(std::f64::consts::LOG2_E);
            }
            delta[lane] = dot(&tile.dout[lane * padded..][..d], &tile.dq_lanes[lane * d..][..d]);
        }
        let dq_lanes = &mut tile.dq_lanes[..d * width];
        dq_lanes.fill(T::Acc::ZERO);
        let limits: [u32; QUERIES] = std::array::from_fn(|lane| self.item.limit(first + lane.min(rows - 1)) as u32);
        let seen = limits[QUERIES - 1] as usize;
        for key in (0..seen).step_by(KEYS) {
            let count = KEYS.min(seen - key);
            let m = count.next_multiple_of(ROWS);
            let (scores, slope) = (&mut tile.scores[..m * width], &mut tile.slopes[..m * width]);
            let by_keys = Product { m, n: width, k: d, a_row: d, a_step: 1, b_row: width, c_row: width, add: false };
            by_keys.run(scores, &keys.k[key * d..(key + m) * d], tile.q_lanes);
            by_keys.run(slope, &keys.v[key * d..(key + m) * d], tile.dout_lanes);
            let used = count * width;
            if key + count > limits[0] as usize {
                hide(&mut scores[..used], width, key, &limits);
            }
            let keep = &mut tile.keep[..self.dropping.map_or(0, |_| used)];
            if let Some(dropping) = self.dropping {
                dropping.tile(keep, width, plane, first, key);
            }
            slopes(&mut scores[..used], &mut slope[..used], keep, width, &logsumexp, &delta);
            // Rows beyond the last key belong to keys that these queries do not see.
            scores[used..].fill(T::Acc::ZERO);
            slope[used..].fill(T::Acc::ZERO);
            let gathered = key * padded..(key + m) * padded;
            let to_keys = Product { m, n: padded, k: rows, a_row: width, a_step: 1, b_row: padded, c_row: padded, add: true };
            to_keys.run(&mut keys.dv[gathered.clone()], scores, tile.dout);
            to_keys.run(&mut keys.dk[gathered], slope, tile.q);
            let to_queries = Product { m: d, n: width, k: count, a_row: 1, a_step: d, b_row: width, c_row: width, add: true };
            to_queries.run(dq_lanes, &keys.k[key * d..(key + count) * d], slope);
        }
        for row in self.item.selves(first, first + rows) {
            let lane = row - first;
            let (key, value) = tile.own.split_at_mut(padded);
            pack::<T>(key, padded, self.k.tile(row, 1, 0, d), 1, T::Acc::ONE);
            pack::<T>(value, padded, self.v.tile(row, 1, 0, d), 1, T::Acc::ONE);
            let (q, dout) = (&tile.q[lane * padded..][..padded], &tile.dout[lane * padded..][..padded]);
            let keep = self.dropping.map_or(T::Acc::ONE, |dropping| dropping.factor(plane, row, row));
            let p = exp2(dot(q, key) - logsumexp[lane]);
            let slope = p * (keep * dot(dout, value) - delta[lane]);
            axpy(&mut keys.dv[row * padded..][..padded], keep * p, dout);
            axpy(&mut keys.dk[row * padded..][..padded], slope, q);
            for (column, key) in key[..d].iter().enumerate() {
                let at = &mut dq_lanes[column * width + lane];
                *at = slope.mul_add(*key, *at);
            }
        }
        // The packed queries are done with; their memory takes the rows of `dq`.
        transpose(tile.q, d, dq_lanes, width, d, rows);
        unpack_rows(&mut dq, &tile.q[..rows * d], d, T::Acc::of(self.scale));
    }
}
