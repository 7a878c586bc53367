//! Texts to cells: a new `.h5ad` with counts or log1p values.

use std::path::Path;

use scmmgpt_loader::h5ad::{Additions, Column, CsrBlock, UnsValue, create};
use scmmgpt_loader::vocab::GeneVocab;
use serde::Serialize;

use super::joint_space::embed_texts;
use super::output::Provenance;
use crate::bundle::{Bundle, Language};
use crate::config::ExpressionHead;
use crate::generate::counts::CountDistribution;
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
    CellType(String),
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
    /// Total count of a cell; none: what cells are normalised to.
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
        let mut maker = Maker::new(bundle, task, genes.ids.len());
        for (index, state) in states.chunks_exact(states.len() / prompts.len()).enumerate() {
            let (keys, bias) = match &beside {
                Some(beside) => beside.with(state, index),
                None => (state.to_vec(), None),
            };
            let expression = workspace.decode_expression(language.model(), 1, &keys, bias.as_deref(), &genes.ids)?;
            maker.push(&expression, &genes)?;
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
        Subject::CellType(name) => bundle.joint("describe a cell type")?.texts.descriptions.class_text(name, &Default::default())?,
    };
    if text.trim().is_empty() {
        return Err(Error::Texts { reason: "a prompt is empty; say what the cells are to be".into() });
    }
    Ok(text)
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
        states.extend(workspace.slot_states(language.model(), tokens)?);
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
    /// ln of a cell's size: its total in units of what cells are normalised to.
    log_size: f64,
    block: CsrBlock,
    counts: bool,
}

impl<'a> Maker<'a> {
    fn new(bundle: &Bundle, task: &'a Generate<'a>, genes: usize) -> Self {
        let target = bundle.config.tokens.target_sum;
        let log_size = task.total_counts.map_or(0.0, |total| (total / target).ln());
        Maker { task, log_size, block: CsrBlock::empty(0, genes), counts: false }
    }

    fn values(&self) -> &'static str {
        if self.counts { "counts" } else { "log1p" }
    }

    /// Adds the cells of one prompt.
    fn push(&mut self, expression: &Expression, genes: &Genes) -> Result<()> {
        let Some(counts) = &expression.counts else {
            self.row(expression.values.iter().map(|value| value.max(0.0)));
            return Ok(());
        };
        self.counts = true;
        let distribution = |gene: usize| CountDistribution {
            log_mean: counts.log_mean[gene] + self.log_size as f32,
            zero_logit: counts.zero_logit[gene],
            log_theta: counts.log_theta[gene],
        };
        let distributions: Vec<CountDistribution> = (0..genes.ids.len()).map(distribution).collect();
        for _ in 0..self.task.count {
            let cell = self.block.n_rows() as u64;
            let value = |(distribution, &gene): (&CountDistribution, &u32)| match self.task.sampled {
                true => distribution.sample(self.task.seed, cell, gene) as f32,
                false => distribution.mean() as f32,
            };
            let values: Vec<f32> = distributions.iter().zip(&genes.ids).map(value).collect();
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
        let cell_type = |subject: &Subject| if let Subject::CellType(name) = subject { Some(name.clone()) } else { None };
        let types: Vec<Option<String>> = task.subjects.iter().map(cell_type).collect();
        if types.iter().any(Option::is_some) {
            obs.push((bundle.config.label_key.clone(), categorical((0..cells).map(|cell| types[of_cell(cell)].as_deref()))));
        }
        if !neighbors.is_empty() {
            let audit = |cell: usize| serde_json::to_string(&neighbors[of_cell(cell)]).unwrap_or_default();
            obs.push((NEIGHBORS_KEY.to_string(), Column::Text((0..cells).map(audit).collect())));
        }
        let text = |text: &str| UnsValue::Text(text.into());
        let settings = UnsValue::Map(vec![
            ("values".into(), text(self.values())),
            ("sampled".into(), UnsValue::Boolean(self.counts && task.sampled)),
            ("cells_a_prompt".into(), UnsValue::Integer(task.count as i64)),
            ("total_counts".into(), UnsValue::Number(self.log_size.exp() * bundle.config.tokens.target_sum)),
            ("seed".into(), UnsValue::Integer(task.seed as i64)),
            ("neighbors".into(), UnsValue::Integer(neighbors.iter().map(Vec::len).max().unwrap_or(0) as i64)),
        ]);
        let mut additions = Additions { obs, ..Additions::default() };
        Provenance::new(bundle, task.command).with("generated", settings).record(&mut additions);
        Ok(create(task.output, &names, genes, &self.block, &additions, task.overwrite)?)
    }
}

/// A column of few different texts.
fn categorical<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> Column {
    let texts: Vec<Option<&str>> = texts.collect();
    let categories: std::collections::BTreeSet<&str> = texts.iter().flatten().copied().collect();
    let categories: Vec<String> = categories.into_iter().map(String::from).collect();
    let code = |text: &Option<&str>| {
        text.and_then(|text| categories.binary_search_by(|known| known.as_str().cmp(text)).ok()).map_or(-1, |code| code as i32)
    };
    Column::Categorical { codes: texts.iter().map(code).collect(), categories }
}
