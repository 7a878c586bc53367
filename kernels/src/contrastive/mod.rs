//! Contrastive loss between cells and texts (InfoNCE) with several queries a cell; the matrix of scores never exists as a whole.
//!
//! Item `i` is a cell with `queries` embeddings and a text with one. `s_ij = max_q cells[i, q] . texts[j] / temperature`, over the items
//! `j` of the group of `i`, without those of the class of `i` other than `i` itself. With `r_i = ln sum_j exp(s_ij)` and
//! `c_j = ln sum_i exp(s_ij)`, a group of `m` items has the loss `1 / m sum_i (r_i - s_ii)`, or, in both directions,
//! `1 / 2m sum_i (r_i + c_i - 2 s_ii)`; the loss is the mean over the groups.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cpu_tile;
mod cuda;
mod emit;
mod emit_backward;
mod emit_combine;
mod emit_forward;
mod emit_gather;
mod emit_product;
mod emit_tile;
mod slices;

use crate::error::expect_shape;
use crate::runtime::{Float, Stream, Target, Tensor};
use crate::{Error, Result};

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[1]`, written, in nats.
    pub loss: Tensor<T::Acc>,
    /// `[items]`, written: `r_i`.
    pub row_logsumexp: Tensor<T::Acc>,
    /// `[items]`, written: `c_j`; 0 in one direction.
    pub column_logsumexp: Tensor<T::Acc>,
    /// `[items * queries, width]`, each row of length 1: the caller normalises.
    pub cells: Tensor<T>,
    /// `[items, width]`, each row of length 1.
    pub texts: Tensor<T>,
    /// `[items]`: items of equal numbers are no negatives of each other. None: all are.
    pub classes: Option<Tensor<u32>>,
    /// `[1]`, positive; a parameter like any other.
    pub temperature: Tensor<T>,
    /// Embeddings a cell.
    pub queries: usize,
    /// So many consecutive items contrast among themselves alone; the last group takes what is left and counts as much as the others.
    /// 0: all items are one group.
    pub group: usize,
    /// Both directions; else a text is sought for each cell alone, as the authors do.
    pub symmetric: bool,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// `[items * queries, width]`, overwritten.
    pub dcells: Tensor<T>,
    /// `[items, width]`, overwritten.
    pub dtexts: Tensor<T>,
    /// `[1]`, added to. None: the temperature is fixed.
    pub dtemperature: Option<Tensor<T::Acc>>,
    /// `[1]`.
    pub dloss: Tensor<T::Acc>,
    /// From forward.
    pub row_logsumexp: Tensor<T::Acc>,
    /// From forward.
    pub column_logsumexp: Tensor<T::Acc>,
    /// As in forward.
    pub cells: Tensor<T>,
    /// As in forward.
    pub texts: Tensor<T>,
    /// As in forward.
    pub classes: Option<Tensor<u32>>,
    /// As in forward.
    pub temperature: Tensor<T>,
    /// As in forward.
    pub queries: usize,
    /// As in forward.
    pub group: usize,
    /// As in forward.
    pub symmetric: bool,
}

/// Bytes of stream scratch that either pass needs for these sizes.
pub fn scratch<T: Float>(items: usize, queries: usize, width: usize) -> usize {
    cpu::scratch::<T>(items, queries, width).max(slices::scratch(items, queries, width))
}

/// Every emitted PTX text of this kernel: entry and module.
pub fn texts() -> Vec<(String, String)> {
    emit::all().into_iter().map(|text| (text.entry, text.ptx)).collect()
}

/// The loss, and the logarithms of the sums that [`backward`] needs. NaN anywhere in a row or a column makes the loss NaN.
///
/// # Shapes
/// See [`Forward`].
/// # Errors
/// `Shape` when a length differs, `Argument` when there are no items or no queries, or, on the CPU, when the temperature is not
/// positive (a GPU answers NaN).
/// # Source
/// van den Oord et al. 2018, eq. 4; maximum over queries: Li et al. 2023 (BLIP-2), section 3.1; directions and groups: `blip2qformer.py`
/// of scMMGPT (`contrast`, `contrast_global`, `contrast_batch`).
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "contrastive::forward";
    let Forward { loss, row_logsumexp, column_logsumexp, cells, texts, classes, temperature, queries, .. } = args;
    check(OP, cells, texts, classes, temperature, queries, [row_logsumexp, column_logsumexp])?;
    expect_shape(OP, "loss", &[1], &loss.shape())?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::forward(stream, cpu, OP, args),
        Target::Cuda(cuda) => cuda::forward(stream, cuda, OP, args),
    }
}

/// With `g_ij` the derivative of the loss by `s_ij` times `dloss`, that is `w (exp(s_ij - r_i) - [i = j])`, in both directions plus
/// `w (exp(s_ij - c_j) - [i = j])`, and `q` the first query with the largest product:
/// `dcells[i, q] += g_ij texts[j] / temperature`, `dtexts[j] += g_ij cells[i, q] / temperature`,
/// `dtemperature -= sum_ij g_ij s_ij / temperature`. Scores are computed again.
///
/// # Shapes
/// See [`Backward`].
/// # Errors
/// As [`forward`].
/// # Source
/// Derivative of [`forward`]; the first of equal queries as in `torch.max`.
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "contrastive::backward";
    let Backward { dcells, dtexts, dtemperature, dloss, row_logsumexp, column_logsumexp, cells, texts, classes, temperature, .. } = args;
    check(OP, cells, texts, classes, temperature, args.queries, [row_logsumexp, column_logsumexp])?;
    expect_shape(OP, "dcells", &[cells.rows(), cells.width()], &[dcells.rows(), dcells.width()])?;
    expect_shape(OP, "dtexts", &[texts.rows(), texts.width()], &[dtexts.rows(), dtexts.width()])?;
    dtemperature.map_or(Ok(()), |gradient| expect_shape(OP, "dtemperature", &[1], &gradient.shape()))?;
    expect_shape(OP, "dloss", &[1], &dloss.shape())?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::backward(stream, cpu, OP, args),
        Target::Cuda(cuda) => cuda::backward(cuda, OP, args),
    }
}

fn check<T: Float>(
    op: &'static str,
    cells: Tensor<T>,
    texts: Tensor<T>,
    classes: Option<Tensor<u32>>,
    temperature: Tensor<T>,
    queries: usize,
    logsumexps: [Tensor<T::Acc>; 2],
) -> Result<()> {
    let items = texts.rows();
    for (argument, value) in [("items", items), ("queries", queries), ("width", texts.width())] {
        if value == 0 {
            return Err(Error::Argument { op, argument, value: 0.0, expected: "at least one" });
        }
    }
    expect_shape(op, "cells", &[items * queries, texts.width()], &[cells.rows(), cells.width()])?;
    classes.map_or(Ok(()), |classes| expect_shape(op, "classes", &[items], &[classes.len()]))?;
    expect_shape(op, "temperature", &[1], &temperature.shape())?;
    for (name, tensor) in ["row_logsumexp", "column_logsumexp"].into_iter().zip(logsumexps) {
        expect_shape(op, name, &[items], &[tensor.len()])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
