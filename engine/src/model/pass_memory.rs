//! Memory of passes whose sizes change from batch to batch: the activations, and a stream with the scratch that they need.

use scmmgpt_kernels::runtime::{Arena, Class, Device, Plan, Stream};

use crate::Result;

/// The plan that `tensors` fills, and what it gives back.
pub(super) fn planned<H>(tensors: impl FnOnce(&mut Plan) -> H) -> (Plan, H) {
    let mut plan = Plan::new(Class::Activations);
    let handles = tensors(&mut plan);
    (plan, handles)
}

/// A stream, memory, and the tensors that lie in it.
///
/// # Errors
/// `OutOfMemory`.
pub(super) fn allocate<H>(device: &Device, tensors: impl FnOnce(&mut Plan) -> H) -> Result<(Stream, Arena, H)> {
    let (plan, handles) = planned(tensors);
    let stream = Stream::new(device, plan.scratch_bytes())?;
    Ok((stream, Arena::allocate(device, plan)?, handles))
}

/// The same stream and memory for other tensors; both grow, and never shrink.
///
/// # Errors
/// `OutOfMemory`; the former tensors may be used on then.
pub(super) fn lay_out<H>(stream: &mut Stream, arena: &mut Arena, tensors: impl FnOnce(&mut Plan) -> H) -> Result<H> {
    let (plan, handles) = planned(tensors);
    stream.provide_scratch(plan.scratch_bytes())?;
    arena.replan(plan)?;
    Ok(handles)
}
