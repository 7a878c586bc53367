//! Cells to descriptions: `obs["scmmgpt_description"]`, or JSON Lines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scmmgpt_loader::dataset::{CellDataset, SourceReport};
use scmmgpt_loader::h5ad::{Additions, AnnData, Column, UnsValue};
use serde::Serialize;

use super::annotate::read;
use super::speech::{Speech, central_cells, each_batch};
use super::{Provenance, write_result};
use crate::bundle::{Bundle, write_text};
use crate::generate::answer::{Answer, Finish, Request};
use crate::generate::{Dtype, GenerationConfig};
use crate::{Error, LoaderError, Result};

/// Column of the descriptions in `obs`.
pub const DESCRIPTION_KEY: &str = "scmmgpt_description";
/// Column of their scores in `obs`.
pub const SCORE_KEY: &str = "scmmgpt_description_score";

/// What to describe, and how.
#[derive(Clone, Debug)]
pub struct Describe<'a> {
    /// The cells.
    pub cells: &'a Path,
    /// A copy of the cells with their descriptions, or, if its name ends with `.jsonl`, one [`Description`] a line.
    pub output: &'a Path,
    /// Where the expression stands, if not where it stood in training.
    pub layer: Option<&'a str>,
    /// Column of `obs`: one description for each of its values, that of the group's most central cell.
    pub group_key: Option<&'a str>,
    /// What stands between a cell and its description, if not what stood there in training.
    pub prompt: Option<&'a str>,
    /// How descriptions are written.
    pub generation: &'a GenerationConfig,
    /// What the language model computes in.
    pub dtype: Dtype,
    /// Replace an existing output.
    pub overwrite: bool,
    /// The command line, for the record.
    pub command: &'a str,
}

/// A description of a cell, or of a group by its most central cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// The group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Name of the cell.
    pub cell: String,
    /// The description.
    pub description: String,
    /// Log-probability divided by length^length_penalty.
    pub score: f64,
    /// Why it ended.
    pub finish: Finish,
}

/// What became of the cells.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What was found in the file.
    pub cells: SourceReport,
    /// One a group, or one a cell that has counts.
    pub descriptions: Vec<Description>,
}

/// Sequences that are written at a time, about; beams count.
const SEQUENCES: usize = 40;

/// Describes the cells of a file.
///
/// # Errors
/// `Incapable` for a model without a language model; `Setting` for impossible settings; `Texts` for a prompt that is too long; those of
/// files and model. Nothing is written then.
pub fn describe(bundle: &Bundle, task: &Describe<'_>, progress: &mut (dyn FnMut(usize, usize) + Send)) -> Result<Summary> {
    task.generation.check()?;
    if !task.overwrite && task.output.exists() {
        return Err(LoaderError::OutputExists { path: task.output.into() }.into());
    }
    let language = bundle.language("describe cells")?;
    bundle.device().enter(|| {
        let mut speech = Speech::new(&language, task.prompt)?;
        let dtype = language.resolve(task.dtype);
        let dataset = read(bundle, &[PathBuf::from(task.cells)], task.layer, None)?;
        let data = AnnData::open(task.cells)?;
        let empty = dataset.empty_rows();
        let filled: Vec<usize> = (0..dataset.len()).filter(|row| empty.binary_search(row).is_err()).collect();
        let groups = task.group_key.map(|key| groups(&data, key, &filled)).transpose()?;
        let rows = match &groups {
            None => filled,
            Some(groups) => {
                let members: Vec<Vec<usize>> = groups.values().cloned().collect();
                let total = members.iter().map(Vec::len).sum();
                central_cells(bundle, &mut speech, &dataset, &members, &mut |done| progress(done, total))?
            }
        };
        let total = rows.len();
        let answers = answers(bundle, &mut speech, &dataset, &rows, task.generation, dtype, &mut |done| progress(done, total))?;
        let names = data.obs_names()?;
        let named = |(index, (&row, answer)): (usize, (&usize, &Answer))| Description {
            group: groups.as_ref().and_then(|groups| groups.keys().nth(index).cloned()),
            cell: names[row].clone(),
            description: answer.text.trim().to_string(),
            score: answer.score,
            finish: answer.finish,
        };
        let descriptions: Vec<Description> = rows.iter().zip(&answers).enumerate().map(named).collect();
        if task.output.extension().is_some_and(|end| end == "jsonl") {
            write_lines(task.output, &descriptions)?;
        } else {
            let members = match &groups {
                None => rows.iter().map(|&row| vec![row]).collect(),
                Some(groups) => groups.values().cloned().collect(),
            };
            write_copy(bundle, task, dtype, dataset.len(), &descriptions, members)?;
        }
        Ok(Summary { cells: dataset.reports()[0].clone(), descriptions })
    })
}

