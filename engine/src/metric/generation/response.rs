//! Response of labels to conditions: how a label's mean cell under a condition differs from its mean cell under the control.
//!
//! ```text
//! response(l, c)[g] = mean log1p value of g in cells of label l under c - that under the control
//! ```

use rayon::prelude::*;

use super::moments::{Profiles, pearson};
use super::top_genes::highest;
use super::{CENTRED, Cells};
use crate::metric::bootstrap::{Estimate, RESAMPLES, draws};
use crate::metric::error::{Result, in_range, same_length};
use crate::metric::scores::Score;

/// Genes that respond most, over which responses are compared besides all genes.
pub const RESPONDING_GENES: usize = 50;

const ALL: &str = "response correlation";
const SIZE: &str = "response size";

fn most() -> String {
    format!("response correlation, {RESPONDING_GENES} genes")
}

/// What responses are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Responses<'a> {
    /// `[generated]`: condition of each generated cell.
    pub generated: &'a [u32],
    /// `[reference]`: condition of each reference cell.
    pub reference: &'a [u32],
    /// The condition that others are compared with.
    pub control: u32,
    /// Genes that are reported one by one: names and columns.
    pub genes: &'a [(String, usize)],
}

/// Cells by label and condition.
struct Groups {
    conditions: usize,
    /// (label, condition) that both sets have cells of, under the condition and under the control; the control itself is none.
    pairs: Vec<(usize, usize)>,
    control: usize,
    count: usize,
}

/// Responses of every pair of [`Groups`], `[pairs, genes]`; none where a side has no cell.
fn responses(profiles: &Profiles, groups: &Groups) -> Vec<Option<Vec<f64>>> {
    let mean = |label: usize, condition: usize| profiles.mean(label * groups.conditions + condition);
    let response = |&(label, condition): &(usize, usize)| {
        let (under, control) = (mean(label, condition)?, mean(label, groups.control)?);
        Some(under.iter().zip(control).map(|(under, control)| under - control).collect())
    };
    groups.pairs.iter().map(response).collect()
}

/// A number of a generated and a real response, and the genes that respond most.
type Comparison<'a> = dyn Fn(&[f64], &[f64], &[usize]) -> f64 + 'a;

/// The metrics of some responses against others: both correlations, the size, then each named gene.
fn compare(
    generated: &[Option<Vec<f64>>],
    reference: &[Option<Vec<f64>>],
    top: &[Vec<usize>],
    named: &[(String, usize)],
) -> Vec<Option<f64>> {
    let pairs: Vec<(&Vec<f64>, &Vec<f64>, &Vec<usize>)> = generated
        .iter()
        .zip(reference)
        .zip(top)
        .filter_map(|((ours, theirs), top)| Some((ours.as_ref()?, theirs.as_ref()?, top)))
        .collect();
    let mean = |of: &Comparison<'_>| {
        let sum: f64 = pairs.iter().map(|(ours, theirs, top)| of(ours, theirs, top)).sum();
        (!pairs.is_empty()).then(|| sum / pairs.len() as f64)
    };
    let of_top = |values: &[f64], top: &[usize]| top.iter().map(|gene| values[*gene]).collect::<Vec<f64>>();
    // What does not respond at all tells nothing about the response.
    let all = mean(&|ours, theirs, _| pearson(ours, theirs).unwrap_or(0.0));
    let most = mean(&|ours, theirs, top| pearson(&of_top(ours, top), &of_top(theirs, top)).unwrap_or(0.0));
    let size = mean(&|ours, theirs, top| {
        let squares: f64 = top.iter().map(|gene| theirs[*gene] * theirs[*gene]).sum();
        let products: f64 = top.iter().map(|gene| ours[*gene] * theirs[*gene]).sum();
        if squares > 0.0 { products / squares } else { 0.0 }
    });
    let genes = named.iter().map(|(_, gene)| mean(&|ours, _, _| ours[*gene]));
    [all, most, size].into_iter().chain(genes).collect()
}

