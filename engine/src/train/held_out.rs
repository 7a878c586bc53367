//! A model of cells and language on the test cells: what it calls them, says of them, and makes in their place, beside baselines.

use std::path::Path;

use scmmgpt_kernels::runtime::Device;
use serde::{Deserialize, Serialize};

use super::evaluate::{Evaluation, HeldOutLosses};
use super::joint::Joint;
use crate::Result;
use crate::baseline::SparseMatrix;
use crate::bundle::{Bundle, Language};
use crate::generate::counts::CountDistribution;
use crate::generate::{Dtype, GenerationConfig};
use crate::metric::ScoreTable;
use crate::metric::classification::{ClassificationReport, ComparisonTable};
use crate::metric::generation::{self, Cells};
use crate::model::cell_language::{Expression, Workspace};
use crate::retrieve::Searcher;
use crate::task::by_language::Written;
use crate::task::score_cells::{normalised, score_generated};
use crate::task::score_descriptions::{Pairs, score_texts};
use crate::task::speech::Speech;
use crate::task::zero_shot::BY_TEXT;
use crate::task::{describe, generate, joint_space};

/// Tokens of a description at most.
const DESCRIPTION_TOKENS: usize = 96;

/// Figures of a language model on the test cells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldOut {
    /// Before anything is decoded.
    pub losses: HeldOutLosses,
    /// (name, report): labels that it writes, then those of earlier stages and of the baselines.
    pub annotation: Vec<(String, ClassificationReport)>,
    /// Its descriptions, greedily decoded, against the texts of the cells' classes.
    pub description: ScoreTable,
    /// As many cells of each class's text as there are test cells of the class, against those.
    pub generation: ScoreTable,
}

impl std::fmt::Display for HeldOut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(formatter, "{}\n\nlabels", self.losses)?;
        let table = self.annotation.iter().cloned().fold(ComparisonTable::new(), |table, (name, report)| table.row(name, report));
        writeln!(formatter, "{table}\ndescriptions\n{}\ngenerated cells\n{}", self.description, self.generation)
    }
}

/// Everything that is measured needs labelled test cells. `former`: folders of the earlier stages' models.
pub(super) fn on_test_cells(folder: &Path, device: &Device, joint: &Joint, losses: HeldOutLosses, former: &[&Path]) -> Result<HeldOut> {
    let bundle = Bundle::open(folder, device)?;
    let language = bundle.language("be measured")?;
    let seed = 0;
    let mut annotation = vec![written(&bundle, joint, seed)?];
    for folder in former {
        for (name, report) in Evaluation::of_folder(folder)?.map_or(Vec::new(), |evaluation| evaluation.reports) {
            // Of the mixing weights the chosen one, which is first; baselines are those of every stage.
            let is_by_text = |name: &str| name.starts_with(BY_TEXT);
            if annotation.iter().all(|(known, _)| *known != name && !(is_by_text(known) && is_by_text(&name))) {
                annotation.push((name, report));
            }
        }
    }
    Ok(HeldOut {
        losses,
        annotation,
        description: described(&bundle, &language, joint, seed)?,
        generation: Making::new(&bundle, &language, joint)?.table(seed)?,
    })
}

/// Test cells labelled by constrained decoding.
fn written(bundle: &Bundle, joint: &Joint, seed: u64) -> Result<(String, ClassificationReport)> {
    let (data, dataset) = (&joint.data, &joint.data.dataset);
    let test = &data.split.test;
    let written = Written::prepare(bundle, None, Dtype::F32)?;
    let scored = written.score(bundle, dataset, test, &mut |_| {})?;
    let number = |name: &str| {
        // A class may be a type under a condition; its label is the type.
        let name = name.split(" | ").next().unwrap_or_default();
        dataset.classes().iter().position(|class| class == name).map(|at| at as u32)
    };
    let top: Vec<(usize, f64)> = (0..test.len()).filter_map(|cell| scored.top(cell, 1).first().copied()).collect();
    let answers: Vec<Option<u32>> = top.iter().map(|(label, _)| number(&scored.names[*label])).collect();
    let confidence: Vec<f32> = top.iter().map(|(_, probability)| *probability as f32).collect();
    let truth: Vec<u32> = test.iter().map(|&row| dataset.labels()[row].unwrap_or_default()).collect();
    let report = ClassificationReport::new(&truth, &answers, Some(&confidence), dataset.classes(), seed)?;
    Ok(("scmmgpt, written by the language model".into(), report))
}

