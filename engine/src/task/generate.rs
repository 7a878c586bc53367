//! Texts to cells: a new `.h5ad` with counts or log1p values.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use scmmgpt_loader::h5ad::{Additions, Column, CsrBlock, UnsValue, create};
use scmmgpt_loader::vocab::GeneVocab;
use serde::Serialize;

use super::joint_space::embed_texts;
use super::output::Provenance;
use crate::bundle::{Bundle, Language};
use crate::config::ExpressionHead;
use crate::generate::counts::CountDistribution;
use crate::generate::sizes::CellSizes;
use crate::model::cell_language::{Expression, Workspace};
use crate::neighbours::NeighbourIndex;
use crate::retrieve::{Hit, Searcher};
use crate::{Error, LoaderError, Result};

/// Column of the prompts in `obs`.
pub const PROMPT_KEY: &str = "scmmgpt_prompt";
/// Column in `obs` that names the cells which stood beside the prompt.
pub const NEIGHBORS_KEY: &str = "scmmgpt_neighbors";

/// What to make cells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A text, as it is.
    Prompt(String),
    /// A cell type, described as in training.
    CellType {
        /// Its name.
        name: String,
        /// What else the description names of a cell, by column of `obs`.
        columns: BTreeMap<String, String>,
    },
}

impl Subject {
    fn cell_type(&self) -> Option<&str> {
        if let Subject::CellType { name, .. } = self { Some(name) } else { None }
    }

    fn column(&self, key: &str) -> Option<&str> {
        if let Subject::CellType { columns, .. } = self { columns.get(key).map(String::as_str) } else { None }
    }
}

/// Every type under every combination of the values of these columns, as `(column, value)`.
pub fn cell_types(names: &[String], columns: &[(String, String)]) -> Vec<Subject> {
    let mut values = BTreeMap::<&String, Vec<&String>>::new();
    for (key, value) in columns {
        let of_key = values.entry(key).or_default();
        if !of_key.contains(&value) {
            of_key.push(value);
        }
    }
    let mut combinations = vec![BTreeMap::new()];
    for (key, values) in values {
        let with = |known: &BTreeMap<String, String>, value: &String| {
            let mut known = known.clone();
            known.insert(key.clone(), value.clone());
            known
        };
        combinations = combinations.iter().flat_map(|known| values.iter().map(move |value| with(known, value))).collect();
    }
    let of = |name: &String| {
        combinations.iter().map(|columns| Subject::CellType { name: name.clone(), columns: columns.clone() }).collect::<Vec<_>>()
    };
    names.iter().flat_map(of).collect()
}

/// What to make, and how.
#[derive(Clone, Debug)]
pub struct Generate<'a> {
    /// What the cells are.
    pub subjects: &'a [Subject],
    /// Cells of each.
    pub count: usize,
    /// The file to write.
    pub output: &'a Path,
    /// Counts are drawn; else their means are written. A decoder without distributions knows means alone.
    pub sampled: bool,
    /// Total count of a cell; none: drawn as those of training cells, of the type where one is named (of a mean the median).
    pub total_counts: Option<f64>,
    /// Seed of drawn counts.
    pub seed: u64,
    /// Training cells that stand beside each prompt; none given: as many as in training.
    pub neighbors: Option<usize>,
    /// Replace an existing output.
    pub overwrite: bool,
    /// The command line, for the record.
    pub command: &'a str,
}

/// A cell that stood beside a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Neighbor {
    /// Its number in the model's index of training cells.
    pub item: usize,
    /// Its name.
    pub name: String,
    /// Its label.
    pub label: Option<String>,
    /// Cosine of the text and the nearest of the cell's queries.
    pub similarity: f32,
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Cells.
    pub cells: usize,
    /// Genes.
    pub genes: usize,
    /// `counts` or `log1p`.
    pub values: &'static str,
    /// `[subjects]`: what the model read.
    pub prompts: Vec<String>,
    /// `[subjects]`: what stood beside it.
    pub neighbors: Vec<Vec<Neighbor>>,
}

/// Prompts that are read at a time.
const PROMPTS: usize = 8;

