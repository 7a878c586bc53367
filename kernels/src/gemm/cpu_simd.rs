//! Micro-kernels: a tile of `c` from a packed panel of `a` and one of `b`. The intrinsics of this folder live here.
//!
//! All that multiply in f32 or f64 sum an element in the same order (ascending k, one fused multiply-add each, from zero), so they
//! agree bit for bit. The bf16 kernel takes two products a step.

use std::any::TypeId;

use super::cpu_pack::ROW;
use crate::runtime::simd::{Level, level};
use crate::runtime::{Float, Real, bf16};
use crate::vectorize;

/// Which micro-kernel runs: the height and width of its tile are chosen so that an element of `a` that is broadcast and a vector of
/// `b` that is loaded serve as many multiply-adds as registers allow (loads, not arithmetic, limit a tall narrow tile).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(super) enum Kernel {
    /// 4 x 16, any type, safe code.
    Portable,
    /// 6 x 16 f32.
    Avx2,
    /// 6 x 64 f32.
    Avx512,
    /// 6 x 32 f64.
    Avx512F64,
    /// 6 x 64 f32 from pairs of bf16; a packed element is a pair of neighbours in k.
    Avx512Bf16,
}

/// What a micro-kernel reads.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a, A> {
    /// Packed elements along k.
    pub(super) steps: usize,
    /// Panel of a: rows [`ROW`] apart when `deep`, else columns.
    pub(super) a: &'a [A],
    /// True when the panel of a keeps rows.
    pub(super) deep: bool,
    /// Panel of b.
    pub(super) b: &'a [A],
}

impl Kernel {
    /// The best one for operands of these types.
    pub(super) fn select<T: Float, U: Float<Acc = T::Acc>>() -> Kernel {
        let both = |id: TypeId| TypeId::of::<T>() == id && TypeId::of::<U>() == id;
        let single = TypeId::of::<T::Acc>() == TypeId::of::<f32>();
        match level() {
            Level::Avx512Bf16 if both(TypeId::of::<bf16>()) => Kernel::Avx512Bf16,
            Level::Avx512 | Level::Avx512Bf16 if single => Kernel::Avx512,
            Level::Avx512 | Level::Avx512Bf16 => Kernel::Avx512F64,
            Level::Avx2 if single => Kernel::Avx2,
            _ => Kernel::Portable,
        }
    }

    /// Rows of a tile.
    pub(super) fn rows(self) -> usize {
        match self {
            Kernel::Portable => 4,
            _ => 6,
        }
    }

    /// Columns of a tile.
    pub(super) fn columns(self) -> usize {
        match self {
            Kernel::Portable | Kernel::Avx2 => 16,
            Kernel::Avx512F64 => 32,
            Kernel::Avx512 | Kernel::Avx512Bf16 => 64,
        }
    }

    /// Elements of k in a packed element.
    pub(super) fn pair(self) -> usize {
        if self == Kernel::Avx512Bf16 { 2 } else { 1 }
    }

    /// Elements of a packed panel of a.
    pub(super) fn panel_a(self) -> usize {
        self.rows() * ROW
    }

    /// Elements of a tile.
    pub(super) fn tile(self) -> usize {
        self.rows() * self.columns()
    }

    /// `tile = ab`, or `tile += ab`.
    pub(super) fn run<A: Real>(self, panels: Panels<'_, A>, tile: &mut [A], add: bool) {
        let Panels { steps, a, deep, b } = panels;
        let (row, step) = if deep { (ROW, 1) } else { (1, self.rows()) };
        assert!(steps == 0 || a.len() > (self.rows() - 1) * row + (steps - 1) * step);
        assert!(b.len() >= steps * self.columns() && tile.len() >= self.tile());
        #[cfg(target_arch = "x86_64")]
        macro_rules! leaf {
            ($name:ident, $type:ty) => {{
                let (a, b): (&[$type], &[$type]) = (bytemuck::cast_slice(a), bytemuck::cast_slice(b));
                let (a, b, tile) = (a.as_ptr(), b.as_ptr(), bytemuck::cast_slice_mut::<A, $type>(tile).as_mut_ptr());
                // SAFETY: `select` found the instructions; the lengths were checked above for these distances between elements.
                unsafe { if deep { x86::$name::<ROW, 1>(steps, a, b, tile, add) } else { x86::$name::<1, 6>(steps, a, b, tile, add) } }
            }};
        }
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => leaf!(avx2, f32),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => leaf!(avx512, f32),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512F64 => leaf!(avx512_f64, f64),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bf16 => leaf!(avx512_bf16, f32),
            _ => portable(steps, a, row, step, b, tile, add),
        }
    }
}