fn described(bundle: &Bundle, language: &Language, joint: &Joint, seed: u64) -> Result<ScoreTable> {
    let (dataset, texts) = (&joint.data.dataset, &joint.cell_texts);
    let rows: Vec<usize> = joint.data.split.test.iter().copied().filter(|&row| texts.class_of()[row].is_some()).collect();
    let mut speech = Speech::new(language, None)?;
    let answers =
        describe::answers(bundle, &mut speech, dataset, &rows, &GenerationConfig::greedy(DESCRIPTION_TOKENS), Dtype::F32, &mut |_| {})?;
    let predicted: Vec<String> = answers.into_iter().map(|answer| answer.text.trim().to_string()).collect();
    let class = |row: &usize| texts.class_of()[*row].unwrap_or_default() as usize;
    let reference: Vec<String> = rows.iter().map(|row| texts.classes()[class(row)].text.clone()).collect();
    let types: Vec<String> =
        rows.iter().map(|&row| dataset.classes()[dataset.labels()[row].unwrap_or_default() as usize].clone()).collect();
    score_texts(&Pairs { predicted: &predicted, reference: &reference, types: Some(&types) }, None, seed)
}

/// Cells made from the texts of classes, as many of each as there are test cells.
struct Making<'a> {
    bundle: &'a Bundle,
    language: &'a Language,
    joint: &'a Joint,
    /// `[genes]`: those that the decoder is asked for.
    genes: Vec<u32>,
    /// (class, its test cells).
    classes: Vec<(usize, Vec<usize>)>,
}

impl<'a> Making<'a> {
    fn new(bundle: &'a Bundle, language: &'a Language, joint: &'a Joint) -> Result<Self> {
        let (dataset, texts) = (&joint.data.dataset, &joint.cell_texts);
        let of_class = |class: usize| {
            let is = |row: &&usize| texts.class_of()[**row] == Some(class as u32);
            joint.data.split.test.iter().filter(is).copied().collect::<Vec<usize>>()
        };
        let classes = (0..texts.classes().len()).map(|class| (class, of_class(class))).filter(|(_, rows)| !rows.is_empty()).collect();
        let mut genes: Vec<u32> = (0..dataset.reports().len()).flat_map(|source| dataset.panel(source)).copied().collect();
        genes.sort_unstable();
        genes.dedup();
        Ok(Making { bundle, language, joint, genes, classes })
    }

    fn table(&self, seed: u64) -> Result<ScoreTable> {
        let dataset = &self.joint.data.dataset;
        let label = |row: &usize| dataset.labels()[*row].unwrap_or_default();
        let rows: Vec<usize> = self.classes.iter().flat_map(|(_, rows)| rows).copied().collect();
        let labels: Vec<u32> = rows.iter().map(label).collect();
        let train = &self.joint.data.split.train;
        let learned: Vec<u32> = train.iter().map(label).collect();
        let (reference, training) = (normalised(dataset, &rows)?, normalised(dataset, train)?);
        let (reference, training) = (Cells { rows: reference.rows(), labels: &labels }, Cells { rows: training.rows(), labels: &learned });
        let alone = self.cells(false, seed)?;
        let mut table = score_generated(&Cells { rows: alone.rows(), labels: &labels }, &reference, Some(&training), None, seed)?;
        if self.language.neighbours().is_some() {
            let beside = self.cells(true, seed)?;
            let scores = generation::scores(&Cells { rows: beside.rows(), labels: &labels }, &reference, None, seed)?;
            table.rows.insert(1, ("generated beside neighbours".into(), scores));
            let definition = "each made beside the training cells that are nearest to its text in stage 1's space";
            table.definitions.insert("generated beside neighbours".into(), definition.into());
        }
        Ok(table)
    }

