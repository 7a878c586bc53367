//! Scores of a few queries with a few base rows at a time, all sums in registers.
//!
//! Both sides are packed column by column: a panel holds the rows' values of column 0, then of column 1, and so on. Each sum is one
//! chain of fused multiply-adds over the columns, so a pair's score has the same bits in every block size and at every SIMD level.

use crate::runtime::simd::{Level, level};
use crate::runtime::{Float, Real, Rows};
use crate::vectorize;

/// A block size and the code for it.
pub(super) struct Block<A> {
    /// Base rows of a panel.
    pub(super) rows: usize,
    /// Queries of a group.
    pub(super) queries: usize,
    /// Adds the terms of some columns to `sums[query][row]`: panel, group, sums, squared differences instead of products.
    pub(super) add: fn(&[A], &[A], &mut [A], bool),
}

impl<A: Real> Block<A> {
    /// The block that fills this machine's registers.
    pub(super) fn best() -> Self {
        if size_of::<A>() == 4 && level() >= Level::Avx512 {
            Block { rows: 32, queries: 12, add: wide }
        } else {
            Block { rows: 16, queries: 6, add: narrow }
        }
    }
}

/// Packs rows `start..start + count` of `x` into a panel of `count` rows, zeros after the last.
pub(super) fn pack<T: Float>(panel: &mut [T::Acc], x: Rows<T>, start: usize, count: usize) {
    // A few columns of every row at a time: what is written stays in the first-level cache until it is whole.
    const COLUMNS: usize = 16;
    let present = count.min(x.rows().saturating_sub(start));
    if present < count {
        panel.fill(T::Acc::ZERO);
    }
    for (block, panel) in panel.chunks_mut(COLUMNS * count).enumerate() {
        let columns = block * COLUMNS..x.width().min((block + 1) * COLUMNS);
        for row in 0..present {
            for (column, x) in x.row(start + row)[columns.clone()].iter().enumerate() {
                panel[column * count + row] = x.to_acc();
            }
        }
    }
}

/// One column's terms for one query and `N` rows. By value: the sums stay in registers.
#[inline(always)]
fn term<A: Real, const N: usize, const SQUARED: bool>(sums: [A; N], query: A, rows: &[A; N]) -> [A; N] {
    let mut result = sums;
    for lane in 0..N {
        let (left, right) = if SQUARED { (query - rows[lane], query - rows[lane]) } else { (query, rows[lane]) };
        result[lane] = left.mul_add(right, sums[lane]);
    }
    result
}

/// A block of two vectors of rows and as many queries as names are given; every sum is a variable of its own, which is what keeps the
/// compiler from vectorising across queries.
macro_rules! block {
    ($name:ident, $queries:literal: $($low:ident $high:ident $query:literal),*) => {
        #[inline(always)]
        fn $name<A: Real, const N: usize, const SQUARED: bool>(panel: &[A], group: &[A], sums: &mut [A]) {
            let sums = sums.as_chunks_mut::<N>().0.as_chunks_mut::<2>().0;
            $(let [mut $low, mut $high] = sums[$query];)*
            let panel = panel.as_chunks::<N>().0.as_chunks::<2>().0;
            for (rows, queries) in panel.iter().zip(group.as_chunks::<$queries>().0) {
                $(
                    $low = term::<A, N, SQUARED>($low, queries[$query], &rows[0]);
                    $high = term::<A, N, SQUARED>($high, queries[$query], &rows[1]);
                )*
            }
            $(sums[$query] = [$low, $high];)*
        }
    };
}
block!(six, 6: a0 b0 0, a1 b1 1, a2 b2 2, a3 b3 3, a4 b4 4, a5 b5 5);
block!(twelve, 12: a0 b0 0, a1 b1 1, a2 b2 2, a3 b3 3, a4 b4 4, a5 b5 5, a6 b6 6, a7 b7 7, a8 b8 8, a9 b9 9, a10 b10 10, a11 b11 11);

vectorize! {
    /// 24 AVX-512 registers of f32 sums.
    fn wide<A: Real>(panel: &[A], group: &[A], sums: &mut [A], squared: bool) {
        if squared { twelve::<A, 16, true>(panel, group, sums) } else { twelve::<A, 16, false>(panel, group, sums) }
    }

    /// 12 AVX2 registers of f32 sums, 12 AVX-512 registers of f64 sums.
    fn narrow<A: Real>(panel: &[A], group: &[A], sums: &mut [A], squared: bool) {
        if squared { six::<A, 8, true>(panel, group, sums) } else { six::<A, 8, false>(panel, group, sums) }
    }

    /// Bit `q`: some score of query `q` is not at or below its threshold. NaN on either side sets the bit.
    #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "NaN must pass")]
    pub(super) fn survivors<A: Real>(scores: &[A], thresholds: &[A], rows: usize) -> u32 {
        let mut mask = 0;
        for (query, (scores, threshold)) in scores.chunks_exact(rows).zip(thresholds).enumerate() {
            let passed = scores.iter().fold(false, |passed, score| passed | !(*score <= *threshold));
            mask |= u32::from(passed) << query;
        }
        mask
    }

    pub(super) fn negate<A: Real>(scores: &mut [A]) {
        for score in scores {
            *score = A::ZERO - *score;
        }
    }
}
