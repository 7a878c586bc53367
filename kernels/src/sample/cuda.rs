//! Launches of the choice: a block a row.

use super::{Choose, emit};
use crate::runtime::emit::kept;
use crate::runtime::{CudaStream, Float};
use crate::{Error, Result};

/// Most bytes of the masks: what every device from compute capability 8.0 on grants a block.
const MOST: usize = 99 << 10;

pub(super) fn choose<T: Float>(stream: &CudaStream, op: &'static str, args: Choose<T>) -> Result<()> {
    if !["f32", "bf16"].contains(&T::NAME) {
        return Err(Error::NoCudaKernel { op, element: T::NAME });
    }
    let (rows, classes, bytes) = (args.logits.rows(), args.logits.width(), size_of::<T>());
    let shared = emit::shared(classes);
    if shared > MOST {
        return Err(Error::Argument { op, argument: "classes", value: classes as f64, expected: "at most 400,000 on a GPU" });
    }
    let entry = emit::name(bytes);
    let text = kept(&entry, || emit::text(bytes));
    stream
        .launch(text, entry, [rows as u32, 1, 1], emit::THREADS as u32)
        .shared(shared as u32)
        .write("tokens", args.tokens)
        .write("log_probabilities", args.log_probabilities)
        .read("logits", args.logits)
        .optional("hidden", args.hidden)
        .optional("barred", args.barred)
        .optional("seen", args.seen)
        .read("random", args.random)
        .value("least", args.least())
        .value("top_p", args.top_p)
        .value("classes", classes as u32)
        .value("logits_stride", args.logits.row_stride() as u32)
        .value("hidden_count", args.hidden.map_or(0, |list| list.len()) as u32)
        .value("barred_count", args.barred.map_or(0, |list| list.len()) as u32)
        .value("seen_count", args.seen.map_or(0, |seen| seen.width()) as u32)
        .value("seen_stride", args.seen.map_or(0, |seen| seen.row_stride()) as u32)
        .value("random_stride", args.random.row_stride() as u32)
        .value("top_k", u32::try_from(args.top_k).unwrap_or(u32::MAX))
        .value("sharpness", args.sharpness())
        .value("penalty", args.repetition_penalty)
        .value("inverse", 1.0 / args.repetition_penalty)
        .submit()
}