/// Responses of generated cells against those of reference cells, over the pairs of label and condition that both have, beside cells of
/// the label under the control.
///
/// # Shapes
/// As [`super::scores`] and [`Responses`]. No scores where there is no such pair.
/// # Errors
/// `LengthMismatch`, `OutOfRange` for a gene that is no column, `Empty` without cells.
pub fn response_scores(generated: &Cells<'_>, reference: &Cells<'_>, asked: &Responses<'_>, seed: u64) -> Result<Vec<Score>> {
    generated.check("generated cells")?;
    reference.check("reference cells")?;
    same_length("genes of the generated cells", reference.rows.columns, generated.rows.columns)?;
    same_length("conditions of the generated cells", generated.labels.len(), asked.generated.len())?;
    same_length("conditions of the reference cells", reference.labels.len(), asked.reference.len())?;
    in_range("named genes", asked.genes.iter().map(|(_, gene)| *gene), reference.rows.columns)?;
    let above = |values: &[u32], others: &[u32]| values.iter().chain(others).max().map_or(0, |most| *most as usize + 1);
    let labels = above(generated.labels, reference.labels);
    let conditions = above(asked.generated, asked.reference).max(asked.control as usize + 1);
    let of = |labels: &[u32], of: &[u32]| labels.iter().zip(of).map(|(label, of)| label * conditions as u32 + of).collect::<Vec<u32>>();
    let (ours, theirs) = (of(generated.labels, asked.generated), of(reference.labels, asked.reference));
    let mut groups = Groups { conditions, pairs: Vec::new(), control: asked.control as usize, count: labels * conditions };
    let has = |label: usize, condition: usize| {
        let group = (label * conditions + condition) as u32;
        ours.contains(&group) && theirs.contains(&group)
    };
    for label in (0..labels).filter(|label| has(*label, groups.control)) {
        groups.pairs.extend((0..conditions).filter(|at| *at != groups.control && has(label, *at)).map(|at| (label, at)));
    }
    if groups.pairs.is_empty() {
        return Ok(Vec::new());
    }
    let profiles = |cells: &Cells<'_>, of: &[u32], drawn: &mut dyn Iterator<Item = usize>| {
        responses(&Profiles::new(cells.rows, of, groups.count, drawn), &groups)
    };
    let sizes = [ours.len(), theirs.len()];
    let truth = profiles(reference, &theirs, &mut (0..sizes[1]));
    let magnitude = |response: &Option<Vec<f64>>| response.iter().flatten().map(|value| value.abs()).collect::<Vec<f64>>();
    let top: Vec<Vec<usize>> = truth.iter().map(|response| highest(&magnitude(response), RESPONDING_GENES)).collect();
    let observed = compare(&profiles(generated, &ours, &mut (0..sizes[0])), &truth, &top, asked.genes);
    let resampled: Vec<Vec<Option<f64>>> = (0..RESAMPLES)
        .into_par_iter()
        .map(|resample| {
            let made = profiles(generated, &ours, &mut draws(seed, 2 * resample, sizes[0]));
            compare(&made, &profiles(reference, &theirs, &mut draws(seed, 2 * resample + 1, sizes[1])), &top, asked.genes)
        })
        .collect();
    let named = asked.genes.iter().map(|(name, _)| of_gene(name));
    let names = [ALL.to_owned(), most(), SIZE.to_owned()].into_iter().chain(named);
    let mut scores = Vec::new();
    for (at, (metric, value)) in names.zip(&observed).enumerate() {
        let resampled: Vec<f64> = resampled.iter().filter_map(|values| values[at]).collect();
        let Some(value) = value.filter(|_| !resampled.is_empty()) else { continue };
        let range = if at < 2 { -1.0..=1.0 } else { f64::NEG_INFINITY..=f64::INFINITY };
        scores.push(Score { metric, n: groups.pairs.len() as u64, estimate: Estimate::centred(value, resampled, range) });
    }
    Ok(scores)
}

fn of_gene(name: &str) -> String {
    format!("response of {name}")
}

/// What [`response_scores`] prints, in words; `control` and `genes` by name.
pub fn response_definitions(control: &str, genes: &[(String, usize)]) -> Vec<(String, String)> {
    let response = format!(
        "response of a label to a condition: difference of its mean expression there from its mean expression under {control}, a gene; n: \
         pairs of label and condition, over which means are taken; {CENTRED}"
    );
    let top = format!("the {RESPONDING_GENES} genes of largest response in the reference");
    let mut all = vec![
        (ALL.to_owned(), format!("Pearson correlation over all genes of generated and reference response, 0 without any; {response}")),
        (most(), format!("the same over {top}")),
        (SIZE.to_owned(), format!("slope through 0 of the generated over the reference response, over {top}; 1: as large as it is")),
    ];
    let gene = "response of the gene, log1p units; the row of real cells shows the truth";
    all.extend(genes.iter().map(|(name, _)| (of_gene(name), gene.to_owned())));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::SparseMatrix;
    use crate::metric::error::MetricError;

    fn matrix(rows: &[[f32; 3]]) -> SparseMatrix {
        let mut matrix = SparseMatrix::new(3);
        rows.iter().for_each(|row| matrix.push((0..).zip(row.iter().copied()).filter(|(_, value)| *value != 0.0)));
        matrix
    }

    #[test]
    fn responses_by_hand() {
        // One label under control (0) and condition 1: gene 0 goes up by 2, gene 1 down by 1, gene 2 stays.
        let real = matrix(&[[1.0, 3.0, 5.0], [1.0, 3.0, 5.0], [3.0, 2.0, 5.0], [3.0, 2.0, 5.0]]);
        let real = Cells { rows: real.rows(), labels: &[0; 4] };
        let genes = [("A".to_string(), 0), ("B".to_string(), 1)];
        let of = |rows: &[[f32; 3]]| {
            let made = matrix(rows);
            let asked = Responses { generated: &[0, 1], reference: &[0, 0, 1, 1], control: 0, genes: &genes };
            let scores = response_scores(&Cells { rows: made.rows(), labels: &[0, 0] }, &real, &asked, 1).unwrap();
            scores.into_iter().map(|score| score.estimate.value).collect::<Vec<f64>>()
        };
        let half = of(&[[1.0, 3.0, 5.0], [2.0, 2.5, 5.0]]);
        for (value, expected) in half.iter().zip([1.0, 1.0, 0.5, 1.0, -0.5]) {
            assert!((value - expected).abs() < 1e-12, "{half:?}");
        }
        assert_eq!(of(&[[1.0, 3.0, 5.0], [1.0, 3.0, 5.0]]), [0.0; 5], "no response");
        assert!(of(&[[2.0, 2.0, 5.0], [1.0, 3.0, 5.0]])[0] < -0.8, "the other way round");
    }

    #[test]
    fn pairs_that_one_set_lacks_are_left_out() {
        let real = matrix(&[[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]]);
        let cells = Cells { rows: real.rows(), labels: &[0, 0] };
        let asked = Responses { generated: &[0, 0], reference: &[0, 1], control: 0, genes: &[] };
        assert_eq!(response_scores(&cells, &cells, &asked, 0).unwrap(), []);
        let short = Responses { generated: &[0], ..asked };
        assert!(matches!(response_scores(&cells, &cells, &short, 0), Err(MetricError::LengthMismatch { .. })));
    }
}
