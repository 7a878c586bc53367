//! A training run: prepared from a configuration, then run, stopped, resumed.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use scmmgpt_kernels::runtime::{Device, Plan};
use scmmgpt_loader::batch::Objective;

use super::cell_stage;
use super::checkpoint;
use super::data::TrainingData;
use super::evaluate::Evaluation;
use super::held_out::HeldOut;
use super::joint::Joint;
use super::language::Language;
use super::language_stage;
use super::stage::Session;
use super::text_stage;
use crate::bundle::{self, Bundle, BundleConfig};
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
    /// A stage of a run with several begins.
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
    /// Labels of the test cells beside baselines, where a stage gives labels and there are test cells.
    pub evaluation: Option<Evaluation>,
    /// Figures of a language model on the test cells.
    pub held_out: Option<HeldOut>,
}

/// A run that is prepared: data read and divided, model planned, nothing allocated on the device.
#[derive(Debug)]
pub struct Trainer {
    config: TrainConfig,
    data: TrainingData,
    heads: Heads,
    joint: Option<Joint>,
    language: Option<Language>,
}

impl Trainer {
    /// Reads the data of a configuration.
    ///
    /// # Errors
    /// Those of configuration and files.
    pub fn prepare(mut config: TrainConfig) -> Result<Trainer> {
        config.check()?;
        if let Some(folder) = config.stage1.as_ref().and_then(|stage1| stage1.init.clone()) {
            take_over(&mut config, &folder, "stage1.init")?;
        }
        if let Some(folder) = config.stage2.as_ref().and_then(|stage2| stage2.init.clone()) {
            let theirs = take_over(&mut config, &folder, "stage2.init")?;
            take_over_text(&mut config, theirs, &folder)?;
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
        let reads = config.stage1.is_some() || config.stage2.is_some();
        let settings = config.stage1.clone().unwrap_or_default();
        let joint = reads.then(|| Joint::prepare(&config, &settings, &data, heads)).transpose()?;
        let spoken = config.stage2.as_ref().zip(joint.as_ref());
        let language = spoken.map(|(settings, joint)| Language::prepare(&config, settings, joint)).transpose()?;
        Ok(Trainer { config, data, heads, joint, language })
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

    /// What each stage of the run will allocate on each of `devices` that share its batches (data parallel: every one holds all weights).
    /// [`Trainer::run`] uses one.
    pub fn memory_plan(&self, devices: NonZeroUsize) -> Vec<StagePlan> {
        let devices = devices.get();
        let mut stages = Vec::new();
        if self.trains_cells() {
            let (parameters, model) = self.declare();
            let count = parameters.count();
            let [weights, gradients, optimizer] = parameters.into_plans();
            let largest = self.largest(self.config.train.batch_size.div_ceil(devices));
            let (activations, batches) = (model.plan(largest, &self.purpose(true)), model.batch_plan(largest));
            stages.push(StagePlan {
                stage: cell_stage::NUMBER,
                plans: vec![weights, gradients, optimizer, activations, batches],
                parameters: count,
            });
        }
        stages.extend(self.joint.as_ref().filter(|_| self.config.stage1.is_some()).map(|joint| joint.memory_plan(self, devices)));
        let language = self.language.as_ref().zip(self.joint.as_ref());
        stages.extend(language.map(|(language, joint)| language.memory_plan(self, joint.longest(), devices)));
        stages
    }

    /// Whether there is a stage 0.
    fn trains_cells(&self) -> bool {
        let stage1 = self.config.stage1.as_ref().is_some_and(|stage1| stage1.init.is_some());
        let stage2 = self.config.stage2.as_ref().is_some_and(|stage2| stage2.init.is_some());
        self.config.train.epochs > 0 && !stage1 && !stage2
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
        self.language.as_ref().map_or(Ok(()), Language::check_files)?;
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
        // A stage runs unless a later one has left a checkpoint.
        let runs = |session: &Session<'_>, stage: u32| session.found.as_ref().is_none_or(|found| found.state.stage <= stage);
        let mut cells = self.config.stage1.as_ref().and_then(|stage1| stage1.init.clone());
        if self.trains_cells() {
            let stage0 = folder.join(STAGE0);
            if runs(&session, cell_stage::NUMBER) {
                (session.observe)(Progress::Stage { stage: cell_stage::NUMBER, about: "cells alone" });
                cell_stage::train(self, device, &stage0, &mut session)?;
            }
            cells = Some(stage0);
        }
        let Some(language) = &self.language else {
            return text_stage::train(self, joint, device, cells.as_deref(), folder, &mut session);
        };
        if let Some(former) = self.config.stage2.as_ref().and_then(|stage2| stage2.init.as_ref()) {
            return language_stage::train(self, joint, language, device, former, folder, &mut session);
        }
        let stage1 = folder.join(STAGE1);
        if runs(&session, text_stage::NUMBER) {
            text_stage::train(self, joint, device, cells.as_deref(), &stage1, &mut session)?;
        }
        let outcome = language_stage::train(self, joint, language, device, &stage1, folder, &mut session)?;
        Ok(Outcome { evaluation: Evaluation::of_folder(&stage1)?, ..outcome })
    }
}

/// Folder of stage 0's model, in the output folder of a run with more stages.
pub const STAGE0: &str = "stage0";

/// Folder of stage 1's model, in the output folder of a run with stage 2.
pub const STAGE1: &str = "stage1";

/// Makes a configuration that of a stage 0 whose model folder exists, named by the setting `key`.
fn take_over(config: &mut TrainConfig, folder: &Path, key: &str) -> Result<BundleConfig> {
    let theirs = Bundle::describe(folder)?;
    let (mode, ours) = (theirs.tokens.value_mode, config.data.tokens.value_mode);
    if mode != ours {
        let expected = format!("{mode}, as the model in {key} ({}) reads values", folder.display());
        return Err(Error::Setting { key: "data.tokens.value_mode".into(), value: ours.to_string(), expected });
    }
    config.model = theirs.model.clone();
    config.data.vocabulary = Some(folder.join(bundle::VOCABULARY));
    Ok(theirs)
}

/// Makes a configuration that of a stage 1 whose model folder exists: its Q-Former, and its texts where no others are named.
fn take_over_text(config: &mut TrainConfig, theirs: BundleConfig, folder: &Path) -> Result<()> {
    let Some(theirs) = theirs.text else {
        let reason = "it has no stage 1: its model knows no text".into();
        return Err(Error::ModelFolder { folder: folder.into(), reason });
    };
    config.qformer = theirs.qformer;
    config.text.tokenizer = folder.join(theirs.text.tokenizer);
    config.text.max_length = theirs.text.max_length;
    if config.text.ontology.is_none() {
        config.text.ontology = theirs.text.ontology.map(|file| folder.join(file));
    }
    Ok(())
}
