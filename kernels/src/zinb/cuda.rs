//! Launches of `forward.ptx` and `backward.ptx`.

use super::{Backward, Forward, genes, scratch};
use crate::Result;
use crate::runtime::{CudaStream, Float, Tensor, elementwise, entry};

const FORWARD: &str = include_str!("forward.ptx");
const BACKWARD: &str = include_str!("backward.ptx");

/// Elements from one cell's thetas to the next's.
fn theta_stride<T: Float>(log_theta: Tensor<T>, genes: usize) -> u32 {
    if log_theta.len() == genes { 0 } else { genes as u32 }
}

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let (cells, genes) = (args.log_size.len(), genes(args.log_mean, args.log_size));
    stream.need_scratch(op, scratch::<T>(cells, genes))?;
    stream
        .launch(FORWARD, entry::<T>(op, "zinb_forward")?, [cells as u32, 1, 1], 256)
        .scratch("sums", 0)
        .read("log_mean", args.log_mean)
        .read("zero_logit", args.zero_logit)
        .read("log_theta", args.log_theta)
        .read("log_size", args.log_size)
        .read("count", args.count)
        .read("weight", args.weight)
        .value("genes", genes as u32)
        .value("theta_stride", theta_stride(args.log_theta, genes))
        .submit()?;
    stream
        .launch(FORWARD, entry::<T>(op, "zinb_mean")?, [1, 1, 1], 256)
        .write("loss", args.loss)
        .write("weight_sum", args.weight_sum)
        .scratch("sums", 0)
        .value("cells", cells as u32)
        .submit()
}

pub(super) fn backward<T: Float>(stream: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let (cells, genes) = (args.log_size.len(), genes(args.log_mean, args.log_size));
    let (grid, block) = elementwise(cells, genes);
    let shared = args.log_theta.len() == genes;
    stream.need_scratch(op, scratch::<T>(cells, genes))?;
    let launch = stream
        .launch(BACKWARD, entry::<T>(op, "zinb_backward")?, grid, block)
        .write("dlog_mean", args.dlog_mean)
        .write("dzero_logit", args.dzero_logit);
    let launch = if shared { launch.scratch("by_entry", 0) } else { launch.write("by_entry", args.dlog_theta) };
    launch
        .read("dloss", args.dloss)
        .read("log_mean", args.log_mean)
        .read("zero_logit", args.zero_logit)
        .read("log_theta", args.log_theta)
        .read("log_size", args.log_size)
        .read("count", args.count)
        .read("weight", args.weight)
        .read("weight_sum", args.weight_sum)
        .value("cells", cells as u32)
        .value("genes", genes as u32)
        .value("theta_stride", theta_stride(args.log_theta, genes))
        .submit()?;
    if !shared {
        return Ok(());
    }
    stream
        .launch(BACKWARD, entry::<T>(op, "zinb_theta")?, [grid[0], 1, 1], block)
        .write("dlog_theta", args.dlog_theta)
        .scratch("by_entry", 0)
        .value("cells", cells as u32)
        .value("genes", genes as u32)
        .submit()
}
