//! Generated cells against real ones.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scmmgpt_loader::dataset::CellDataset;
use scmmgpt_loader::expression::{ValueMode, log1p, normalize_total};
use scmmgpt_loader::h5ad::{AnnData, Slot};
use scmmgpt_loader::scale::InputScale;
use scmmgpt_loader::vocab::GeneVocab;

use super::score_response::{Conditions, ScoreResponse, add_responses};
use crate::baseline::SparseMatrix;
use crate::cells::CellFiles;
use crate::config::slot;
use crate::metric::ScoreTable;
use crate::metric::generation::{self, Cells, baselines};
use crate::{Error, Result};

/// What to compare.
#[derive(Clone, Copy, Debug)]
pub struct ScoreCells<'a> {
    /// Generated cells; their expression stands in `X`.
    pub cells: &'a Path,
    /// Real cells.
    pub reference: &'a Path,
    /// Column of the cell types, in all files.
    pub label_key: &'a str,
    /// Real cells that the baselines are made from: those that the model was trained on.
    pub train: Option<&'a Path>,
    /// Where the expression of the real cells stands, if not in `X`.
    pub layer: Option<&'a str>,
    /// Whether a generated cell is to equal the reference cell of its name.
    pub paired: bool,
    /// Whether responses to a condition are compared too.
    pub response: Option<ScoreResponse<'a>>,
    /// Seed of intervals, directions and drawn cells.
    pub seed: u64,
}

