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

/// Columns that are computed side by side: no tile is narrower.
pub(super) const GROUP: usize = 16;

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

/// Asks for the first rows of `b`; what [`multiply`] reads it asks for the next ones.
pub(super) fn begin<U: Float>(b: Rows<'_, U>) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..GROUP.min(b.rows()) * b.stride() * size_of::<U>()).step_by(64) {
        x86::prefetch(b.as_ptr().cast::<i8>().wrapping_add(line));
    }
}

/// `tile = a b^T`: at most [`ROWS`] rows of [`COLUMNS`], of which the first `b.rows()`, at least [`GROUP`], count. Only where [`can`]
/// says so.
pub(super) fn multiply<T: Float, U: Float>(kernel: Kernel, tile: &mut [[f32; COLUMNS]; ROWS], a: Rows<'_, T>, b: Rows<'_, U>) {
    assert!(can::<T, U>(kernel, a.width()) && a.width() == b.width() && a.rows() > 0 && a.rows() <= ROWS);
    assert!((GROUP..=COLUMNS).contains(&b.rows()));
    let (width, stride) = [b.width(), b.stride()].map(|elements| elements * size_of::<U>() / size_of::<u32>()).into();
    let block = KC * size_of::<T>() / size_of::<u32>();
    let row = |row: usize| a.row(row.min(a.rows() - 1)).as_ptr().cast::<u32>();
    for first in (0..b.rows()).step_by(GROUP) {
        // The last group overlaps the one before it, where columns are left over: the same bits once more.
        let first = first.min(b.rows() - GROUP);
        let group = b.row(first).as_ptr().cast::<u32>();
        for from in (0..width).step_by(block) {
            let words = from..width.min(from + block);
            #[cfg(target_arch = "x86_64")]
            macro_rules! leaf {
                ($rows:literal) => {{
                    let rows: [*const u32; $rows] = std::array::from_fn(row);
                    // SAFETY: `can` found the instructions; `rows` and the 16 of `group`, `stride` apart, have `width` words each.
                    let sums = unsafe {
                        match kernel {
                            Kernel::Avx512Bf16 => x86::pairs(rows, group, stride, words),
                            _ => x86::singles(rows, group, stride, words),
                        }
                    };
                    for (tile, sums) in tile.iter_mut().zip(sums) {
                        for (tile, sum) in tile[first..first + GROUP].iter_mut().zip(sums) {
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
    use super::GROUP;

    /// Into the second cache: the first could not hold a group beside the next one.
    #[inline(always)]
    pub(super) fn prefetch(line: *const i8) {
        // SAFETY: a hint; it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line) };
    }

    macro_rules! few {
        ($name:ident, $features:literal, $multiply:expr) => {
            /// Sums over `words` of products of each row of `a` with [`GROUP`] rows of `b`.
            ///
            /// # Safety
            /// The features must be there, and the words of all rows valid; those of `b` lie `stride` apart.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name<const ROWS: usize>(
                a: [*const u32; ROWS],
                b: *const u32,
                stride: usize,
                words: Range<usize>,
            ) -> [[f32; GROUP]; ROWS] {
                // Plain loops: a closure of an iterator would not be compiled for these instructions.
                let mut sums = [_mm512_setzero_ps(); ROWS];
                let next = b.wrapping_add(GROUP * stride);
                let mut at = words.start;
                while at + 16 <= words.end {
                    let mut square = [_mm512_setzero_ps(); GROUP];
                    for row in 0..GROUP {
                        // As many lines of the next group, in the order of memory.
                        prefetch(next.wrapping_add(16 * (at + row)).cast());
                        // SAFETY: 16 words of the row.
                        square[row] = unsafe { _mm512_loadu_ps(b.add(row * stride + at).cast()) };
                    }
                    let columns = turned(square);
                    for step in 0..16 {
                        for (sum, row) in sums.iter_mut().zip(a) {
                            // SAFETY: a word of the row.
                            let word = unsafe { row.add(at + step).read_unaligned() };
                            *sum = $multiply(*sum, _mm512_castsi512_ps(_mm512_set1_epi32(word as i32)), columns[step]);
                        }
                    }
                    at += 16;
                }
                if at < words.end {
                    let count = words.end - at;
                    let mask = (u32::MAX >> (32 - count)) as __mmask16;
                    let mut square = [_mm512_setzero_ps(); GROUP];
                    for row in 0..GROUP {
                        // SAFETY: the masked words lie in the row.
                        square[row] = unsafe { _mm512_maskz_loadu_ps(mask, b.add(row * stride + at).cast()) };
                    }
                    let columns = turned(square);
                    for step in 0..count {
                        for (sum, row) in sums.iter_mut().zip(a) {
                            // SAFETY: a word of the row.
                            let word = unsafe { row.add(at + step).read_unaligned() };
                            *sum = $multiply(*sum, _mm512_castsi512_ps(_mm512_set1_epi32(word as i32)), columns[step]);
                        }
                    }
                }
                let mut numbers = [[0.0; GROUP]; ROWS];
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
