//! Stage 1: cells and texts together.

use std::path::Path;
use std::sync::Arc;

use scmmgpt_kernels::runtime::{Device, Stream};
use scmmgpt_loader::batch::{CellBatch, CollateConfig, Collator, NO_LABEL, Objective, SampleKey};
use scmmgpt_loader::batch_order::BatchOrder;
use scmmgpt_loader::prefetch::Prefetcher;
use scmmgpt_loader::text::{CellTexts, TextBatch, TextCollator};

use super::calibration::{self, Judged};
use super::data::TrainingData;
use super::evaluate;
use super::joint::Joint;
use super::joint_calibration::{self, Setting, around};
use super::linear_expert::Lesson;
use super::space_expert::{Fitted, fit_space_expert};
use super::stage::{BatchLoss, Run, Session, Stage, Validation};
use super::trainer::{Outcome, Progress, Trainer};
use crate::bundle::{Bundle, BundleConfig, write_json};
use crate::config::{Stage1Config, TrainConfig};
use crate::layer::Dropout;
use crate::model::cell_model;
use crate::model::cell_text::{self, CellText, Draw};
use crate::predict::{PREFETCH, Request, argmax};
use crate::task::pair_scores::{Mixing, PairScores};
use crate::task::zero_shot::MIXING_WEIGHTS;
use crate::weights::Parameters;
use crate::{Error, Result};

/// Powers of the linear expert that are tried, as multiples of the configured one.
const POWERS: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

/// Number of this stage in log and checkpoints.
pub(super) const NUMBER: u32 = 1;

/// A batch of cells, each with a text that is its own.
struct PairBatch {
    cells: CellBatch,
    texts: TextBatch,
    /// The same cells with hidden values.
    masked: Option<CellBatch>,
}

/// The masked reconstruction beside the three objectives, on a pass of its own.
struct Masked {
    collator: Collator,
    workspace: cell_model::Workspace<f32>,
    weights: cell_model::LossWeights,
}

struct TextStage<'a> {
    config: &'a TrainConfig,
    settings: &'a Stage1Config,
    data: &'a TrainingData,
    texts: Arc<CellTexts>,
    text_collator: TextCollator,
    model: &'a CellText<f32>,
    collator: Collator,
    order: BatchOrder,
    batches: Option<Prefetcher<PairBatch>>,
    workspace: cell_text::Workspace<f32>,
    training: cell_text::Purpose,
    evaluation: cell_text::Purpose,
    masked: Option<Masked>,
}

/// Trains the stage, writes the joint model to `folder` and evaluates it on the test cells. `cells` is the model folder that the cell
/// encoder comes from; none: it starts as stage 0 would.
pub(super) fn train(
    trainer: &Trainer,
    joint: &Joint,
    device: &Device,
    cells: Option<&Path>,
    folder: &Path,
    session: &mut Session<'_>,
) -> Result<Outcome> {
    let (config, data) = (trainer.config(), &joint.data);
    let settings = &joint.settings;
    let (plan, model) = joint.declare();
    let parameters = plan.allocate(device)?;
    let sizes = joint.sizes(trainer, settings.train.batch_size);
    let order = BatchOrder::new(data.split.train.clone(), settings.train.batch_size, config.seed)?;
    let plain = CollateConfig { objective: Objective::None, ..config.data.tokens.clone() };
    let masked = match joint.masked(trainer) {
        None => None,
        Some(purpose) => Some(Masked {
            collator: Collator::new(data.dataset.vocab(), config.data.tokens.clone())?,
            workspace: model.cell_model().workspace(device, sizes.cells, purpose)?,
            weights: purpose.weights,
        }),
    };
    let stage = TextStage {
        config,
        settings,
        data,
        texts: Arc::clone(&joint.cell_texts),
        text_collator: joint.texts.collator.clone(),
        model: &model,
        collator: Collator::new(data.dataset.vocab(), plain)?,
        order: if settings.train.bucket_by_length { order.bucket_by_length(&data.dataset.lengths())? } else { order },
        batches: None,
        workspace: model.workspace(device, sizes, joint.purpose(true))?,
        training: joint.purpose(true),
        evaluation: joint.purpose(false),
        masked,
    };
    let mut run = Run::new(stage, NUMBER, &parameters, &settings.train);
    (session.observe)(Progress::Stage { stage: NUMBER, about: "cells and texts" });
    run.train(session, |stage| joint.initialise(config, &parameters, &stage.workspace.stream, cells))?;
    let finished = run.stage.finish(&parameters, session)?;
    let description = BundleConfig { text: Some(joint.description(finished)), ..BundleConfig::new(config, data, joint.heads) };
    std::fs::create_dir_all(folder).map_err(|source| Error::Io { action: "create", path: folder.into(), source })?;
    joint.texts.save(folder)?;
    Bundle::write(folder, &description, data.dataset.vocab(), &run.stage.workspace.stream, &parameters)?;
    let steps = run.steps_done();
    drop(run);
    if data.split.test.is_empty() {
        return Ok(Outcome { steps, evaluation: None, held_out: None });
    }
    session.note("labelling the test cells by text, and computing the baselines on the same cells");
    let bundle = Bundle::open(folder, device)?;
    let evaluation = evaluate::by_text_on_test_cells(&bundle, data, &joint.cell_texts, config.seed)?;
    write_json(&folder.join("evaluation.json"), &evaluation)?;
    Ok(Outcome { steps, evaluation: Some(evaluation), held_out: None })
}

