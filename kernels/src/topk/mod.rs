//! The `k` best rows of a base for every query, exact, without ever holding the matrix of scores. Inference only: no backward.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cuda;
mod emit;
mod emit_list;
mod list;
mod product;

use crate::error::expect_shape;
use crate::runtime::{Float, Stream, Target, Tensor};
use crate::{Error, Result};

/// What a score is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metric {
    /// `sum_c query[c] * base[c]`.
    InnerProduct,
    /// `-sum_c (query[c] - base[c])^2`, from the differences themselves: a row's distance to itself is exactly 0.
    Euclidean,
}

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[queries, k]`, written: descending; `-inf` where the base has fewer rows than `k`.
    pub scores: Tensor<T::Acc>,
    /// `[queries, k]`, written: rows of the base; `u32::MAX` where it has fewer than `k`.
    pub indices: Tensor<u32>,
    /// `[queries, width]`.
    pub query: Tensor<T>,
    /// `[rows, width]`.
    pub base: Tensor<T>,
    /// What a score is.
    pub metric: Metric,
    /// Rows to return for each query.
    pub k: usize,
}

/// Bytes of scratch that [`forward`] needs on CUDA devices.
pub fn scratch(queries: usize, rows: usize, k: usize) -> usize {
    cuda::scratch(queries, rows, k)
}

/// The `k` rows with the largest scores, in the total order: larger score first, NaN after every number, smaller index first.
///
/// A score is summed from the first column to the last with fused multiply-add in the accumulation type, so that its bits depend on
/// the two rows alone, and the result on no blocking, no number of threads and no device; but a CUDA device writes a score of -0 as 0.
///
/// # Shapes
/// `query`: `[queries, width]`; `base`: `[rows, width]`; `scores`, `indices`: `[queries, k]`. Scratch: [`scratch`].
/// # Errors
/// `Shape` when a length differs, `Scratch` when the stream has too little, `Argument` when the base has more rows than a `u32` can name.
/// # Source
/// Register-blocked products of packed panels as in Goto & van de Geijn 2008; selection by threshold and deferred k-selection as in
/// Johnson, Douze & Jegou 2019, section 5; on CUDA devices sorted lists in the registers of a warp, as there.
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "topk::forward";
    let outputs = [args.query.rows(), args.k];
    expect_shape(OP, "base", &[args.base.rows(), args.query.width()], &[args.base.rows(), args.base.width()])?;
    expect_shape(OP, "scores", &outputs, &[args.scores.rows(), args.scores.width()])?;
    expect_shape(OP, "indices", &outputs, &[args.indices.rows(), args.indices.width()])?;
    if args.base.rows() >= u32::MAX as usize {
        return Err(Error::Argument { op: OP, argument: "base rows", value: args.base.rows() as f64, expected: "fewer than 2^32 - 1" });
    }
    match stream.target() {
        Target::Cpu(cpu) => cpu::forward(stream, cpu, args),
        Target::Cuda(cuda) => cuda::forward(cuda, OP, args),
    }
}

/// Every PTX text of this kernel: entry and module.
pub fn texts() -> Vec<(String, String)> {
    let select = |slots| [Metric::InnerProduct, Metric::Euclidean].map(|metric| emit::text(metric, slots));
    let texts = cuda::SLOTS.into_iter().flat_map(|slots| select(slots).into_iter().chain([emit_list::text(slots)]));
    texts.map(|text| (text.entry, text.ptx)).collect()
}

#[cfg(test)]
mod tests;