/// Makes cells of texts. A cell's counts depend on the seed and its number alone.
///
/// # Errors
/// `Incapable` for a model without a language model, neighbours if it was trained without, and several cells of one prompt where its
/// decoder gives means alone; `Setting`; `Texts` for an empty or too long prompt; those of files and model. Nothing is written then.
pub fn generate(bundle: &Bundle, task: &Generate<'_>) -> Result<Summary> {
    if !task.overwrite && task.output.exists() {
        return Err(LoaderError::OutputExists { path: task.output.into() }.into());
    }
    let language = bundle.language("make cells of texts")?;
    check(&language, task)?;
    bundle.device().enter(|| {
        let prompts = task.subjects.iter().map(|subject| prompt(bundle, subject)).collect::<Result<Vec<_>>>()?;
        let mut workspace = language.workspace()?;
        let states = states(&language, &mut workspace, &prompts)?;
        let beside =
            neighbors(&language, task).map(|(index, k)| beside(bundle, &language, &mut workspace, &prompts, index, k)).transpose()?;
        let genes = Genes::of(&bundle.vocabulary);
        let mut maker = Maker::new(bundle, &language, task, genes.ids.len());
        for (index, state) in states.chunks_exact(states.len() / prompts.len()).enumerate() {
            let (keys, bias) = match &beside {
                Some(beside) => beside.with(state, index),
                None => (state.to_vec(), None),
            };
            let expression = workspace.decode_expression(language.model(), 1, &keys, bias.as_deref(), &genes.ids)?;
            maker.push(&task.subjects[index], &expression, &genes)?;
        }
        let neighbors = beside.map(|beside| beside.found).unwrap_or_default();
        let values = maker.values();
        maker.write(bundle, &prompts, &neighbors, &genes.names)?;
        Ok(Summary { cells: prompts.len() * task.count, genes: genes.ids.len(), values, prompts, neighbors })
    })
}

fn check(language: &Language, task: &Generate<'_>) -> Result<()> {
    let refuse =
        |key: &str, value: String, expected: &str| Err(Error::Setting { key: format!("generate.{key}"), value, expected: expected.into() });
    if task.subjects.is_empty() || task.count == 0 {
        return refuse("n", task.count.to_string(), "at least one prompt and one cell");
    }
    if let Some(total) = task.total_counts.filter(|total| !(*total > 0.0 && total.is_finite())) {
        return refuse("total_counts", total.to_string(), "above 0");
    }
    if task.neighbors.is_some_and(|k| k > 0) && language.neighbours().is_none() {
        let reason = "it was trained without neighbours; train with stage2.neighbors.k above 0".into();
        return Err(Error::Incapable { task: "make cells beside others", reason });
    }
    let distributions = language.config.expression.head == ExpressionHead::Zinb;
    if task.count > 1 && !(distributions && task.sampled) {
        let reason = "cells of one prompt would be equal: what is written is a mean. Make one, or draw counts (a model trained with \
                      stage2.expression.head = \"zinb\")";
        return Err(Error::Incapable { task: "make several cells of one prompt", reason: reason.into() });
    }
    if !distributions && task.total_counts.is_some() {
        return Err(Error::Incapable { task: "choose a cell's total count", reason: "its expression decoder gives log1p values".into() });
    }
    Ok(())
}

/// The text that the model reads.
fn prompt(bundle: &Bundle, subject: &Subject) -> Result<String> {
    let text = match subject {
        Subject::Prompt(text) => text.clone(),
        Subject::CellType { name, columns } => {
            let descriptions = &bundle.joint("describe a cell type")?.texts.descriptions;
            check_columns(&descriptions.class_text_columns(), columns)?;
            descriptions.class_text(name, columns)?
        }
    };
    if text.trim().is_empty() {
        return Err(Error::Texts { reason: "a prompt is empty; say what the cells are to be".into() });
    }
    Ok(text)
}

/// That a description gets the columns that it needs, and no other.
fn check_columns(named: &BTreeMap<&str, bool>, given: &BTreeMap<String, String>) -> Result<()> {
    let list = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let unknown: Vec<&str> = given.keys().map(String::as_str).filter(|key| !named.contains_key(key)).collect();
    let missing: Vec<&str> = named.iter().filter(|(name, needed)| **needed && !given.contains_key(**name)).map(|(name, _)| *name).collect();
    if unknown.is_empty() && missing.is_empty() {
        return Ok(());
    }
    let expected = format!(
        "the columns that the model's descriptions name ({}); unknown: {}; missing: {}",
        list(named.keys().copied().collect()),
        list(unknown),
        list(missing)
    );
    Err(Error::Setting { key: "generate.obs".into(), value: list(given.keys().map(String::as_str).collect()), expected })
}

/// What the model makes of each prompt in a cell's slots, `[prompts, slots, hidden_size]`.
pub(crate) fn states(language: &Language, workspace: &mut Workspace<f32>, prompts: &[String]) -> Result<Vec<f32>> {
    let tokens = prompts.iter().map(|prompt| Ok(language.pairs().text_prompt(prompt)?)).collect::<Result<Vec<_>>>()?;
    let positions = language.model().language().positions();
    if let Some((prompt, tokens)) = prompts.iter().zip(&tokens).find(|(_, tokens)| tokens.len() > positions) {
        let begin: String = prompt.chars().take(40).collect();
        let reason =
            format!("prompt \"{begin}..\" has {} tokens with those of the cell, the model reads {positions}; shorten it", tokens.len());
        return Err(Error::Texts { reason });
    }
    let mut states = Vec::new();
    for tokens in tokens.chunks(PROMPTS) {
        states.extend(workspace.slot_states(language.whole()?, tokens)?);
    }
    Ok(states)
}

