//! Cell embeddings of a padded batch, and the inner product of gene queries with them.
//!
//! A batch is `[batch * seq_len, width]`; cell `b` has its `lengths[b]` genes in the first rows of its `seq_len`, row 0 the `<cls>`
//! position, the others pads. Pads never count.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cuda;

use crate::error::expect_shape;
use crate::runtime::{Float, Stream, Target, Tensor};
use crate::{Error, Result};

/// How a cell's rows become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Row 0.
    Cls,
    /// The mean of the cell's rows, row 0 among them.
    Mean,
    /// The sum of the cell's rows but row 0, each times its weight; not yet L2-normalised.
    Weighted,
}

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[batch, width]`, written.
    pub y: Tensor<T>,
    /// `[batch * seq_len, width]`.
    pub x: Tensor<T>,
    /// `[batch]`: rows of each cell, at most `seq_len`; 0 gives a zero embedding.
    pub lengths: Tensor<u32>,
    /// `[batch * seq_len]`, for [`Kind::Weighted`] only.
    pub weights: Option<Tensor<T::Acc>>,
    /// Rows of each cell with its pads.
    pub seq_len: usize,
    /// What to compute.
    pub kind: Kind,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// `[batch * seq_len, width]`, overwritten; 0 where nothing flows.
    pub dx: Tensor<T>,
    /// `[batch, width]`.
    pub dy: Tensor<T>,
    /// `[batch]`, as in forward.
    pub lengths: Tensor<u32>,
    /// `[batch * seq_len]`, as in forward.
    pub weights: Option<Tensor<T::Acc>>,
    /// As in forward.
    pub seq_len: usize,
    /// As in forward.
    pub kind: Kind,
}

/// Arguments of [`score_forward`].
#[derive(Clone, Copy, Debug)]
pub struct ScoreForward<T: Float> {
    /// `[batch * seq_len]`, written.
    pub y: Tensor<T>,
    /// `[batch * seq_len, width]`.
    pub query: Tensor<T>,
    /// `[batch, width]`.
    pub cell: Tensor<T>,
    /// Queries of each cell.
    pub seq_len: usize,
}

/// Arguments of [`score_backward`].
#[derive(Clone, Copy, Debug)]
pub struct ScoreBackward<T: Float> {
    /// `[batch * seq_len, width]`, overwritten.
    pub dquery: Tensor<T>,
    /// `[batch, width]`, overwritten.
    pub dcell: Tensor<T>,
    /// `[batch * seq_len]`.
    pub dy: Tensor<T>,
    /// `[batch * seq_len, width]`, as in forward.
    pub query: Tensor<T>,
    /// `[batch, width]`, as in forward.
    pub cell: Tensor<T>,
    /// As in forward.
    pub seq_len: usize,
}

/// With `n = lengths[b]` and `x_i` row `i` of cell `b`: `Cls` gives `x_0`, `Mean` `sum_{i < n} x_i / n`, `Weighted`
/// `sum_{0 < i < n} weights[b, i] x_i`; 0 when `n` is 0.
///
/// # Shapes
/// `x`: `[batch * seq_len, width]`; `y`: `[batch, width]`; `lengths`: `[batch]`; `weights`: `[batch * seq_len]`.
/// # Errors
/// `Shape` when a length differs or `Weighted` has no weights (got `[]`), `Index` when a cell is longer than `seq_len`.
/// # Source
/// scGPT `model.py`, `_get_cell_emb_from_layer` (whose mean counts pads; ours does not).
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "pool::forward";
    let batch = args.lengths.len();
    expect_shape(OP, "y", &[batch, args.x.width()], &[args.y.rows(), args.y.width()])?;
    expect_shape(OP, "x", &[batch * args.seq_len], &[args.x.rows()])?;
    check_weights(OP, args.weights, args.kind, batch * args.seq_len)?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::forward(stream, cpu, OP, args),
        Target::Cuda(cuda) => cuda::forward(cuda, OP, args),
    }
}

/// `dx` of row `i` of cell `b` is `dy[b]` times the factor that row has in [`forward`]; 0 for pads and rows that do not count.
/// The weights have no gradient.
///
/// # Shapes
/// As in [`forward`].
/// # Errors
/// As [`forward`].
/// # Source
/// Derivative of [`forward`].
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "pool::backward";
    let batch = args.lengths.len();
    expect_shape(OP, "dy", &[batch, args.dx.width()], &[args.dy.rows(), args.dy.width()])?;
    expect_shape(OP, "dx", &[batch * args.seq_len], &[args.dx.rows()])?;
    check_weights(OP, args.weights, args.kind, batch * args.seq_len)?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::backward(stream, cpu, OP, args),
        Target::Cuda(cuda) => cuda::backward(cuda, OP, args),
    }
}

/// `y[b, i] = sum_c query[b, i, c] * cell[b, c]`: the inner-product decoder of gene expression from a cell embedding.
///
/// # Shapes
/// `query`: `[batch * seq_len, width]`; `cell`: `[batch, width]`; `y`: `batch * seq_len` elements.
/// # Errors
/// `Shape` when a length differs.
/// # Source
/// scGPT `model.py`, `MVCDecoder`, style "inner product".
pub fn score_forward<T: Float>(stream: &Stream, args: ScoreForward<T>) -> Result<()> {
    const OP: &str = "pool::score_forward";
    check_score(OP, args.query, args.cell, args.seq_len)?;
    expect_shape(OP, "y", &[args.query.rows()], &[args.y.len()])?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::score_forward(stream, cpu, args),
        Target::Cuda(cuda) => cuda::score_forward(cuda, OP, args),
    }
}

/// `dquery[b, i] = dy[b, i] * cell[b]`; `dcell[b] = sum_i dy[b, i] * query[b, i]`.
///
/// # Shapes
/// As in [`score_forward`].
/// # Errors
/// `Shape` when a length differs.
/// # Source
/// Derivative of [`score_forward`].
pub fn score_backward<T: Float>(stream: &Stream, args: ScoreBackward<T>) -> Result<()> {
    const OP: &str = "pool::score_backward";
    check_score(OP, args.query, args.cell, args.seq_len)?;
    expect_shape(OP, "dy", &[args.query.rows()], &[args.dy.len()])?;
    expect_shape(OP, "dquery", &[args.query.rows(), args.query.width()], &[args.dquery.rows(), args.dquery.width()])?;
    expect_shape(OP, "dcell", &[args.cell.rows(), args.cell.width()], &[args.dcell.rows(), args.dcell.width()])?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::score_backward(stream, cpu, args),
        Target::Cuda(cuda) => cuda::score_backward(cuda, OP, args),
    }
}

fn check_weights<A: Float>(op: &'static str, weights: Option<Tensor<A>>, kind: Kind, rows: usize) -> Result<()> {
    match (kind, weights) {
        (Kind::Weighted, Some(weights)) => expect_shape(op, "weights", &[rows], &[weights.len()]),
        (Kind::Weighted, None) => Err(Error::Shape { op, tensor: "weights", expected: vec![rows], got: Vec::new() }),
        _ => Ok(()),
    }
}

fn check_score<T: Float>(op: &'static str, query: Tensor<T>, cell: Tensor<T>, seq_len: usize) -> Result<()> {
    expect_shape(op, "query", &[cell.rows() * seq_len, cell.width()], &[query.rows(), query.width()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Arena, Class, Device, Plan};

    #[test]
    fn pads_do_not_count_and_lengths_are_checked() {
        let device = Device::cpu(2).unwrap();
        let mut plan = Plan::new(Class::Activations);
        let (x, y) = (plan.tensor::<f32>("x", [6, 2]), plan.tensor("y", [2, 2]));
        let (lengths, weights) = (plan.tensor::<u32>("lengths", [2]), plan.tensor("weights", [6]));
        let _arena = Arena::allocate(&device, plan).unwrap();
        let stream = Stream::new(&device, 0).unwrap();
        let nan = f32::NAN;
        stream.upload(x, &[1.0, 2.0, 3.0, 6.0, nan, nan, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]).unwrap();
        stream.upload(weights, &[100.0, 2.0, nan, 100.0, 0.5, 3.0]).unwrap();
        stream.upload(lengths, &[2, 3]).unwrap();
        let args = Forward { y, x, lengths, weights: Some(weights), seq_len: 3, kind: Kind::Cls };
        let expected = [(Kind::Cls, [1.0, 2.0, 4.0, 5.0]), (Kind::Mean, [2.0, 4.0, 6.0, 7.0]), (Kind::Weighted, [6.0, 12.0, 27.0, 30.5])];
        for (kind, expected) in expected {
            forward(&stream, Forward { kind, ..args }).unwrap();
            assert_eq!(stream.fetch(y).unwrap(), expected, "{kind:?}");
        }
        let none = Forward { kind: Kind::Weighted, weights: None, ..args };
        assert!(matches!(forward(&stream, none), Err(Error::Shape { tensor: "weights", .. })));
        stream.upload(lengths, &[2, 4]).unwrap();
        assert!(matches!(forward(&stream, args), Err(Error::Index { position: 1, index: 4, bound: 3, .. })));
    }
}
