//! The small matrix product and the transpose of the tiles with vector registers; same bits as the portable ones.

use super::cpu_tile::Product;

/// `c = a b` or `c += a b` in f32; false when the machine lacks AVX2 and nothing was done.
///
/// # Panics
/// When a slice is shorter than the shape says: a bug of ours.
#[cfg(target_arch = "x86_64")]
pub(super) fn product(shape: &Product, c: &mut [f32], a: &[f32], b: &[f32]) -> bool {
    use crate::runtime::simd::{Level, level};
    shape.check(c.len(), a.len(), b.len());
    let (c, a, b) = (c.as_mut_ptr(), a.as_ptr(), b.as_ptr());
    match level() {
        Level::Portable => return false,
        // SAFETY: the features were detected; `check` found every element that the shape names inside the slices.
        Level::Avx2 => unsafe { avx2::product(shape, c, a, b) },
        // SAFETY: as above.
        Level::Avx512 | Level::Avx512Bf16 => unsafe { avx512::product(shape, c, a, b) },
    }
    true
}

/// No leaf on this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn product(_shape: &Product, _c: &mut [f32], _a: &[f32], _b: &[f32]) -> bool {
    false
}

/// `target[column * lanes + row] = source[row * width + column]`, lanes from `rows` on 0; false when the machine lacks AVX-512.
///
/// # Panics
/// When a slice is shorter than the sizes say: a bug of ours.
#[cfg(target_arch = "x86_64")]
pub(super) fn transpose(target: &mut [f32], lanes: usize, source: &[f32], width: usize, rows: usize, columns: usize) -> bool {
    use crate::runtime::simd::{Level, level};
    if level() < Level::Avx512 {
        return false;
    }
    assert!(rows <= lanes && columns <= width && rows * width <= source.len() && columns * lanes <= target.len());
    for (row, column) in (0..lanes).step_by(16).flat_map(|row| (0..columns).step_by(16).map(move |column| (row, column))) {
        let (filled, high, wide) = (rows.saturating_sub(row).min(16), (lanes - row).min(16), (columns - column).min(16));
        let from = source.as_ptr().wrapping_add(row * width + column);
        let to = target.as_mut_ptr().wrapping_add(column * lanes + row);
        // SAFETY: the features were detected; by the assertion the block's rows and columns lie inside the slices.
        unsafe { avx512::transpose(to, lanes, from, width, filled, high, wide) };
    }
    true
}

