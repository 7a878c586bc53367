//! Cells to labels: by the cell-type head, by text, by a language model that may write nothing but a label, or by the nearest cells of a
//! labelled reference. Each label has a probability, and may be withheld as "unknown".

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scmmgpt_kernels::l2_normalize;
use scmmgpt_kernels::runtime::{Arena, Class, Device, Plan, Stream};
use scmmgpt_kernels::topk::{self, Metric};
use scmmgpt_loader::dataset::{CellDataset, SourceReport};
use scmmgpt_loader::h5ad::{Additions, Column, UnsValue};

use super::by_language::Written;
use super::by_text::{self, ByText};
use super::{Provenance, write_result};
use crate::bundle::Bundle;
use crate::cells::CellFiles;
use crate::config::slot;
use crate::generate::Dtype;
use crate::predict::{Predictions, Request, predict, probabilities};
use crate::texts::{LabelSource, NamedTexts};
use crate::{Error, Result};

/// Column of the labels in `obs`.
pub const LABEL_KEY: &str = "scmmgpt_label";
/// Column of the probabilities in `obs`.
pub const PROBABILITY_KEY: &str = "scmmgpt_probability";
pub use crate::novelty::NOVELTY_THRESHOLD;

/// Column of the novelty in `obs`, where labels come from the head: the squared distance to the nearest class of the training cells, in
/// multiples of what 1 % of them exceed.
pub const NOVELTY_KEY: &str = "scmmgpt_novelty";
/// Label of a cell whose label is withheld.
pub const UNKNOWN: &str = "unknown";

/// What to annotate, and how.
#[derive(Clone, Debug)]
pub struct Annotate<'a> {
    /// The cells.
    pub cells: &'a Path,
    /// Where to write them with their labels.
    pub output: &'a Path,
    /// Where the expression stands, if not where it stood in training.
    pub layer: Option<&'a str>,
    /// Where labels come from.
    pub method: Method<'a>,
    /// Withhold labels below this probability, if not at the model's own threshold (none with a reference, all of an ontology, or a
    /// language model).
    pub unknown_threshold: Option<f64>,
    /// By the head: withhold labels of cells whose novelty is above this (see [`NOVELTY_THRESHOLD`]).
    pub novelty_threshold: f64,
    /// By text or language model: so many labels a cell, the likeliest first.
    pub top_n: usize,
    /// What a language model computes in.
    pub dtype: Dtype,
    /// Replace an existing output.
    pub overwrite: bool,
    /// The command line, for the record.
    pub command: &'a str,
}

/// Where labels come from.
#[derive(Clone, Copy, Debug)]
pub enum Method<'a> {
    /// The cell-type head; for a joint model without one, the texts of the classes that it was trained on.
    Model,
    /// The texts of labels that need not be known from training.
    Labels(&'a LabelSource),
    /// The language model, which may write nothing but one of these labels (those of training where none are given).
    Generative(Option<&'a LabelSource>),
    /// Labelled cells.
    Reference(Reference<'a>),
}

/// A labelled reference.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// The cells.
    pub cells: &'a Path,
    /// Their label column, if not the one that the model was trained with.
    pub label_key: Option<&'a str>,
    /// Neighbours that vote.
    pub neighbours: usize,
}

/// Labels of cells, with their probabilities.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    cells: Vec<(Option<String>, f32)>,
}

impl Labels {
    pub(crate) fn of(&self, range: Range<usize>) -> Labels {
        Labels { cells: self.cells[range].to_vec() }
    }

    /// Each cell's class by number; none where it is unknown or has no number.
    pub(crate) fn answers(&self, number: &dyn Fn(Option<&str>) -> Option<u32>) -> Vec<Option<u32>> {
        self.cells.iter().map(|(label, _)| number(label.as_deref())).collect()
    }

    /// Each cell's probability of its label.
    pub fn probabilities(&self) -> Vec<f32> {
        self.cells.iter().map(|(_, probability)| *probability).collect()
    }

    /// Each cell's label; none where it was withheld.
    pub fn labels(&self) -> impl Iterator<Item = Option<&str>> {
        self.cells.iter().map(|(label, _)| label.as_deref())
    }

    /// Each cell's label, [`UNKNOWN`] where it was withheld, as a categorical column.
    fn column(&self) -> Column {
        let name = |label: &Option<String>| label.clone().unwrap_or_else(|| UNKNOWN.into());
        let mut categories: Vec<String> = self.cells.iter().map(|(label, _)| name(label)).collect();
        categories.sort();
        categories.dedup();
        let code = |label: &Option<String>| categories.binary_search(&name(label)).map_or(-1, |at| at as i32);
        Column::Categorical { codes: self.cells.iter().map(|(label, _)| code(label)).collect(), categories }
    }
}

