//! The two products of one query row with vector registers: scores of keys, which come straight from the cache of keys and are turned in
//! registers, and the sum of values. Every sum runs in the order of [`super::cpu_tile::Product`]: the same bits.

use std::any::TypeId;

use super::cpu_tile::KEYS;
use crate::runtime::simd::{Level, level};
use crate::runtime::{Float, Rows, bf16};

/// Elements of one kind, or none that these products take.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Single,
    Half,
}

fn kind<T: Float>() -> Option<Kind> {
    let is = |id: TypeId| TypeId::of::<T>() == id;
    if level() < Level::Avx512 || !cfg!(target_arch = "x86_64") {
        None
    } else if is(TypeId::of::<f32>()) {
        Some(Kind::Single)
    } else {
        is(TypeId::of::<bf16>()).then_some(Kind::Half)
    }
}

/// Whether the products exist for elements of this type, in rows of whole words, on this machine.
pub(super) fn can<T: Float>(k: Rows<'_, T>) -> bool {
    kind::<T>().is_some() && (k.stride() * size_of::<T>()).is_multiple_of(size_of::<u32>())
}

/// Asks for rows that will be read soon.
pub(super) fn fetch<T>(rows: Rows<'_, T>) {
    #[cfg(target_arch = "x86_64")]
    for row in 0..rows.rows() {
        for line in (0..rows.width() * size_of::<T>()).step_by(64) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: a hint; it reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(rows.row(row).as_ptr().cast::<i8>().wrapping_add(line)) };
        }
    }
}

/// `scores[head * KEYS + key] = q[head] . k[key]` for rows `q` of as many elements as `k` has, a multiple of 16. Only where [`can`].
///
/// # Panics
/// When a slice is too short: a bug of ours.
pub(super) fn scores<T: Float>(scores: &mut [f32], q: &[f32], k: Rows<'_, T>) {
    let (d, heads) = (k.width(), q.len() / k.width());
    assert!(d.is_multiple_of(16) && (1..=KEYS).contains(&k.rows()) && scores.len() >= heads * KEYS && can(k));
    #[cfg(target_arch = "x86_64")]
    for first in (0..heads).step_by(4) {
        let (scores, q) = (scores[first * KEYS..].as_mut_ptr(), q[first * d..].as_ptr());
        let (words, stride) = (d * size_of::<T>() / 4, k.stride() * size_of::<T>() / 4);
        let pointer = k.as_ptr().cast::<u32>();
        macro_rules! leaf {
            ($heads:literal) => {
                // SAFETY: `can` found the instructions; the rows of `q` and of `scores` were counted above, those of `k` are the view's.
                unsafe {
                    match kind::<T>() {
                        Some(Kind::Half) => x86::scores::<$heads, true>(scores, q, pointer, stride, words, k.rows()),
                        _ => x86::scores::<$heads, false>(scores, q, pointer, stride, words, k.rows()),
                    }
                }
            };
        }
        match heads - first {
            1 => leaf!(1),
            2 => leaf!(2),
            3 => leaf!(3),
            _ => leaf!(4),
        }
    }
}

