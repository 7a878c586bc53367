//! Shapes and traffic of the selection cases.

use super::{Backward, Forward, backward, forward};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Fill, Op};

struct Select {
    seq_len: usize,
}

impl Op for Select {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let (head, tail) = (Some(t.value("head")), Some(t.value("tail")));
        forward(stream, Forward { y: t.value("y"), head, tail, lengths: t.index("lengths"), seq_len: self.seq_len })
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let (dhead, dtail, dy) = (t.value("dhead"), t.value("dtail"), t.value("dy"));
        backward(stream, Backward { dhead, dtail, dy, lengths: t.index("lengths"), seq_len: self.seq_len })
    }
}

/// Empty, full and overlong heads, one row a cell, more than one block of columns and rows, and an encoder batch.
pub fn cases() -> Vec<Case> {
    let case = |batch: usize, seq_len: usize, width: usize, lengths: Vec<u32>| {
        Case::new(format!("{batch}x{seq_len}x{width}"), Select { seq_len })
            .input("head", [batch * seq_len, width])
            .input("tail", [batch * seq_len, width])
            .index("lengths", [batch], Fill::Integers(lengths))
            .output("y", [batch * seq_len, width])
            .bytes(8 * batch * seq_len * width)
    };
    vec![
        case(1, 1, 1, vec![1]),
        case(4, 7, 33, vec![7, 0, 3, 9]),
        case(2, 67, 259, vec![66, 13]),
        case(8, 1200, 512, vec![1200, 700]).bench(),
    ]
}
