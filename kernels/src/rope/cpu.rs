//! Rotation on the CPU: bands of rows over threads.

use rayon::prelude::*;

use super::Rotate;
use crate::runtime::{Cpu, Float, Stream};
use crate::{Error, Result, vectorize};

/// Rows that one task works on.
const BAND: usize = 16;

pub(super) fn rotate<T: Float>(stream: &Stream, cpu: &Cpu, op: &'static str, args: Rotate<T>, direction: T::Acc) -> Result<()> {
    let access = stream.access();
    let (x, positions) = (access.read_rows(args.x), access.read(args.positions));
    let (cos, sin) = (access.read_rows(args.table.cos), access.read_rows(args.table.sin));
    if let Some(position) = positions.iter().position(|&at| at as usize >= cos.rows()) {
        return Err(Error::Index { op, tensor: "positions", position, index: positions[position].into(), bound: cos.rows() });
    }
    let bands = access.write_rows(args.y).into_tiles(BAND, args.y.width().max(1));
    cpu.install(|| {
        bands.into_par_iter().enumerate().for_each(|(band, mut y)| {
            for row in 0..y.rows() {
                let at = band * BAND + row;
                let angle = positions[at] as usize;
                turn::<T>(y.row_mut(row), x.row(at), cos.row(angle), sin.row(angle), direction);
            }
        });
    });
    Ok(())
}

vectorize! {
    fn turn<T: Float>(y: &mut [T], x: &[T], cos: &[T::Acc], sin: &[T::Acc], direction: T::Acc) {
        let pairs = cos.len();
        for (y, x) in y.chunks_exact_mut(2 * pairs).zip(x.chunks_exact(2 * pairs)) {
            let ((y_low, y_high), (x_low, x_high)) = (y.split_at_mut(pairs), x.split_at(pairs));
            for (((((y_low, y_high), x_low), x_high), cos), sin) in y_low.iter_mut().zip(y_high).zip(x_low).zip(x_high).zip(cos).zip(sin) {
                let (low, high, sin) = (x_low.to_acc(), x_high.to_acc(), *sin * direction);
                *y_low = T::from_acc(low * *cos - high * sin);
                *y_high = T::from_acc(high * *cos + low * sin);
            }
        }
    }
}