/// `sums[head] = weights[head] v`, or adds it, where the weight of a key is `weights[head * KEYS + key]`. Only where [`can`].
///
/// # Panics
/// When a slice is too short: a bug of ours.
pub(super) fn values<T: Float>(sums: &mut [f32], weights: &[f32], v: Rows<'_, T>, add: bool) {
    let (d, heads) = (v.width(), sums.len() / v.width());
    assert!(d.is_multiple_of(16) && v.rows() <= KEYS && weights.len() >= heads * KEYS && kind::<T>().is_some());
    #[cfg(target_arch = "x86_64")]
    for first in (0..heads).step_by(4) {
        let weights = weights[first * KEYS..].as_ptr();
        let mut column = 0;
        while column < d {
            let wide = d - column >= 64;
            let sums = sums[first * d + column..].as_mut_ptr();
            let pointer = v.as_ptr().wrapping_add(column).cast::<u8>();
            let (stride, keys) = (v.stride() * size_of::<T>(), v.rows());
            macro_rules! leaf {
                ($heads:literal, $vectors:literal) => {
                    // SAFETY: as above; the columns lie in the rows of `v` and of `sums`.
                    unsafe {
                        match kind::<T>() {
                            Some(Kind::Half) => x86::values::<$heads, $vectors, true>(sums, d, weights, pointer, stride, keys, add),
                            _ => x86::values::<$heads, $vectors, false>(sums, d, weights, pointer, stride, keys, add),
                        }
                    }
                };
            }
            match (heads - first, wide) {
                (1, true) => leaf!(1, 4),
                (2, true) => leaf!(2, 4),
                (3, true) => leaf!(3, 4),
                (_, true) => leaf!(4, 4),
                (1, false) => leaf!(1, 1),
                (2, false) => leaf!(2, 1),
                (3, false) => leaf!(3, 1),
                (_, false) => leaf!(4, 1),
            }
            column += if wide { 64 } else { 16 };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::KEYS;
    use crate::gemm::turned;

    /// Scores of `keys` keys, 16 at a time: a vector for each word of them, and where a word is two halves, the lower first.
    ///
    /// # Safety
    /// AVX-512 F; `words` words of `keys` rows of `k`, `stride` words apart; as many elements of `HEADS` rows of `q`, one behind the other;
    /// `HEADS` rows of [`KEYS`] scores.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn scores<const HEADS: usize, const HALF: bool>(
        scores: *mut f32,
        q: *const f32,
        k: *const u32,
        stride: usize,
        words: usize,
        keys: usize,
    ) {
        let d = if HALF { 2 * words } else { words };
        for first in (0..keys).step_by(16) {
            let mut sums = [_mm512_setzero_ps(); HEADS];
            for from in (0..words).step_by(16) {
                let count = (words - from).min(16);
                let mask = (u32::MAX >> (32 - count)) as __mmask16;
                let mut square = [_mm512_setzero_ps(); 16];
                for (row, vector) in square.iter_mut().enumerate() {
                    // What lies behind the last key is computed twice and nobody's.
                    let key = (first + row).min(keys - 1);
                    // SAFETY: the masked words lie in the row of a key.
                    *vector = unsafe { _mm512_maskz_loadu_ps(mask, k.add(key * stride + from).cast()) };
                }
                let columns = turned(square);
                for (step, column) in columns.into_iter().enumerate() {
                    if step < count {
                        let element = (from + step) * if HALF { 2 } else { 1 };
                        let halves = _mm512_castps_si512(column);
                        let lower = if HALF { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves)) } else { column };
                        for (head, sum) in sums.iter_mut().enumerate() {
                            // SAFETY: an element of the head's row.
                            let factor = _mm512_set1_ps(unsafe { *q.add(head * d + element) });
                            *sum = _mm512_fmadd_ps(factor, lower, *sum);
                        }
                        if HALF {
                            let upper = _mm512_and_si512(halves, _mm512_set1_epi32(0xffff_0000u32 as i32));
                            for (head, sum) in sums.iter_mut().enumerate() {
                                // SAFETY: as above.
                                let factor = _mm512_set1_ps(unsafe { *q.add(head * d + element + 1) });
                                *sum = _mm512_fmadd_ps(factor, _mm512_castsi512_ps(upper), *sum);
                            }
                        }
                    }
                }
            }
            for (head, sum) in sums.into_iter().enumerate() {
                // SAFETY: `KEYS` is a multiple of 16, so that the group lies in the row.
                unsafe { _mm512_storeu_ps(scores.add(head * KEYS + first), sum) };
            }
        }
    }

    /// Weighted sums of `VECTORS` vectors of columns over `keys` rows of `v`.
    ///
    /// # Safety
    /// AVX-512 F; the columns of `keys` rows of `v`, `stride` bytes apart, and of `HEADS` rows of `sums`, `d` apart; `HEADS` rows of
    /// [`KEYS`] weights.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn values<const HEADS: usize, const VECTORS: usize, const HALF: bool>(
        sums: *mut f32,
        d: usize,
        weights: *const f32,
        v: *const u8,
        stride: usize,
        keys: usize,
        add: bool,
    ) {
        let mut totals = [[_mm512_setzero_ps(); VECTORS]; HEADS];
        for (head, totals) in totals.iter_mut().enumerate().filter(|_| add) {
            for (vector, total) in totals.iter_mut().enumerate() {
                // SAFETY: columns of the head's row.
                *total = unsafe { _mm512_loadu_ps(sums.add(head * d + 16 * vector)) };
            }
        }
        for key in 0..keys {
            let mut columns = [_mm512_setzero_ps(); VECTORS];
            for (vector, column) in columns.iter_mut().enumerate() {
                // SAFETY: 16 columns of the key's row.
                *column = unsafe {
                    if HALF {
                        let halves = _mm256_loadu_si256(v.add(key * stride + 32 * vector).cast());
                        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
                    } else {
                        _mm512_loadu_ps(v.add(key * stride + 64 * vector).cast())
                    }
                };
            }
            for (head, totals) in totals.iter_mut().enumerate() {
                // SAFETY: a weight of the head's row.
                let weight = _mm512_set1_ps(unsafe { *weights.add(head * KEYS + key) });
                for (total, column) in totals.iter_mut().zip(columns) {
                    *total = _mm512_fmadd_ps(weight, column, *total);
                }
            }
        }
        for (head, totals) in totals.into_iter().enumerate() {
            for (vector, total) in totals.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(sums.add(head * d + 16 * vector), total) };
            }
        }
    }
}