    /// `[test cells, genes of the vocabulary]`, in the order of the classes: log1p of counts per 10,000.
    fn cells(&self, beside: bool, seed: u64) -> Result<SparseMatrix> {
        let text = |(class, _): &(usize, Vec<usize>)| self.fitting(&self.joint.cell_texts.classes()[*class].text);
        let texts = self.classes.iter().map(text).collect::<Result<Vec<String>>>()?;
        let mut workspace = self.language.workspace()?;
        let states = generate::states(self.language, &mut workspace, &texts)?;
        let neighbours = if beside { self.neighbours(&mut workspace, &texts)? } else { vec![(Vec::new(), Vec::new()); texts.len()] };
        let slots = self.language.model().slots();
        let dataset = &self.joint.data.dataset;
        let mut made = SparseMatrix::new(dataset.vocab().len());
        for ((state, (keys, bias)), (_, rows)) in states.chunks_exact(states.len() / texts.len()).zip(neighbours).zip(&self.classes) {
            let bias: Vec<f32> = std::iter::repeat_n(0.0, slots).chain(bias).collect();
            let (keys, bias) = ([state, &keys].concat(), beside.then_some(bias));
            let expression = workspace.decode_expression(self.language.model(), 1, &keys, bias.as_deref(), &self.genes)?;
            for row in rows {
                let label = dataset.labels()[*row].map(|label| dataset.classes()[label as usize].as_str());
                let values = self.draw(&expression, label, made.rows().rows() as u64, seed);
                made.push(self.genes.iter().copied().zip(values).filter(|(_, value)| *value > 0.0));
            }
        }
        Ok(made)
    }

    /// As many words of a text as the language model has places for behind it, as in training.
    fn fitting(&self, text: &str) -> Result<String> {
        let positions = self.language.model().language().positions();
        let mut words: Vec<&str> = text.split(' ').collect();
        while words.len() > 1 && self.language.pairs().text_prompt(&words.join(" "))?.len() > positions {
            words.pop();
        }
        Ok(words.join(" "))
    }

    /// Values of one cell; drawn where the decoder gives distributions, as large as training cells of the label.
    fn draw(&self, expression: &Expression, label: Option<&str>, cell: u64, seed: u64) -> Vec<f32> {
        let Some(counts) = &expression.counts else { return expression.values.clone() };
        let target = self.bundle.config.tokens.target_sum;
        let total = self.language.config.sizes.draw(label, seed, cell).unwrap_or(target);
        let log_size = (total.max(1.0) / target).ln() as f32;
        let sample = |(at, gene): (usize, &u32)| CountDistribution::of(counts, at, log_size).sample(seed, cell, *gene) as f32;
        let mut values: Vec<f32> = self.genes.iter().enumerate().map(sample).collect();
        let total = values.iter().map(|value| f64::from(*value)).sum();
        scmmgpt_loader::expression::normalize_total(&mut values, total, 1e4);
        scmmgpt_loader::expression::log1p(&mut values);
        values
    }

    /// Keys and biases of each text's neighbours among the training cells.
    fn neighbours(&self, workspace: &mut Workspace<f32>, texts: &[String]) -> Result<Vec<(Vec<f32>, Vec<f32>)>> {
        let settings = &self.language.config.neighbors;
        let Some(index) = self.language.neighbours() else { return Ok(Vec::new()) };
        let mut searcher = Searcher::new(self.bundle.device(), &index.index)?;
        let (embedded, _) = joint_space::embed_texts(self.bundle, texts)?;
        let found = index.nearest(&mut searcher, &embedded.values, settings.k, 0, &|_, _| false)?;
        let neighbours = index.neighbours(&found, settings.k, settings.temperature);
        let width = neighbours.pooled.len() / (texts.len() * settings.k);
        let of_text = |(text, &count): (usize, &u32)| {
            let (first, count) = (text * settings.k, count as usize);
            let keys = workspace.project_pooled_cells(self.language.model(), &neighbours.pooled[first * width..(first + count) * width])?;
            Ok((keys, neighbours.bias[first..first + count].to_vec()))
        };
        neighbours.counts.iter().enumerate().map(of_text).collect()
    }
}
