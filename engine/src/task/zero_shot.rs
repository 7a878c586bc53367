//! Labels by text against the truth, at every mixing weight; texts ranked for cells, and cells for texts.

use std::fmt;
use std::path::{Path, PathBuf};

use scmmgpt_loader::dataset::CellDataset;
use serde::Serialize;

use super::annotate::read;
use super::baselines::baselines;
use super::by_text::{self, ByText};
use super::label_recall::LabelRecall;
use super::pair_scores::Mixing;
use crate::baseline::Split;
use crate::bundle::Bundle;
use crate::metric::classification::{ClassificationReport, ComparisonTable};
use crate::metric::retrieval::{DEFAULT_K, RetrievalReport, ranks};
use crate::texts::{LabelSource, NamedTexts};
use crate::{Error, Result};

/// What to label.
#[derive(Clone, Copy, Debug)]
pub struct ZeroShot<'a> {
    /// Labelled cells.
    pub cells: &'a Path,
    /// Column of the true labels.
    pub label_key: &'a str,
    /// Where the expression stands, if not where it stood in training.
    pub layer: Option<&'a str>,
    /// Labels to choose from; none: the classes that the model was trained on.
    pub labels: Option<&'a LabelSource>,
    /// Labelled cells that the baselines learn from.
    pub reference: Option<&'a Path>,
    /// Seed of the bootstrap intervals.
    pub seed: u64,
}

/// Tables of both kinds.
#[derive(Clone, Debug, Serialize)]
pub struct ZeroShotReport {
    /// (mixing or baseline, report), all on the same cells.
    pub reports: Vec<(String, ClassificationReport)>,
    /// Where the right label stands in each cell's list.
    pub label_recall: LabelRecall,
    /// (direction, report).
    pub retrieval: Vec<(String, RetrievalReport)>,
    /// True labels that none of the texts stands for: their cells cannot be labelled rightly.
    pub untold: Vec<String>,
}

/// Labels the labelled cells of a file by text.
///
/// A label stands for the cells whose true label is its name, or means the same term of the ontology.
///
/// # Errors
/// `Incapable` for a model of cells alone; `Labels` when no text stands for a true label; those of files and model.
/// # Source
/// MODEL.md §7.1, zero-shot annotation and retrieval.
pub fn zero_shot(bundle: &Bundle, task: &ZeroShot<'_>, progress: &mut (dyn FnMut(usize, usize) + Send)) -> Result<ZeroShotReport> {
    bundle.device().enter(|| zero_shot_inside(bundle, task, progress))
}

fn zero_shot_inside(bundle: &Bundle, task: &ZeroShot<'_>, progress: &mut (dyn FnMut(usize, usize) + Send)) -> Result<ZeroShotReport> {
    let offered = by_text::labels(bundle, task.labels)?;
    let mut files = vec![PathBuf::from(task.cells)];
    files.extend(task.reference.map(PathBuf::from));
    let dataset = read(bundle, &files, task.layer, Some(task.label_key))?;
    let labelled = |source: usize| rows_of(&dataset, source);
    let test = labelled(0)?;
    let (names, text_labels) = numbered(bundle, dataset.classes(), &offered)?;
    let labels: Vec<u32> = dataset.labels().iter().map(|label| label.unwrap_or_default()).collect();
    let truth: Vec<u32> = test.iter().map(|&row| labels[row]).collect();
    let told = |label: &u32| text_labels.contains(label);
    let mut untold: Vec<u32> = truth.iter().copied().filter(|label| !told(label)).collect();
    untold.sort_unstable();
    untold.dedup();
    let untold: Vec<String> = untold.into_iter().map(|label| names[label as usize].clone()).collect();
    let total = test.len();
    let scored = by_text::score(bundle, &dataset, &test, offered, &mut |done| progress(done, total))?;
    let mut reports = table(&scored, &truth, &text_labels, &names, task.seed)?;
    let told: Vec<usize> = (0..total).filter(|&cell| text_labels.contains(&truth[cell])).collect();
    if told.is_empty() {
        let reason = "none of the labels offered by text occurs in it".into();
        return Err(Error::Labels { key: task.label_key.into(), files: vec![task.cells.display().to_string()], reason });
    }
    let classes: Vec<u32> = told.iter().map(|&cell| truth[cell]).collect();
    let of_told = scored.of(&told);
    let label_recall = LabelRecall::new(&of_told, &classes, &text_labels, task.seed)?;
    let retrieval = retrieval(&of_told, &classes, &text_labels, task.seed)?;
    if task.reference.is_some() {
        let train = labelled(1)?;
        baselines(&dataset, &labels, Split { train: &train, test: &test }, &mut |name, answers, confidence| {
            reports.push((name.to_string(), ClassificationReport::new(&truth, answers, Some(confidence), &names, task.seed)?));
            Ok(())
        })?;
    }
    Ok(ZeroShotReport { reports, label_recall, retrieval, untold })
}

/// Rows of the labelled cells of one file.
fn rows_of(dataset: &CellDataset, source: usize) -> Result<Vec<usize>> {
    let mut rows = Vec::new();
    for row in 0..dataset.len() {
        if dataset.cell(row)?.source == source && dataset.labels()[row].is_some() {
            rows.push(row);
        }
    }
    Ok(rows)
}

