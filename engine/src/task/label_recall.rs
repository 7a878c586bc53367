//! How far down a cell's list of labels the right one stands, at every mixing weight.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::by_text::ByText;
use super::zero_shot::{label_probabilities, mixings, name};
use crate::Result;
use crate::metric::retrieval::{AgainstChance, RetrievalReport, ranks};

/// Recall is reported at 1 to this.
const MOST: u64 = 10;

/// (mixing, report of the labels ranked for each cell), that of the model first; of the cells whose label is among those offered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LabelRecall(pub Vec<(String, RetrievalReport)>);

impl LabelRecall {
    /// Ranks the labels for every cell by probability.
    ///
    /// # Shapes
    /// `truth`: `[cells]`; `text_labels`: `[texts]`, the label that each text stands for.
    /// # Errors
    /// Those of the ranking.
    pub(crate) fn new(scored: &ByText, truth: &[u32], text_labels: &[u32], seed: u64) -> Result<LabelRecall> {
        let mut labels = text_labels.to_vec();
        labels.sort_unstable();
        labels.dedup();
        let places: Vec<u32> = text_labels.iter().map(|label| labels.partition_point(|other| other < label) as u32).collect();
        let most: Vec<u64> = (1..=MOST.min(labels.len() as u64)).collect();
        let report = |mixing| {
            let of_cell = |cell| label_probabilities(scored, cell, mixing, &places, labels.len());
            let scores: Vec<f32> = (0..truth.len()).flat_map(of_cell).map(|probability| probability as f32).collect();
            let report = RetrievalReport::new(&ranks(&scores, truth, &labels)?, labels.len() as u64, &most, seed)?;
            Ok((name(scored, mixing), report))
        };
        Ok(LabelRecall(mixings(scored).into_iter().map(report).collect::<Result<_>>()?))
    }
}

impl fmt::Display for LabelRecall {
    /// A line for each mixing, and the interval and chance of the first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((_, first)) = self.0.first() else { return Ok(()) };
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let mut line = |name: &str, report: &RetrievalReport, value: fn(&AgainstChance) -> f64| {
            write!(f, "{name:<width$}")?;
            report.recall.iter().try_for_each(|at| write!(f, "  {:.3}", value(&at.recall)))?;
            writeln!(f)
        };
        for (at, (name, report)) in self.0.iter().enumerate() {
            line(name, report, |recall| recall.estimate.value)?;
            if at == 0 {
                line("  from", report, |recall| recall.estimate.low)?;
                line("  to", report, |recall| recall.estimate.high)?;
                line("  chance", report, |recall| recall.chance)?;
            }
        }
        let last = first.recall.last().map_or(0, |last| last.k);
        writeln!(f, "recall of the label at 1 to {last}: {} cells, {} labels", first.n, first.candidates)?;
        writeln!(f, "from, to: 95 % interval over {} bootstrap resamples of the cells", first.resamples)
    }
}
