//! Epochs, batches and steps of a run.

use std::path::PathBuf;

use scmmgpt_loader::batch::{CollateConfig, Collator, NO_LABEL, Objective, SampleKey};
use scmmgpt_loader::batch_order::BatchOrder;
use scmmgpt_loader::prefetch::Prefetcher;
use serde_json::json;

use super::checkpoint::{State, Weights};
use super::data::TrainingData;
use super::log::Log;
use super::optimizer::Optimizer;
use super::schedule::Schedule;
use super::trainer::{Observer, Progress};
use crate::config::TrainConfig;
use crate::layer::Dropout;
use crate::model::cell_model::{CellModel, LossWeights, Losses, Workspace};
use crate::predict::{PREFETCH, Predictions, Request, argmax, predict, probabilities};
use crate::weights::{Declared, Parameters, Values};
use crate::{Error, Result};

/// Everything that moves during a run.
pub(super) struct Loop<'a> {
    pub(super) config: &'a TrainConfig,
    pub(super) data: &'a TrainingData,
    pub(super) model: &'a CellModel<f32>,
    pub(super) parameters: &'a Parameters<f32>,
    pub(super) optimizer: Optimizer,
    pub(super) schedule: Schedule,
    pub(super) collator: Collator,
    pub(super) order: BatchOrder,
    pub(super) workspace: Workspace<f32>,
    pub(super) evaluation_workspace: Workspace<f32>,
    pub(super) state: State,
    pub(super) best_weights: Option<Weights>,
    pub(super) steps: u64,
}

