//! A training run: prepared from a configuration, then run, stopped, resumed.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use scmmgpt_kernels::runtime::{Device, Plan};
use scmmgpt_loader::batch::Objective;

use super::cell_stage;
use super::checkpoint;
use super::data::TrainingData;
use super::evaluate::Evaluation;
use super::joint::Joint;
use super::stage::Session;
use super::text_stage;
use crate::bundle::{self, Bundle};
use crate::config::TrainConfig;
use crate::layer::Dims;
use crate::model::cell_model::{CellModel, Heads, LossWeights, Purpose};
use crate::weights::ParameterPlan;
use crate::{Error, Result};

/// What a run reports while it goes on.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Something that the user should know.
    Note(String),
    /// A stage of a run with two begins.
    Stage {
        /// Its number.
        stage: u32,
        /// What it is about.
        about: &'static str,
    },
    /// An optimizer step is done.
    Step {
        /// Epoch, from 0.
        epoch: u64,
        /// Epochs of the run.
        epochs: u64,
        /// Steps done.
        step: u64,
        /// Steps of the run.
        steps: u64,
        /// Cells of the step.
        cells: usize,
        /// Weighted loss.
        loss: f64,
        /// Learning rate of the step.
        learning_rate: f64,
    },
    /// An epoch is done.
    Epoch {
        /// Epoch, from 0.
        epoch: u64,
        /// Mean weighted training loss.
        training_loss: f64,
        /// Weighted validation loss, where cells were held out for it.
        validation_loss: Option<f64>,
        /// Share of the validation cells that got their label, with a cell-type head.
        validation_accuracy: Option<f64>,
        /// Whether these are the best weights so far.
        best: bool,
    },
}

/// The device memory of one stage.
#[derive(Debug)]
pub struct StagePlan {
    /// Number of the stage.
    pub stage: u32,
    /// One plan a class of memory and purpose.
    pub plans: Vec<Plan>,
    /// Scalar parameters.
    pub parameters: usize,
}

/// Receives progress.
pub type Observer<'a> = &'a mut (dyn FnMut(Progress) + Send);

/// What a finished run leaves.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Optimizer steps.
    pub steps: u64,
    /// Figures on the test cells, with a cell-type head and test cells.
    pub evaluation: Option<Evaluation>,
}

/// A run that is prepared: data read and divided, model planned, nothing allocated on the device.
#[derive(Debug)]
pub struct Trainer {
    config: TrainConfig,
    data: TrainingData,
    heads: Heads,
    joint: Option<Joint>,
}

impl Trainer {
    /// Reads the data of a configuration.
    ///
    /// # Errors
    /// Those of configuration and files.
    pub fn prepare(mut config: TrainConfig) -> Result<Trainer> {
        config.check()?;
        if let Some(folder) = config.stage1.as_ref().and_then(|stage1| stage1.init.clone()) {
            take_over(&mut config, &folder)?;
        }
        let classify = config.loss.classification > 0.0;
        let data = TrainingData::read(&config.data, config.seed, classify)?;
        let vocabulary = data.dataset.vocab().len();
        if config.model.vocab_size == 0 {
            // Rows are padded to a multiple of 8, which the GPU's products ask for; a given table keeps its size.
            config.model.vocab_size = if config.init.is_some() { vocabulary } else { vocabulary.next_multiple_of(8) };
        }
        if config.model.vocab_size < vocabulary {
            let expected = format!("at least the {vocabulary} tokens of the vocabulary, or 0");
            return Err(Error::Setting { key: "model.vocab_size".into(), value: config.model.vocab_size.to_string(), expected });
        }
        let heads = Heads {
            classes: if classify { data.classes.len() } else { 0 },
            expression: config.loss.expression > 0.0,
            mvc: config.loss.mvc > 0.0,
            gene_linear: classify && config.model.gene_linear_weight > 0.0,
        };
        let joint = config.stage1.as_ref().map(|settings| Joint::prepare(&config, settings, &data, heads)).transpose()?;
        Ok(Trainer { config, data, heads, joint })
    }

    /// The configuration, with what the data decided.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The cells.
    pub fn data(&self) -> &TrainingData {
        &self.data
    }

    pub(super) fn heads(&self) -> Heads {
        self.heads
    }

    pub(super) fn purpose(&self, training: bool) -> Purpose {
        let loss = &self.config.loss;
        Purpose {
            training,
            dropout: training && self.config.model.hidden_dropout_prob > 0.0,
            generative: matches!(self.config.data.tokens.objective, Objective::Generative { .. }),
            weights: LossWeights { classification: loss.classification, expression: loss.expression, mvc: loss.mvc },
            label_smoothing: if training { loss.label_smoothing } else { 0.0 },
            classify: self.heads.classes > 0,
        }
    }

