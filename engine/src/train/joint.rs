//! Stage 1 of a run as it was prepared: sizes, heads, texts; nothing allocated.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scmmgpt_kernels::runtime::Stream;
use scmmgpt_loader::checkpoint::Checkpoint;
use scmmgpt_loader::h5ad::AnnData;
use scmmgpt_loader::text::{CellTexts, PAD_TO_MULTIPLE};

use super::data::TrainingData;
use super::text_stage::NUMBER;
use super::trainer::{StagePlan, Trainer};
use crate::bundle::TextBundle;
use crate::config::{CellTextConfig, QFormerConfig, Stage1Config, TextConfig, TrainConfig};
use crate::layer::Dims;
use crate::model::bert;
use crate::model::cell_model::{self, CellModel, Heads};
use crate::model::cell_text::{self, CellText, Sizes};
use crate::task::pair_scores::Mixing;
use crate::texts::Texts;
use crate::weights::{ParameterPlan, Parameters};
use crate::{Error, Result};

/// A joint model in the making.
#[derive(Debug)]
pub(super) struct Joint {
    pub(super) settings: Stage1Config,
    /// The labelled cells: only they have texts.
    pub(super) data: TrainingData,
    pub(super) heads: Heads,
    pub(super) texts: Texts,
    pub(super) cell_texts: Arc<CellTexts>,
    config: CellTextConfig,
    text: TextConfig,
}

impl Joint {
    /// Reads the texts of a configuration whose cells are read; `heads` are those of stage 0.
    ///
    /// # Errors
    /// Those of configuration and files.
    pub(super) fn prepare(config: &TrainConfig, settings: &Stage1Config, data: &TrainingData, heads: Heads) -> Result<Joint> {
        let texts = Texts::open(&config.text, Path::new(""))?;
        let files = config.data.train.iter().chain(&config.data.test);
        let files = files.map(|file| Ok(AnnData::open(file)?)).collect::<Result<Vec<_>>>()?;
        let data = data.labelled();
        let classes: HashSet<u32> = data.split.train.iter().filter_map(|&row| data.dataset.labels()[row]).collect();
        if classes.len() < 2 {
            let reason = format!("{} class among the training cells, stage 1 needs at least 2 to tell apart", classes.len());
            let files = config.data.train.iter().map(|file| file.display().to_string()).collect();
            return Err(Error::Labels { key: config.data.label_key.clone(), files, reason });
        }
        let metadata = texts.descriptions.metadata(&files)?;
        let cell_texts = Arc::new(CellTexts::new(Arc::clone(&texts.descriptions), &data.dataset, metadata)?);
        // The cell-type head stays with the model of stage 0; the others are kept where they go on learning.
        let reconstructs = settings.masked > 0.0;
        let heads = Heads { expression: reconstructs && heads.expression, mvc: reconstructs && heads.mvc, ..Heads::default() };
        let text = config.text.clone();
        let config = CellTextConfig { model: config.model.clone(), qformer: complete(config, settings, &texts)? };
        config.check()?;
        if let Some(folder) = &text.init {
            bert::check_sizes(folder, &config.qformer)?;
        }
        Ok(Joint { settings: settings.clone(), data, heads, texts, cell_texts, config, text })
    }

    /// Sizes.
    pub(super) fn config(&self) -> &CellTextConfig {
        &self.config
    }

    /// Declares the model.
    pub(super) fn declare(&self) -> (ParameterPlan<f32>, CellText<f32>) {
        let mut plan = ParameterPlan::new(true);
        let padding = self.data.dataset.vocab().pad();
        let model = CellText::declare(&mut plan, &self.config, self.heads, self.settings.tune_cell_encoder, padding);
        (plan, model)
    }

    /// What the passes over pairs are for.
    pub(super) fn purpose(&self, training: bool) -> cell_text::Purpose {
        let Stage1Config { loss, contrast, label_smoothing, .. } = self.settings;
        cell_text::Purpose {
            training,
            dropout: training,
            weights: loss,
            contrast,
            label_smoothing: if training { label_smoothing } else { 0.0 },
        }
    }

    /// What the passes over cells with hidden values are for, where there are any.
    pub(super) fn masked(&self, trainer: &Trainer) -> Option<cell_model::Purpose> {
        let stage0 = trainer.purpose(true);
        let weights = cell_model::LossWeights { classification: 0.0, ..stage0.weights };
        (self.settings.masked > 0.0).then_some(cell_model::Purpose { weights, classify: false, ..stage0 })
    }