/// Keys of the neighbours of each prompt, and what is added to their logits.
struct Beside {
    /// `[prompts]`.
    found: Vec<Vec<Neighbor>>,
    /// `[prompts]`: `[neighbours, hidden_size]`.
    keys: Vec<Vec<f32>>,
    /// `[prompts]`: `[neighbours]`.
    bias: Vec<Vec<f32>>,
    slots: usize,
}

impl Beside {
    /// The keys of a prompt with its neighbours behind it; the slots have no bias.
    fn with(&self, state: &[f32], prompt: usize) -> (Vec<f32>, Option<Vec<f32>>) {
        let bias = std::iter::repeat_n(0.0, self.slots).chain(self.bias[prompt].iter().copied()).collect();
        ([state, &self.keys[prompt]].concat(), Some(bias))
    }
}

/// The training cells, and how many of them stand beside a prompt; none where none do.
fn neighbors<'a>(language: &'a Language, task: &Generate<'_>) -> Option<(&'a NeighbourIndex, usize)> {
    let k = task.neighbors.unwrap_or(language.config.neighbors.k);
    language.neighbours().filter(|_| k > 0).map(|index| (index, k))
}

/// Finds the training cells nearest to each prompt. Nothing else about a cell than its text is known here, so that none is barred: cells
/// that are held out are not in the index.
///
/// # Source
/// MODEL.md section 11 a, steps 1 to 4.
fn beside(
    bundle: &Bundle,
    language: &Language,
    workspace: &mut Workspace<f32>,
    prompts: &[String],
    index: &NeighbourIndex,
    k: usize,
) -> Result<Beside> {
    let (texts, _) = embed_texts(bundle, prompts)?;
    let hits = index.nearest(&mut Searcher::new(bundle.device(), &index.index)?, &texts.values, k, 0, &|_, _| false)?;
    let mut beside = Beside { found: Vec::new(), keys: Vec::new(), bias: Vec::new(), slots: language.model().slots() };
    for hits in hits {
        let neighbours = index.neighbours(std::slice::from_ref(&hits), hits.len(), language.config.neighbors.temperature);
        beside.keys.push(workspace.project_pooled_cells(language.model(), &neighbours.pooled)?);
        beside.bias.push(neighbours.bias);
        let named = |hit: &Hit| -> Result<Neighbor> {
            let (name, label) = index.index.item(hit.item)?;
            Ok(Neighbor { item: hit.item, name, label: label.map(String::from), similarity: hit.score })
        };
        beside.found.push(hits.iter().map(named).collect::<Result<_>>()?);
    }
    Ok(beside)
}

/// The genes of the vocabulary, without its special tokens.
struct Genes {
    ids: Vec<u32>,
    names: Vec<String>,
}

impl Genes {
    fn of(vocabulary: &GeneVocab) -> Genes {
        let special = [vocabulary.pad(), vocabulary.cls(), vocabulary.eoc()];
        let genes = (0..).zip(vocabulary.tokens()).filter(|(id, _)| !special.contains(id));
        let (ids, names) = genes.map(|(id, name)| (id, name.clone())).unzip();
        Genes { ids, names }
    }
}

/// Collects the cells.
struct Maker<'a> {
    task: &'a Generate<'a>,
    sizes: &'a CellSizes,
    /// What cells are normalised to, the total of a cell of size 1.
    target: f64,
    block: CsrBlock,
    counts: bool,
}

impl<'a> Maker<'a> {
    fn new(bundle: &Bundle, language: &'a Language, task: &'a Generate<'a>, genes: usize) -> Self {
        let (sizes, target) = (&language.config.sizes, bundle.config.tokens.target_sum);
        Maker { task, sizes, target, block: CsrBlock::empty(0, genes), counts: false }
    }

    /// ln of the size of made cell `cell`.
    fn log_size(&self, subject: &Subject, cell: u64) -> f32 {
        let (label, seed) = (subject.cell_type(), self.task.seed);
        let as_trained = || if self.task.sampled { self.sizes.draw(label, seed, cell) } else { self.sizes.median(label) };
        let total = self.task.total_counts.or_else(as_trained).unwrap_or(self.target);
        (total.max(1.0) / self.target).ln() as f32
    }