/// What an annotation came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What was found in the file of the cells.
    pub cells: SourceReport,
    /// (label, cells), most frequent first.
    pub counts: Vec<(String, usize)>,
    /// Labels whose texts were longer than the model reads, and were cut.
    pub truncated: usize,
    /// Labels that the ontology does not have and the file does not describe: the model reads their names alone.
    pub by_name_alone: Vec<String>,
}

/// What a method came to: `[ranks]`, the likeliest label of each cell first.
struct Annotated {
    ranks: Vec<Labels>,
    /// `[cells]`, where it is known.
    novelty: Option<Vec<f32>>,
    method: String,
    truncated: usize,
    by_name_alone: Vec<String>,
}

impl Annotated {
    fn without_text(labels: Labels, method: String) -> Self {
        Annotated { ranks: vec![labels], novelty: None, method, truncated: 0, by_name_alone: Vec::new() }
    }
}

/// Labels the cells of a file.
///
/// # Errors
/// Those of files and model; `Incapable` for a model that has not what the method needs. Nothing is written then.
pub fn annotate(bundle: &Bundle, task: &Annotate<'_>, progress: &mut (dyn FnMut(usize, usize) + Send)) -> Result<Summary> {
    let headless = bundle.config.heads.classes == 0;
    if headless && matches!(task.method, Method::Model) && bundle.config.text.is_none() {
        let reason = "it was trained without loss.classification; give labelled cells with --reference".into();
        return Err(Error::Incapable { task: "annotate by its head", reason });
    }
    bundle.device().enter(|| annotate_inside(bundle, task, progress))
}

fn annotate_inside(bundle: &Bundle, task: &Annotate<'_>, progress: &mut (dyn FnMut(usize, usize) + Send)) -> Result<Summary> {
    // What is wrong with the labels shows before the cells are read.
    let labels = match task.method {
        Method::Labels(source) => Offered::Texts(by_text::labels(bundle, Some(source))?),
        Method::Model if bundle.config.heads.classes == 0 => Offered::Texts(by_text::labels(bundle, None)?),
        Method::Generative(source) => Offered::Written(Box::new(Written::prepare(bundle, source, task.dtype)?)),
        Method::Model | Method::Reference(_) => Offered::None,
    };
    let dataset = read(bundle, &[PathBuf::from(task.cells)], task.layer, None)?;
    let rows: Vec<usize> = (0..dataset.len()).collect();
    let total = rows.len();
    let mut progress = |done| progress(done, total);
    let mut annotated = match labels {
        Offered::Texts(labels) => by_text_ranks(bundle, &by_text::score(bundle, &dataset, &rows, labels, &mut progress)?, task),
        Offered::Written(written) => {
            let scored = written.score(bundle, &dataset, &rows, &mut progress)?;
            let (own, method) = match task.method {
                Method::Generative(Some(LabelSource::Ontology)) => (0.0, source_name(&LabelSource::Ontology)),
                Method::Generative(Some(source)) => (written.threshold(), source_name(source)),
                _ => (written.threshold(), "the classes of training".into()),
            };
            let ranks = ranks(scored.names, total, task, own, &|cell, count| scored.top(cell, count));
            let method = format!("language model in {}: {method}", written.dtype);
            Annotated { ranks, novelty: None, method, truncated: 0, by_name_alone: Vec::new() }
        }
        Offered::None => {
            let predictions = encode(bundle, &dataset, &rows, &mut progress)?;
            match task.method {
                Method::Reference(reference) => Annotated::without_text(
                    by_reference(bundle, &predictions, reference, task)?,
                    format!("{} nearest cells of {}", reference.neighbours, reference.cells.display()),
                ),
                _ => {
                    let threshold = task.unknown_threshold.unwrap_or(bundle.config.unknown_threshold);
                    let mut labels = by_head(bundle, &predictions, threshold)?;
                    let novelty = bundle.novelty().map(|novelty| novelty.scores(&dataset, &rows)).transpose()?;
                    let foreign = |(_, novelty): &(_, &f32)| f64::from(**novelty) > task.novelty_threshold;
                    labels.cells.iter_mut().zip(novelty.iter().flatten()).filter(foreign).for_each(|(cell, _)| cell.0 = None);
                    Annotated { novelty, ..Annotated::without_text(labels, "cell-type head".into()) }
                }
            }
        }
    };
    let mut obs = Vec::new();
    for (rank, labels) in annotated.ranks.iter_mut().enumerate() {
        for row in dataset.empty_rows() {
            labels.cells[row] = (None, 0.0);
        }
        let key = |key: &str| if rank == 0 { key.to_string() } else { format!("{key}_{}", rank + 1) };
        let probabilities = labels.probabilities().into_iter().map(f64::from).collect();
        obs.extend([(key(LABEL_KEY), labels.column()), (key(PROBABILITY_KEY), Column::Number(probabilities))]);
    }
    let novelty = annotated.novelty.map(|novelty| novelty.into_iter().map(f64::from).collect());
    obs.extend(novelty.map(|novelty| (NOVELTY_KEY.into(), Column::Number(novelty))));
    let provenance = Provenance::new(bundle, task.command).with("method", UnsValue::Text(annotated.method));
    write_result(task.cells, task.output, Additions { obs, ..Additions::default() }, provenance, task.overwrite)?;
    let mut counts: std::collections::BTreeMap<String, usize> = Default::default();
    let first = annotated.ranks.iter().flat_map(|labels| labels.labels()).take(total);
    first.for_each(|label| *counts.entry(label.unwrap_or(UNKNOWN).into()).or_default() += 1);
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, cells)| std::cmp::Reverse(*cells));
    Ok(Summary { cells: dataset.reports()[0].clone(), counts, truncated: annotated.truncated, by_name_alone: annotated.by_name_alone })
}