impl Stage for TextStage<'_> {
    fn stream(&self) -> &Stream {
        &self.workspace.stream
    }

    fn refresh(&self) -> Result<()> {
        self.model.refresh(&self.workspace.stream)
    }

    fn batches_per_epoch(&self) -> usize {
        self.order.batches_per_epoch()
    }

    fn begin(&mut self, epoch: u64, start: usize) -> Result<()> {
        let key = SampleKey { seed: self.config.seed, epoch, training: true };
        let (dataset, collator) = (self.data.dataset.clone(), self.collator.clone());
        let (texts, text_collator) = (Arc::clone(&self.texts), self.text_collator.clone());
        let masking = self.masked.as_ref().map(|masked| masked.collator.clone());
        let batches = self.order.epoch(epoch);
        let left = batches.len().saturating_sub(start);
        let make = move |position: usize| {
            let rows = &batches[position];
            let texts = texts.collate(&text_collator, rows, key)?;
            let masked = masking.as_ref().map(|collator| collator.collate(&dataset, rows, key)).transpose()?;
            Ok(PairBatch { cells: collator.collate(&dataset, rows, key)?, texts, masked })
        };
        self.batches = Some(Prefetcher::spawn(make, start, left, PREFETCH)?);
        Ok(())
    }

    fn forward(&mut self, step: u64) -> Result<Option<BatchLoss>> {
        let Some(batch) = self.batches.as_mut().and_then(Iterator::next) else { return Ok(None) };
        let PairBatch { cells, texts, masked: hidden } = batch?;
        let draw = self.draw(step);
        self.workspace.turn_to(self.model, self.training)?;
        let losses = self.workspace.forward(self.model, &cells, &texts, draw)?;
        let mut total = losses.total(&self.settings.loss);
        let mut parts = vec![("contrastive", losses.contrastive), ("matching", losses.matching), ("captioning", losses.captioning)];
        let dropout = self.dropout(step);
        if let (Some(masked), Some(mut hidden)) = (&mut self.masked, hidden) {
            hidden.labels.fill(NO_LABEL);
            let losses = masked.workspace.forward(self.model.cell_model(), &hidden, dropout)?;
            total += self.settings.masked * losses.total(&masked.weights);
            parts.extend([("expression", losses.expression), ("mvc", losses.mvc)]);
        }
        Ok(Some(BatchLoss { total, parts, cells: cells.rows, sources: texts.sources.into_iter().flatten().collect() }))
    }

    fn backward(&self, step: u64, scale: f64) -> Result<()> {
        self.workspace.backward(self.model, self.draw(step), scale)?;
        if let Some(masked) = &self.masked {
            // Both passes add to the encoder's gradients, on streams of their own.
            self.workspace.stream.synchronize()?;
            masked.workspace.backward(self.model.cell_model(), self.dropout(step), scale * self.settings.masked)?;
            masked.workspace.stream.synchronize()?;
        }
        Ok(())
    }

    fn validate(&mut self) -> Result<Option<Validation>> {
        let (data, rows) = (self.data, &self.data.split.validation);
        if rows.is_empty() {
            return Ok(None);
        }
        let key = SampleKey { seed: self.config.seed, epoch: 0, training: false };
        // Files are often sorted by type or condition, and among cells of one class there is nothing to tell apart.
        let order = BatchOrder::new(rows.clone(), self.settings.train.batch_size, self.config.seed)?;
        self.workspace.turn_to(self.model, self.evaluation)?;
        let mut loss = 0.0;
        for (step, rows) in order.epoch(0).iter().enumerate() {
            let texts = self.texts.collate(&self.text_collator, rows, key)?;
            let cells = self.collator.collate(&data.dataset, rows, key)?;
            let draw = Draw { dropout: false, seed: self.config.seed, step: step as u64 };
            let losses = self.workspace.forward(self.model, &cells, &texts, draw)?;
            loss += losses.total(&self.settings.loss) * rows.len() as f64 / data.split.validation.len() as f64;
        }
        let (scores, truth) = self.score_validation(false)?;
        let right = truth.iter().enumerate().filter(|&(cell, truth)| Some(argmax(scores.similarity(cell))) == *truth);
        Ok(Some(Validation { loss, accuracy: Some(right.count() as f64 / truth.len() as f64) }))
    }

    /// A key's bias moves all scores of a query alike: its gradient is zero but for rounding.
    fn reaches(&self, parameter: &str) -> bool {
        let matches = self.settings.loss.matching > 0.0 || !parameter.starts_with("matching_head.");
        let generates = self.masked.as_ref().is_some_and(|masked| masked.workspace.is_generative());
        matches && !parameter.ends_with(".key.bias") && (generates || parameter != "flag_encoder.weight")
    }
}

