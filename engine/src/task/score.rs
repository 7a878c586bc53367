//! Labels that were written to a file, against the labels that it came with.

use std::collections::BTreeSet;
use std::path::Path;

use scmmgpt_loader::h5ad::{AnnData, Column};

use super::annotate::{LABEL_KEY, PROBABILITY_KEY, UNKNOWN};
use crate::metric::classification::ClassificationReport;
use crate::{Error, Result};

/// What to compare.
#[derive(Clone, Copy, Debug)]
pub struct Score<'a> {
    /// The file.
    pub cells: &'a Path,
    /// Column of the true labels.
    pub label_key: &'a str,
    /// Column of the predicted ones, if not [`LABEL_KEY`].
    pub predicted_key: Option<&'a str>,
    /// Seed of the bootstrap intervals.
    pub seed: u64,
}

/// Scores predicted against true labels; cells without a true label are left out, and "unknown" counts as wrong.
///
/// # Errors
/// Those of the file; `Labels` when no cell has a true label.
pub fn score(task: &Score<'_>) -> Result<ClassificationReport> {
    let data = AnnData::open(task.cells)?;
    let predicted_key = task.predicted_key.unwrap_or(LABEL_KEY);
    let truth = data.obs(task.label_key)?.labels();
    let predicted = data.obs(predicted_key)?.labels();
    let confidence = match data.obs(PROBABILITY_KEY) {
        Ok(Column::Number(values)) if predicted_key == LABEL_KEY => Some(values),
        _ => None,
    };
    let known = |label: &Option<String>| label.clone().filter(|label| !label.is_empty() && label != UNKNOWN);
    let names: Vec<String> = truth.iter().chain(&predicted).filter_map(known).collect::<BTreeSet<_>>().into_iter().collect();
    let number = |label: &Option<String>| known(label).and_then(|label| names.binary_search(&label).ok()).map(|at| at as u32);
    let rows: Vec<usize> = (0..truth.len()).filter(|&row| number(&truth[row]).is_some()).collect();
    if rows.is_empty() {
        let reason = "no cell has a label".into();
        return Err(Error::Labels { key: task.label_key.into(), files: vec![task.cells.display().to_string()], reason });
    }
    let truth: Vec<u32> = rows.iter().filter_map(|&row| number(&truth[row])).collect();
    let answers: Vec<Option<u32>> = rows.iter().map(|&row| number(&predicted[row])).collect();
    let confidence: Option<Vec<f32>> = confidence.map(|values| rows.iter().map(|&row| values[row] as f32).collect());
    Ok(ClassificationReport::new(&truth, &answers, confidence.as_deref(), &names, task.seed)?)
}
