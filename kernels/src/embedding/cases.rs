//! Shapes, tolerances and traffic of the embedding cases.

use super::{Backward, Forward, backward, forward, scratch};
use crate::Result;
use crate::runtime::{Float, Stream};
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

struct Embedding {
    padding_id: Option<u32>,
}

impl Op for Embedding {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        forward(stream, Forward { y: t.value("y"), table: t.value("table"), ids: t.index("ids") })
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        // With padding the table's gradient is not forward's derivative: it is compared, but not with differences.
        let dtable = t.accumulated(if self.padding_id.is_some() { "table_gradient" } else { "dtable" });
        backward(stream, Backward { dtable, dy: t.value("dy"), ids: t.index("ids"), padding_id: self.padding_id })
    }
}

fn case(name: &str, tokens: usize, rows: usize, width: usize, ids: Fill, padding_id: Option<u32>) -> Case {
    let case = Case::new(format!("{name}_{tokens}of{rows}x{width}"), Embedding { padding_id })
        .index("ids", [tokens], ids)
        .output("y", [tokens, width])
        .tolerance(Tolerance::f32().reduction(tokens.div_ceil(rows).max(8)))
        .scratch(scratch(tokens))
        .bytes(4 * (2 * tokens * width + tokens));
    match padding_id {
        None => case.parameter("table", [rows, width]),
        Some(_) => case.fixed("table", [rows, width], Fill::Uniform).statistic("table_gradient", [rows, width]),
    }
}

/// One token, ties in every pattern, columns that are no whole vectors, one row for all tokens, a row of nothing but padding, ids of four
/// digits and more than 32 tiles of tokens for the sort, and genes at the encoder's size.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        case("one", 1, 1, 1, Fill::Integers(vec![0]), None),
        case("random", 67, 13, 33, Fill::Below(13), None),
        case("odd_width", 40, 9, 127, Fill::Below(9), None),
        case("runs", 301, 97, 8, Fill::Integers(vec![96, 0, 0, 5, 5, 5, 96, 42]), None),
        case("same", 257, 3, 70, Fill::Integers(vec![2]), None),
        case("padding", 131, 7, 17, Fill::Integers(vec![3, 6, 6, 0, 3]), Some(6)),
        case("all_padding", 65, 7, 17, Fill::Integers(vec![0]), Some(0)),
        case("digits", 600, 60_697, 2, Fill::Below(60_697), None),
        case("tiles", 8705, 1201, 1, Fill::Below(1201), Some(7)),
        case("few_groups", 2000, 29, 512, Fill::Below(29), None),
    ];
    cases.push(case("genes", 9600, 60_697, 512, Fill::Below(60_697), None).bench());
    cases.push(case("tied_genes", 9600, 60_697, 512, Fill::Below(1200), None).bench());
    cases.push(case("positions", 9600, 512, 768, Fill::Below(128), None).bench());
    cases
}
