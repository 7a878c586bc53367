//! Cells to labels by text alone: each label is what the model reads about it.

use std::sync::Arc;

use scmmgpt_loader::batch::NO_LABEL;
use scmmgpt_loader::dataset::CellDataset;

use super::pair_scores::{Mixing, PairScores};
use crate::Result;
use crate::bundle::Bundle;
use crate::predict::Request;
use crate::texts::{LabelSource, NamedTexts};

/// Label sets larger than this are ranked by similarity alone: a matching score takes a pass for every pair.
const MOST_MATCHED: usize = 64;

/// Every cell beside every label.
pub(crate) struct ByText {
    /// `[labels]`.
    pub(crate) labels: NamedTexts,
    /// `[cells, labels]`.
    pub(crate) scores: PairScores,
    /// How the model mixes its two scores.
    pub(crate) mixing: Mixing,
    /// Labels whose texts were cut to the model's length.
    pub(crate) truncated: usize,
}

/// A label and its probability.
pub(crate) type Ranked = (usize, f64);

/// The labels that are meant: those of a source, or the classes that the model was trained on.
///
/// # Errors
/// `Incapable` for a model of cells alone; those of the source.
pub(crate) fn labels(bundle: &Bundle, source: Option<&LabelSource>) -> Result<NamedTexts> {
    let joint = bundle.joint("label by text")?;
    match source {
        Some(source) => joint.texts.labels(source),
        None => {
            let (names, texts) = joint.config.classes.iter().cloned().unzip();
            Ok(NamedTexts { names, texts, by_name_alone: Vec::new() })
        }
    }
}

/// Runs cells and labels through the model.
///
/// # Errors
/// `Incapable` for a model of cells alone; those of tokenizer and kernels.
pub(crate) fn score(
    bundle: &Bundle,
    dataset: &Arc<CellDataset>,
    rows: &[usize],
    labels: NamedTexts,
    progress: &mut dyn FnMut(usize),
) -> Result<ByText> {
    let joint = bundle.joint("label by text")?;
    let texts = joint.texts.batch(&labels.texts)?;
    let mut workspace = joint.workspace(bundle.device())?;
    let (collator, batch_size) = (bundle.collator()?, bundle.config.batch_size);
    let request = Request { dataset, collator: &collator, rows, batch_size, relabel: &|_| NO_LABEL };
    let matching = joint.config.matching && texts.batch <= MOST_MATCHED;
    let scores = PairScores::compute(joint.model, &mut workspace, &request, &texts, matching, progress)?;
    Ok(ByText { labels, scores, mixing: joint.config.mixing, truncated: texts.truncated })
}

impl ByText {
    /// The same for some of the cells.
    pub(crate) fn of(&self, cells: &[usize]) -> ByText {
        ByText { labels: self.labels.clone(), scores: self.scores.of(cells), ..*self }
    }

    /// A cell's `n` most likely labels, the likeliest first; of equals the first.
    pub(crate) fn top(&self, cell: usize, n: usize) -> Vec<Ranked> {
        likeliest(self.scores.probabilities(cell, self.mixing), n)
    }
}

/// The `n` most likely labels, the likeliest first; of equals the first.
pub(crate) fn likeliest(probabilities: Vec<f64>, n: usize) -> Vec<Ranked> {
    let mut ranked: Vec<Ranked> = probabilities.into_iter().enumerate().collect();
    ranked.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
    ranked.truncate(n);
    ranked
}