/// Labels that are more than numbers of a head.
enum Offered {
    Texts(NamedTexts),
    Written(Box<Written>),
    None,
}

fn by_text_ranks(bundle: &Bundle, scored: &ByText, task: &Annotate<'_>) -> Annotated {
    let (own, source) = match task.method {
        Method::Labels(LabelSource::Ontology) => (0.0, source_name(&LabelSource::Ontology)),
        Method::Labels(source) => (bundle.text_threshold(), source_name(source)),
        _ => (bundle.text_threshold(), "the classes of training".to_string()),
    };
    let ranks = ranks(&scored.labels.names, scored.scores.cells(), task, own, &|cell, count| scored.top(cell, count));
    let by_name_alone = scored.labels.by_name_alone.clone();
    Annotated { ranks, novelty: None, method: format!("text: {source}"), truncated: scored.truncated, by_name_alone }
}

fn source_name(source: &LabelSource) -> String {
    match source {
        LabelSource::Ontology => "the ontology's terms".into(),
        LabelSource::File(path) => format!("the labels of {}", path.display()),
    }
}

/// The likeliest labels of each cell; only the first is withheld below the threshold, which is `own` unless the task has one.
fn ranks(names: &[String], cells: usize, task: &Annotate<'_>, own: f64, top: &dyn Fn(usize, usize) -> Vec<by_text::Ranked>) -> Vec<Labels> {
    let threshold = task.unknown_threshold.unwrap_or(own);
    let count = task.top_n.clamp(1, names.len());
    let mut ranks = vec![Labels::default(); count];
    for cell in 0..cells {
        for (rank, (label, probability)) in top(cell, count).into_iter().enumerate() {
            let shown = rank > 0 || probability >= threshold;
            ranks[rank].cells.push((shown.then(|| names[label].clone()), probability as f32));
        }
    }
    ranks
}

fn by_reference(bundle: &Bundle, predictions: &Predictions, reference: Reference<'_>, task: &Annotate<'_>) -> Result<Labels> {
    let key = reference.label_key.unwrap_or(&bundle.config.label_key);
    let files = [PathBuf::from(reference.cells)];
    let dataset = read(bundle, &files, task.layer, Some(key))?;
    let labelled: Vec<usize> = (0..dataset.len()).filter(|&row| dataset.labels()[row].is_some()).collect();
    if labelled.is_empty() {
        let reason = "no cell has a label".into();
        return Err(Error::Labels { key: key.into(), files: vec![reference.cells.display().to_string()], reason });
    }
    let embedded = encode(bundle, &dataset, &labelled, &mut |_| {})?;
    let name = |&row: &usize| dataset.labels()[row].map(|class| dataset.classes()[class as usize].clone());
    let names: Vec<Option<String>> = labelled.iter().map(name).collect();
    let (width, threshold) = (bundle.config.model.hidden_size, task.unknown_threshold.unwrap_or(0.0));
    by_neighbours(bundle.device(), &embedded.embeddings, &names, &predictions.embeddings, width, reference.neighbours, threshold)
}

