//! Launches of `mse.ptx`.

use super::{Backward, Forward};
use crate::Result;
use crate::runtime::{CudaStream, Float, entry};

const TEXT: &str = include_str!("mse.ptx");

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    stream
        .launch(TEXT, entry::<T>(op, "mse_forward")?, [1, 1, 1], 256)
        .write("loss", args.loss)
        .write("mask_sum", args.mask_sum)
        .read("prediction", args.prediction)
        .read("target", args.target)
        .read("mask", args.mask)
        .value("count", args.prediction.len() as u32)
        .submit()
}

pub(super) fn backward<T: Float>(stream: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let count = args.prediction.len() as u32;
    stream
        .launch(TEXT, entry::<T>(op, "mse_backward")?, [count.div_ceil(128), 1, 1], 128)
        .write("dprediction", args.dprediction)
        .read("dloss", args.dloss)
        .read("prediction", args.prediction)
        .read("target", args.target)
        .read("mask", args.mask)
        .read("mask_sum", args.mask_sum)
        .value("count", count)
        .submit()
}
