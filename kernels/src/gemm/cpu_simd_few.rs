//! A few rows times a matrix whose rows lie along the depth: decoding. Rows of `b` come straight from memory, once, and are turned in
//! registers, so that every element of `c` is summed in the order of the micro-kernels, to the same bits; nothing is packed.

use std::any::TypeId;

use super::cpu_pack::KC;
use super::cpu_simd::Kernel;
use crate::runtime::{Float, Rows, bf16};

/// Most rows of `a`.
pub(super) const ROWS: usize = 8;

/// Columns of a tile.
pub(super) const COLUMNS: usize = 64;

/// Whether operands of these types and this depth can be multiplied so.
pub(super) fn can<T: Float, U: Float>(kernel: Kernel, depth: usize) -> bool {
    let both = |id: TypeId| TypeId::of::<T>() == id && TypeId::of::<U>() == id;
    let fits = match kernel {
        Kernel::Avx512 => both(TypeId::of::<f32>()),
        Kernel::Avx512Bf16 => both(TypeId::of::<bf16>()) && depth.is_multiple_of(2),
        _ => false,
    };
    fits && cfg!(target_arch = "x86_64") && depth > 0
}

/// `tile = a b^T`: at most [`ROWS`] rows of [`COLUMNS`], of which the first `b.rows()` count. Only where [`can`] says so.
pub(super) fn multiply<T: Float, U: Float>(kernel: Kernel, tile: &mut [[f32; COLUMNS]; ROWS], a: Rows<'_, T>, b: Rows<'_, U>) {
    assert!(can::<T, U>(kernel, a.width()) && a.width() == b.width() && a.rows() <= ROWS && b.rows() <= COLUMNS);
    if a.rows() == 0 || b.rows() == 0 {
        return;
    }
    let width = a.width() * size_of::<T>() / size_of::<u32>();
    let block = KC * size_of::<T>() / size_of::<u32>();
    let row = |row: usize| a.row(row.min(a.rows() - 1)).as_ptr().cast::<u32>();
    for first in (0..b.rows()).step_by(16) {
        // What lies behind the last row is computed twice and nobody's.
        let columns: [*const u32; 16] = std::array::from_fn(|column| b.row((first + column).min(b.rows() - 1)).as_ptr().cast());
        let ahead = 16 * b.stride() * size_of::<U>();
        for from in (0..width).step_by(block) {
            let words = from..width.min(from + block);
            #[cfg(target_arch = "x86_64")]
            macro_rules! leaf {
                ($rows:literal) => {{
                    let rows: [*const u32; $rows] = std::array::from_fn(row);
                    // SAFETY: `can` found the instructions; the pointers are rows of `width` words each.
                    let sums = unsafe {
                        match kernel {
                            Kernel::Avx512Bf16 => x86::pairs(rows, columns, words, ahead),
                            _ => x86::singles(rows, columns, words, ahead),
                        }
                    };
                    for (tile, sums) in tile.iter_mut().zip(sums) {
                        for (tile, sum) in tile[first..first + 16].iter_mut().zip(sums) {
                            *tile = if from > 0 { *tile + sum } else { sum };
                        }
                    }
                }};
            }
            #[cfg(target_arch = "x86_64")]
            match a.rows() {
                1 => leaf!(1),
                2 => leaf!(2),
                3 | 4 => leaf!(4),
                _ => leaf!(8),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::ops::Range;

    use super::super::cpu_simd::turned;

    macro_rules! few {
        ($name:ident, $features:literal, $multiply:expr) => {
            /// Sums over `words` of products of each row of `a` with 16 rows of `b`.
            ///
            /// # Safety
            /// The features must be there, and the words of all rows valid.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name<const ROWS: usize>(
                a: [*const u32; ROWS],
                b: [*const u32; 16],
                words: Range<usize>,
                ahead: usize,
            ) -> [[f32; 16]; ROWS] {
                // Plain loops: a closure of an iterator would not be compiled for these instructions.
                let mut sums = [_mm512_setzero_ps(); ROWS];
                let mut at = words.start;
                while at < words.end {
                    let count = (words.end - at).min(16);
                    let mask = (u32::MAX >> (32 - count)) as __mmask16;
                    let mut square = [_mm512_setzero_ps(); 16];
                    for (vector, row) in square.iter_mut().zip(b) {
                        // The same place of the next 16 rows.
                        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(at).cast::<i8>().wrapping_add(ahead));
                        // SAFETY: the masked words lie in the row.
                        *vector = unsafe { _mm512_maskz_loadu_ps(mask, row.add(at).cast()) };
                    }
                    let columns = turned(square);
                    for step in 0..16 {
                        if step < count {
                            for (sum, row) in sums.iter_mut().zip(a) {
                                // SAFETY: a word of the row.
                                let word = unsafe { row.add(at + step).read_unaligned() };
                                *sum = $multiply(*sum, _mm512_castsi512_ps(_mm512_set1_epi32(word as i32)), columns[step]);
                            }
                        }
                    }
                    at += count;
                }
                let mut numbers = [[0.0; 16]; ROWS];
                for (numbers, sum) in numbers.iter_mut().zip(sums) {
                    // SAFETY: 16 floats.
                    unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), sum) };
                }
                numbers
            }
        };
    }

    few!(singles, "avx512f", |sum, a, b| _mm512_fmadd_ps(a, b, sum));
    few!(pairs, "avx512f,avx512bf16", |sum, a, b| _mm512_dpbf16_ps(sum, bits(a), bits(b)));

    /// A vector of words as pairs of bf16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bits(vector: __m512) -> __m512bh {
        // SAFETY: both are 64 plain bytes.
        unsafe { std::mem::transmute::<__m512, __m512bh>(vector) }
    }
}
