//! Masked mean squared error on the CPU: sums over fixed chunks, finished in order in f64.

use rayon::prelude::*;

use super::{Backward, Forward};
use crate::Result;
use crate::runtime::math::{LANES, tree};
use crate::runtime::{Cpu, Float, Real, Stream};
use crate::vectorize;

/// Elements of one partial sum.
const CHUNK: usize = 1 << 13;

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, args: Forward<T>) -> Result<()> {
    let access = stream.access();
    let (prediction, target, mask) = (access.read(args.prediction), access.read(args.target), access.read(args.mask));
    let partial: Vec<(T::Acc, T::Acc)> = cpu.install(|| {
        let chunks = prediction.par_chunks(CHUNK).zip(target.par_chunks(CHUNK)).zip(mask.par_chunks(CHUNK));
        chunks.map(|((prediction, target), mask)| sums::<T>(prediction, target, mask)).collect()
    });
    let (squares, counted) = partial.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0.f64(), sum.1 + part.1.f64()));
    access.write(args.loss)[0] = T::Acc::of(if counted == 0.0 { 0.0 } else { squares / counted });
    access.write(args.mask_sum)[0] = T::Acc::of(counted);
    Ok(())
}

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, args: Backward<T>) -> Result<()> {
    let access = stream.access();
    let (prediction, target, mask) = (access.read(args.prediction), access.read(args.target), access.read(args.mask));
    let dprediction = access.write(args.dprediction);
    let mask_sum = access.read(args.mask_sum)[0];
    if mask_sum == T::Acc::ZERO {
        dprediction.fill(T::default());
        return Ok(());
    }
    let scale = T::Acc::of(2.0) * access.read(args.dloss)[0] / mask_sum;
    cpu.install(|| {
        let chunks = dprediction.par_chunks_mut(CHUNK).zip(prediction.par_chunks(CHUNK));
        let chunks = chunks.zip(target.par_chunks(CHUNK)).zip(mask.par_chunks(CHUNK));
        chunks.for_each(|(((dprediction, prediction), target), mask)| gradient::<T>(dprediction, prediction, target, mask, scale));
    });
    Ok(())
}

vectorize! {
    fn sums<T: Float>(prediction: &[T], target: &[T::Acc], mask: &[T::Acc]) -> (T::Acc, T::Acc) {
        let (mut squares, mut counted) = ([T::Acc::ZERO; LANES], [T::Acc::ZERO; LANES]);
        let (predictions, rest) = prediction.as_chunks::<LANES>();
        let (targets, targets_rest) = target.as_chunks::<LANES>();
        let (masks, masks_rest) = mask.as_chunks::<LANES>();
        for ((prediction, target), mask) in predictions.iter().zip(targets).zip(masks) {
            for lane in 0..LANES {
                let error = (prediction[lane].to_acc() - target[lane]) * mask[lane];
                squares[lane] += error * error;
                counted[lane] += mask[lane];
            }
        }
        for (lane, ((prediction, target), mask)) in rest.iter().zip(targets_rest).zip(masks_rest).enumerate() {
            let error = (prediction.to_acc() - *target) * *mask;
            squares[lane] += error * error;
            counted[lane] += *mask;
        }
        (tree(squares), tree(counted))
    }

    fn gradient<T: Float>(dprediction: &mut [T], prediction: &[T], target: &[T::Acc], mask: &[T::Acc], scale: T::Acc) {
        for (((dprediction, prediction), target), mask) in dprediction.iter_mut().zip(prediction).zip(target).zip(mask) {
            *dprediction = T::from_acc(scale * (prediction.to_acc() - *target) * (*mask * *mask));
        }
    }
}