    fn values(&self) -> &'static str {
        if self.counts { "counts" } else { "log1p" }
    }

    /// Adds the cells of one subject.
    fn push(&mut self, subject: &Subject, expression: &Expression, genes: &Genes) -> Result<()> {
        let Some(counts) = &expression.counts else {
            self.row(expression.values.iter().map(|value| value.max(0.0)));
            return Ok(());
        };
        self.counts = true;
        for _ in 0..self.task.count {
            let cell = self.block.n_rows() as u64;
            let log_size = self.log_size(subject, cell);
            let value = |(at, &gene): (usize, &u32)| {
                let distribution = CountDistribution::of(counts, at, log_size);
                if self.task.sampled { distribution.sample(self.task.seed, cell, gene) as f32 } else { distribution.mean() as f32 }
            };
            let values: Vec<f32> = genes.ids.iter().enumerate().map(value).collect();
            self.row(values.into_iter());
        }
        Ok(())
    }

    fn row(&mut self, values: impl Iterator<Item = f32>) {
        // A number that is none would make the file unreadable as a matrix.
        for (gene, value) in (0..).zip(values).filter(|(_, value)| *value != 0.0 && value.is_finite()) {
            self.block.indices.push(gene);
            self.block.values.push(value);
        }
        self.block.indptr.push(self.block.indices.len());
    }

    fn write(&self, bundle: &Bundle, prompts: &[String], neighbors: &[Vec<Neighbor>], genes: &[String]) -> Result<()> {
        let (task, cells) = (self.task, self.block.n_rows());
        let of_cell = |cell: usize| cell / task.count;
        let names: Vec<String> = (0..cells).map(|cell| format!("generated_{cell}")).collect();
        let mut obs = vec![(PROMPT_KEY.to_string(), categorical((0..cells).map(|cell| Some(prompts[of_cell(cell)].as_str()))))];
        let mut add = |key: &str, of: &dyn Fn(&'a Subject) -> Option<&'a str>| {
            if task.subjects.iter().any(|subject| of(subject).is_some()) {
                obs.push((key.to_owned(), categorical((0..cells).map(|cell| of(&task.subjects[of_cell(cell)])))));
            }
        };
        add(&bundle.config.label_key, &Subject::cell_type);
        let columns = task
            .subjects
            .iter()
            .filter_map(|subject| if let Subject::CellType { columns, .. } = subject { Some(columns.keys()) } else { None });
        for key in columns.flatten().collect::<BTreeSet<_>>() {
            add(key, &|subject| subject.column(key));
        }
        if !neighbors.is_empty() {
            let audit = |cell: usize| serde_json::to_string(&neighbors[of_cell(cell)]).unwrap_or_default();
            obs.push((NEIGHBORS_KEY.to_string(), Column::Text((0..cells).map(audit).collect())));
        }
        let text = |text: &str| UnsValue::Text(text.into());
        let mut settings = vec![
            ("values".into(), text(self.values())),
            ("sampled".into(), UnsValue::Boolean(self.counts && task.sampled)),
            ("cells_a_prompt".into(), UnsValue::Integer(task.count as i64)),
            ("seed".into(), UnsValue::Integer(task.seed as i64)),
            ("neighbors".into(), UnsValue::Integer(neighbors.iter().map(Vec::len).max().unwrap_or(0) as i64)),
        ];
        if self.counts {
            let as_trained = text(if task.sampled { "drawn as those of training cells" } else { "median of training cells" });
            settings.push(("total_counts".into(), task.total_counts.map_or(as_trained, UnsValue::Number)));
        }
        let mut additions = Additions { obs, ..Additions::default() };
        Provenance::new(bundle, task.command).with("generated", UnsValue::Map(settings)).record(&mut additions);
        Ok(create(task.output, &names, genes, &self.block, &additions, task.overwrite)?)
    }
}

/// A column of few different texts.
fn categorical<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> Column {
    let texts: Vec<Option<&str>> = texts.collect();
    let categories: BTreeSet<&str> = texts.iter().flatten().copied().collect();
    let categories: Vec<String> = categories.into_iter().map(String::from).collect();
    let code = |text: &Option<&str>| {
        text.and_then(|text| categories.binary_search_by(|known| known.as_str().cmp(text)).ok()).map_or(-1, |code| code as i32)
    };
    Column::Categorical { codes: texts.iter().map(code).collect(), categories }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_a_description_needs_must_be_given() {
        let named = BTreeMap::from([("condition", true), ("tissue", false)]);
        let given = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let said = |pairs: &[(&str, &str)]| check_columns(&named, &given(pairs)).map_err(|error| error.to_string());
        assert!(said(&[("condition", "stimulated")]).is_ok());
        assert!(said(&[("condition", "stimulated"), ("tissue", "blood")]).is_ok());
        assert!(said(&[("tissue", "blood")]).unwrap_err().contains("unknown: none; missing: condition"));
        assert!(
            said(&[("donor", "1"), ("age", "2")]).unwrap_err().contains("(condition, tissue); unknown: age, donor; missing: condition")
        );
    }
}