    /// The largest batches of so many cells that can occur.
    pub(super) fn sizes(&self, trainer: &Trainer, batch: usize) -> Sizes {
        Sizes { cells: trainer.largest(batch), texts: Dims { batch, seq_len: self.longest() } }
    }

    /// Tokens of the longest text.
    pub(super) fn longest(&self) -> usize {
        longest(&self.text)
    }

    /// What the stage will allocate on each of the devices that share its batches.
    pub(super) fn memory_plan(&self, trainer: &Trainer, devices: usize) -> StagePlan {
        let (weights, model) = self.declare();
        let parameters = weights.count();
        let sizes = self.sizes(trainer, self.settings.train.batch_size.div_ceil(devices));
        let mut plans = Vec::from(weights.into_plans());
        plans.push(model.plan(sizes, &self.purpose(true)));
        plans.extend(self.masked(trainer).map(|purpose| model.cell_model().plan(sizes.cells, &purpose)));
        StagePlan { stage: NUMBER, plans, parameters }
    }

    /// What a user should know about the texts.
    pub(super) fn notes(&self) -> Vec<String> {
        let classes = self.cell_texts.classes();
        let mut notes = vec![format!("{} classes of cells by text", classes.len())];
        let unknown = self.cell_texts.unknown_labels();
        if !unknown.is_empty() {
            notes.push(format!("not in text.ontology, so without definition: {}", unknown.join(", ")));
        }
        notes
    }

    /// Random weights, then those of a BERT folder for the text branch, then those of `cells` (a model folder or scGPT checkpoint) for
    /// the cell encoder.
    pub(super) fn initialise(
        &self,
        config: &TrainConfig,
        parameters: &Parameters<f32>,
        stream: &Stream,
        cells: Option<&Path>,
    ) -> Result<()> {
        parameters.initialise(stream, config.seed)?;
        if let Some(folder) = &self.text.init {
            bert::load_bert(stream, parameters, &self.config.qformer, folder)?;
        }
        let Some(path) = cells.map(PathBuf::from).or_else(|| config.init.clone()) else { return Ok(()) };
        let mut plan = ParameterPlan::<f32>::new(false);
        // A checkpoint from elsewhere has no head for these classes.
        let heads = if cells.is_some() { self.heads } else { Heads::default() };
        CellModel::declare(&mut plan, &config.model, heads, self.data.dataset.vocab().pad());
        let names: HashSet<&str> = plan.names().collect();
        parameters.load_matching(stream, &Checkpoint::open(&path)?, &|name| names.contains(name))
    }

    /// What the model folder says of the text branch.
    pub(super) fn description(&self, (mixing, unknown_threshold): (Mixing, f64)) -> TextBundle {
        TextBundle {
            qformer: self.config.qformer.clone(),
            text: Texts::in_folder(&self.text),
            matching: self.settings.loss.matching > 0.0,
            mixing,
            unknown_threshold,
            classes: self.cell_texts.classes().iter().map(|class| (class.name.clone(), class.text.clone())).collect(),
        }
    }
}

/// The Q-Former's sizes with what tokenizer and losses decide.
fn complete(config: &TrainConfig, settings: &Stage1Config, texts: &Texts) -> Result<QFormerConfig> {
    let tokenizer = texts.collator.tokenizer();
    let mut qformer = config.qformer.clone();
    if qformer.vocab_size == 0 {
        qformer.vocab_size = tokenizer.vocab_size();
    }
    if qformer.vocab_size < tokenizer.vocab_size() {
        let expected = format!("at least the {} tokens of text.tokenizer, or 0", tokenizer.vocab_size());
        return Err(Error::Setting { key: "qformer.vocab_size".into(), value: qformer.vocab_size.to_string(), expected });
    }
    if longest(&config.text) > qformer.max_position_embeddings {
        let expected = format!("at most qformer.max_position_embeddings={}", qformer.max_position_embeddings);
        return Err(Error::Setting { key: "text.max_length".into(), value: config.text.max_length.to_string(), expected });
    }
    qformer.decoder_start_token_id = Some(tokenizer.decoder_start());
    qformer.captioning |= settings.loss.captioning > 0.0;
    Ok(qformer)
}

/// Tokens of the longest text, padding included.
fn longest(text: &TextConfig) -> usize {
    text.max_length.next_multiple_of(PAD_TO_MULTIPLE)
}
