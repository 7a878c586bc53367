//! The course of one stage of training, whatever it learns: epochs, batches, steps, validation, checkpoints, log.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use scmmgpt_kernels::runtime::Stream;
use serde_json::{Map, Value, json};

use super::checkpoint::{self, Found, State, Weights};
use super::log::Log;
use super::optimizer::Optimizer;
use super::schedule::Schedule;
use super::trainer::{Observer, Progress};
use crate::config::OptimizerConfig;
use crate::weights::{Declared, Parameters};
use crate::{Error, Result};

/// What a stage computes. Everything else about training is the same for all.
pub(super) trait Stage {
    /// The stream that passes run on.
    fn stream(&self) -> &Stream;

    /// Rebuilds what is derived from the weights.
    fn refresh(&self) -> Result<()>;

    /// Batches of every epoch.
    fn batches_per_epoch(&self) -> usize;

    /// Starts to prepare the batches of an epoch, from the one at `start`.
    fn begin(&mut self, epoch: u64, start: usize) -> Result<()>;

    /// Runs the next batch forward, with the random numbers of micro-batch `step` (counted over the whole stage); none when the epoch
    /// is over.
    fn forward(&mut self, step: u64) -> Result<Option<BatchLoss>>;

    /// Adds the gradients of `scale` times the loss of that batch.
    fn backward(&self, step: u64, scale: f64) -> Result<()>;

    /// Measures the validation cells; none without any.
    fn validate(&mut self) -> Result<Option<Validation>>;

    /// Whether the losses reach a trainable parameter.
    fn reaches(&self, parameter: &str) -> bool;
}

/// The loss of one batch.
#[derive(Clone, Debug, Default)]
pub(super) struct BatchLoss {
    /// The weighted sum that is minimised.
    pub(super) total: f64,
    /// Its parts, unweighted, by name.
    pub(super) parts: Vec<(&'static str, f64)>,
    /// Dataset rows of the batch.
    pub(super) cells: Vec<usize>,
    /// Ids of the literature that the batch has read.
    pub(super) sources: Vec<String>,
}

/// The validation cells' figures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validation {
    /// Weighted loss.
    pub(super) loss: f64,
    /// Share of the cells that got their label, where labels are given.
    pub(super) accuracy: Option<f64>,
}

/// What all stages of a run share.
pub(super) struct Session<'a> {
    /// Output folder: log and checkpoints.
    pub(super) folder: &'a Path,
    /// The configuration's text, which checkpoints carry.
    pub(super) config: &'a str,
    /// The checkpoint to go on from, until its stage takes it.
    pub(super) found: Option<Found>,
    /// Looked at after every step.
    pub(super) stop: &'a AtomicBool,
    /// Receives progress.
    pub(super) observe: Observer<'a>,
}

impl Session<'_> {
    /// Tells the user something.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        (self.observe)(Progress::Note(text.into()));
    }

    /// Makes the output folder, with the configuration in it.
    fn open_folder(&self) -> Result<()> {
        std::fs::create_dir_all(self.folder).map_err(|source| Error::Io { action: "create", path: self.folder.into(), source })?;
        crate::bundle::write_text(&self.folder.join("config.toml"), self.config)
    }
}

/// Everything that moves during a stage.
pub(super) struct Run<'a, S> {
    pub(super) stage: S,
    parameters: &'a Parameters<f32>,
    config: &'a OptimizerConfig,
    optimizer: Optimizer,
    schedule: Schedule,
    state: State,
    best_weights: Option<Weights>,
    steps: u64,
}

impl<'a, S: Stage> Run<'a, S> {
    /// The beginning of stage `number`.
    pub(super) fn new(stage: S, number: u32, parameters: &'a Parameters<f32>, config: &'a OptimizerConfig) -> Self {
        let steps_per_epoch = stage.batches_per_epoch().div_ceil(config.gradient_accumulation_steps) as u64;
        Run {
            stage,
            parameters,
            config,
            optimizer: Optimizer::new(parameters, config),
            schedule: Schedule::new(config, steps_per_epoch),
            state: State { stage: number, ..State::default() },
            best_weights: None,
            steps: steps_per_epoch * config.epochs,
        }
    }

