//! A trained annotator on its test cells, beside baselines that saw the same training cells.

use scmmgpt_loader::dataset::CellDataset;
use scmmgpt_loader::expression::{log1p, normalize_total};
use scmmgpt_loader::scale::InputScale;
use serde::{Deserialize, Serialize};

use super::data::TrainingData;
use crate::Result;
use crate::baseline::{self, KnnOptions, LogisticOptions, SparseRows, Split};
use crate::bundle::Bundle;
use crate::metric::classification::{ClassificationReport, ComparisonTable};
use crate::task::annotate;

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