/// The true labels and, behind them, those that only texts have; and the number of each text's label.
fn numbered(bundle: &Bundle, classes: &[String], offered: &NamedTexts) -> Result<(Vec<String>, Vec<u32>)> {
    let descriptions = &bundle.joint("label by text")?.texts.descriptions;
    let term = |name: &str| descriptions.term(name).map(|term| term.id.clone());
    let terms: Vec<Option<String>> = classes.iter().map(|class| term(class)).collect();
    let mut names = classes.to_vec();
    let mut numbers = Vec::new();
    for name in &offered.names {
        let same = |at: &usize| classes[*at] == *name || (terms[*at].is_some() && terms[*at] == term(name));
        let number = (0..classes.len()).find(same).unwrap_or_else(|| {
            names.push(name.clone());
            names.len() - 1
        });
        numbers.push(number as u32);
    }
    Ok((names, numbers))
}

impl fmt::Display for ZeroShotReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.reports.iter().cloned().fold(ComparisonTable::new(), |table, (name, report)| table.row(name, report));
        write!(f, "{table}")?;
        if !self.untold.is_empty() {
            writeln!(f, "no label was offered for: {}", self.untold.join(", "))?;
        }
        write!(f, "\n{}", self.label_recall)?;
        self.retrieval.iter().try_for_each(|(direction, report)| write!(f, "\n{direction}: {report}"))
    }
}

/// How names of reports by text begin.
pub(crate) const BY_TEXT: &str = "by text";

/// Weights of the similarity, against the matching score, that reports list.
pub(crate) const MIXING_WEIGHTS: [f64; 7] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0];

/// One report for each mixing weight, that of the model first.
///
/// # Shapes
/// `truth`: `[cells]`, and `text_labels`: `[texts]`, the label that each text stands for: both index `names`. A label's probability is the
/// sum over its texts.
/// # Errors
/// Those of the report.
pub(crate) fn table(
    scored: &ByText,
    truth: &[u32],
    text_labels: &[u32],
    names: &[String],
    seed: u64,
) -> Result<Vec<(String, ClassificationReport)>> {
    let report = |mixing: Mixing| {
        let (answers, confidence) = by_label(scored, mixing, text_labels, names.len());
        Ok((name(scored, mixing), ClassificationReport::new(truth, &answers, Some(&confidence), names, seed)?))
    };
    mixings(scored).into_iter().map(report).collect()
}

/// Reports of both directions, by similarity: (direction, report).
///
/// # Shapes
/// `cell_classes`: `[cells]`, `text_classes`: `[texts]`; a text and a cell of one class belong together. Texts that no cell belongs to are
/// candidates, and no queries.
/// # Errors
/// Those of the ranking.
pub(crate) fn retrieval(scored: &ByText, cell_classes: &[u32], text_classes: &[u32], seed: u64) -> Result<Vec<(String, RetrievalReport)>> {
    let cells = 0..scored.scores.cells();
    let by_cell: Vec<f32> = cells.clone().flat_map(|cell| scored.scores.similarity(cell).iter().copied()).collect();
    let queries: Vec<usize> = (0..text_classes.len()).filter(|&text| cell_classes.contains(&text_classes[text])).collect();
    let by_text: Vec<f32> = queries.iter().flat_map(|&text| cells.clone().map(move |cell| scored.scores.similarity(cell)[text])).collect();
    let query_classes: Vec<u32> = queries.iter().map(|&text| text_classes[text]).collect();
    let report = |scores: &[f32], queries: &[u32], candidates: &[u32]| -> Result<RetrievalReport> {
        let ranks = ranks(scores, queries, candidates)?;
        Ok(RetrievalReport::new(&ranks, candidates.len() as u64, &DEFAULT_K, seed)?)
    };
    Ok(vec![
        ("text to cells".into(), report(&by_text, &query_classes, cell_classes)?),
        ("cell to texts".into(), report(&by_cell, cell_classes, text_classes)?),
    ])
}

/// The chosen mixing first, then one for each weight in [`MIXING_WEIGHTS`].
pub(super) fn mixings(scored: &ByText) -> Vec<Mixing> {
    let chosen = scored.mixing;
    let weights = MIXING_WEIGHTS.iter().filter(|&&weight| scored.scores.are_matched() && weight != chosen.similarity);
    std::iter::once(chosen).chain(weights.map(|&similarity| Mixing { similarity, ..chosen })).collect()
}

/// How reports call a mixing.
pub(super) fn name(scored: &ByText, mixing: Mixing) -> String {
    let mark = if mixing == scored.mixing { " (the model's)" } else { "" };
    format!("{BY_TEXT}, similarity weight {:.2}{mark}", mixing.similarity)
}

/// `[labels]`: the probability of each label, the sum over its texts.
pub(super) fn label_probabilities(scored: &ByText, cell: usize, mixing: Mixing, text_labels: &[u32], labels: usize) -> Vec<f64> {
    let mut sums = vec![0.0; labels];
    for (probability, &label) in scored.scores.probabilities(cell, mixing).iter().zip(text_labels) {
        sums[label as usize] += probability;
    }
    sums
}

/// Each cell's likeliest label, and its probability.
fn by_label(scored: &ByText, mixing: Mixing, text_labels: &[u32], count: usize) -> (Vec<Option<u32>>, Vec<f32>) {
    let best = |cell: usize| {
        let sums = label_probabilities(scored, cell, mixing, text_labels, count);
        let best = (1..count).fold(0, |best, at| if sums[at] > sums[best] { at } else { best });
        (Some(best as u32), (sums[best] as f32).min(1.0))
    };
    (0..scored.scores.cells()).map(best).unzip()
}
