//! Rotary position embedding in Hugging Face's half-split pairing: element `i` of a head turns together with element
//! `i + head_dim / 2`.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cuda;

use crate::error::expect_shape;
use crate::runtime::{Float, Plan, Real, Stream, Target, Tensor};
use crate::{Error, Result};

/// Cosines and sines of every position, computed once a model.
#[derive(Clone, Copy, Debug)]
pub struct Table<A: Real> {
    /// `[positions, head_dim / 2]`.
    pub cos: Tensor<A>,
    /// `[positions, head_dim / 2]`.
    pub sin: Tensor<A>,
}

/// Arguments of [`forward`] and [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Rotate<T: Float> {
    /// `[rows, num_heads * head_dim]`, written.
    pub y: Tensor<T>,
    /// `[rows, num_heads * head_dim]`; may be columns of a wider matrix.
    pub x: Tensor<T>,
    /// `[rows]`: each row's place in its sequence, a row of the table.
    pub positions: Tensor<u32>,
    /// Angles; their width says `head_dim / 2`.
    pub table: Table<T::Acc>,
}

/// Plans a table for `positions` places.
pub fn plan_table<A: Real>(plan: &mut Plan, positions: usize, head_dim: usize) -> Table<A> {
    plan.under("rope", |plan| Table {
        cos: plan.tensor("cos", [positions, head_dim / 2]),
        sin: plan.tensor("sin", [positions, head_dim / 2]),
    })
}

/// Fills a table with the cosines and sines of `position * frequencies[i]`, computed in f64 and rounded once.
///
/// # Errors
/// `Shape` when there is not one frequency for each pair.
/// # Source
/// Su et al. 2021, "RoFormer", eq. 15: `frequencies[i] = theta^(-2 i / head_dim)`, unless a model scales them.
pub fn build_table<A: Real>(stream: &Stream, table: Table<A>, frequencies: &[f64]) -> Result<()> {
    let (positions, pairs) = (table.cos.rows(), table.cos.width());
    expect_shape("rope::build_table", "frequencies", &[pairs], &[frequencies.len()])?;
    for (tensor, function) in [(table.cos, f64::cos as fn(f64) -> f64), (table.sin, f64::sin)] {
        let angles = (0..positions).flat_map(|position| frequencies.iter().map(move |frequency| position as f64 * frequency));
        stream.upload(tensor, &angles.map(|angle| A::of(function(angle))).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// `y[i] = x[i] cos - x[i + h] sin`, `y[i + h] = x[i + h] cos + x[i] sin` for every head and `i < h = head_dim / 2`, by the angle of
/// the row's position and `i`.
///
/// # Shapes
/// See [`Rotate`].
/// # Errors
/// `Shape` when a length differs or heads do not fill the row; `Index` when a position is beyond the table.
/// # Source
/// Su et al. 2021, eq. 34, with the pairing of Hugging Face `rotate_half`.
pub fn forward<T: Float>(stream: &Stream, args: Rotate<T>) -> Result<()> {
    rotate(stream, "rope::forward", args, T::Acc::ONE)
}

/// The transposed rotation: `args.x` is the gradient of forward's output, `args.y` that of its input.
///
/// # Shapes
/// See [`Rotate`].
/// # Errors
/// As in [`forward`].
/// # Source
/// A rotation's derivative is itself; its transpose turns back.
pub fn backward<T: Float>(stream: &Stream, args: Rotate<T>) -> Result<()> {
    rotate(stream, "rope::backward", args, -T::Acc::ONE)
}

fn rotate<T: Float>(stream: &Stream, op: &'static str, args: Rotate<T>, direction: T::Acc) -> Result<()> {
    let (rows, width, pairs) = (args.x.rows(), args.x.width(), args.table.cos.width());
    expect_shape(op, "y", &[rows, width], &[args.y.rows(), args.y.width()])?;
    expect_shape(op, "positions", &[rows], &args.positions.shape())?;
    expect_shape(op, "sin", &args.table.cos.shape(), &args.table.sin.shape())?;
    if pairs == 0 || !width.is_multiple_of(2 * pairs) {
        return Err(Error::Argument { op, argument: "width", value: width as f64, expected: "a multiple of twice the table's width" });
    }
    match stream.target() {
        Target::Cpu(cpu) => cpu::rotate(stream, cpu, op, args, direction),
        Target::Cuda(cuda) => cuda::rotate(cuda, op, args, direction.f64() as f32),
    }
}
