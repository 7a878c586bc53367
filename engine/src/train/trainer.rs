//! A training run: prepared from a configuration, then run, stopped, resumed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use scmmgpt_kernels::runtime::{Device, Plan};
use scmmgpt_loader::batch::{Collator, Objective};
use scmmgpt_loader::batch_order::BatchOrder;

use super::batch_loop::Loop;
use super::checkpoint::{self, State};
use super::data::TrainingData;
use super::evaluate::{self, Evaluation};
use super::linear_expert::fit_expert;
use super::log::Log;
use super::schedule::Schedule;
use crate::bundle::{Bundle, BundleConfig};
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
}

impl Trainer {
    /// Reads the data of a configuration.
    ///
    /// # Errors
    /// Those of configuration and files.
    pub fn prepare(mut config: TrainConfig) -> Result<Trainer> {
        config.check()?;
        let classify = config.loss.classification > 0.0;
        let data = TrainingData::read(&config.data, config.seed, classify)?;
        let vocabulary = data.dataset.vocab().len();
        if config.model.vocab_size == 0 {
            // Rows are padded to a multiple of 8, which the GPU's products ask for; a given table keeps its size.
            config.model.vocab_size = if config.init.is_some() { vocabulary } else { vocabulary.next_multiple_of(8) };
        }
        if config.model.vocab_size < vocabulary {
            let expected = format!("at least the {vocabulary} tokens of the vocabulary, or 0");
            return Err(Error::Setting { key: "model.vocab_size", value: config.model.vocab_size.to_string(), expected });
        }
        let heads = Heads {
            classes: if classify { data.classes.len() } else { 0 },
            expression: config.loss.expression > 0.0,
            mvc: config.loss.mvc > 0.0,
            gene_linear: classify && config.model.gene_linear_weight > 0.0,
        };
        Ok(Trainer { config, data, heads })
    }

    /// The configuration, with what the data decided.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The cells.
    pub fn data(&self) -> &TrainingData {
        &self.data
    }

    fn purpose(&self, training: bool) -> Purpose {
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
    fn largest(&self) -> Dims {
        let tokens = &self.config.data.tokens;
        let longest = self.data.dataset.lengths().into_iter().max().unwrap_or(0);
        let seq_len = (longest + tokens.include_zero_genes + 1).min(tokens.max_seq_len).next_multiple_of(tokens.pad_to_multiple);
        Dims { batch: self.config.train.batch_size, seq_len }
    }

    fn declare(&self) -> (ParameterPlan<f32>, CellModel<f32>) {
        let mut plan = ParameterPlan::new(true);
        let model = CellModel::declare(&mut plan, &self.config.model, self.heads, self.data.dataset.vocab().pad());
        (plan, model)
    }

    /// The plan of every class of device memory that the run will allocate.
    pub fn memory_plan(&self) -> (Vec<Plan>, usize) {
        let (parameters, model) = self.declare();
        let count = parameters.count();
        let [weights, gradients, optimizer] = parameters.into_plans();
        let largest = self.largest();
        (vec![weights, gradients, optimizer, model.plan(largest, &self.purpose(true)), model.batch_plan(largest)], count)
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
        let (plan, model) = self.declare();
        let parameters = plan.allocate(device)?;
        let workspace = model.workspace(device, self.largest(), self.purpose(true))?;
        let evaluation_workspace = model.workspace(device, Dims { batch: 1, seq_len: 8 }, self.purpose(false))?;
        let collator = Collator::new(self.data.dataset.vocab(), self.config.data.tokens.clone())?;
        let train = &self.config.train;
        let mut order = BatchOrder::new(self.data.split.train.clone(), train.batch_size, self.config.seed)?;
        if train.bucket_by_length {
            order = order.bucket_by_length(&self.data.dataset.lengths())?;
        }
        let steps_per_epoch = order.batches_per_epoch().div_ceil(train.gradient_accumulation_steps) as u64;
        let mut run = Loop {
            config: &self.config,
            data: &self.data,
            model: &model,
            parameters: &parameters,
            optimizer: super::optimizer::Optimizer::new(&parameters, train),
            schedule: Schedule::new(train, steps_per_epoch),
            collator,
            order,
            workspace,
            evaluation_workspace,
            state: State::default(),
            best_weights: None,
            steps: steps_per_epoch * train.epochs,
        };
        parameters.initialise(&run.workspace.stream, self.config.seed)?;
        let checkpoints = folder.join("checkpoints");
        let text = self.config.to_toml()?;
        let restored = if resume { checkpoint::restore(&checkpoints, &run.workspace.stream, &parameters, &text)? } else { None };
        match restored {
            Some(restored) => {
                for reason in restored.skipped {
                    observe(Progress::Note(format!("passed over a damaged checkpoint: {reason}")));
                }
                observe(Progress::Note(format!("resuming at step {} of {}", restored.state.step, run.steps)));
                (run.state, run.best_weights) = (restored.state, restored.best_weights);
            }
            None => {
                if resume {
                    observe(Progress::Note("there is no checkpoint yet: starting from the beginning".into()));
                }
                let expert = self.config.model.gene_linear_weight;
                if self.heads.gene_linear {
                    fit_expert(&run.workspace.stream, &parameters, &self.data, &self.config.data.tokens, &self.data.split.train, expert)?;
                }
                self.load_initial(&run)?;
            }
        }
        model.refresh(&run.workspace.stream)?;
        std::fs::create_dir_all(folder).map_err(|source| Error::Io { action: "create", path: folder.into(), source })?;
        crate::bundle::write_text(&folder.join("config.toml"), &text)?;
        let mut log = Log::open(folder, run.state.step)?;
        while !run.state.finished {
            let saved = |run: &Loop<'_>| {
                checkpoint::save(&checkpoints, &run.workspace.stream, &parameters, &run.state, run.best_weights.as_ref(), &text)
            };
            run.epoch(&mut log, &saved, &|| stop.load(Ordering::Relaxed), observe)?;
            saved(&run)?;
        }
        self.finish(device, folder, run, observe)
    }

