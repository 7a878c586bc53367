//! A trained annotator on its test cells, beside baselines that saw the same training cells.

use std::path::Path;

use scmmgpt_loader::dataset::CellDataset;
use scmmgpt_loader::text::CellTexts;
use serde::{Deserialize, Serialize};

use super::data::TrainingData;
use crate::Result;
use crate::baseline::Split;
use crate::bundle::{self, Bundle};
use crate::config::ExpressionHead;
use crate::metric::classification::{ClassificationReport, ComparisonTable};
use crate::metric::retrieval::RetrievalReport;
use crate::task::baselines::baselines;
use crate::task::{annotate, by_text, zero_shot};

/// Reports of the model and the baselines on the same cells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evaluation {
    /// (name, report); the model first.
    pub reports: Vec<(String, ClassificationReport)>,
    /// Training cells.
    pub training_cells: usize,
    /// (direction, report) of a joint model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retrieval: Vec<(String, RetrievalReport)>,
}

impl Evaluation {
    /// What a stage before the last has written to its model folder; none where there were no test cells, and for a folder of stage 2,
    /// whose figures are others.
    pub(super) fn of_folder(folder: &Path) -> Result<Option<Evaluation>> {
        let file = folder.join("evaluation.json");
        if !file.exists() {
            return Ok(None);
        }
        let figures: serde_json::Value = bundle::read_json(&file)?;
        if figures.get("reports").is_some() { bundle::read_json(&file).map(Some) } else { Ok(None) }
    }
}

impl std::fmt::Display for Evaluation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let table = self.reports.iter().cloned().fold(ComparisonTable::new(), |table, (name, report)| table.row(name, report));
        write!(formatter, "{table}")?;
        self.retrieval.iter().try_for_each(|(direction, report)| write!(formatter, "\n{direction}: {report}"))
    }
}

/// How a language model does on cells that it has not seen, before anything is decoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutLosses {
    /// Cells.
    pub cells: usize,
    /// Of their descriptions, given the cell: nats a token.
    pub language: f64,
    /// Of the vectors that are made from their texts: mean squared distance to the cell's own, a number.
    pub reconstruction: f64,
    /// Of the expression decoder, over the cells' own vectors and over those that are made from their texts.
    pub expression: f64,
    /// What it is learned by.
    pub head: ExpressionHead,
}

impl std::fmt::Display for HeldOutLosses {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let HeldOutLosses { cells, language, reconstruction, expression, head } = self;
        writeln!(formatter, "{cells} cells")?;
        writeln!(formatter, "  description        perplexity {:.3} ({language:.4} nats a token)", language.exp())?;
        writeln!(formatter, "  vectors from text  mean squared distance {reconstruction:.4}")?;
        match head {
            ExpressionHead::Mse => write!(formatter, "  expression         mean squared error {expression:.4} (log1p)"),
            ExpressionHead::Zinb => write!(formatter, "  expression         {expression:.4} nats a count"),
        }
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
    Ok(Evaluation { reports, training_cells: training.len(), retrieval: Vec::new() })
}

/// Labels the test cells by the texts of all classes, at every mixing weight, and by the baselines; and ranks texts for cells and cells
/// for texts.
pub(super) fn by_text_on_test_cells(bundle: &Bundle, data: &TrainingData, texts: &CellTexts, seed: u64) -> Result<Evaluation> {
    let (dataset, test) = (&data.dataset, &data.split.test);
    let labels: Vec<u32> = dataset.labels().iter().map(|label| label.unwrap_or_default()).collect();
    let truth: Vec<u32> = test.iter().map(|&row| labels[row]).collect();
    let scored = by_text::score(bundle, dataset, test, by_text::labels(bundle, None)?, &mut |_| {})?;
    let mut reports = zero_shot::table(&scored, &truth, &types(dataset, texts), dataset.classes(), seed)?;
    let classes: Vec<u32> = test.iter().map(|&row| texts.class_of()[row].unwrap_or_default()).collect();
    let numbers: Vec<u32> = (0..texts.classes().len() as u32).collect();
    let retrieval = zero_shot::retrieval(&scored, &classes, &numbers, seed)?;
    let training = data.learned();
    let split = Split { train: &training, test };
    baselines(dataset, &labels, split, &mut |name, answers, confidence| {
        reports.push((name.to_string(), ClassificationReport::new(&truth, answers, Some(confidence), dataset.classes(), seed)?));
        Ok(())
    })?;
    Ok(Evaluation { reports, training_cells: training.len(), retrieval })
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
