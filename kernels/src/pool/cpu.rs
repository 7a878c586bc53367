//! Pooling and scores on the CPU: cells and blocks of columns over threads, a cell's rows added in order.

use rayon::prelude::*;

use super::{Backward, Forward, Kind, ScoreBackward, ScoreForward};
use crate::runtime::math::{LANES, tree};
use crate::runtime::{Cpu, Float, Real, Rows, RowsMut, Stream, with_buffer};
use crate::{Error, Result, vectorize};

/// Columns of one task; rows of one task where rows are independent.
const COLUMNS: usize = 256;
const ROWS: usize = 64;

fn check_lengths(op: &'static str, lengths: &[u32], seq_len: usize) -> Result<()> {
    match lengths.iter().position(|length| *length as usize > seq_len) {
        Some(position) => Err(Error::Index { op, tensor: "lengths", position, index: lengths[position].into(), bound: seq_len }),
        None => Ok(()),
    }
}

/// What row `row` of a cell of `length` rows is multiplied by, if it counts; `weights` are the cell's.
fn factor<A: Real>(kind: Kind, row: usize, length: usize, weights: Option<&[A]>) -> Option<A> {
    match (kind, weights) {
        _ if row >= length => None,
        (Kind::Cls, _) => (row == 0).then_some(A::ONE),
        (Kind::Mean, _) => Some(A::of(1.0 / length as f64)),
        (Kind::Weighted, weights) => weights.filter(|_| row > 0).map(|weights| weights[row]),
    }
}

/// Runs `body` on every `1 x COLUMNS` block of `y`, in parallel, with the cell and the block's first column.
fn for_cells<T: Float>(cpu: &Cpu, y: RowsMut<T>, body: impl Fn(usize, usize, &mut [T]) + Sync) {
    let blocks = y.width().div_ceil(COLUMNS).max(1);
    let tiles = y.into_tiles(1, COLUMNS);
    cpu.install(|| {
        tiles.into_par_iter().enumerate().for_each(|(index, mut tile)| body(index / blocks, index % blocks * COLUMNS, tile.row_mut(0)));
    });
}

/// `y = scale * sum_i weight(i) * x_i` over the rows of one block.
fn weighted_sum<T: Float>(y: &mut [T], x: Rows<T>, scale: T::Acc, weight: impl Fn(usize) -> T::Acc) {
    with_buffer(y.len(), |sums: &mut [T::Acc]| {
        sums.fill(T::Acc::ZERO);
        for row in 0..x.rows() {
            add_scaled::<T>(sums, x.row(row), weight(row));
        }
        for (y, sum) in y.iter_mut().zip(&*sums) {
            *y = T::from_acc(*sum * scale);
        }
    });
}

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, op: &'static str, args: Forward<T>) -> Result<()> {
    let (seq_len, kind) = (args.seq_len, args.kind);
    let access = stream.access();
    let (x, lengths) = (access.read_rows(args.x), access.read(args.lengths));
    check_lengths(op, lengths, seq_len)?;
    let weights = args.weights.filter(|_| kind == Kind::Weighted).map(|weights| access.read(weights));
    for_cells(cpu, access.write_rows(args.y), |cell, column, y| {
        let (start, length) = (cell * seq_len, lengths[cell] as usize);
        let rows = |first: usize, last: usize| x.tile(start + first, last.saturating_sub(first), column, y.len());
        match (kind, weights) {
            _ if length == 0 => y.fill(T::default()),
            (Kind::Cls, _) => y.copy_from_slice(rows(0, 1).row(0)),
            (Kind::Mean, _) => {
                let x = rows(0, length);
                weighted_sum(y, x, T::Acc::of(1.0 / length as f64), |_| T::Acc::ONE);
            }
            (Kind::Weighted, Some(weights)) => {
                let x = rows(1.min(length), length);
                weighted_sum(y, x, T::Acc::ONE, |row| weights[start + 1 + row]);
            }
            (Kind::Weighted, None) => y.fill(T::default()),
        }
    });
    Ok(())
}

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, op: &'static str, args: Backward<T>) -> Result<()> {
    let (seq_len, kind) = (args.seq_len, args.kind);
    let access = stream.access();
    let (dy, lengths) = (access.read_rows(args.dy), access.read(args.lengths));
    check_lengths(op, lengths, seq_len)?;
    let weights = args.weights.filter(|_| kind == Kind::Weighted).map(|weights| access.read(weights));
    let bands = access.write_rows(args.dx).into_tiles(ROWS, dy.width().max(1));
    cpu.install(|| {
        bands.into_par_iter().enumerate().for_each(|(band, mut dx)| {
            for row in 0..dx.rows() {
                let (cell, at) = ((band * ROWS + row) / seq_len, (band * ROWS + row) % seq_len);
                let weights = weights.map(|weights| &weights[cell * seq_len..(cell + 1) * seq_len]);
                match factor(kind, at, lengths[cell] as usize, weights) {
                    Some(factor) => scaled::<T>(dx.row_mut(row), dy.row(cell), factor),
                    None => dx.row_mut(row).fill(T::default()),
                }
            }
        });
    });
    Ok(())
}

pub(super) fn score_forward<T: Float>(stream: &Stream, cpu: &Cpu, args: ScoreForward<T>) -> Result<()> {
    let access = stream.access();
    let (query, cell) = (access.read_rows(args.query), access.read_rows(args.cell));
    let y = access.write(args.y);
    cpu.install(|| {
        y.par_chunks_mut(ROWS).enumerate().for_each(|(band, y)| {
            for (row, y) in y.iter_mut().enumerate() {
                let at = band * ROWS + row;
                *y = T::from_acc(dot::<T>(query.row(at), cell.row(at / args.seq_len)));
            }
        });
    });
    Ok(())
}

pub(super) fn score_backward<T: Float>(stream: &Stream, cpu: &Cpu, args: ScoreBackward<T>) -> Result<()> {
    let seq_len = args.seq_len;
    let access = stream.access();
    let (query, cell, dy) = (access.read_rows(args.query), access.read_rows(args.cell), access.read(args.dy));
    let bands = access.write_rows(args.dquery).into_tiles(ROWS, cell.width().max(1));
    cpu.install(|| {
        bands.into_par_iter().enumerate().for_each(|(band, mut dquery)| {
            for row in 0..dquery.rows() {
                let at = band * ROWS + row;
                scaled::<T>(dquery.row_mut(row), cell.row(at / seq_len), dy[at].to_acc());
            }
        });
    });
    for_cells(cpu, access.write_rows(args.dcell), |cell, column, dcell| {
        let x = query.tile(cell * seq_len, seq_len, column, dcell.len());
        weighted_sum(dcell, x, T::Acc::ONE, |row| dy[cell * seq_len + row].to_acc());
    });
    Ok(())
}

vectorize! {
    fn add_scaled<T: Float>(sums: &mut [T::Acc], x: &[T], factor: T::Acc) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += factor * x.to_acc();
        }
    }

    fn scaled<T: Float>(y: &mut [T], x: &[T], factor: T::Acc) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = T::from_acc(factor * x.to_acc());
        }
    }

    fn dot<T: Float>(a: &[T], b: &[T]) -> T::Acc {
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        let mut sums = [T::Acc::ZERO; LANES];
        for (a, b) in a.iter().zip(b) {
            for lane in 0..LANES {
                sums[lane] += a[lane].to_acc() * b[lane].to_acc();
            }
        }
        for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
            *sum += a.to_acc() * b.to_acc();
        }
        tree(sums)
    }
}