/// Reads files on the model's vocabulary.
pub(crate) fn read(bundle: &Bundle, files: &[PathBuf], layer: Option<&str>, label_key: Option<&str>) -> Result<Arc<CellDataset>> {
    let slot = slot(layer.unwrap_or(&bundle.config.layer));
    let cells = CellFiles { files, slot, label_key, batch_key: None, ignore_labels: &[] };
    let dataset = cells.read(bundle.vocabulary.clone())?;
    dataset.check_mode(bundle.config.tokens.value_mode)?;
    Ok(Arc::new(dataset))
}

/// Runs cells through the model; results in the order of `rows`.
pub(crate) fn encode(bundle: &Bundle, dataset: &Arc<CellDataset>, rows: &[usize], progress: &mut dyn FnMut(usize)) -> Result<Predictions> {
    let mut workspace = bundle.workspace()?;
    let ignore = |_| scmmgpt_loader::batch::NO_LABEL;
    let (collator, batch_size) = (bundle.collator()?, bundle.config.batch_size);
    let request = Request { dataset, collator: &collator, rows, batch_size, relabel: &ignore };
    predict(bundle.model(), &mut workspace, &request, progress)
}

/// The most likely class of each cell, withheld below `threshold`.
pub(crate) fn by_head(bundle: &Bundle, predictions: &Predictions, threshold: f64) -> Result<Labels> {
    let classes = &bundle.config.classes;
    let label = |logits: &[f32]| {
        let probabilities = probabilities(logits, bundle.config.temperature);
        let best = crate::predict::argmax(logits);
        (Some(classes[best].clone()).filter(|_| probabilities[best] >= threshold), probabilities[best] as f32)
    };
    Ok(Labels { cells: predictions.logits.chunks_exact(classes.len().max(1)).map(label).collect() })
}

/// The label that most of the `k` nearest reference cells have, by cosine similarity of the embeddings. A neighbour's vote counts its
/// similarity (at least 0); the probability is the label's share of all votes; equal votes go to the first label by name.
pub(crate) fn by_neighbours(
    device: &Device,
    reference: &[f32],
    names: &[Option<String>],
    query: &[f32],
    width: usize,
    k: usize,
    threshold: f64,
) -> Result<Labels> {
    let (rows, queries) = (reference.len() / width, query.len() / width);
    let k = k.min(rows);
    if k == 0 || queries == 0 {
        return Ok(Labels::default());
    }
    let mut plan = Plan::new(Class::Activations);
    let mut unit = |name: &str, rows: usize| {
        let tensors = [name, "unit"].map(|part| plan.tensor::<f32>(part, [rows, width]));
        (tensors, plan.tensor::<f32>("norm", [rows]))
    };
    let ([base, base_unit], base_norm) = unit("reference", rows);
    let ([cells, cells_unit], cells_norm) = unit("query", queries);
    let (scores, indices) = (plan.tensor::<f32>("scores", [queries, k]), plan.tensor::<u32>("indices", [queries, k]));
    plan.scratch(topk::scratch(queries, rows, k));
    let stream = Stream::new(device, plan.scratch_bytes())?;
    let _arena = Arena::allocate(device, plan)?;
    for (values, x, y, norm) in [(reference, base, base_unit, base_norm), (query, cells, cells_unit, cells_norm)] {
        stream.upload(x, values)?;
        l2_normalize::forward(&stream, l2_normalize::Forward { y, norm, x, eps: 1e-12 })?;
    }
    let arguments = topk::Forward { scores, indices, query: cells_unit, base: base_unit, k, metric: Metric::InnerProduct };
    topk::forward(&stream, arguments)?;
    let (scores, indices) = (stream.fetch(scores)?, stream.fetch(indices)?);
    let vote = |(scores, indices): (&[f32], &[u32])| {
        let mut votes: std::collections::BTreeMap<&str, f64> = Default::default();
        for (score, &index) in scores.iter().zip(indices) {
            if let Some(name) = names[index as usize].as_deref() {
                *votes.entry(name).or_default() += f64::from(score.max(0.0)) + f64::MIN_POSITIVE;
            }
        }
        let sum: f64 = votes.values().sum();
        let best = votes.into_iter().reduce(|best, other| if other.1 > best.1 { other } else { best });
        let (name, votes) = best.unwrap_or_default();
        let probability = if sum > 0.0 { votes / sum } else { 0.0 };
        (Some(name.to_string()).filter(|name| !name.is_empty() && probability >= threshold), probability as f32)
    };
    Ok(Labels { cells: scores.chunks_exact(k).zip(indices.chunks_exact(k)).map(vote).collect() })
}