    /// Optimizer steps done.
    pub(super) fn steps_done(&self) -> u64 {
        self.state.step
    }

    /// Takes up the session's checkpoint if it is of this stage, else starts with `initialise`; then trains to the end and leaves the
    /// best weights in place.
    pub(super) fn train(&mut self, session: &mut Session<'_>, initialise: impl FnOnce(&S) -> Result<()>) -> Result<()> {
        // Checkpoints leave out what is frozen.
        initialise(&self.stage)?;
        if let Some(found) = session.found.take_if(|found| found.state.stage == self.state.stage) {
            self.best_weights = found.load(self.stage.stream(), self.parameters)?;
            self.state = found.state;
            session.note(format!("resuming at step {} of {}", self.state.step, self.steps));
        }
        self.stage.refresh()?;
        // Not before: a run that finds no memory leaves nothing behind.
        session.open_folder()?;
        let mut log = Log::open(session.folder, self.state.stage, self.state.step)?;
        while !self.state.finished {
            self.epoch(&mut log, session)?;
            self.save(session)?;
        }
        if let Some(best) = self.best_weights.take() {
            for ((declared, _), values) in self.parameters.trained().zip(&best) {
                self.stage.stream().upload(declared.parameter.value, values)?;
            }
            self.stage.refresh()?;
            self.stage.stream().synchronize()?;
        }
        Ok(())
    }

    fn save(&self, session: &Session<'_>) -> Result<()> {
        let folder = session.folder.join(checkpoint::FOLDER);
        checkpoint::save(&folder, self.stage.stream(), self.parameters, &self.state, self.best_weights.as_ref(), session.config)
    }

    /// Runs the epoch in progress to its end, validates, and moves the state to the next one.
    fn epoch(&mut self, log: &mut Log, session: &mut Session<'_>) -> Result<()> {
        let (epoch, batches) = (self.state.epoch, self.stage.batches_per_epoch());
        let accumulated = self.config.gradient_accumulation_steps;
        let scale = 1.0 / accumulated as f64;
        self.stage.begin(epoch, self.state.position)?;
        let mut sum = BatchLoss::default();
        loop {
            let micro_step = epoch * batches as u64 + self.state.position as u64;
            let Some(loss) = self.stage.forward(micro_step)? else { break };
            self.state.loss_sum += loss.total;
            sum.add(loss, scale);
            if !sum.total.is_finite() {
                return Err(self.not_finite("the loss", sum.cells));
            }
            self.stage.backward(micro_step, scale)?;
            self.state.position += 1;
            if !self.state.position.is_multiple_of(accumulated) && self.state.position < batches {
                continue;
            }
            self.step(log, std::mem::take(&mut sum), session)?;
            if session.stop.load(Ordering::Relaxed) {
                self.save(session)?;
                return Err(Error::Stopped { step: self.state.step });
            }
            let saves = self.config.save_steps > 0 && self.state.step.is_multiple_of(self.config.save_steps);
            if saves && self.state.position < batches {
                self.save(session)?;
            }
        }
        self.end_epoch(log, batches, session)
    }

    fn not_finite(&self, what: &'static str, cells: Vec<usize>) -> Error {
        Error::NotFinite { what, step: self.state.step, epoch: self.state.epoch, cells }
    }

