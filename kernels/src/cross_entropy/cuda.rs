//! Launches of `cross_entropy.ptx`. Targets stay on the device: one that is no class is not refused there, but makes the loss NaN.

use super::{Backward, Forward};
use crate::Result;
use crate::runtime::{CudaStream, Float, variant};

/// In f32 and in bf16.
const TEXTS: [&str; 2] = [include_str!("cross_entropy.ptx"), include_str!("bf16.ptx")];

/// Threads of a row's CTA.
fn threads(classes: usize) -> u32 {
    classes.next_multiple_of(32).clamp(32, 256) as u32
}

/// The target's share of its probability, and what every class receives.
fn shares(label_smoothing: f64, classes: usize) -> (f32, f32) {
    ((1.0 - label_smoothing) as f32, (label_smoothing / classes.max(1) as f64) as f32)
}

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let (rows, classes) = (args.logits.rows(), args.logits.width());
    let (sharp, spread) = shares(args.label_smoothing, classes);
    stream.need_scratch(op, super::scratch(rows))?;
    let (text, entry) = variant::<T>(op, "cross_entropy_forward", TEXTS)?;
    stream
        .launch(text, entry, [rows as u32, 1, 1], threads(classes))
        .scratch("row_loss", 0)
        .write("logsumexp", args.logsumexp)
        .read("logits", args.logits)
        .read("targets", args.targets)
        .optional("class_weight", args.class_weight)
        .value("classes", classes as u32)
        .value("logits_stride", args.logits.row_stride() as u32)
        .value("sharp", sharp)
        .value("spread", spread)
        .submit()?;
    stream
        .launch(TEXTS[0], "cross_entropy_mean_f32", [1, 1, 1], 256)
        .write("loss", args.loss)
        .write("weight_sum", args.weight_sum)
        .scratch("row_loss", 0)
        .read("targets", args.targets)
        .optional("class_weight", args.class_weight)
        .value("rows", rows as u32)
        .value("classes", classes as u32)
        .submit()
}

pub(super) fn backward<T: Float>(stream: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let (rows, classes) = (args.logits.rows(), args.logits.width());
    let (sharp, spread) = shares(args.label_smoothing, classes);
    let (text, entry) = variant::<T>(op, "cross_entropy_backward", TEXTS)?;
    stream
        .launch(text, entry, [rows as u32, 1, 1], threads(classes))
        .write("dlogits", args.dlogits)
        .read("dloss", args.dloss)
        .read("logits", args.logits)
        .read("targets", args.targets)
        .read("logsumexp", args.logsumexp)
        .read("weight_sum", args.weight_sum)
        .optional("class_weight", args.class_weight)
        .value("classes", classes as u32)
        .value("dlogits_stride", args.dlogits.row_stride() as u32)
        .value("logits_stride", args.logits.row_stride() as u32)
        .value("sharp", sharp)
        .value("spread", spread)
        .submit()
}
