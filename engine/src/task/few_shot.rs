//! Few labelled cells a type: what can be learned from them in the model's embedding, and in the genes.

use std::fmt;
use std::path::{Path, PathBuf};

use scmmgpt_loader::split::{self, Fractions};
use serde::Serialize;

use super::annotate::{by_neighbours, encode, read};
use super::baselines::baselines;
use super::joint_space::embed_cells;
use crate::Result;
use crate::baseline::Split;
use crate::bundle::Bundle;
use crate::metric::classification::{ClassificationReport, ComparisonTable};

/// What to learn from.
#[derive(Clone, Copy, Debug)]
pub struct FewShot<'a> {
    /// Labelled cells.
    pub cells: &'a Path,
    /// Column of the labels.
    pub label_key: &'a str,
    /// Where the expression stands, if not where it stood in training.
    pub layer: Option<&'a str>,
    /// Examples of each type.
    pub shots: &'a [usize],
    /// Seed of the halves, the examples and the bootstrap intervals.
    pub seed: u64,
}

/// The tables, one for each number of examples.
#[derive(Clone, Debug, Serialize)]
pub struct FewShotReport {
    /// Figures by the number of examples.
    pub tables: Vec<Shots>,
}

/// What so many examples of each type came to.
#[derive(Clone, Debug, Serialize)]
pub struct Shots {
    /// Examples of each type.
    pub per_type: usize,
    /// Examples in all; fewer where a type has not as many.
    pub examples: usize,
    /// (method, report), all on the same cells.
    pub reports: Vec<(String, ClassificationReport)>,
}

/// Divides the labelled cells of a file in halves by type, takes examples from one and labels the other: by the nearest examples in the
/// model's embedding, and by the baselines on the same examples. More examples contain the fewer.
///
/// # Errors
/// Those of file and model; `EmptySplit` when no cell has a label.
/// # Source
/// MODEL.md §7.1, few-shot.
pub fn few_shot(bundle: &Bundle, task: &FewShot<'_>, progress: &mut (dyn FnMut(usize, usize) + Send)) -> Result<FewShotReport> {
    bundle.device().enter(|| few_shot_inside(bundle, task, progress))
}

fn few_shot_inside(bundle: &Bundle, task: &FewShot<'_>, progress: &mut (dyn FnMut(usize, usize) + Send)) -> Result<FewShotReport> {
    let dataset = read(bundle, &[PathBuf::from(task.cells)], task.layer, Some(task.label_key))?;
    let labels = dataset.labels();
    let halves = split::random(dataset.len(), Some(labels), Fractions { validation: 0.0, test: 0.5 }, task.seed)?;
    let test: Vec<usize> = halves.test.into_iter().filter(|&row| labels[row].is_some()).collect();
    let most = task.shots.iter().copied().max().unwrap_or(1);
    let pool = split::few_shot(&halves.train, labels, most, task.seed)?;
    let mut rows = pool.clone();
    rows.extend(&test);
    let total = rows.len();
    let mut progress = |done| progress(done, total);
    let (width, embeddings) = if bundle.config.text.is_some() {
        let embedded = embed_cells(bundle, &dataset, &rows, &mut progress)?;
        (embedded.width, embedded.means())
    } else {
        (bundle.config.model.hidden_size, encode(bundle, &dataset, &rows, &mut progress)?.embeddings)
    };
    let classes = dataset.classes();
    let numbers: Vec<u32> = labels.iter().map(|label| label.unwrap_or_default()).collect();
    let truth: Vec<u32> = test.iter().map(|&row| numbers[row]).collect();
    let (of_pool, of_test) = embeddings.split_at(pool.len() * width);
    let number = |name: Option<&str>| name.and_then(|name| classes.iter().position(|class| class == name)).map(|at| at as u32);
    let mut tables = Vec::new();
    for &per_type in task.shots {
        let examples = split::few_shot(&halves.train, labels, per_type, task.seed)?;
        let places: Vec<usize> = examples.iter().filter_map(|row| pool.binary_search(row).ok()).collect();
        let reference: Vec<f32> = places.iter().flat_map(|&place| &of_pool[place * width..][..width]).copied().collect();
        let names: Vec<Option<String>> = examples.iter().map(|&row| Some(classes[numbers[row] as usize].clone())).collect();
        let mut reports = Vec::new();
        let mut report = |name: &str, answers: &[Option<u32>], confidence: &[f32]| -> Result<()> {
            reports.push((name.to_string(), ClassificationReport::new(&truth, answers, Some(confidence), classes, task.seed)?));
            Ok(())
        };
        let nearest = by_neighbours(bundle.device(), &reference, &names, of_test, width, per_type, 0.0)?;
        report("scmmgpt, nearest examples", &nearest.answers(&number), &nearest.probabilities())?;
        baselines(&dataset, &numbers, Split { train: &examples, test: &test }, &mut report)?;
        tables.push(Shots { per_type, examples: examples.len(), reports });
    }
    Ok(FewShotReport { tables })
}

impl fmt::Display for FewShotReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Shots { per_type, examples, reports } in &self.tables {
            let table = reports.iter().cloned().fold(ComparisonTable::new(), |table, (name, report)| table.row(name, report));
            writeln!(f, "{per_type} a type, {examples} examples\n{table}")?;
        }
        Ok(())
    }
}
