//! A trained annotator on its test cells, beside baselines that saw the same training cells.

use scmmgpt_loader::dataset::CellDataset;
use scmmgpt_loader::expression::{log1p, normalize_total};
use scmmgpt_loader::scale::InputScale;
use scmmgpt_loader::text::CellTexts;
use serde::{Deserialize, Serialize};

use super::data::TrainingData;
use crate::Result;
use crate::baseline::{self, KnnOptions, LogisticOptions, SparseRows, Split};
use crate::bundle::Bundle;
use crate::metric::classification::{ClassificationReport, ComparisonTable};
use crate::task::annotate;
use crate::task::by_text::{self, ByText};
use crate::task::pair_scores::Mixing;

/// Reports of the model and the baselines on the same cells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evaluation {
    /// (name, report); the model first.
    pub reports: Vec<(String, ClassificationReport)>,
    /// Training cells.
    pub training_cells: usize,
}

impl std::fmt::Display for Evaluation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let table = self.reports.iter().cloned().fold(ComparisonTable::new(), |table, (name, report)| table.row(name, report));
        write!(formatter, "{table}")
    }
}

/// Weights of the similarity, against the matching score, that reports list.
pub(crate) const MIXING_WEIGHTS: [f64; 7] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0];

/// Neighbours that vote when test cells are labelled by their nearest training cells.
const NEIGHBOURS: usize = 10;

/// Labels the test cells by the model's head, by the nearest training cells in its embedding, and by the baselines.
///
/// The baselines learn from the training and the validation cells together: they have nothing to validate.
pub(super) fn on_test_cells(bundle: &Bundle, data: &TrainingData, seed: u64) -> Result<Evaluation> {
    let dataset = &data.dataset;
    let test = &data.split.test;
    let classes = dataset.classes().to_vec();
    let label = |&row: &usize| dataset.labels()[row].unwrap_or_default();
    let truth: Vec<u32> = test.iter().map(label).collect();
    let labels: Vec<u32> = (0..dataset.len()).map(|row| label(&row)).collect();
    let mut reports = Vec::new();
    let mut report = |name: &str, answers: &[Option<u32>], confidence: &[f32]| -> Result<()> {
        reports.push((name.to_string(), ClassificationReport::new(&truth, answers, Some(confidence), &classes, seed)?));
        Ok(())
    };
    // Classes of the head and of the dataset agree by name.
    let known = |name: Option<&str>| name.and_then(|name| classes.iter().position(|class| class == name)).map(|at| at as u32);

    let training = data.learned();
    let mut cells = training.clone();
    cells.extend(test);
    let predictions = annotate::encode(bundle, dataset, &cells, &mut |_| {})?;
    let head = annotate::by_head(bundle, &predictions, 0.0)?;
    let head = head.of(training.len()..cells.len());
    report("scmmgpt, cell-type head", &head.answers(&known), &head.probabilities())?;
    let reference: Vec<Option<String>> = training.iter().map(|row| Some(classes[label(row) as usize].clone())).collect();
    let width = bundle.config.model.hidden_size;
    let (first, rest) = predictions.embeddings.split_at(training.len() * width);
    let nearest = annotate::by_neighbours(bundle.device(), first, &reference, rest, width, NEIGHBOURS, 0.0)?;
    report("scmmgpt, nearest training cells", &nearest.answers(&known), &nearest.probabilities())?;

    baselines(dataset, &labels, Split { train: &training, test }, &mut report)?;
    Ok(Evaluation { reports, training_cells: training.len() })
}