/// The rows of each value of a column, by value; rows without a value are in no group.
fn groups(data: &AnnData, key: &str, rows: &[usize]) -> Result<BTreeMap<String, Vec<usize>>> {
    let labels = data.obs(key)?.labels();
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for &row in rows {
        if let Some(label) = &labels[row] {
            groups.entry(label.clone()).or_default().push(row);
        }
    }
    if groups.is_empty() {
        let reason = "no cell with counts has a value".into();
        return Err(Error::Labels { key: key.into(), files: vec![data.path().display().to_string()], reason });
    }
    Ok(groups)
}

/// What the model says of each of these cells; a cell's random numbers depend on its row.
pub(crate) fn answers(
    bundle: &Bundle,
    speech: &mut Speech<'_>,
    dataset: &Arc<CellDataset>,
    rows: &[usize],
    config: &GenerationConfig,
    dtype: Dtype,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Answer>> {
    let mut writer = speech.writer(bundle, dtype, SEQUENCES.max(config.num_beams), config.max_new_tokens)?;
    let mut answers: Vec<Option<Answer>> = vec![None; rows.len()];
    each_batch(bundle, dataset, rows, progress, &mut |cells, places| {
        let projected = speech.project(cells)?;
        let prompts = speech.prompts(&projected);
        let requests: Vec<Request<'_>> =
            prompts.into_iter().zip(&cells.rows).map(|(prompt, &row)| Request { prompt, number: row as u64 }).collect();
        let said = writer.answer(speech.words(), &requests, config)?;
        for (answer, &place) in said.into_iter().zip(places) {
            answers[place] = Some(answer);
        }
        Ok(())
    })?;
    Ok(answers.into_iter().flatten().collect())
}

fn write_lines(output: &Path, descriptions: &[Description]) -> Result<()> {
    let line = |description: &Description| {
        serde_json::to_string(description).map_err(|error| Error::Json { path: output.into(), reason: error.to_string() })
    };
    let lines = descriptions.iter().map(line).collect::<Result<Vec<_>>>()?;
    write_text(output, &(lines.join("\n") + "\n"))
}

/// A copy of the cells, each with the description of the members that it belongs to; without one the text is empty and the score NaN.
fn write_copy(
    bundle: &Bundle,
    task: &Describe<'_>,
    dtype: Dtype,
    cells: usize,
    descriptions: &[Description],
    members: Vec<Vec<usize>>,
) -> Result<()> {
    let (mut texts, mut scores) = (vec![String::new(); cells], vec![f64::NAN; cells]);
    for (description, rows) in descriptions.iter().zip(members) {
        for row in rows {
            // HDF5 strings end at a zero byte.
            texts[row] = description.description.replace('\0', "");
            scores[row] = description.score;
        }
    }
    let obs = vec![(DESCRIPTION_KEY.into(), Column::Text(texts)), (SCORE_KEY.into(), Column::Number(scores))];
    let settings = serde_json::to_string(task.generation).unwrap_or_default();
    let mut provenance =
        Provenance::new(bundle, task.command).with("generation", UnsValue::Text(settings)).with("dtype", UnsValue::Text(dtype.to_string()));
    if let Some(key) = task.group_key {
        let list = |field: &dyn Fn(&Description) -> String| UnsValue::TextList(descriptions.iter().map(field).collect());
        let groups = UnsValue::Map(vec![
            ("key".into(), UnsValue::Text(key.into())),
            ("groups".into(), list(&|description| description.group.clone().unwrap_or_default())),
            ("central_cells".into(), list(&|description| description.cell.clone())),
        ]);
        provenance = provenance.with("described_groups", groups);
    }
    write_result(task.cells, task.output, Additions { obs, ..Additions::default() }, provenance, task.overwrite)
}