vectorize! {
    fn portable<A: Real>(steps: usize, a: &[A], row: usize, step: usize, b: &[A], tile: &mut [A], add: bool) {
        let mut sums = [[A::ZERO; 16]; 4];
        for (k, b) in b.as_chunks::<16>().0.iter().take(steps).enumerate() {
            for (index, sums) in sums.iter_mut().enumerate() {
                let a = a[index * row + k * step];
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = a.mul_add(*b, *sum);
                }
            }
        }
        for (tile, sums) in tile.as_chunks_mut::<16>().0.iter_mut().zip(&sums) {
            for (tile, sum) in tile.iter_mut().zip(sums) {
                *tile = if add { *tile + *sum } else { *sum };
            }
        }
    }
}

/// Writes the first `rows` columns of a square as rows of `packed`, `width` apart, from column `column`.
#[inline(always)]
pub(super) fn transpose<A: Real>(square: &[[A; 16]; 16], packed: &mut [A], column: usize, width: usize, rows: usize) {
    #[cfg(target_arch = "x86_64")]
    if rows == 16 && TypeId::of::<A>() == TypeId::of::<f32>() && level() >= Level::Avx512 {
        let square: &[f32] = bytemuck::cast_slice(square.as_flattened());
        let packed: &mut [f32] = bytemuck::cast_slice_mut(packed);
        assert!(packed.len() >= 15 * width + column + 16);
        // SAFETY: AVX-512 is there; 16 rows of 16 elements lie in `square` and, `width` apart from `column`, in `packed`.
        return unsafe { x86::transpose(square.as_ptr(), packed.as_mut_ptr().add(column), width) };
    }
    for (k, packed) in packed.chunks_exact_mut(width).take(rows).enumerate() {
        for (target, row) in packed[column..column + 16].iter_mut().zip(square) {
            *target = row[k];
        }
    }
}

