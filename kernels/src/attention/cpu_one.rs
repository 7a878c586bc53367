//! One query row alone, as in decoding: the heads that share a key head are the rows of the products and the keys their columns, so that
//! no lane works for a query that does not exist. Every sum runs in the order of the tiles of many queries: the same bits.

use super::cpu::{Task, carve};
use super::cpu_simd_one;
use super::cpu_tile::{KEYS, LOW_ROWS, Product, SLACK, exp2, pack, transpose};
use crate::runtime::math::LANES;
use crate::runtime::{Float, Real, Rows, RowsMut, with_buffer};
use crate::vectorize;

impl<T: Float> Task<'_, T> {
    /// Whether [`Task::run_one`] can stand in for the tiles.
    pub(super) fn is_one(&self, rows: usize) -> bool {
        rows == 1 && self.head_dim.is_multiple_of(LANES) && self.dropping.is_none() && self.item.selves(self.row, self.row + 1).is_empty()
    }

    /// The only row, which counts, over all keys that it sees.
    pub(super) fn run_one(&self, out: &mut [T], logsumexp: &mut RowsMut<'_, T::Acc>) {
        let (d, heads, seen) = (self.head_dim, logsumexp.rows(), self.item.limit(self.row));
        let m = heads.next_multiple_of(LOW_ROWS);
        let leaf = cpu_simd_one::can::<T>(self.k);
        let packed = if leaf { 0 } else { KEYS * d };
        let needed = 3 * packed + m * (2 * d + KEYS) + 2 * m + 8 * LANES;
        with_buffer(needed, |mut buffer: &mut [T::Acc]| {
            let [rows, columns, values] = [(); 3].map(|()| carve(&mut buffer, packed));
            let [q, sums] = [(); 2].map(|()| carve(&mut buffer, m * d));
            let scores = carve(&mut buffer, m * KEYS);
            let [base, total] = [T::Acc::NEG_INFINITY, T::Acc::ZERO].map(|start| {
                let numbers = carve(&mut buffer, heads);
                numbers.fill(start);
                numbers
            });
            pack::<T>(q, d, Rows::of(self.q.row(0), d), heads, T::Acc::of(self.scale * std::f64::consts::LOG2_E));
            sums.fill(T::Acc::ZERO);
            let tile = |key: usize| [self.k, self.v].map(|matrix| matrix.tile(key, KEYS.min(seen - key), 0, d));
            // Short rows, far apart: nobody else fetches them ahead.
            let fetch = |key: usize| if key < seen { tile(key).map(cpu_simd_one::fetch) } else { [(); 2] };
            fetch(0);
            for key in (0..seen).step_by(KEYS) {
                let [k, v] = tile(key);
                fetch(key + KEYS);
                let keys = k.rows();
                if leaf {
                    cpu_simd_one::scores(bytemuck::cast_slice_mut(scores), bytemuck::cast_slice(&q[..heads * d]), k);
                } else {
                    let width = keys.next_multiple_of(LANES);
                    pack::<T>(&mut rows[..width * d], d, k, keys, T::Acc::ONE);
                    transpose(columns, width, rows, d, width, d);
                    let product = Product { m, n: width, k: d, a_row: d, a_step: 1, b_row: width, c_row: KEYS, add: false };
                    product.run(scores, q, columns);
                }
                for head in 0..heads {
                    let factor = softmax(&mut scores[head * KEYS..][..keys], &mut base[head], &mut total[head]);
                    if key > 0 && factor != T::Acc::ONE {
                        sums[head * d..][..d].iter_mut().for_each(|sum| *sum *= factor);
                    }
                }
                if leaf {
                    let sums = bytemuck::cast_slice_mut(&mut sums[..heads * d]);
                    cpu_simd_one::values(sums, bytemuck::cast_slice(scores), v, key > 0);
                } else {
                    pack::<T>(&mut values[..keys * d], d, v, keys, T::Acc::ONE);
                    let product = Product { m, n: d, k: keys, a_row: KEYS, a_step: 1, b_row: d, c_row: d, add: key > 0 };
                    product.run(sums, scores, values);
                }
            }
            let ln2 = T::Acc::of(std::f64::consts::LN_2);
            for head in 0..heads {
                let (base, total) = (base[head], total[head]);
                let seen = total != T::Acc::ZERO;
                let factor = if seen { T::Acc::ONE / total } else { T::Acc::ZERO };
                logsumexp.row_mut(head)[0] = if seen { base * ln2 + total.ln() } else { T::Acc::NEG_INFINITY };
                for (out, sum) in out[head * d..][..d].iter_mut().zip(&sums[head * d..]) {
                    *out = T::from_acc(*sum * factor);
                }
            }
        });
    }
}

vectorize! {
    /// [`super::cpu_tile::softmax`] of one query, whose scores of one tile lie side by side; what everything summed so far must be
    /// multiplied by.
    fn softmax<A: Real>(scores: &mut [A], base: &mut A, total: &mut A) -> A {
        let mut tops = [A::NEG_INFINITY; LANES];
        for scores in scores.chunks(LANES) {
            for (top, score) in tops.iter_mut().zip(scores) {
                *top = if *score > *top { *score } else { *top };
            }
        }
        let top = tops.into_iter().fold(A::NEG_INFINITY, |top, other| if other > top { other } else { top });
        let before = *base;
        let after = if top > before + A::of(SLACK) { top } else { before };
        let origin = if after == A::NEG_INFINITY { A::ZERO } else { after };
        for score in scores.iter_mut() {
            *score = exp2(*score - origin);
        }
        let sum = scores.iter().fold(A::ZERO, |sum, score| sum + *score);
        let factor = if before == after { A::ONE } else { exp2(before - origin) };
        (*base, *total) = (after, *total * factor + sum);
        factor
    }
}
