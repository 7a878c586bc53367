//! Launches of `adamw.ptx`: one a tensor.

use super::factors::Factors;
use super::{Group, Step};
use crate::Result;
use crate::runtime::{CudaStream, Float, entry};

const TEXT: &str = include_str!("adamw.ptx");

/// Elements of a CTA.
const THREADS: u32 = 256;

pub(super) fn step<T: Float>(stream: &CudaStream, op: &'static str, groups: &[Group<T>], step: Step) -> Result<()> {
    let entry = entry::<T>(op, "adamw_step")?;
    for group in groups {
        let factors = Factors::<f32>::new(step, group.learning_rate_scale, group.weight_decay);
        let count = group.weight.len() as u32;
        stream
            .launch(TEXT, entry.clone(), [count.div_ceil(THREADS), 1, 1], THREADS)
            .write("weight", group.weight)
            .optional("master", group.master)
            .read("gradient", group.gradient)
            .write("first_moment", group.first_moment)
            .write("second_moment", group.second_moment)
            .value("count", count)
            .value("gradient_scale", factors.gradient_scale)
            .value("keep", factors.keep)
            .value("first", factors.first)
            .value("beta2", factors.beta2)
            .value("second", factors.second)
            .value("correction", factors.correction)
            .value("eps", factors.eps)
            .value("size", factors.size)
            .submit()?;
    }
    Ok(())
}