/// Floating-point operations a second (two a fused multiply-add) that one thread reaches on registers alone in f32: the ceiling of a
/// product here. None without AVX2.
#[cfg(feature = "testing")]
pub fn fma_peak() -> Option<f64> {
    const STEPS: usize = 1 << 18;
    let kernel = Kernel::select::<f32, f32>();
    let mut best = f64::INFINITY;
    let mut lanes = 0;
    for _ in 0..100 {
        let start = std::time::Instant::now();
        lanes = match kernel {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `select` found the instructions.
            Kernel::Avx512 => unsafe { x86::fma_loop_avx512(std::hint::black_box(STEPS)) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Avx2 => unsafe { x86::fma_loop_avx2(std::hint::black_box(STEPS)) },
            _ => return None,
        };
        best = best.min(start.elapsed().as_secs_f64());
    }
    Some((STEPS * 2 * CHAINS * lanes) as f64 / best)
}

/// Independent sums in [`fma_peak`]: more than latency times ports.
#[cfg(feature = "testing")]
const CHAINS: usize = 12;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::turned;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// A 6 x (4 or 2 vectors) tile: the sums, the vectors of b and one broadcast element of a fill the registers.
    macro_rules! micro_kernel {
        ($name:ident, $features:literal, $type:ty, $lanes:literal x $vectors:literal, $vector:ty,
         $zero:ident, $load:expr, $broadcast:expr, $multiply:expr, $add:ident, $store:ident) => {
            /// # Safety
            /// The features must be there; `a[i * ROW + k * STEP]` and `b[k * n + j]` for `i < 6`, `j < n`, `k < steps` and
            /// `tile[i * n + j]` must be valid, n being lanes times vectors.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name<const ROW: usize, const STEP: usize>(
                steps: usize,
                a: *const $type,
                b: *const $type,
                tile: *mut $type,
                add: bool,
            ) {
                const N: usize = $lanes * $vectors;
                let mut sums = [[$zero(); $vectors]; 6];
                for k in 0..steps {
                    // SAFETY: k < steps and all vectors of a row of b lie in the panel; likewise i < 6 in a.
                    let b: [$vector; $vectors] = std::array::from_fn(|vector| unsafe { $load(b.add(k * N + vector * $lanes)) });
                    for (i, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: as above.
                        let a = $broadcast(unsafe { *a.add(i * ROW + k * STEP) });
                        for (sum, b) in sums.iter_mut().zip(b) {
                            *sum = $multiply(*sum, a, b);
                        }
                    }
                }
                for (i, sums) in sums.iter().enumerate() {
                    for (vector, &sum) in sums.iter().enumerate() {
                        // SAFETY: the vector lies in row i of the tile.
                        unsafe {
                            let target = tile.add(i * N + vector * $lanes);
                            $store(target, if add { $add($load(target), sum) } else { sum });
                        }
                    }
                }
            }
        };
    }

    micro_kernel!(
        avx512, "avx512f", f32, 16 x 4, __m512,
        _mm512_setzero_ps, |p| _mm512_loadu_ps(p), _mm512_set1_ps, |sum, a, b| _mm512_fmadd_ps(a, b, sum), _mm512_add_ps, _mm512_storeu_ps
    );
    micro_kernel!(
        avx512_f64, "avx512f", f64, 8 x 4, __m512d,
        _mm512_setzero_pd, |p| _mm512_loadu_pd(p), _mm512_set1_pd, |sum, a, b| _mm512_fmadd_pd(a, b, sum), _mm512_add_pd, _mm512_storeu_pd
    );
    micro_kernel!(
        avx2, "avx2,fma", f32, 8 x 2, __m256,
        _mm256_setzero_ps, |p| _mm256_loadu_ps(p), _mm256_set1_ps, |sum, a, b| _mm256_fmadd_ps(a, b, sum), _mm256_add_ps, _mm256_storeu_ps
    );
    micro_kernel!(
        avx512_bf16, "avx512f,avx512bf16", f32, 16 x 4, __m512,
        _mm512_setzero_ps, |p| _mm512_loadu_ps(p), _mm512_set1_ps, |sum, a, b| _mm512_dpbf16_ps(sum, pairs(a), pairs(b)), _mm512_add_ps, _mm512_storeu_ps
    );

    /// A vector of packed pairs as what the dot product takes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pairs(vector: __m512) -> __m512bh {
        // SAFETY: both are 64 plain bytes.
        unsafe { std::mem::transmute::<__m512, __m512bh>(vector) }
    }

    /// Transposes 16 x 16 floats in memory.
    ///
    /// # Safety
    /// AVX-512 F must be there; 256 floats readable, and 16 rows of 16 writable, `stride` apart.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose(source: *const f32, target: *mut f32, stride: usize) {
        // SAFETY: rows 0..16 of the source.
        let rows: [__m512; 16] = std::array::from_fn(|row| unsafe { _mm512_loadu_ps(source.add(row * 16)) });
        for (column, vector) in turned(rows).into_iter().enumerate() {
            // SAFETY: column < 16: a row of the target.
            unsafe { _mm512_storeu_ps(target.add(column * stride), vector) };
        }
    }

    /// Transposes 16 x 16 floats in registers: pairs, quadruples, then blocks of 4 x 4.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn turned(rows: [__m512; 16]) -> [__m512; 16] {
        let mut pairs = [_mm512_setzero_ps(); 16];
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        // quads[4 g + c], block q: rows 4 g .. 4 g + 4 of column 4 q + c.
        let mut quads = [_mm512_setzero_ps(); 16];
        for g in 0..4 {
            for half in 0..2 {
                let low = _mm512_castps_pd(pairs[4 * g + half]);
                let high = _mm512_castps_pd(pairs[4 * g + 2 + half]);
                quads[4 * g + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
                quads[4 * g + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
            }
        }
        let mut columns = [_mm512_setzero_ps(); 16];
        for c in 0..4 {
            let (first, second, third, fourth) = (quads[c], quads[4 + c], quads[8 + c], quads[12 + c]);
            let even = (_mm512_shuffle_f32x4::<0x88>(first, second), _mm512_shuffle_f32x4::<0x88>(third, fourth));
            let odd = (_mm512_shuffle_f32x4::<0xdd>(first, second), _mm512_shuffle_f32x4::<0xdd>(third, fourth));
            columns[c] = _mm512_shuffle_f32x4::<0x88>(even.0, even.1);
            columns[4 + c] = _mm512_shuffle_f32x4::<0x88>(odd.0, odd.1);
            columns[8 + c] = _mm512_shuffle_f32x4::<0xdd>(even.0, even.1);
            columns[12 + c] = _mm512_shuffle_f32x4::<0xdd>(odd.0, odd.1);
        }
        columns
    }

    macro_rules! fma_loop {
        ($name:ident, $features:literal, $lanes:literal, $set:ident, $multiply:ident) => {
            /// Fused multiply-adds on registers alone: `steps` times [`super::CHAINS`] vectors; returns the lanes of a vector.
            ///
            /// # Safety
            /// The features must be there.
            #[cfg(feature = "testing")]
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(steps: usize) -> usize {
                let factor = $set(std::hint::black_box(0.5));
                let mut sums: [_; super::CHAINS] = std::array::from_fn(|chain| $set(std::hint::black_box(chain as f32)));
                for _ in 0..steps {
                    for sum in &mut sums {
                        *sum = $multiply(*sum, factor, factor);
                    }
                }
                std::hint::black_box(sums);
                $lanes
            }
        };
    }
    fma_loop!(fma_loop_avx512, "avx512f", 16, _mm512_set1_ps, _mm512_fmadd_ps);
    fma_loop!(fma_loop_avx2, "avx2,fma", 8, _mm256_set1_ps, _mm256_fmadd_ps);
}