/// No leaf on this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn transpose(_target: &mut [f32], _lanes: usize, _source: &[f32], _width: usize, _rows: usize, _columns: usize) -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::Product;
    use std::arch::x86_64::*;

    /// Panels of 16 columns, each over all rows while it is in the first cache: six rows at a time, whose sums fill twelve of the sixteen
    /// registers, then four or two.
    ///
    /// # Safety
    /// AVX2 and FMA; the slices behind the pointers passed [`Product::check`].
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn product(shape: &Product, c: *mut f32, a: *const f32, b: *const f32) {
        for column in (0..shape.n).step_by(16) {
            // SAFETY: the panel's columns lie inside the checked shape.
            unsafe {
                if shape.a_row == 1 {
                    panel::<true>(shape, c.add(column), a, b.add(column));
                } else {
                    panel::<false>(shape, c.add(column), a, b.add(column));
                }
            }
        }
    }

    /// One panel. `UNIT`: the rows of `a` lie one element apart.
    ///
    /// # Safety
    /// As for [`product`], for the panel that starts at `c` and `b`.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn panel<const UNIT: bool>(s: &Product, c: *mut f32, a: *const f32, b: *const f32) {
        let a_row = if UNIT { 1 } else { s.a_row };
        let mut row = 0;
        while row < s.m {
            let rows = (s.m - row).min(6);
            // SAFETY: `m` is even, so that 6, 4 or 2 rows are left; they lie inside the checked shape.
            unsafe {
                let (c, a) = (c.add(row * s.c_row), a.add(row * a_row));
                match rows {
                    6 => tile::<6, UNIT>(s, c, a, b),
                    4 => tile::<4, UNIT>(s, c, a, b),
                    _ => tile::<2, UNIT>(s, c, a, b),
                }
            }
            row += rows;
        }
    }

    /// `ROWS x 16` elements of `c` in registers.
    ///
    /// # Safety
    /// As for [`panel`], for the rows from `c` and `a` on.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile<const ROWS: usize, const UNIT: bool>(s: &Product, c: *mut f32, mut a: *const f32, mut b: *const f32) {
        let a_row = if UNIT { 1 } else { s.a_row };
        // SAFETY: every index is inside the checked shape.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            if s.add {
                for (r, sums) in sums.iter_mut().enumerate() {
                    *sums = [_mm256_loadu_ps(c.add(r * s.c_row)), _mm256_loadu_ps(c.add(r * s.c_row + 8))];
                }
            }
            for _ in 0..s.k {
                let columns = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let factor = _mm256_broadcast_ss(&*a.add(r * a_row));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = _mm256_fmadd_ps(factor, column, *sum);
                    }
                }
                a = a.wrapping_add(s.a_step);
                b = b.wrapping_add(s.b_row);
            }
            for (r, sums) in sums.iter().enumerate() {
                _mm256_storeu_ps(c.add(r * s.c_row), sums[0]);
                _mm256_storeu_ps(c.add(r * s.c_row + 8), sums[1]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::Product;
    use std::arch::x86_64::*;

    /// Panels of 64, 48, 32 or 16 columns, each over all rows while it is in the first cache.
    ///
    /// # Safety
    /// AVX-512 F; the slices behind the pointers passed [`Product::check`].
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn product(shape: &Product, c: *mut f32, a: *const f32, b: *const f32) {
        let low = !shape.m.is_multiple_of(8);
        let mut column = 0;
        while column < shape.n {
            let vectors = ((shape.n - column) / 16).min(4);
            // SAFETY: the panel's columns lie inside the checked shape.
            unsafe {
                let (c, b) = (c.add(column), b.add(column));
                match (vectors, shape.a_row == 1) {
                    (4, true) => panel::<4, 4, true>(shape, c, a, b),
                    (4, false) => panel::<4, 4, false>(shape, c, a, b),
                    (3, true) => panel::<8, 3, true>(shape, c, a, b),
                    (3, false) if low => panel::<4, 3, false>(shape, c, a, b),
                    (3, false) => panel::<8, 3, false>(shape, c, a, b),
                    (2, true) => panel::<8, 2, true>(shape, c, a, b),
                    (2, false) if low => panel::<4, 2, false>(shape, c, a, b),
                    (2, false) => panel::<8, 2, false>(shape, c, a, b),
                    (_, true) => panel::<8, 1, true>(shape, c, a, b),
                    (_, false) if low => panel::<4, 1, false>(shape, c, a, b),
                    (_, false) => panel::<8, 1, false>(shape, c, a, b),
                }
            }
            column += vectors * 16;
        }
    }

    /// `ROWS x (16 * VECTORS)` elements of `c` at a time in registers. `UNIT`: the rows of `a` lie one element apart.
    ///
    /// # Safety
    /// As for [`product`], for the panel that starts at `c` and `b`.
    #[target_feature(enable = "avx512f")]
    unsafe fn panel<const ROWS: usize, const VECTORS: usize, const UNIT: bool>(s: &Product, c: *mut f32, a: *const f32, b: *const f32) {
        let a_row = if UNIT { 1 } else { s.a_row };
        for row in (0..s.m).step_by(ROWS) {
            // SAFETY: `m` is a multiple of `ROWS`, so that all rows exist; every index below is inside the checked shape.
            unsafe {
                let (c, a) = (c.add(row * s.c_row), a.add(row * a_row));
                let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
                if s.add {
                    for (r, sums) in sums.iter_mut().enumerate() {
                        for (v, sum) in sums.iter_mut().enumerate() {
                            *sum = _mm512_loadu_ps(c.add(r * s.c_row + v * 16));
                        }
                    }
                }
                let (mut a, mut b) = (a, b);
                for _ in 0..s.k {
                    let mut columns: [__m512; VECTORS] = [_mm512_setzero_ps(); VECTORS];
                    for (v, column) in columns.iter_mut().enumerate() {
                        *column = _mm512_loadu_ps(b.add(v * 16));
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let factor = _mm512_set1_ps(*a.add(r * a_row));
                        for (sum, column) in sums.iter_mut().zip(columns) {
                            *sum = _mm512_fmadd_ps(factor, column, *sum);
                        }
                    }
                    a = a.wrapping_add(s.a_step);
                    b = b.wrapping_add(s.b_row);
                }
                for (r, sums) in sums.iter().enumerate() {
                    for (v, sum) in sums.iter().enumerate() {
                        _mm512_storeu_ps(c.add(r * s.c_row + v * 16), *sum);
                    }
                }
            }
        }
    }

    /// A block of `wide` columns and `filled` rows becomes `wide` rows of `high` lanes, those from `filled` on 0; all at most 16.
    ///
    /// # Safety
    /// AVX-512 F; the block exists behind both pointers.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose(
        to: *mut f32,
        to_row: usize,
        from: *const f32,
        from_row: usize,
        filled: usize,
        high: usize,
        wide: usize,
    ) {
        let mask = |count: usize| ((1u32 << count) - 1) as u16;
        let mut rows = [_mm512_setzero_ps(); 16];
        for (r, row) in rows.iter_mut().enumerate().take(filled) {
            // SAFETY: row `r < filled` has `wide` elements; masked ones are not touched.
            *row = unsafe { _mm512_maskz_loadu_ps(mask(wide), from.add(r * from_row)) };
        }
        // Pairs, then fours: vector `4 g + c` holds in its 128-bit part `l` the column `4 l + c` of rows `4 g .. 4 g + 4`.
        let mut fours = [_mm512_setzero_ps(); 16];
        for (four, rows) in fours.chunks_exact_mut(4).zip(rows.chunks_exact(4)) {
            let (low, high) = (_mm512_unpacklo_ps(rows[0], rows[1]), _mm512_unpackhi_ps(rows[0], rows[1]));
            let (low, high) = (_mm512_castps_pd(low), _mm512_castps_pd(high));
            let (next_low, next_high) = (_mm512_unpacklo_ps(rows[2], rows[3]), _mm512_unpackhi_ps(rows[2], rows[3]));
            let (next_low, next_high) = (_mm512_castps_pd(next_low), _mm512_castps_pd(next_high));
            four[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, next_low));
            four[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, next_low));
            four[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, next_high));
            four[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, next_high));
        }
        for c in 0..4 {
            let (first, second) =
                (_mm512_shuffle_f32x4::<0x44>(fours[c], fours[4 + c]), _mm512_shuffle_f32x4::<0x44>(fours[8 + c], fours[12 + c]));
            let (third, fourth) =
                (_mm512_shuffle_f32x4::<0xEE>(fours[c], fours[4 + c]), _mm512_shuffle_f32x4::<0xEE>(fours[8 + c], fours[12 + c]));
            let columns = [
                _mm512_shuffle_f32x4::<0x88>(first, second),
                _mm512_shuffle_f32x4::<0xDD>(first, second),
                _mm512_shuffle_f32x4::<0x88>(third, fourth),
                _mm512_shuffle_f32x4::<0xDD>(third, fourth),
            ];
            for (l, column) in columns.into_iter().enumerate().filter(|(l, _)| 4 * l + c < wide) {
                // SAFETY: row `4 l + c < wide` of the target has `high` elements; masked ones are not touched.
                unsafe { _mm512_mask_storeu_ps(to.add((4 * l + c) * to_row), mask(high), column) };
            }
        }
    }
}