    /// Overlays the random start with the weights of `init`.
    fn load_initial(&self, run: &Loop<'_>) -> Result<()> {
        let Some(path) = &self.config.init else { return Ok(()) };
        let checkpoint = scmmgpt_loader::checkpoint::Checkpoint::open(path)?;
        run.parameters.load_matching(&run.workspace.stream, &checkpoint, &|name| {
            !name.starts_with("cls_decoder.") && !name.starts_with("gene_linear.")
        })
    }

    fn finish(&self, device: &Device, folder: &Path, mut run: Loop<'_>, observe: Observer<'_>) -> Result<Outcome> {
        if let Some(best) = run.best_weights.take() {
            for (declared, values) in run.parameters.declared().iter().zip(&best) {
                run.workspace.stream.upload(declared.parameter.value, values)?;
            }
            run.model.refresh(&run.workspace.stream)?;
        }
        let mut config = BundleConfig::new(&self.config, &self.data, self.heads);
        let expert = self.config.model.gene_linear_weight;
        // Experts that agree are no surer together than each alone.
        config.temperature = 1.0 + f64::from(expert);
        if self.heads.classes > 0 && !self.data.split.validation.is_empty() {
            (config.temperature, config.unknown_threshold) = run.calibrate()?;
        }
        if self.heads.gene_linear {
            // The expert stops nowhere early: once the calibration is done, the validation cells teach it too.
            let learned = self.data.learned();
            fit_expert(&run.workspace.stream, run.parameters, &self.data, &self.config.data.tokens, &learned, expert)?;
        }
        Bundle::write(folder, &config, self.data.dataset.vocab(), &run.workspace.stream, run.parameters)?;
        let steps = run.state.step;
        if self.heads.classes == 0 || self.data.split.test.is_empty() {
            return Ok(Outcome { steps, evaluation: None });
        }
        drop(run);
        observe(Progress::Note("computing the baselines on the same cells".into()));
        let bundle = Bundle::open(folder, device)?;
        let evaluation = evaluate::on_test_cells(&bundle, &self.data, self.config.seed)?;
        crate::bundle::write_json(&folder.join("evaluation.json"), &evaluation)?;
        Ok(Outcome { steps, evaluation: Some(evaluation) })
    }
}
