//! A few rows times int8 weights: decoding. The weights come straight from memory, once, are turned in registers and widened there;
//! sums are those of [`crate::gemm`] over widened weights, bit for bit.

use std::any::TypeId;

use crate::gemm::KC;
use crate::runtime::simd::{Level, level};
use crate::runtime::{Float, Rows, bf16};

/// Most rows of `x`.
pub(super) const ROWS: usize = 8;

/// Outputs that are computed side by side: no task is narrower.
pub(super) const GROUP: usize = 16;

/// Whether activations of this type and depth can be multiplied so.
pub(super) fn can<T: Float>(k: usize) -> bool {
    let is = |id: TypeId| TypeId::of::<T>() == id;
    let fits = match level() {
        Level::Avx512Bf16 => is(TypeId::of::<f32>()) || is(TypeId::of::<bf16>()),
        Level::Avx512 => is(TypeId::of::<f32>()),
        _ => false,
    };
    fits && cfg!(target_arch = "x86_64") && k > 0 && k.is_multiple_of(super::PACKED)
}

/// `sums = x q^T`, `[x.rows(), words.rows()]`: at most [`ROWS`] rows, at least [`GROUP`] outputs. Only where [`can`] says so.
pub(super) fn multiply<T: Float>(sums: &mut [f32], x: Rows<'_, T>, words: Rows<'_, u32>) {
    assert!(can::<T>(x.width()) && x.rows() > 0 && x.rows() <= ROWS && words.rows() >= GROUP);
    assert!(words.width() == x.width() / super::PACKED && sums.len() == x.rows() * words.rows());
    let (outputs, block) = (words.rows(), KC / super::PACKED);
    let row = |row: usize| x.row(row.min(x.rows() - 1)).as_ptr();
    for first in (0..outputs).step_by(GROUP) {
        // The last group overlaps the one before it, where outputs are left over: the same bits once more.
        let first = first.min(outputs - GROUP);
        let group = words.row(first).as_ptr();
        for from in (0..words.width()).step_by(block) {
            let part = from..words.width().min(from + block);
            #[cfg(target_arch = "x86_64")]
            macro_rules! leaf {
                ($rows:literal) => {{
                    let rows: [*const T; $rows] = std::array::from_fn(row);
                    // SAFETY: `can` found the instructions; the rows of `x` have four elements for each of the words, which the 16 rows
                    // of `group`, `stride` apart, have.
                    let part = unsafe {
                        match size_of::<T>() {
                            2 => x86::pairs(rows.map(|row| row.cast()), group, words.stride(), part),
                            _ => x86::singles(rows.map(|row| row.cast()), group, words.stride(), part),
                        }
                    };
                    for (sums, part) in sums.chunks_exact_mut(outputs).zip(part) {
                        for (sum, part) in sums[first..first + GROUP].iter_mut().zip(part) {
                            *sum = if from > 0 { *sum + part } else { part };
                        }
                    }
                }};
            }
            #[cfg(target_arch = "x86_64")]
            match x.rows() {
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

    use super::GROUP;
    use crate::gemm::turned;

    macro_rules! few {
        ($name:ident, $features:literal, $step:ident) => {
            /// Sums over `words` of products of each row of `x` with [`GROUP`] rows of weights.
            ///
            /// # Safety
            /// The features must be there, and all rows valid for the words; those of `weights` lie `stride` apart.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name<const ROWS: usize>(
                x: [*const u8; ROWS],
                weights: *const u32,
                stride: usize,
                words: Range<usize>,
            ) -> [[f32; GROUP]; ROWS] {
                // Plain loops: a closure of an iterator would not be compiled for these instructions.
                let mut sums = [_mm512_setzero_ps(); ROWS];
                let next = weights.wrapping_add(GROUP * stride);
                let mut at = words.start;
                while at < words.end {
                    let count = (words.end - at).min(16);
                    let mask = (u32::MAX >> (32 - count)) as __mmask16;
                    let mut square = [_mm512_setzero_ps(); GROUP];
                    for row in 0..GROUP {
                        // SAFETY: a hint, which reads nothing: as many lines of the next group, in the order of memory. The masked words
                        // lie in the row.
                        unsafe {
                            _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(16 * (at + row)).cast());
                            square[row] = _mm512_maskz_loadu_ps(mask, weights.add(row * stride + at).cast());
                        }
                    }
                    let columns = turned(square);
                    for step in 0..count {
                        // SAFETY: the elements of a word of every row.
                        unsafe { $step(&mut sums, _mm512_castps_si512(columns[step]), x, at + step) };
                    }
                    at += count;
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

    few!(singles, "avx512f", step_singles);
    few!(pairs, "avx512f,avx512bf16", step_pairs);

    /// The four integers of each word, in order, as f32.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn numbers(words: __m512i) -> [__m512; 4] {
        [
            _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(words))),
            _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(_mm512_slli_epi32::<16>(words))),
            _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(_mm512_slli_epi32::<8>(words))),
            _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(words)),
        ]
    }

    /// # Safety
    /// Element `4 word + 3` of every row must be valid, in f32.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn step_singles<const ROWS: usize>(sums: &mut [__m512; ROWS], words: __m512i, x: [*const u8; ROWS], word: usize) {
        for (place, number) in numbers(words).into_iter().enumerate() {
            for (sum, row) in sums.iter_mut().zip(x) {
                // SAFETY: the caller's promise.
                let value = unsafe { row.cast::<f32>().add(4 * word + place).read_unaligned() };
                *sum = _mm512_fmadd_ps(_mm512_set1_ps(value), number, *sum);
            }
        }
    }

    /// # Safety
    /// Element `4 word + 3` of every row must be valid, in bf16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn step_pairs<const ROWS: usize>(sums: &mut [__m512; ROWS], words: __m512i, x: [*const u8; ROWS], word: usize) {
        let numbers = numbers(words).map(|number| _mm512_castps_si512(number));
        for pair in 0..2 {
            // Integers of a byte have no bits in the lower half of an f32: its upper half is the bf16.
            let both = _mm512_or_si512(_mm512_srli_epi32::<16>(numbers[2 * pair]), numbers[2 * pair + 1]);
            for row in 0..ROWS {
                // SAFETY: the caller's promise.
                let values = unsafe { x[row].cast::<u32>().add(2 * word + pair).read_unaligned() };
                sums[row] = _mm512_dpbf16_ps(sums[row], bits(_mm512_set1_epi32(values as i32)), bits(both));
            }
        }
    }

    /// A vector of words as pairs of bf16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bits(vector: __m512i) -> __m512bh {
        // SAFETY: both are 64 plain bytes.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(vector) }
    }
}
