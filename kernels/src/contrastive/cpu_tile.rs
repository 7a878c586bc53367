//! What happens to one tile of scores: a row a cell, a column a text.

use crate::runtime::math::{LANES, tree};
use crate::runtime::{Float, Real, Rows, RowsMut};
use crate::vectorize;

/// The larger; NaN loses: it is caught by the sum.
#[inline(always)]
fn larger<A: Real>(a: A, b: A) -> A {
    if a > b { a } else { b }
}

/// What is taken out of the exponents: the largest score, or 0 where there is none, so that `exp` gives 0 instead of NaN.
#[inline(always)]
fn origin<A: Real>(largest: A) -> A {
    if largest == A::NEG_INFINITY { A::ZERO } else { largest }
}

vectorize! {
    /// The largest of each cell's `queries` rows of products, and the first query that has it. A NaN stays.
    pub(super) fn best_queries<A: Real>(scores: &mut [A], winners: &mut [u32], products: &[A], queries: usize, columns: usize) {
        let rows = scores.chunks_exact_mut(columns).zip(winners.chunks_exact_mut(columns));
        for ((scores, winners), products) in rows.zip(products.chunks_exact(queries * columns)) {
            scores.copy_from_slice(&products[..columns]);
            winners.fill(0);
            for (query, products) in products.chunks_exact(columns).enumerate().skip(1) {
                for ((score, winner), product) in scores.iter_mut().zip(winners.iter_mut()).zip(products) {
                    let wins = *product > *score || product.partial_cmp(product).is_none();
                    *score = if wins { *product } else { *score };
                    *winner = if wins { query as u32 } else { *winner };
                }
            }
        }
    }

    /// Scores of items of one class become -inf.
    pub(super) fn hide<A: Real>(scores: &mut [A], cells: &[u32], texts: &[u32]) {
        for (scores, cell) in scores.chunks_exact_mut(texts.len()).zip(cells) {
            for (score, text) in scores.iter_mut().zip(texts) {
                *score = if text == cell { A::NEG_INFINITY } else { *score };
            }
        }
    }

    /// Adds every row to its cell's running sum.
    pub(super) fn add_rows<A: Real>(scores: &[A], largest: &mut [A], sums: &mut [A]) {
        let columns = scores.len() / sums.len();
        for ((scores, largest), sum) in scores.chunks_exact(columns).zip(largest).zip(sums) {
            let (blocks, rest) = scores.as_chunks::<LANES>();
            let mut lanes = [*largest; LANES];
            for block in blocks {
                for (lane, score) in lanes.iter_mut().zip(block) {
                    *lane = larger(*score, *lane);
                }
            }
            let after = lanes.into_iter().chain(rest.iter().copied()).fold(*largest, |after, score| larger(score, after));
            let taken = origin(after);
            let mut lanes = [A::ZERO; LANES];
            for block in blocks {
                for (lane, score) in lanes.iter_mut().zip(block) {
                    *lane += (*score - taken).exp();
                }
            }
            for (lane, score) in lanes.iter_mut().zip(rest) {
                *lane += (*score - taken).exp();
            }
            *sum = *sum * (*largest - taken).exp() + tree(lanes);
            *largest = after;
        }
    }

    /// Adds every column to its text's running sum; `origins` is a buffer.
    pub(super) fn add_columns<A: Real>(scores: &[A], largest: &mut [A], sums: &mut [A], origins: &mut [A]) {
        let columns = sums.len();
        origins.copy_from_slice(largest);
        for scores in scores.chunks_exact(columns) {
            for (after, score) in origins.iter_mut().zip(scores) {
                *after = larger(*score, *after);
            }
        }
        for ((after, largest), sum) in origins.iter_mut().zip(largest).zip(sums.iter_mut()) {
            let before = *largest;
            *largest = *after;
            *after = origin(*after);
            *sum *= (before - *after).exp();
        }
        for scores in scores.chunks_exact(columns) {
            for ((sum, score), taken) in sums.iter_mut().zip(scores).zip(origins.iter()) {
                *sum += (*score - *taken).exp();
            }
        }
    }

    /// Scores become `g = weight (exp(s - row) + exp(s - column))`, without `columns` the first term alone; returns the sum of `g s`.
    pub(super) fn slopes<A: Real>(scores: &mut [A], rows: &[A], columns: Option<&[A]>, weight: A) -> A {
        let width = scores.len() / rows.len();
        let mut lanes = [A::ZERO; LANES];
        for (scores, row) in scores.chunks_exact_mut(width).zip(rows) {
            match columns {
                Some(columns) => {
                    for (scores, columns) in scores.chunks_mut(LANES).zip(columns.chunks(LANES)) {
                        for ((score, column), lane) in scores.iter_mut().zip(columns).zip(&mut lanes) {
                            let slope = weight * ((*score - *row).exp() + (*score - *column).exp());
                            *lane += product(slope, *score);
                            *score = slope;
                        }
                    }
                }
                None => {
                    for scores in scores.chunks_mut(LANES) {
                        for (score, lane) in scores.iter_mut().zip(&mut lanes) {
                            let slope = weight * (*score - *row).exp();
                            *lane += product(slope, *score);
                            *score = slope;
                        }
                    }
                }
            }
        }
        tree(lanes)
    }

    /// Each slope's share of the gradients: of the query that won and of the text.
    pub(super) fn scatter<T: Float>(
        dcells: &mut RowsMut<'_, T::Acc>,
        dtexts: &mut RowsMut<'_, T::Acc>,
        slopes: &[T::Acc],
        winners: &[u32],
        cells: Rows<'_, T>,
        texts: Rows<'_, T>,
        scale: T::Acc,
    ) {
        let columns = texts.rows();
        let queries = cells.rows() * columns / slopes.len();
        for (cell, (slopes, winners)) in slopes.chunks_exact(columns).zip(winners.chunks_exact(columns)).enumerate() {
            for (text, (slope, winner)) in slopes.iter().zip(winners).enumerate() {
                let row = cell * queries + *winner as usize;
                let factor = *slope * scale;
                axpy(dcells.row_mut(row), factor, texts.row(text));
                axpy(dtexts.row_mut(text), factor, cells.row(row));
            }
        }
    }
}

/// `slope * score`; 0 for a hidden score, whose slope is 0.
#[inline(always)]
fn product<A: Real>(slope: A, score: A) -> A {
    if score == A::NEG_INFINITY { A::ZERO } else { slope * score }
}

#[inline(always)]
fn axpy<T: Float>(y: &mut [T::Acc], factor: T::Acc, x: &[T]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = factor.mul_add(x.to_acc(), *y);
    }
}