    /// The largest batch that can occur.
    pub(super) fn largest(&self, batch: usize) -> Dims {
        let tokens = &self.config.data.tokens;
        let longest = self.data.dataset.lengths().into_iter().max().unwrap_or(0);
        let seq_len = (longest + tokens.include_zero_genes + 1).min(tokens.max_seq_len).next_multiple_of(tokens.pad_to_multiple);
        Dims { batch, seq_len }
    }

    pub(super) fn declare(&self) -> (ParameterPlan<f32>, CellModel<f32>) {
        let mut plan = ParameterPlan::new(true);
        let model = CellModel::declare(&mut plan, &self.config.model, self.heads, self.data.dataset.vocab().pad());
        (plan, model)
    }

    /// What each stage of the run will allocate.
    pub fn memory_plan(&self) -> Vec<StagePlan> {
        let mut stages = Vec::new();
        if self.trains_cells() {
            let (parameters, model) = self.declare();
            let count = parameters.count();
            let [weights, gradients, optimizer] = parameters.into_plans();
            let largest = self.largest(self.config.train.batch_size);
            let (activations, batches) = (model.plan(largest, &self.purpose(true)), model.batch_plan(largest));
            stages.push(StagePlan {
                stage: cell_stage::NUMBER,
                plans: vec![weights, gradients, optimizer, activations, batches],
                parameters: count,
            });
        }
        stages.extend(self.joint.as_ref().map(|joint| joint.memory_plan(self)));
        stages
    }

    /// Whether there is a stage 0.
    fn trains_cells(&self) -> bool {
        let taken_over = self.config.stage1.as_ref().is_some_and(|stage1| stage1.init.is_some());
        self.config.train.epochs > 0 && !taken_over
    }

    /// Notes about the texts that a user should read before training.
    pub fn text_notes(&self) -> Vec<String> {
        self.joint.as_ref().map_or(Vec::new(), Joint::notes)
    }

    /// Trains, writes the model to `folder` and evaluates it on the test cells.
    ///
    /// `stop` is looked at after every step: once true, everything is saved and the run ends with `Stopped`.
    ///
    /// # Errors
    /// `OutputExists`, `Resume`, `Stopped`, `NotFinite`, and those of files and kernels.
    pub fn run(&self, device: &Device, folder: &Path, resume: bool, stop: &AtomicBool, observe: Observer<'_>) -> Result<Outcome> {
        device.enter(|| self.run_inside(device, folder, resume, stop, observe))
    }

    fn run_inside(&self, device: &Device, folder: &Path, resume: bool, stop: &AtomicBool, observe: Observer<'_>) -> Result<Outcome> {
        let config = self.config.to_toml()?;
        let found = if resume { checkpoint::newest(&folder.join(checkpoint::FOLDER), &config)? } else { None };
        let mut session = Session { folder, config: &config, found, stop, observe };
        match &session.found {
            Some(found) => {
                for reason in found.skipped.clone() {
                    session.note(format!("passed over a damaged checkpoint: {reason}"));
                }
            }
            None if resume => session.note("there is no checkpoint yet: starting from the beginning"),
            None => {}
        }
        let Some(joint) = &self.joint else { return cell_stage::train(self, device, folder, &mut session) };
        let mut cells = self.config.stage1.as_ref().and_then(|stage1| stage1.init.clone());
        if self.trains_cells() {
            let stage0 = folder.join(STAGE0);
            if session.found.as_ref().is_none_or(|found| found.state.stage == cell_stage::NUMBER) {
                (session.observe)(Progress::Stage { stage: cell_stage::NUMBER, about: "cells alone" });
                cell_stage::train(self, device, &stage0, &mut session)?;
            }
            cells = Some(stage0);
        }
        text_stage::train(self, joint, device, cells.as_deref(), folder, &mut session)
    }
}

/// Folder of stage 0's model, in the output folder of a run with two stages.
pub const STAGE0: &str = "stage0";

/// Makes a configuration that of a stage 0 whose model folder exists.
fn take_over(config: &mut TrainConfig, folder: &Path) -> Result<()> {
    let theirs = Bundle::describe(folder)?;
    let (mode, ours) = (theirs.tokens.value_mode, config.data.tokens.value_mode);
    if mode != ours {
        let expected = format!("{mode}, as the model in stage1.init ({}) reads values", folder.display());
        return Err(Error::Setting { key: "data.tokens.value_mode".into(), value: ours.to_string(), expected });
    }
    config.model = theirs.model;
    config.data.vocabulary = Some(folder.join(bundle::VOCABULARY));
    Ok(())
}