    fn step(&mut self, log: &mut Log, loss: BatchLoss, session: &mut Session<'_>) -> Result<()> {
        let stream = self.stage.stream();
        let norm = self.optimizer.gradient_norm(stream)?;
        if !norm.is_finite() {
            return Err(self.not_finite("the gradient", loss.cells));
        }
        let first = if self.state.step == 0 { Some(self.weights()?) } else { None };
        let learning_rate = self.schedule.learning_rate(self.state.step);
        self.optimizer.step(stream, self.config, self.state.step, learning_rate, norm)?;
        self.stage.refresh()?;
        if let Some(before) = first {
            self.expect_change(&before)?;
        }
        self.state.step += 1;
        let (step, epoch, cells) = (self.state.step, self.state.epoch, loss.cells.len());
        let mut line = Map::new();
        let mut field = |name: &str, value: Value| line.insert(name.into(), value);
        field("event", json!("step"));
        field("stage", json!(self.state.stage));
        field("step", json!(step));
        field("epoch", json!(epoch));
        field("loss", json!(loss.total));
        for (name, value) in &loss.parts {
            field(name, json!(value));
        }
        field("learning_rate", json!(learning_rate));
        field("gradient_norm", json!(norm));
        field("cells", json!(cells));
        if !loss.sources.is_empty() {
            field("literature", json!(loss.sources));
        }
        log.write(&Value::Object(line))?;
        let (epochs, steps) = (self.config.epochs, self.steps);
        (session.observe)(Progress::Step { epoch, epochs, step, steps, cells, loss: loss.total, learning_rate });
        Ok(())
    }

    /// What learns.
    fn weights(&self) -> Result<Weights> {
        let fetch = |(declared, _): (&Declared<f32>, _)| Ok(self.stage.stream().fetch(declared.parameter.value)?);
        self.parameters.trained().map(fetch).collect()
    }

    /// After the first step every parameter that the losses reach must have moved; one that has not has no gradient.
    fn expect_change(&self, before: &Weights) -> Result<()> {
        let after = self.weights()?;
        let pairs = self.parameters.trained().zip(before.iter().zip(&after));
        let still = pairs.filter(|((declared, _), (before, after))| self.stage.reaches(&declared.name) && before == after);
        let names: Vec<String> = still.map(|((declared, _), _)| declared.name.clone()).collect();
        let moved = self.schedule.learning_rate(0) > 0.0;
        if names.is_empty() || !moved { Ok(()) } else { Err(Error::MissingGradient { names }) }
    }

    fn end_epoch(&mut self, log: &mut Log, batches: usize, session: &mut Session<'_>) -> Result<()> {
        let training_loss = std::mem::take(&mut self.state.loss_sum) / batches as f64;
        let epoch = self.state.epoch;
        let patience = self.config.early_stopping_patience;
        // Validation has a stream of its own.
        self.stage.stream().synchronize()?;
        let validation = self.stage.validate()?;
        let validation_loss = validation.map(|validation| validation.loss);
        let validation_accuracy = validation.and_then(|validation| validation.accuracy);
        let mut best = false;
        if let (Some(loss), true) = (validation_loss, patience > 0) {
            best = self.state.best.is_none_or(|(lowest, _)| loss < lowest);
            if best {
                self.state.best = Some((loss, epoch));
                self.best_weights = Some(self.weights()?);
            }
        }
        let waited = self.state.best.map_or(0, |(_, at)| epoch - at);
        self.state.epoch += 1;
        self.state.position = 0;
        self.state.finished = self.state.epoch >= self.config.epochs || (patience > 0 && waited >= patience);
        log.write(&json!({
            "event": "epoch", "stage": self.state.stage, "step": self.state.step, "epoch": epoch, "training_loss": training_loss,
            "validation_loss": validation_loss, "validation_accuracy": validation_accuracy, "best": best,
        }))?;
        (session.observe)(Progress::Epoch { epoch, training_loss, validation_loss, validation_accuracy, best });
        Ok(())
    }
}

impl BatchLoss {
    /// Adds the losses of another batch, scaled, and its cells.
    fn add(&mut self, other: BatchLoss, scale: f64) {
        self.total += scale * other.total;
        if self.parts.is_empty() {
            self.parts = other.parts.iter().map(|(name, _)| (*name, 0.0)).collect();
        }
        for ((_, sum), (_, value)) in self.parts.iter_mut().zip(&other.parts) {
            *sum += scale * value;
        }
        self.cells.extend(other.cells);
        self.sources.extend(other.sources);
    }
}
