//! Generated cells against real ones of the same labels.
//!
//! [`scores`] is what `eval generation` and a trainer's final table print. Cells are sparse rows of log1p values over the same genes.

pub mod baselines;
mod moments;
mod neighbours;
mod response;
mod top_genes;

pub use moments::{DIFFERENTIAL_GENES, Profiles};
pub use neighbours::nearest_labels;
pub use response::{RESPONDING_GENES, Responses, response_definitions, response_scores};
pub use top_genes::{TOP_GENES, top_gene_overlap};

use super::bootstrap::Estimate;
use super::distance::{DIRECTIONS, MOST_POINTS, TwoSets};
use super::error::{MetricError, Result, in_range, same_length};
use super::scores::Score;
use crate::baseline::SparseRows;

/// Neighbours that vote.
pub const NEIGHBOURS: [usize; 4] = [3, 5, 10, 25];

/// Labelled cells.
#[derive(Debug, Clone, Copy)]
pub struct Cells<'a> {
    /// `[cells, genes]`, log1p of counts per 10,000.
    pub rows: SparseRows<'a>,
    /// `[cells]`.
    pub labels: &'a [u32],
}

impl Cells<'_> {
    fn check(&self, what: &'static str) -> Result<()> {
        self.rows.check()?;
        same_length(what, self.rows.rows(), self.labels.len())?;
        if self.labels.is_empty() { Err(MetricError::Empty { what }) } else { Ok(()) }
    }
}

/// Every metric of generated cells against a reference.
///
/// `pairs` names, for each generated cell, the reference cell that it is to equal; without, the overlap of top genes is that of the labels'
/// mean cells.
///
/// # Shapes
/// `generated.rows`: `[generated, genes]`; `reference.rows`: `[reference, genes]`; `pairs`: `[generated]`.
/// # Errors
/// `Empty` without cells, `LengthMismatch`, `OutOfRange`, and what sparse rows can have.
pub fn scores(generated: &Cells<'_>, reference: &Cells<'_>, pairs: Option<&[usize]>, seed: u64) -> Result<Vec<Score>> {
    generated.check("generated cells")?;
    reference.check("reference cells")?;
    same_length("genes of the generated cells", reference.rows.columns, generated.rows.columns)?;
    let n = generated.labels.len();
    let mut scores = Vec::new();
    let mut score = |metric: String, estimate| scores.push(Score { metric, n: n as u64, estimate });

    let votes = nearest_labels(reference, generated.rows, &NEIGHBOURS);
    for (k, answers) in NEIGHBOURS.iter().zip(votes) {
        let right: Vec<f64> = answers.iter().zip(generated.labels).map(|(answer, label)| f64::from(answer == label)).collect();
        score(format!("k-NN accuracy, k = {k}"), Estimate::mean(&right, seed));
    }

    let sizes = [n, reference.labels.len()];
    let sets = TwoSets::new(sizes, generated.rows.columns, seed, |which, at, row| {
        let rows = if which == 0 { generated.rows } else { reference.rows };
        rows.row(at).for_each(|(gene, value)| row[gene] = value as f32);
    })?;
    score(MMD.into(), sets.mmd());
    score(WASSERSTEIN.into(), sets.sliced_wasserstein());

    let by_label = moments::estimates(generated, reference, seed);
    for (metric, estimate) in moments::METRICS.iter().zip(by_label.moments) {
        if let Some(estimate) = estimate {
            score((*metric).into(), estimate);
        }
    }
    match pairs {
        Some(pairs) => {
            same_length("pairs", n, pairs.len())?;
            in_range("pairs", pairs.iter().copied(), reference.labels.len())?;
            for top in TOP_GENES {
                let shares = top_gene_overlap(generated.rows, reference.rows, pairs, top);
                score(format!("top-{top} genes of cells"), Estimate::mean(&shares, seed));
            }
        }
        None => {
            for (top, estimate) in TOP_GENES.iter().zip(by_label.top_genes) {
                if let Some(estimate) = estimate {
                    score(format!("top-{top} genes of labels"), estimate);
                }
            }
        }
    }
    Ok(scores)
}

const MMD: &str = "MMD^2";
const WASSERSTEIN: &str = "sliced Wasserstein";

/// How intervals of comparisons of sets come about.
const CENTRED: &str = "interval: resampled values moved to the mean of the value";

/// What [`scores`] prints, in words.
pub fn definitions() -> Vec<(String, String)> {
    let neighbours = "share of the generated cells whose label is that of most of their k nearest reference cells, Euclidean over all genes, \
                      equal votes going to the label that is first by name; as scikit-learn KNeighborsClassifier fitted on the reference";
    let mut all: Vec<(String, String)> = NEIGHBOURS.map(|k| (format!("k-NN accuracy, k = {k}"), neighbours.to_owned())).into();
    let distances = format!("at most {MOST_POINTS} cells a set, drawn by the seed; {CENTRED}");
    let mmd = format!(
        "squared maximum mean discrepancy between generated and reference cells, RBF kernel exp(-d^2 / 2s^2) with s the median distance of \
         both sets together, biased (0 for equal sets); {distances}"
    );
    let wasserstein =
        format!("2-Wasserstein distance between generated and reference cells over {DIRECTIONS} random directions; {distances}");
    all.extend([(MMD.to_owned(), mmd), (WASSERSTEIN.to_owned(), wasserstein)]);
    all.extend(moments::METRICS.iter().map(ToString::to_string).zip(moments::definitions()));
    let top = "equally high ones by the order of genes; as calculate_topn_accuracy of scMMGPT's authors";
    let of_cells = format!("share of the n highest genes of a reference cell among the n highest of the cell generated for it; {top}");
    let of_labels = format!(
        "share of the n highest genes of a label's mean reference cell among the n highest of its mean generated cell, mean over the labels \
         that both sets have; {top}, there of single cells; {CENTRED}"
    );
    all.extend(TOP_GENES.map(|n| (format!("top-{n} genes of cells"), of_cells.clone())));
    all.extend(TOP_GENES.map(|n| (format!("top-{n} genes of labels"), of_labels.clone())));
    all
}
