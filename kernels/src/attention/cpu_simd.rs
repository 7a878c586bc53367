//! The small matrix product of the tiles with AVX-512 registers; same bits as the portable one.

use super::cpu_tile::Product;

/// `c = a b` or `c += a b` in f32; false when the machine lacks AVX-512 and nothing was done.
///
/// # Panics
/// When a slice is shorter than the shape says: a bug of ours.
#[cfg(target_arch = "x86_64")]
pub(super) fn product(shape: &Product, c: &mut [f32], a: &[f32], b: &[f32]) -> bool {
    use crate::runtime::simd::{Level, level};
    if level() < Level::Avx512 {
        return false;
    }
    shape.check(c.len(), a.len(), b.len());
    // SAFETY: the features were detected; `check` found every element that the shape names inside the slices.
    unsafe { avx512::product(shape, c.as_mut_ptr(), a.as_ptr(), b.as_ptr()) };
    true
}

/// No leaf on this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn product(_shape: &Product, _c: &mut [f32], _a: &[f32], _b: &[f32]) -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::Product;
    use std::arch::x86_64::{__m512, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps};

    /// Panels of 64, 48, 32 or 16 columns, each over all rows while it is in the first cache.
    ///
    /// # Safety
    /// AVX-512 F; the slices behind the pointers passed [`Product::check`].
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn product(shape: &Product, c: *mut f32, a: *const f32, b: *const f32) {
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
                    (3, false) => panel::<8, 3, false>(shape, c, a, b),
                    (2, true) => panel::<8, 2, true>(shape, c, a, b),
                    (2, false) => panel::<8, 2, false>(shape, c, a, b),
                    (_, true) => panel::<8, 1, true>(shape, c, a, b),
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
            // SAFETY: `m` is a multiple of 8, so that all of `ROWS` rows exist; every index below is inside the checked shape.
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
}
