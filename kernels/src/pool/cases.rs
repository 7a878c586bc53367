//! Shapes, tolerances and traffic of the pooling and score cases.

use super::{Backward, Forward, Kind, ScoreBackward, ScoreForward, backward, forward, score_backward, score_forward};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

struct Pool {
    seq_len: usize,
    kind: Kind,
}

impl Pool {
    fn weights<T: Float>(&self, t: &Bindings<T>) -> Option<crate::runtime::Tensor<T::Acc>> {
        (self.kind == Kind::Weighted).then(|| t.accumulated("weights"))
    }
}

impl Op for Pool {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let (seq_len, kind) = (self.seq_len, self.kind);
        let (y, x, lengths, weights) = (t.value("y"), t.value("x"), t.index("lengths"), self.weights(t));
        forward(stream, Forward { y, x, lengths, weights, seq_len, kind })
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let (seq_len, kind) = (self.seq_len, self.kind);
        let (dx, dy, lengths, weights) = (t.value("dx"), t.value("dy"), t.index("lengths"), self.weights(t));
        backward(stream, Backward { dx, dy, lengths, weights, seq_len, kind })
    }
}

struct Score {
    seq_len: usize,
}

impl Op for Score {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let (y, query, cell) = (t.value("y"), t.value("query"), t.value("cell"));
        score_forward(stream, ScoreForward { y, query, cell, seq_len: self.seq_len })
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let (dquery, dcell, dy) = (t.value("dquery"), t.value("dcell"), t.value("dy"));
        let (query, cell) = (t.value("query"), t.value("cell"));
        score_backward(stream, ScoreBackward { dquery, dcell, dy, query, cell, seq_len: self.seq_len })
    }
}

/// Full, short and empty cells, one row a cell, more than one block of columns and rows, and an encoder batch.
pub fn cases() -> Vec<Case> {
    let pool = |kind: Kind, batch: usize, seq_len: usize, width: usize, lengths: Vec<u32>| {
        let case = Case::new(format!("{kind:?}_{batch}x{seq_len}x{width}").to_lowercase(), Pool { seq_len, kind })
            .input("x", [batch * seq_len, width])
            .index("lengths", [batch], Fill::Integers(lengths))
            .output("y", [batch, width])
            .tolerance(Tolerance::f32().reduction(seq_len))
            .bytes(4 * (batch * seq_len + batch) * width)
            .flops(2 * batch * seq_len * width);
        if kind == Kind::Weighted { case.constant("weights", [batch * seq_len], Fill::Range(-1.0, 2.0)) } else { case }
    };
    let score = |batch: usize, seq_len: usize, width: usize| {
        Case::new(format!("score_{batch}x{seq_len}x{width}"), Score { seq_len })
            .input("query", [batch * seq_len, width])
            .input("cell", [batch, width])
            .output("y", [batch * seq_len])
            .tolerance(Tolerance::f32().reduction(width.max(seq_len)))
            .bytes(4 * (batch * seq_len + batch) * width)
            .flops(2 * batch * seq_len * width)
    };
    let mut cases = Vec::new();
    for kind in [Kind::Cls, Kind::Mean, Kind::Weighted] {
        cases.push(pool(kind, 1, 1, 1, vec![1]));
        cases.push(pool(kind, 5, 7, 33, vec![7, 0, 3, 1, 6]));
        cases.push(pool(kind, 2, 67, 259, vec![67, 13]));
        cases.push(pool(kind, 8, 1200, 512, vec![1200, 700]).bench());
    }
    cases.extend([score(1, 1, 1), score(3, 5, 17), score(2, 71, 263), score(8, 1200, 512).bench()]);
    cases
}
