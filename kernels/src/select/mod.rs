//! Rows of one matrix up to a length of each cell, rows of another behind it.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cuda;

use crate::Result;
use crate::error::expect_shape;
use crate::runtime::{Float, Stream, Target, Tensor};

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[batch * seq_len, width]`, written.
    pub y: Tensor<T>,
    /// As `y`: rows below the length; none: zeros.
    pub head: Option<Tensor<T>>,
    /// As `y`: rows from the length on; none: zeros.
    pub tail: Option<Tensor<T>>,
    /// `[batch]`.
    pub lengths: Tensor<u32>,
    /// Rows of each cell.
    pub seq_len: usize,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// As `dy`, overwritten.
    pub dhead: Tensor<T>,
    /// As `dy`, overwritten.
    pub dtail: Tensor<T>,
    /// `[batch * seq_len, width]`.
    pub dy: Tensor<T>,
    /// As in forward.
    pub lengths: Tensor<u32>,
    /// As in forward.
    pub seq_len: usize,
}

/// `y[b, i] = head[b, i]` for `i < lengths[b]`, else `tail[b, i]`. A length beyond `seq_len` counts as `seq_len`.
///
/// # Shapes
/// `y`, `head`, `tail`: `[batch * seq_len, width]`; `lengths`: `[batch]`.
/// # Errors
/// `Shape` when they differ.
/// # Source
/// Definition.
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "select::forward";
    let shape = [args.lengths.len() * args.seq_len, args.y.width()];
    for (name, tensor) in [("y", Some(args.y)), ("head", args.head), ("tail", args.tail)] {
        tensor.map_or(Ok(()), |tensor| expect_shape(OP, name, &shape, &[tensor.rows(), tensor.width()]))?;
    }
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::forward(stream, cpu, args);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::forward(cuda, OP, args),
    }
}

/// `dhead` is `dy` below the lengths and 0 behind, `dtail` the other way round.
///
/// # Shapes
/// As in [`forward`].
/// # Errors
/// `Shape` when they differ.
/// # Source
/// Derivative of [`forward`].
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    let Backward { dhead, dtail, dy, lengths, seq_len } = args;
    forward(stream, Forward { y: dhead, head: Some(dy), tail: None, lengths, seq_len })?;
    forward(stream, Forward { y: dtail, head: None, tail: Some(dy), lengths, seq_len })
}