/// Labels the test cells by the texts of all classes, at every mixing weight, and by the baselines.
pub(super) fn by_text_on_test_cells(bundle: &Bundle, data: &TrainingData, texts: &CellTexts, seed: u64) -> Result<Evaluation> {
    let (dataset, test) = (&data.dataset, &data.split.test);
    let label = |&row: &usize| dataset.labels()[row].unwrap_or_default();
    let labels: Vec<u32> = (0..dataset.len()).map(|row| label(&row)).collect();
    let truth: Vec<u32> = test.iter().map(label).collect();
    let mut reports = Vec::new();
    let mut report = |name: &str, answers: &[Option<u32>], confidence: &[f32]| -> Result<()> {
        reports.push((name.to_string(), ClassificationReport::new(&truth, answers, Some(confidence), dataset.classes(), seed)?));
        Ok(())
    };
    let scored = by_text::score(bundle, dataset, test, by_text::labels(bundle, None)?, &mut |_| {})?;
    let types = types(dataset, texts);
    let chosen = scored.mixing;
    for mixing in mixings(chosen, &scored) {
        let (answers, confidence) = by_type(&scored, mixing, &types, dataset.classes().len());
        let mark = if mixing == chosen { " (chosen on validation cells)" } else { "" };
        report(&format!("zero-shot by text, similarity weight {:.2}{mark}", mixing.similarity), &answers, &confidence)?;
    }
    let training = data.learned();
    baselines(dataset, &labels, Split { train: &training, test }, &mut report)?;
    Ok(Evaluation { reports, training_cells: training.len() })
}

/// The label of the dataset that each class of the texts belongs to.
fn types(dataset: &CellDataset, texts: &CellTexts) -> Vec<u32> {
    let mut types = vec![0; texts.classes().len()];
    for (class, label) in texts.class_of().iter().zip(dataset.labels()) {
        if let (Some(class), Some(label)) = (class, label) {
            types[*class as usize] = *label;
        }
    }
    types
}

/// The chosen mixing first, then one for each weight in [`MIXING_WEIGHTS`].
fn mixings(chosen: Mixing, scored: &ByText) -> Vec<Mixing> {
    let weights = MIXING_WEIGHTS.iter().filter(|&&weight| scored.scores.are_matched() && weight != chosen.similarity);
    std::iter::once(chosen).chain(weights.map(|&similarity| Mixing { similarity, ..chosen })).collect()
}

/// Each cell's likeliest type, and its probability: the sum over the type's classes.
fn by_type(scored: &ByText, mixing: Mixing, types: &[u32], count: usize) -> (Vec<Option<u32>>, Vec<f32>) {
    let best = |cell: usize| {
        let mut sums = vec![0.0; count];
        for (probability, &label) in scored.scores.probabilities(cell, mixing).iter().zip(types) {
            sums[label as usize] += probability;
        }
        let best = (1..count).fold(0, |best, at| if sums[at] > sums[best] { at } else { best });
        (Some(best as u32), (sums[best] as f32).min(1.0))
    };
    (0..scored.scores.cells()).map(best).unzip()
}

/// Reports on what the baselines answer; `labels` has one entry for each cell of the dataset.
pub(crate) fn baselines(
    dataset: &CellDataset,
    labels: &[u32],
    split: Split<'_>,
    report: &mut dyn FnMut(&str, &[Option<u32>], &[f32]) -> Result<()>,
) -> Result<()> {
    let matrix = Expression::of(dataset)?;
    let regression = baseline::logistic_regression(matrix.rows(), labels, split, LogisticOptions::default())?;
    report("logistic regression", &regression.answers(), &regression.probabilities)?;
    let neighbours = baseline::knn_on_pca(matrix.rows(), labels, split, KnnOptions::default())?;
    report("k-NN on PCA", &neighbours.answers(), &neighbours.probabilities)?;
    let majority = baseline::majority(matrix.rows(), labels, split)?;
    report("majority", &majority.answers(), &majority.probabilities)
}

/// Log1p-CP10k values of a dataset as sparse rows over its vocabulary.
struct Expression {
    indptr: Vec<usize>,
    indices: Vec<u32>,
    values: Vec<f32>,
    columns: usize,
}

impl Expression {
    fn of(dataset: &CellDataset) -> Result<Expression> {
        let mut all = Expression { indptr: vec![0], indices: Vec::new(), values: Vec::new(), columns: dataset.vocab().len() };
        for row in 0..dataset.len() {
            let cell = dataset.cell(row)?;
            let start = all.values.len();
            all.values.extend_from_slice(cell.values);
            if dataset.reports()[cell.source].scale != InputScale::Log1p {
                normalize_total(&mut all.values[start..], cell.total, 1e4);
                log1p(&mut all.values[start..]);
            }
            all.indices.extend_from_slice(cell.genes);
            all.indptr.push(all.values.len());
        }
        Ok(all)
    }

    fn rows(&self) -> SparseRows<'_> {
        SparseRows { indptr: &self.indptr, indices: &self.indices, values: &self.values, columns: self.columns }
    }
}
