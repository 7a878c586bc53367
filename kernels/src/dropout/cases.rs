//! Shapes, tolerances and traffic of the dropout cases.

use super::{Backward, Forward, backward, forward};
use crate::Result;
use crate::runtime::philox::Site;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Fill, Op};

struct Dropout {
    probability: f32,
    residual: bool,
}

/// A step above 2^32 and a large site: all of the counter is in use.
const SITE: Site = Site { seed: 0x0123_4567_89ab_cdef, step: 0x1_0000_0005, site: 0x8000_0001 };

impl Op for Dropout {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let residual = self.residual.then(|| t.value("residual"));
        forward(stream, Forward { y: t.value("y"), x: t.value("x"), residual, probability: self.probability, site: SITE })
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        backward(stream, Backward { dx: t.value("dx"), dy: t.value("dy"), probability: self.probability, site: SITE })
    }
}

/// Rows that start anywhere inside a Philox call, no dropping at all, nearly all dropped, and the encoder's own size.
pub fn cases() -> Vec<Case> {
    let case = |rows: usize, width: usize, probability: f32, residual: bool| {
        let name = format!("{rows}x{width}_p{probability}{}", if residual { "_residual" } else { "" });
        let case = Case::new(name, Dropout { probability, residual })
            .input("x", [rows, width])
            .output("y", [rows, width])
            .bytes(4 * (2 + usize::from(residual)) * rows * width)
            .flops(2 * rows * width);
        if residual { case.fixed("residual", [rows, width], Fill::Uniform) } else { case }
    };
    let sizes = [(1, 1, 0.5), (7, 33, 0.2), (3, 8, 0.1), (5, 1023, 0.9), (131, 17, 0.2), (9, 64, 0.0)];
    let mut cases: Vec<Case> =
        sizes.iter().flat_map(|&(rows, width, p)| [case(rows, width, p, false), case(rows, width, p, true)]).collect();
    cases.push(case(9600, 512, 0.2, false).bench());
    cases.push(case(9600, 512, 0.2, true).bench());
    cases
}
