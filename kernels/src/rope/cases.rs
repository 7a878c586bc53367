//! Shapes and traffic of the rotation cases.

use super::{Rotate, Table, backward, forward};
use crate::Result;
use crate::runtime::{Float, Stream, Tensor};
use crate::testing::{Bindings, Case, Fill, Op};

struct Rope;

impl Rope {
    fn arguments<T: Float>(t: &Bindings<T>, y: Tensor<T>, x: Tensor<T>) -> Rotate<T> {
        let table = Table { cos: t.accumulated("cos"), sin: t.accumulated("sin") };
        Rotate { y, x, positions: t.index("positions"), table }
    }
}

impl Op for Rope {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        forward(stream, Rope::arguments(t, t.value("y"), t.value("x")))
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        backward(stream, Rope::arguments(t, t.value("dx"), t.value("dy")))
    }
}

/// One row and pair, odd numbers of heads and rows, positions that repeat and start late, and SmolLM2's own size.
pub fn cases() -> Vec<Case> {
    const POSITIONS: usize = 40;
    let case = |rows: usize, heads: usize, head_dim: usize| {
        let angle = |index: usize| (index / (head_dim / 2)) as f64 * 1e4f64.powf(-2.0 * (index % (head_dim / 2)) as f64 / head_dim as f64);
        let angles: Vec<f64> = (0..POSITIONS * head_dim / 2).map(angle).collect();
        let places = (0..rows as u32).map(|row| (row * 7 + 3) % POSITIONS as u32).collect();
        Case::new(format!("{rows}x{heads}x{head_dim}"), Rope)
            .input("x", [rows, heads * head_dim])
            .index("positions", [rows], Fill::Integers(places))
            .constant("cos", [POSITIONS, head_dim / 2], Fill::Values(angles.iter().map(|angle| angle.cos()).collect()))
            .constant("sin", [POSITIONS, head_dim / 2], Fill::Values(angles.iter().map(|angle| angle.sin()).collect()))
            .output("y", [rows, heads * head_dim])
            .bytes(4 * 2 * rows * heads * head_dim)
            .flops(3 * rows * heads * head_dim)
    };
    let mut cases: Vec<Case> = [(1, 1, 2), (7, 3, 8), (37, 3, 64), (5, 2, 128)].map(|(rows, heads, dim)| case(rows, heads, dim)).into();
    cases.push(case(2048, 9, 64).bench());
    cases
}
