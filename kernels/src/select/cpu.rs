//! Selection on the CPU: bands of rows over threads.

use rayon::prelude::*;

use super::Forward;
use crate::runtime::{Cpu, Float, Stream};

/// Rows of one task.
const ROWS: usize = 64;

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, args: Forward<T>) {
    let access = stream.access();
    let [head, tail] = [args.head, args.tail].map(|rows| rows.map(|rows| access.read_rows(rows)));
    let (lengths, seq_len) = (access.read(args.lengths), args.seq_len);
    let bands = access.write_rows(args.y).into_tiles(ROWS, args.y.width().max(1));
    cpu.install(|| {
        bands.into_par_iter().enumerate().for_each(|(band, mut y)| {
            for row in 0..y.rows() {
                let at = band * ROWS + row;
                let from = if at % seq_len < lengths[at / seq_len] as usize { &head } else { &tail };
                match from {
                    Some(from) => y.row_mut(row).copy_from_slice(from.row(at)),
                    None => y.row_mut(row).fill(T::default()),
                }
            }
        });
    });
}
