//! What happens to one tile of scores, in the accumulation type.
//!
//! A tile is transposed: a row per key, a lane per query, so that the softmax of 16 queries runs side by side without a sum across
//! lanes, and so that keys and values are read as they lie, one element at a time, while only the few queries are turned over.

use super::cpu_simd;
use crate::runtime::math::LANES;
use crate::runtime::philox::Site;
use crate::runtime::{Float, Real, Rows, RowsMut};
use crate::vectorize;

/// Queries a tile: three vectors of f32.
pub(super) const QUERIES: usize = 48;
/// Keys a tile: scores, queries and a panel of values stay in the first cache together.
pub(super) const KEYS: usize = 96;
/// How far above its base, in powers of two, a score may lie before the base follows.
pub(super) const SLACK: f64 = 8.0;
/// Rows of keys and values are padded to a multiple of this.
pub(super) const ROWS: usize = 8;
/// Rows of a product that has few are padded to a multiple of this.
pub(super) const LOW_ROWS: usize = 4;

/// Sizes of `c[m, n] = a[m, k] b[k, n]`: elements `c[i * c_row + j]`, `a[i * a_row + p * a_step]`, `b[p * b_row + j]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    /// A multiple of [`LOW_ROWS`]; of 8 where `a_row` is 1.
    pub(super) m: usize,
    /// A multiple of 16.
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) a_row: usize,
    pub(super) a_step: usize,
    pub(super) b_row: usize,
    pub(super) c_row: usize,
    /// Adds to `c` instead of overwriting it.
    pub(super) add: bool,
}

impl Product {
    /// Asserts that slices of these lengths hold every element.
    pub(super) fn check(&self, c: usize, a: usize, b: usize) {
        assert!(self.m.is_multiple_of(if self.a_row == 1 { ROWS } else { LOW_ROWS }) && self.n.is_multiple_of(LANES));
        let end = |rows: usize, row: usize, columns: usize, step: usize| match (rows, columns) {
            (0, _) | (_, 0) => 0,
            _ => (rows - 1) * row + (columns - 1) * step + 1,
        };
        assert!(end(self.m, self.c_row, self.n, 1) <= c);
        assert!(end(self.m, self.a_row, self.k, self.a_step) <= a);
        assert!(end(self.k, self.b_row, self.n, 1) <= b);
    }

    /// Computes it. Every element is a chain of fused multiply-adds in the order of `k`, on every machine.
    pub(super) fn run<A: Real>(&self, c: &mut [A], a: &[A], b: &[A]) {
        let single = size_of::<A>() == size_of::<f32>();
        if !(single && cpu_simd::product(self, bytemuck::cast_slice_mut(c), bytemuck::cast_slice(a), bytemuck::cast_slice(b))) {
            portable(self, c, a, b);
        }
    }
}

/// 2^x for `x <= 127`: exactly 1 at 0, exactly 0 from -127 down, NaN stays NaN. In f32 the integer part goes into the exponent bits and
/// the rest through `1 + r P(r)`, `|r| <= 1/2`, a minimax fit with relative error 2e-9.
#[inline(always)]
pub(super) fn exp2<A: Real>(x: A) -> A {
    if size_of::<A>() == size_of::<f32>() { bytemuck::cast(exp2_f32(bytemuck::cast(x))) } else { (x * A::of(std::f64::consts::LN_2)).exp() }
}

