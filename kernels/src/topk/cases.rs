//! Shapes, tolerances and traffic of the top-k cases. Small whole numbers have exact scores in every element type, and many ties.

use super::{Forward, Metric, forward, scratch};
use crate::Result;
use crate::runtime::{Float, Real, Stream};
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

struct TopK {
    metric: Metric,
    k: usize,
    /// Whether indices are compared too: where scores are exact.
    exact: bool,
}

impl Op for TopK {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let (scores, indices, query, base) = (t.accumulated("scores"), t.index("indices"), t.value("query"), t.value("base"));
        forward(stream, Forward { scores, indices, query, base, metric: self.metric, k: self.k })?;
        if self.exact {
            let found: Vec<_> = stream.fetch(indices)?.into_iter().map(|index| T::Acc::of(f64::from(index))).collect();
            stream.upload(t.accumulated("found"), &found)?;
        }
        Ok(())
    }
}

/// One row, one column, primes, more than one tile and block of queries, ties, `k` of 1, of more than one list or round, and beyond the
/// base, and an annotation run.
pub fn cases() -> Vec<Case> {
    let case = |metric: Metric, (queries, rows, width): (usize, usize, usize), k: usize, fill: Option<Fill>| {
        let exact = fill.is_some();
        let fill = fill.unwrap_or(Fill::Uniform);
        let name = format!("{metric:?}_{queries}x{rows}x{width}_k{k}{}", if exact { "_exact" } else { "" }).to_lowercase();
        let case = Case::new(name, TopK { metric, k, exact })
            .fixed("query", [queries, width], fill.clone())
            .fixed("base", [rows, width], fill)
            .index("indices", [queries, k], Fill::Integers(vec![0]))
            .loss("scores", [queries, k])
            .tolerance(Tolerance::f32().reduction(width))
            .bytes(4 * (queries + rows) * width)
            .flops(if metric == Metric::InnerProduct { 2 } else { 3 } * queries * rows * width)
            .scratch(scratch(queries, rows, k))
            .forward_only();
        if exact { case.statistic("found", [queries, k]) } else { case }
    };
    let whole = || Some(Fill::Below(4));
    let mut cases = Vec::new();
    for metric in [Metric::InnerProduct, Metric::Euclidean] {
        cases.push(case(metric, (1, 1, 1), 1, whole()));
        cases.push(case(metric, (3, 7, 5), 3, None));
        cases.push(case(metric, (2, 5, 3), 9, whole()));
        cases.push(case(metric, (13, 211, 7), 10, whole()));
        cases.push(case(metric, (101, 1009, 33), 1, whole()));
        cases.push(case(metric, (65, 333, 2), 33, whole()));
        cases.push(case(metric, (2, 300, 3), 310, whole()));
        cases.push(case(metric, (5, 9001, 67), 17, whole()));
        cases.push(case(metric, (2, 67, 601), 5, None));
        cases.push(case(metric, (1000, 100_000, 256), 10, None).bench());
    }
    cases.push(case(Metric::InnerProduct, (1000, 100_000, 256), 100, None).bench());
    cases.push(case(Metric::InnerProduct, (1, 100_000, 256), 10, None).bench());
    cases
}