/// Scores generated cells against a reference, beside what training cells would score in their place.
///
/// All cells are brought to log1p of counts per 10,000 over the genes that any of the files has; a gene that a file lacks is 0 there.
/// Cells without a label are left out, and those without a condition where responses are asked for.
///
/// # Errors
/// Those of the files; `Labels` when a file has no labelled cell; `Scale` of the loader for values that are neither counts nor log1p.
pub fn score_cells(task: &ScoreCells<'_>) -> Result<ScoreTable> {
    let real = slot(task.layer.unwrap_or("X"));
    let mut files = vec![(task.cells, Slot::X), (task.reference, real.clone())];
    files.extend(task.train.map(|train| (train, real)));
    let mut genes = BTreeSet::new();
    for (file, slot) in &files {
        genes.extend(AnnData::open(file)?.var_names(slot)?);
    }
    let vocabulary = Arc::new(GeneVocab::from_genes(genes)?);
    let mut sets = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for (file, slot) in files {
        sets.push(read(file, slot, task, &vocabulary)?);
        names.extend(sets.iter().flat_map(|set: &Set| set.labels.iter().cloned()));
        names.sort_unstable();
        names.dedup();
    }
    let numbers = |set: &Set| set.labels.iter().map(|name| names.binary_search(name).unwrap_or_default() as u32).collect::<Vec<u32>>();
    let numbers: Vec<Vec<u32>> = sets.iter().map(numbers).collect();
    let cells = |at: usize| Cells { rows: sets[at].matrix.rows(), labels: &numbers[at] };
    let pairs = if task.paired { Some(pairs(task, &sets[0], &sets[1])?) } else { None };
    let train = task.train.map(|_| cells(2));
    let mut table = score_generated(&cells(0), &cells(1), train.as_ref(), pairs.as_deref(), task.seed)?;
    if let Some(asked) = &task.response {
        let of_sets: Vec<(Cells<'_>, &[String])> = (0..sets.len()).map(|at| (cells(at), sets[at].conditions.as_slice())).collect();
        let conditions = Conditions::new(asked, &of_sets, &vocabulary, task.reference)?;
        add_responses(&mut table, &conditions, pairs.as_deref(), task.seed)?;
    }
    let foreign: BTreeSet<&str> = sets[0].labels.iter().filter(|name| !sets[1].labels.contains(name)).map(String::as_str).collect();
    if !foreign.is_empty() {
        let foreign: Vec<&str> = foreign.into_iter().collect();
        table.notes.push(format!("the reference has no cells of: {}", foreign.join(", ")));
    }
    let left_out: usize = sets.iter().map(|set| set.unlabelled).sum();
    if left_out > 0 {
        let what = if task.response.is_some() { "no label or no condition" } else { "no label" };
        table.notes.push(format!("{left_out} cells have {what} and were left out"));
    }
    Ok(table)
}

/// The table of `eval generation`: generated cells and, where there are training cells, what they would score in their place.
///
/// # Shapes
/// All over the same genes; `pairs`: `[generated]`, rows of `reference`.
/// # Errors
/// Those of [`generation::scores`].
pub fn score_generated(
    generated: &Cells<'_>,
    reference: &Cells<'_>,
    train: Option<&Cells<'_>>,
    pairs: Option<&[usize]>,
    seed: u64,
) -> Result<ScoreTable> {
    let mut table = ScoreTable::new(generation::definitions(), seed);
    table.rows.push(("generated".into(), generation::scores(generated, reference, pairs, seed)?));
    let Some(train) = train else {
        table.notes.push("no training cells were given: the baselines were left out".into());
        return Ok(table);
    };
    let made = [
        (
            "random training cell",
            baselines::random_cell(train, generated.labels, seed),
            "a training cell of the same label, drawn by the seed: what real cells reach",
        ),
        (
            "nearest training cell",
            baselines::nearest_cell(train, generated),
            "the training cell of the same label that is nearest to the generated one: what remains without anything new",
        ),
        ("class mean", baselines::class_mean(train, generated.labels), "the mean training cell of the label, the same for all"),
    ];
    for (name, matrix, definition) in made {
        match matrix {
            Some(matrix) => {
                let cells = Cells { rows: matrix.rows(), labels: generated.labels };
                table.rows.push((name.into(), generation::scores(&cells, reference, pairs, seed)?));
                table.definitions.insert(name.into(), definition.into());
            }
            None => table.notes.push(format!("{name} was left out: a generated label has no training cell")),
        }
    }
    Ok(table)
}

/// Labelled cells of one file.
struct Set {
    matrix: SparseMatrix,
    labels: Vec<String>,
    names: Vec<String>,
    /// Empty where no condition is asked for.
    conditions: Vec<String>,
    unlabelled: usize,
}

fn read(file: &Path, slot: Slot, task: &ScoreCells<'_>, vocabulary: &Arc<GeneVocab>) -> Result<Set> {
    let (files, label_key) = ([PathBuf::from(file)], task.label_key);
    let cells = CellFiles { files: &files, slot, label_key: Some(label_key), batch_key: None, ignore_labels: &[] };
    let dataset = cells.read(vocabulary.clone())?;
    dataset.check_mode(ValueMode::Log1p)?;
    let conditions = match &task.response {
        Some(asked) => Some(AnnData::open(file)?.obs(asked.condition_key)?.labels()),
        None => None,
    };
    let condition = |row: usize| conditions.as_ref().and_then(|conditions| conditions[row].clone());
    let known = |row: &usize| dataset.labels()[*row].is_some() && (conditions.is_none() || condition(*row).is_some());
    let rows: Vec<usize> = (0..dataset.len()).filter(known).collect();
    if rows.is_empty() {
        let reason = "no cell has a label".into();
        return Err(Error::Labels { key: label_key.into(), files: vec![file.display().to_string()], reason });
    }
    let obs_names = AnnData::open(file)?.obs_names()?;
    let label = |&row: &usize| dataset.labels()[row].map(|label| dataset.classes()[label as usize].clone()).unwrap_or_default();
    Ok(Set {
        matrix: normalised(&dataset, &rows)?,
        labels: rows.iter().map(label).collect(),
        names: rows.iter().map(|&row| obs_names.get(row).cloned().unwrap_or_default()).collect(),
        conditions: rows.iter().filter_map(|&row| condition(row)).collect(),
        unlabelled: dataset.len() - rows.len(),
    })
}

/// log1p of counts per 10,000, of counts and of log1p values of whatever total.
pub(crate) fn normalised(dataset: &CellDataset, rows: &[usize]) -> Result<SparseMatrix> {
    let mut matrix = SparseMatrix::new(dataset.vocab().len());
    for &row in rows {
        let cell = dataset.cell(row)?;
        let mut values = cell.values.to_vec();
        let mut total = cell.total;
        if dataset.reports()[cell.source].scale == InputScale::Log1p {
            values.iter_mut().for_each(|value| *value = value.exp_m1());
            total = values.iter().map(|value| f64::from(*value)).sum();
        }
        normalize_total(&mut values, total, 1e4);
        log1p(&mut values);
        matrix.push(cell.genes.iter().copied().zip(values));
    }
    Ok(matrix)
}

/// The reference cell of each generated cell's name.
fn pairs(task: &ScoreCells<'_>, generated: &Set, reference: &Set) -> Result<Vec<usize>> {
    let places: HashMap<&str, usize> = reference.names.iter().map(String::as_str).zip(0..).collect();
    let place = |name: &String| {
        places.get(name.as_str()).copied().ok_or_else(|| Error::Pairs {
            generated: task.cells.into(),
            reference: task.reference.into(),
            name: name.clone(),
        })
    };
    generated.names.iter().map(place).collect()
}