#[inline(always)]
fn exp2_f32(x: f32) -> f32 {
    // At -127 the exponent bits run out exactly: 1.0 becomes 0.0.
    let x = if x < -127.0 { -127.0 } else { x };
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    let p = 1.535_333_2e-4_f32.mul_add(r, 1.339_887_6e-3);
    let p = p.mul_add(r, 9.618_438e-3);
    let p = p.mul_add(r, 5.550_332_4e-2);
    let p = p.mul_add(r, 0.240_226_48);
    let p = p.mul_add(r, std::f32::consts::LN_2);
    let p = p.mul_add(r, 1.0);
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `target[column * lanes + row] = source[row * width + column]` for `rows <= lanes`; the lanes beyond are 0.
pub(super) fn transpose<A: Real>(target: &mut [A], lanes: usize, source: &[A], width: usize, rows: usize, columns: usize) {
    assert!(rows <= lanes && columns <= width && rows * width <= source.len() && columns * lanes <= target.len());
    let single = size_of::<A>() == size_of::<f32>();
    if !(single && cpu_simd::transpose(bytemuck::cast_slice_mut(target), lanes, bytemuck::cast_slice(source), width, rows, columns)) {
        transpose_portable(target, lanes, source, width, rows, columns);
    }
}

#[inline(always)]
fn lanes<E: Copy>(values: &[E], at: usize) -> [E; LANES] {
    std::array::from_fn(|lane| values[at..at + LANES][lane])
}

vectorize! {
    /// [`Product::run`] for any type and machine.
    pub(super) fn portable<A: Real>(s: &Product, c: &mut [A], a: &[A], b: &[A]) {
        const BLOCK: usize = 4;
        for (row, column) in (0..s.m).step_by(BLOCK).flat_map(|row| (0..s.n).step_by(LANES).map(move |column| (row, column))) {
            let mut sums = [[A::ZERO; LANES]; BLOCK];
            for (r, sums) in sums.iter_mut().enumerate().filter(|_| s.add) {
                *sums = lanes(c, (row + r) * s.c_row + column);
            }
            for p in 0..s.k {
                let columns: &[A] = &b[p * s.b_row + column..][..LANES];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let factor = a[(row + r) * s.a_row + p * s.a_step];
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = factor.mul_add(*column, *sum);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                c[(row + r) * s.c_row + column..][..LANES].copy_from_slice(sums);
            }
        }
    }

    /// Widens the first `count` rows of `source`, times `scale`, into rows of `width` elements; the rest of `target` is 0.
    pub(super) fn pack<T: Float>(target: &mut [T::Acc], width: usize, source: Rows<'_, T>, count: usize, scale: T::Acc) {
        for (row, target) in target.chunks_exact_mut(width).enumerate() {
            let filled = if row < count { source.width() } else { 0 };
            if filled > 0 {
                for (target, source) in target.iter_mut().zip(source.row(row)) {
                    *target = source.to_acc() * scale;
                }
            }
            target[filled..].fill(T::Acc::ZERO);
        }
    }

    /// [`transpose`] for any type and machine.
    fn transpose_portable<A: Real>(target: &mut [A], lanes: usize, source: &[A], width: usize, rows: usize, columns: usize) {
        for column in 0..columns {
            let target = &mut target[column * lanes..][..lanes];
            for (row, target) in target[..rows].iter_mut().enumerate() {
                *target = source[row * width + column];
            }
            target[rows..].fill(A::ZERO);
        }
    }

    /// Scores of keys that a lane's query may not see become -inf; lane `l` sees keys below `limits[l]`.
    pub(super) fn hide<A: Real>(scores: &mut [A], width: usize, first_key: usize, limits: &[u32]) {
        for (row, scores) in scores.chunks_exact_mut(width).enumerate() {
            let key = (first_key + row) as u32;
            for (score, limit) in scores.iter_mut().zip(limits) {
                *score = if key < *limit { *score } else { A::NEG_INFINITY };
            }
        }
    }

    /// One step of the online softmax in base 2: scores become `2^(score - base)`, `total` takes the tile in, and `rescale` is what
    /// everything summed so far must be multiplied by. True when some factor is not 1.
    ///
    /// A lane's base is the first maximum it meets and follows only a maximum larger by [`SLACK`]: sums stay within `2^SLACK` of the
    /// usual ones, far from overflow, and hardly ever need rescaling.
    pub(super) fn softmax<A: Real>(scores: &mut [A], width: usize, base: &mut [A], total: &mut [A], rescale: &mut [A]) -> bool {
        let mut moved = false;
        for at in (0..width).step_by(LANES) {
            let before = lanes(base, at);
            let mut top = [A::NEG_INFINITY; LANES];
            for scores in scores.chunks_exact(width) {
                for (top, score) in top.iter_mut().zip(&scores[at..at + LANES]) {
                    *top = if *score > *top { *score } else { *top };
                }
            }
            let mut after = before;
            let mut origin = before;
            for ((after, origin), top) in after.iter_mut().zip(&mut origin).zip(top) {
                *after = if top > *after + A::of(SLACK) { top } else { *after };
                // A lane that has seen nothing yet: any finite origin keeps its probabilities at 0 and NaN away.
                *origin = if *after == A::NEG_INFINITY { A::ZERO } else { *after };
            }
            let mut sum = [A::ZERO; LANES];
            for scores in scores.chunks_exact_mut(width) {
                for ((score, origin), sum) in scores[at..at + LANES].iter_mut().zip(&origin).zip(&mut sum) {
                    *score = exp2(*score - *origin);
                    *sum += *score;
                }
            }
            for lane in 0..LANES {
                let factor = exp2(before[lane] - origin[lane]);
                let factor = if before[lane] == after[lane] { A::ONE } else { factor };
                moved |= factor != A::ONE;
                rescale[at + lane] = factor;
                total[at + lane] = total[at + lane] * factor + sum[lane];
                base[at + lane] = after[lane];
            }
        }
        moved
    }

    /// Every row of `sums` times `factors`.
    pub(super) fn rescale<A: Real>(sums: &mut [A], factors: &[A]) {
        for sums in sums.chunks_exact_mut(factors.len()) {
            for (sum, factor) in sums.iter_mut().zip(factors) {
                *sum *= *factor;
            }
        }
    }

    /// Element by element.
    pub(super) fn multiply<A: Real>(values: &mut [A], factors: &[A]) {
        for (value, factor) in values.iter_mut().zip(factors) {
            *value *= *factor;
        }
    }

    /// The tile of `1 / (1 - probability)` and 0 of dropout; `first_block` belongs to the first lane and the first key, a multiple of 8.
    pub(super) fn keep<A: Real>(factors: &mut [A], width: usize, site: Site, first_block: u64, threshold: u32, kept: A) {
        for (group, factors) in factors.chunks_mut(8 * width).enumerate() {
            for at in (0..width).step_by(LANES) {
                let first = first_block + ((group as u64) << 22) + at as u64;
                let mut words = [[0u32; LANES]; 4];
                let [first_words, second_words, third_words, fourth_words] = &mut words;
                let slots = first_words.iter_mut().zip(second_words).zip(third_words).zip(fourth_words);
                for ((((w0, w1), w2), w3), block) in slots.zip(first..) {
                    [*w0, *w1, *w2, *w3] = site.words(block);
                }
                for (key, factors) in factors.chunks_exact_mut(width).enumerate() {
                    for (factor, word) in factors[at..at + LANES].iter_mut().zip(&words[key / 2]) {
                        let slice = (word >> (16 * (key % 2))) & 0xffff;
                        *factor = if slice < threshold { A::ZERO } else { kept };
                    }
                }
            }
        }
    }

    /// Scores and `dout v` become what the gradients need: `scores <- keep * p` and `slopes <- p * (keep * slope - delta)`, with
    /// `p = 2^(score - logsumexp)`; an empty `keep` is 1.
    pub(super) fn slopes<A: Real>(scores: &mut [A], slopes: &mut [A], keep: &[A], width: usize, logsumexp: &[A], delta: &[A]) {
        if keep.is_empty() {
            for (scores, slopes) in scores.chunks_exact_mut(width).zip(slopes.chunks_exact_mut(width)) {
                for (((score, slope), logsumexp), delta) in scores.iter_mut().zip(slopes).zip(logsumexp).zip(delta) {
                    *score = exp2(*score - *logsumexp);
                    *slope = *score * (*slope - *delta);
                }
            }
        } else {
            let rows = scores.chunks_exact_mut(width).zip(slopes.chunks_exact_mut(width)).zip(keep.chunks_exact(width));
            for ((scores, slopes), keep) in rows {
                for ((((score, slope), keep), logsumexp), delta) in scores.iter_mut().zip(slopes).zip(keep).zip(logsumexp).zip(delta) {
                    let p = exp2(*score - *logsumexp);
                    *slope = p * (*keep * *slope - *delta);
                    *score = *keep * p;
                }
            }
        }
    }

    /// Sum of products in a fixed order: 16 partial sums and their tree.
    pub(super) fn dot<A: Real>(a: &[A], b: &[A]) -> A {
        let mut sums = [A::ZERO; LANES];
        for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum = a.mul_add(*b, *sum);
            }
        }
        crate::runtime::math::tree(sums)
    }

    /// `y += factor * x`.
    pub(super) fn axpy<A: Real>(y: &mut [A], factor: A, x: &[A]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = factor.mul_add(*x, *y);
        }
    }

    /// Narrows rows of `width` sums, times `scale`, into all rows of `target`; rows that the sums lack become 0.
    pub(super) fn unpack_rows<T: Float>(target: &mut RowsMut<'_, T>, sums: &[T::Acc], width: usize, scale: T::Acc) {
        for row in 0..target.rows() {
            let target = target.row_mut(row);
            match sums.get(row * width..(row + 1) * width) {
                Some(sums) => target.iter_mut().zip(sums).for_each(|(target, sum)| *target = T::from_acc(*sum * scale)),
                None => target.fill(T::default()),
            }
        }
    }
}