impl Loop<'_> {
    fn weights(&self) -> LossWeights {
        let loss = &self.config.loss;
        LossWeights { classification: loss.classification, expression: loss.expression, mvc: loss.mvc }
    }

    /// Runs the epoch in progress to its end, validates, and moves the state to the next one.
    pub(super) fn epoch(
        &mut self,
        log: &mut Log,
        save: &dyn Fn(&Self) -> Result<PathBuf>,
        stopped: &dyn Fn() -> bool,
        observe: Observer<'_>,
    ) -> Result<()> {
        let train = &self.config.train;
        let epoch = self.state.epoch;
        let batches = self.order.epoch(epoch);
        let count = batches.len();
        let key = SampleKey { seed: self.config.seed, epoch, training: true };
        let (dataset, start) = (self.data.dataset.clone(), self.state.position);
        let (mut step_losses, mut cells) = (Losses::default(), Vec::new());
        for batch in Prefetcher::new(dataset, self.collator.clone(), batches, key, start, PREFETCH)? {
            let mut batch = batch?;
            batch.labels.iter_mut().for_each(|label| *label = relabel(self.data, *label));
            let probability = self.config.model.hidden_dropout_prob;
            let step = epoch * count as u64 + self.state.position as u64;
            let dropout = (probability > 0.0).then_some(Dropout::new(probability, self.config.seed, step));
            let losses = self.workspace.forward(self.model, &batch, dropout)?;
            let scale = 1.0 / train.gradient_accumulation_steps as f64;
            self.state.loss_sum += losses.total(&self.weights());
            step_losses.add(&losses, scale);
            cells.extend_from_slice(&batch.rows);
            if !losses.total(&self.weights()).is_finite() {
                return Err(self.not_finite("the loss", cells));
            }
            self.workspace.backward(self.model, dropout, scale)?;
            self.state.position += 1;
            if !self.state.position.is_multiple_of(train.gradient_accumulation_steps) && self.state.position < count {
                continue;
            }
            self.step(log, step_losses, std::mem::take(&mut cells), observe)?;
            step_losses = Losses::default();
            if stopped() {
                save(self)?;
                return Err(Error::Stopped { step: self.state.step });
            }
            if train.save_steps > 0 && self.state.step.is_multiple_of(train.save_steps) && self.state.position < count {
                save(self)?;
            }
        }
        self.end_epoch(log, count, observe)
    }

    fn not_finite(&self, what: &'static str, cells: Vec<usize>) -> Error {
        Error::NotFinite { what, step: self.state.step, epoch: self.state.epoch, cells }
    }

    fn step(&mut self, log: &mut Log, losses: Losses, cells: Vec<usize>, observe: Observer<'_>) -> Result<()> {
        let stream = &self.workspace.stream;
        let norm = self.optimizer.gradient_norm(stream)?;
        if !norm.is_finite() {
            return Err(self.not_finite("the gradient", cells));
        }
        let first = if self.state.step == 0 { Some(self.parameters.fetch(stream)?) } else { None };
        let learning_rate = self.schedule.learning_rate(self.state.step);
        self.optimizer.step(stream, &self.config.train, self.state.step, learning_rate, norm)?;
        self.model.refresh(stream)?;
        if let Some(before) = first {
            self.expect_change(&before)?;
        }
        self.state.step += 1;
        let loss = losses.total(&self.weights());
        let (step, epoch) = (self.state.step, self.state.epoch);
        log.write(&json!({
            "event": "step", "step": step, "epoch": epoch, "loss": loss, "classification": losses.classification,
            "expression": losses.expression, "mvc": losses.mvc, "learning_rate": learning_rate, "gradient_norm": norm,
            "cells": cells.len(),
        }))?;
        let (epochs, steps) = (self.config.train.epochs, self.steps);
        observe(Progress::Step { epoch, epochs, step, steps, cells: cells.len(), loss, learning_rate });
        Ok(())
    }

    /// After the first step every trainable parameter must have moved; one that has not has no gradient.
    fn expect_change(&self, before: &[Values]) -> Result<()> {
        let generative = self.evaluation_workspace.is_generative();
        let after = self.parameters.fetch(&self.workspace.stream)?;
        // Without generated tokens the flag embedding takes no part.
        let takes_part =
            |declared: &Declared<f32>| declared.parameter.gradient.is_some() && (generative || declared.name != "flag_encoder.weight");
        let trained = self.parameters.declared().iter().zip(before.iter().zip(&after)).filter(|(declared, _)| takes_part(declared));
        let names: Vec<String> =
            trained.filter(|(_, (before, after))| before.values == after.values).map(|(declared, _)| declared.name.clone()).collect();
        let moved = self.schedule.learning_rate(0) > 0.0;
        if names.is_empty() || !moved { Ok(()) } else { Err(Error::MissingGradient { names }) }
    }

    fn end_epoch(&mut self, log: &mut Log, batches: usize, observe: Observer<'_>) -> Result<()> {
        let training_loss = std::mem::take(&mut self.state.loss_sum) / batches as f64;
        let epoch = self.state.epoch;
        let patience = self.config.train.early_stopping_patience;
        let (mut validation_loss, mut validation_accuracy) = (None, None);
        if !self.data.split.validation.is_empty() {
            let (loss, accuracy) = self.validate()?;
            (validation_loss, validation_accuracy) = (Some(loss), accuracy);
        }
        let mut best = false;
        if let (Some(loss), true) = (validation_loss, patience > 0) {
            best = self.state.best.is_none_or(|(lowest, _)| loss < lowest);
            if best {
                self.state.best = Some((loss, epoch));
                let weights = self.parameters.fetch(&self.workspace.stream)?;
                self.best_weights = Some(weights.into_iter().map(|tensor| tensor.values).collect());
            }
        }
        let waited = self.state.best.map_or(0, |(_, at)| epoch - at);
        self.state.epoch += 1;
        self.state.position = 0;
        self.state.finished = self.state.epoch >= self.config.train.epochs || (patience > 0 && waited >= patience);
        log.write(&json!({
            "event": "epoch", "step": self.state.step, "epoch": epoch, "training_loss": training_loss,
            "validation_loss": validation_loss, "validation_accuracy": validation_accuracy, "best": best,
        }))?;
        observe(Progress::Epoch { epoch, training_loss, validation_loss, validation_accuracy, best });
        Ok(())
    }

    fn predict_validation(&mut self, collator: &Collator) -> Result<Predictions> {
        let data = self.data;
        let relabel = |label: i32| relabel(data, label);
        let (rows, batch_size) = (&data.split.validation, self.config.train.batch_size);
        let request = Request { dataset: &data.dataset, collator, rows, batch_size, relabel: &relabel };
        predict(self.model, &mut self.evaluation_workspace, &request, &mut |_| {})
    }

    fn validation_labels(&self) -> Vec<Option<usize>> {
        let labels = self.data.dataset.labels();
        let head = |&row: &usize| labels[row].and_then(|class| self.data.head_classes[class as usize]).map(|class| class as usize);
        self.data.split.validation.iter().map(head).collect()
    }

    /// Weighted loss and accuracy on the validation cells.
    fn validate(&mut self) -> Result<(f64, Option<f64>)> {
        let collator = self.collator.clone();
        let predictions = self.predict_validation(&collator)?;
        let loss = predictions.losses.total(&self.weights());
        let truth = self.validation_labels();
        let classes = predictions.logits.len() / truth.len();
        if classes == 0 {
            return Ok((loss, None));
        }
        let right = predictions.logits.chunks_exact(classes).zip(&truth).filter(|(logits, truth)| Some(argmax(logits)) == **truth);
        Ok((loss, Some(right.count() as f64 / truth.len() as f64)))
    }

    /// Temperature that makes the validation cells' labels most likely, and the probability below which a label is withheld.
    ///
    /// The temperature minimises the mean negative log-likelihood over a fixed grid of 0.25 to 4. The threshold is the 1 % quantile
    /// of the probabilities that rightly labelled validation cells got, and at most one half.
    ///
    /// # Source
    /// Guo, Pleiss, Sun & Weinberger 2017, "On calibration of modern neural networks", section 4.2 (temperature scaling).
    pub(super) fn calibrate(&mut self) -> Result<(f64, f64)> {
        // As inference will see the cells: nothing hidden.
        let tokens = CollateConfig { objective: Objective::None, ..self.collator.config().clone() };
        let predictions = self.predict_validation(&Collator::new(self.data.dataset.vocab(), tokens)?)?;
        let truth = self.validation_labels();
        let classes = predictions.logits.len() / truth.len();
        let cells: Vec<(&[f32], usize)> =
            predictions.logits.chunks_exact(classes).zip(&truth).filter_map(|(logits, truth)| Some((logits, (*truth)?))).collect();
        let cost = |temperature: f64| -> f64 {
            cells.iter().map(|(logits, truth)| -probabilities(logits, temperature)[*truth].max(1e-12).ln()).sum()
        };
        let grid = (-20..=20).map(|step| 2f64.powf(f64::from(step) / 10.0));
        let temperature = grid.min_by(|left, right| cost(*left).total_cmp(&cost(*right))).unwrap_or(1.0);
        let mut right: Vec<f64> = cells
            .iter()
            .filter(|(logits, truth)| argmax(logits) == *truth)
            .map(|(logits, truth)| probabilities(logits, temperature)[*truth])
            .collect();
        right.sort_by(f64::total_cmp);
        let threshold = right.get(right.len() / 100).copied().unwrap_or(0.0).min(0.5);
        Ok((temperature, threshold))
    }
}

/// A class of the dataset as one of the head's, or no label.
fn relabel(data: &TrainingData, label: i32) -> i32 {
    let head = |class: usize| data.head_classes[class].map_or(NO_LABEL, |class| class as i32);
    usize::try_from(label).map_or(NO_LABEL, head)
}
