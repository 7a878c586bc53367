//! Column-compressed matrices, turned into rows without ever being dense.

use hdf5_pure::Dataset;

use super::block::CsrBlock;
use super::matrix::{Compressed, WINDOW, line_starts, not_finite};
use super::store::{DAMAGED, Store};
use crate::Result;

/// All rows of the matrix. Counting sort by row: the row numbers are read once to count, then once
/// more with the values, each entry going straight to its place. Columns come out ascending.
pub(super) fn to_rows(store: &Store, key: &str, arrays: &Compressed, indptr: &Dataset, n_obs: usize, n_vars: usize) -> Result<CsrBlock> {
    let indptr_key = format!("{key}/indptr");
    let window = store.integer_window(&indptr_key, indptr, 0, n_vars + 1)?;
    let starts = line_starts(store, &indptr_key, window, 0..n_vars, n_vars, arrays)?;
    let row_of = |row: i64| {
        usize::try_from(row).ok().filter(|&row| row < n_obs).ok_or_else(|| {
            let expected = format!("rows from 0 to {}", n_obs as i64 - 1);
            store.malformed(&arrays.indices_key, expected, format!("{row}"), DAMAGED)
        })
    };

    let mut counts = vec![0usize; n_obs];
    for at in (0..arrays.stored).step_by(WINDOW) {
        let count = WINDOW.min(arrays.stored - at);
        for row in store.integer_window(&arrays.indices_key, &arrays.indices, at, count)? {
            counts[row_of(row)?] += 1;
        }
    }
    let mut indptr = vec![0usize; n_obs + 1];
    for (row, count) in counts.iter().enumerate() {
        indptr[row + 1] = indptr[row] + count;
    }

    let mut next = indptr[..n_obs].to_vec();
    let mut indices = vec![0u32; arrays.stored];
    let mut values = vec![0f32; arrays.stored];
    let mut column = 0;
    for at in (0..arrays.stored).step_by(WINDOW) {
        let (rows, entries) = arrays.window(store, at, WINDOW.min(arrays.stored - at))?;
        for (offset, (row, value)) in rows.into_iter().zip(entries).enumerate() {
            while starts[column + 1] <= at + offset {
                column += 1;
            }
            let row = row_of(row)?;
            if !value.is_finite() {
                return Err(not_finite(store, key, row, column, value));
            }
            let place = next[row];
            // Columns arrive in order, so a repeated one is the neighbour just written.
            if place > indptr[row] && indices[place - 1] == column as u32 {
                let found = format!("row {row} twice in column {column}");
                let advice = super::matrix::DUPLICATE;
                let expected = "each row once in a column";
                return Err(store.malformed(&arrays.indices_key, expected, found, advice));
            }
            (indices[place], values[place]) = (column as u32, value);
            next[row] = place + 1;
        }
    }

    if values.contains(&0.0) {
        drop_zeros(&mut indptr, &mut indices, &mut values);
    }
    Ok(CsrBlock { start: 0, n_vars, indptr, indices, values })
}

/// Closes the gaps of explicit zeros in place.
fn drop_zeros(indptr: &mut [usize], indices: &mut Vec<u32>, values: &mut Vec<f32>) {
    let (mut kept, mut from) = (0, 0);
    for end in &mut indptr[1..] {
        for at in from..*end {
            if values[at] != 0.0 {
                (indices[kept], values[kept]) = (indices[at], values[at]);
                kept += 1;
            }
        }
        from = std::mem::replace(end, kept);
    }
    indices.truncate(kept);
    values.truncate(kept);
}
