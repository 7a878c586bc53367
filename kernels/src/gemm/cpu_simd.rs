//! Micro-kernels: a tile of `c` from a packed panel of `a` and one of `b`. The intrinsics of this folder live here.
//!
//! All of them sum an element in the same order (ascending k, one fused multiply-add each, from zero), so they agree bit for bit.

use std::any::TypeId;

use super::cpu_pack::ROW;
use crate::runtime::Real;
use crate::runtime::simd::{Level, level};
use crate::vectorize;

/// Which micro-kernel runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kernel {
    /// 4 x 16, any type, safe code.
    Portable,
    /// 14 x 32 f32.
    Avx512,
}

/// What a micro-kernel reads.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a, A> {
    /// Products an element.
    pub(super) depth: usize,
    /// Panel of a: rows [`ROW`] apart when `deep`, else columns.
    pub(super) a: &'a [A],
    /// True when the panel of a keeps rows.
    pub(super) deep: bool,
    /// Panel of b.
    pub(super) b: &'a [A],
    /// The panel of a that comes next, fetched into the cache meanwhile.
    pub(super) next: &'a [A],
}

impl Kernel {
    /// The best one for this type and machine.
    pub(super) fn select<A: Real>() -> Kernel {
        let single = TypeId::of::<A>() == TypeId::of::<f32>();
        match level() {
            Level::Avx512 | Level::Avx512Bf16 if single => Kernel::Avx512,
            _ => Kernel::Portable,
        }
    }

    /// All that can run here, for tests.
    #[cfg(test)]
    pub(super) fn available<A: Real>() -> Vec<Kernel> {
        let best = Kernel::select::<A>();
        [Kernel::Portable, Kernel::Avx512].into_iter().filter(|kernel| *kernel as u8 <= best as u8).collect()
    }

    /// Rows of a tile.
    pub(super) fn rows(self) -> usize {
        match self {
            Kernel::Portable => 4,
            Kernel::Avx512 => 14,
        }
    }

    /// Columns of a tile.
    pub(super) fn columns(self) -> usize {
        match self {
            Kernel::Portable => 16,
            Kernel::Avx512 => 32,
        }
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
        let (row, step) = if panels.deep { (ROW, 1) } else { (1, self.rows()) };
        assert!(panels.depth == 0 || panels.a.len() > (self.rows() - 1) * row + (panels.depth - 1) * step);
        assert!(panels.b.len() >= panels.depth * self.columns() && tile.len() >= self.tile());
        match self {
            Kernel::Portable => portable(panels.depth, panels.a, row, step, panels.b, tile, add),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => {
                let (a, b, next): (&[f32], &[f32], &[f32]) =
                    (bytemuck::cast_slice(panels.a), bytemuck::cast_slice(panels.b), bytemuck::cast_slice(panels.next));
                let tile: &mut [f32] = bytemuck::cast_slice_mut(tile);
                let (a, b, next, tile) = (a.as_ptr(), b.as_ptr(), next.as_ptr(), tile.as_mut_ptr());
                // SAFETY: `select` found AVX-512; the lengths were checked above for these distances between elements.
                unsafe {
                    if panels.deep {
                        x86::avx512::<ROW, 1>(panels.depth, a, b, next, tile, add);
                    } else {
                        x86::avx512::<1, 14>(panels.depth, a, b, next, tile, add);
                    }
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Avx512 => {}
        }
    }
}

vectorize! {
    fn portable<A: Real>(depth: usize, a: &[A], row: usize, step: usize, b: &[A], tile: &mut [A], add: bool) {
        let mut sums = [[A::ZERO; 16]; 4];
        for (k, b) in b.as_chunks::<16>().0.iter().take(depth).enumerate() {
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
    for (k, packed) in packed.chunks_exact_mut(width).take(rows).enumerate() {
        for (target, row) in packed[column..column + 16].iter_mut().zip(square) {
            *target = row[k];
        }
    }
}

/// Fused multiply-adds a second, times two, that one thread reaches on registers alone: the ceiling of f32 products here.
#[cfg(feature = "testing")]
pub fn fma_peak() -> f64 {
    const STEPS: usize = 4_000_000;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = std::time::Instant::now();
        std::hint::black_box(fma_loop(std::hint::black_box(STEPS), std::hint::black_box(0.5)));
        best = best.min(start.elapsed().as_secs_f64());
    }
    (STEPS * CHAINS * WIDTH * 2) as f64 / best
}

#[cfg(feature = "testing")]
const CHAINS: usize = 12;
#[cfg(feature = "testing")]
const WIDTH: usize = 16;

#[cfg(feature = "testing")]
vectorize! {
    fn fma_loop(steps: usize, factor: f32) -> f32 {
        let mut sums = [[1.0f32; WIDTH]; CHAINS];
        for _ in 0..steps {
            for sums in &mut sums {
                for sum in sums.iter_mut() {
                    *sum = sum.mul_add(factor, factor);
                }
            }
        }
        sums.iter().flatten().sum()
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    const ROWS: usize = 14;

    /// A 14 x 32 tile: 28 sums, two vectors of b and one broadcast element of a in the 32 registers.
    ///
    /// # Safety
    /// AVX-512 F must be there; `a[i * ROW + k * STEP]` and `b[k * 32 + j]` for `i < 14`, `j < 32`, `k < depth` and
    /// `tile[i * 32 + j]` must be valid. `next` is only a hint.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512<const ROW: usize, const STEP: usize>(
        depth: usize,
        a: *const f32,
        b: *const f32,
        next: *const f32,
        tile: *mut f32,
        add: bool,
    ) {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for k in 0..depth {
            _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(k * 16).cast());
            // SAFETY: k < depth; see above.
            let (left, right) = unsafe { (_mm512_loadu_ps(b.add(k * 32)), _mm512_loadu_ps(b.add(k * 32 + 16))) };
            for (row, [first, second]) in sums.iter_mut().enumerate() {
                // SAFETY: row < 14, k < depth.
                let a = _mm512_set1_ps(unsafe { *a.add(row * ROW + k * STEP) });
                *first = _mm512_fmadd_ps(a, left, *first);
                *second = _mm512_fmadd_ps(a, right, *second);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (half, &sum) in sums.iter().enumerate() {
                // SAFETY: row < 14 and half < 2, so the 16 elements lie in the tile.
                unsafe {
                    let target = tile.add(row * 32 + half * 16);
                    let sum = if add { _mm512_add_ps(_mm512_loadu_ps(target), sum) } else { sum };
                    _mm512_storeu_ps(target, sum);
                }
            }
        }
    }
}