impl TextStage<'_> {
    fn draw(&self, step: u64) -> Draw {
        Draw { dropout: true, seed: self.config.seed, step }
    }

    fn dropout(&self, step: u64) -> Option<Dropout> {
        let probability = self.config.model.hidden_dropout_prob;
        (probability > 0.0).then_some(Dropout::new(probability, self.config.seed, step))
    }

    /// The texts of all classes.
    fn class_texts(&self) -> Result<TextBatch> {
        let texts: Vec<&str> = self.texts.classes().iter().map(|class| class.text.as_str()).collect();
        Ok(self.text_collator.collate(&texts, None)?)
    }

    /// The linear expert, where there is one, fitted to the cells of these rows and the texts as the model reads them now.
    fn fit_expert(&mut self, rows: &[usize]) -> Result<Option<Fitted>> {
        let qformer = self.model.config();
        if qformer.gene_linear_weight == 0.0 {
            return Ok(None);
        }
        self.workspace.turn_to(self.model, self.evaluation)?;
        let texts = self.workspace.embed_texts(self.model, &self.class_texts()?)?;
        let class_of = |row: usize| self.texts.class_of()[row];
        let (dataset, tokens) = (&self.data.dataset, &self.config.data.tokens);
        let lesson = Lesson { dataset, tokens, rows, class_of: &class_of, genes: self.config.model.vocab_size };
        let temperature = self.model.temperature(&self.workspace.stream)?;
        Ok(Some(fit_space_expert(&lesson, &texts, qformer.projection_dim, temperature)?))
    }

    /// The validation cells beside the texts of all classes, and the class of each.
    fn score_validation(&mut self, matching: bool) -> Result<(PairScores, Vec<Option<usize>>)> {
        let (data, rows) = (self.data, &self.data.split.validation);
        let prompts = self.class_texts()?;
        let (collator, batch_size) = (&self.collator, self.settings.train.batch_size);
        let request = Request { dataset: &data.dataset, collator, rows, batch_size, relabel: &|_| NO_LABEL };
        self.workspace.turn_to(self.model, self.evaluation)?;
        let scores = PairScores::compute(self.model, &mut self.workspace, &request, &prompts, matching, &mut |_| {})?;
        Ok((scores, rows.iter().map(|&row| self.texts.class_of()[row].map(|class| class as usize)).collect()))
    }

    /// Places the linear expert and chooses, on validation cells, its power, how similarity and matching score are mixed, and below which
    /// probability a label is withheld; without validation cells the similarity alone, at the contrastive temperature.
    fn finish(&mut self, parameters: &Parameters<f32>, session: &mut Session<'_>) -> Result<(Mixing, f64)> {
        let data = self.data;
        let middle = self.model.temperature(&self.workspace.stream)?;
        let weight = f64::from(self.model.config().gene_linear_weight);
        let alone = Setting { power: weight, mixing: Mixing { similarity: 1.0, temperature: around(middle, weight) } };
        let (setting, threshold) = if data.split.validation.is_empty() { (alone, 0.0) } else { self.calibrate(parameters, alone, middle)? };
        // As in stage 0, the validation cells teach the expert too once the rest is decided.
        if let Some(expert) = self.fit_expert(&data.learned())? {
            expert.place(&self.workspace.stream, parameters, setting.power)?;
            self.workspace.stream.synchronize()?;
            session.note(format!("the linear expert has the power {:.1}", setting.power));
        }
        Ok((setting.mixing, threshold))
    }

    /// The same; `alone` is what holds without validation cells, `middle` the contrastive temperature.
    fn calibrate(&mut self, parameters: &Parameters<f32>, alone: Setting, middle: f64) -> Result<(Setting, f64)> {
        let expert = self.fit_expert(&self.data.split.train)?;
        let (matching, seed) = (self.settings.loss.matching > 0.0, self.config.seed);
        let (matched, truth) = self.score_validation(matching)?;
        let mut with_power = |power: f64| -> Result<PairScores> {
            let Some(expert) = &expert else { return Ok(matched.clone()) };
            expert.place(&self.workspace.stream, parameters, power)?;
            Ok(self.score_validation(false)?.0.matched_as(&matched))
        };
        let powers = if alone.power > 0.0 { POWERS.map(|factor| factor * alone.power).to_vec() } else { vec![0.0] };
        let candidates = powers.into_iter().map(|power| Ok((power, with_power(power)?))).collect::<Result<Vec<_>>>()?;
        let weights = if matching { MIXING_WEIGHTS.to_vec() } else { vec![1.0] };
        let setting = joint_calibration::choose(&candidates, &truth, &weights, middle, seed).unwrap_or(alone);
        let scores = with_power(setting.power)?;
        let known = truth.iter().enumerate().filter_map(|(cell, class)| Some((cell, (*class)?)));
        let judged: Vec<Judged> = known.map(|(cell, class)| (scores.probabilities(cell, setting.mixing), class)).collect();
        Ok((setting, calibration::threshold(&judged)))
    }
}
