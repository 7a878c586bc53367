//! Stage 2 of a run as it was prepared: sizes, sequences, questions to the decoder; nothing allocated.

use std::path::Path;
use std::sync::Arc;

use scmmgpt_kernels::runtime::Stream;
use scmmgpt_loader::batch::{CollateConfig, Collator, Objective};
use scmmgpt_loader::checkpoint::Checkpoint;
use scmmgpt_loader::expression::ValueMode;
use scmmgpt_loader::language::{LanguageFiles, LanguageTokenizer, PairCollator};
use scmmgpt_loader::scale::InputScale;
use scmmgpt_loader::text::PAD_TO_MULTIPLE;

use super::data::TrainingData;
use super::gene_means::gene_means;
use super::joint::Joint;
use super::language_stage::NUMBER;
use super::trainer::{StagePlan, Trainer};
use crate::bundle::{BaseModel, LanguageBundle};
use crate::config::{ExpressionHead, GeneTable, LanguageModelConfig, Stage2Config, TrainConfig, Tuning, TuningMode};
use crate::generate::sizes::CellSizes;
use crate::layer::Dims;
use crate::model::cell_language::{self, CellLanguage, CellLanguageConfig, LANGUAGE, Sizes, Tuned};
use crate::model::gene_expression;
use crate::weights::{ParameterPlan, Parameters};
use crate::{Error, Result};

/// Longest sequence that angles are kept for, where a base model would take more.
const POSITIONS: usize = 4096;

/// A model of cells and language in the making.
#[derive(Debug)]
pub(super) struct Language {
    pub(super) settings: Stage2Config,
    pub(super) pairs: PairCollator,
    source: LanguageModelConfig,
    config: CellLanguageConfig,
    tuned: Tuned,
}

impl Language {
    /// Reads tokenizer and sizes of the language model; `joint` is stage 1's part.
    ///
    /// # Errors
    /// Those of configuration and files.
    pub(super) fn prepare(config: &TrainConfig, settings: &Stage2Config, joint: &Joint) -> Result<Language> {
        let source = config.language.clone();
        let tokenizer = LanguageTokenizer::open(source.tokenizer())?;
        let model = if source.is_new() { source.new_model(&tokenizer)? } else { LanguageFiles::config_of(&source.path)? };
        let slots = config.qformer.num_query_tokens;
        let (tokenizer, tokens) = tokenizer.with_cell_tokens(&model, slots)?;
        let positions = model.max_position_embeddings.min(POSITIONS);
        let longest = settings.pairs.max_length.next_multiple_of(PAD_TO_MULTIPLE);
        if longest > positions {
            let (key, value) = ("stage2.pairs.max_length".into(), settings.pairs.max_length.to_string());
            return Err(Error::Setting { key, value, expected: format!("at most the {positions} positions of the language model") });
        }
        let mut expression = settings.expression.clone();
        let width = config.model.hidden_size;
        if expression.gene_dim == 0 {
            expression.gene_dim = width;
        }
        if expression.gene_table == GeneTable::Encoder && expression.gene_dim != width {
            let expected = format!("0 or model.hidden_size={width}, or set stage2.expression.gene_table=\"random\"");
            return Err(Error::Setting { key: "stage2.expression.gene_dim".into(), value: expression.gene_dim.to_string(), expected });
        }
        expression.check()?;
        let dataset = &joint.data.dataset;
        dataset.check_mode(ValueMode::Log1p)?;
        let other = dataset.reports().iter().find(|report| report.scale != InputScale::Counts);
        if let (ExpressionHead::Zinb, Some(report)) = (expression.head, other) {
            let expected = format!("mse: {} holds {}, and only counts have such distributions", report.name, report.scale);
            return Err(Error::Setting { key: "stage2.expression.head".into(), value: "zinb".into(), expected });
        }
        let new_tokens = tokenizer.vocab_size().saturating_sub(model.vocab_size);
        let pairs = PairCollator::new(Arc::new(tokenizer), tokens, settings.pairs.clone())?;
        let cell_text = joint.config().clone();
        let projection_dim = settings.projection_dim;
        Ok(Language {
            settings: settings.clone(),
            pairs,
            source,
            config: CellLanguageConfig { cell_text, language: model, positions, projection_dim, expression },
            tuned: Tuned {
                language: Tuning { new_tokens, ..settings.tuning.clone() },
                cell_encoder: settings.tune_cell_encoder,
                qformer: settings.tune_qformer,
            },
        })
    }

    /// Declares the model.
    pub(super) fn declare(&self, padding_id: u32) -> (ParameterPlan<f32>, CellLanguage<f32>) {
        let mut plan = ParameterPlan::new(true);
        let model = CellLanguage::declare(&mut plan, &self.config, &self.tuned, padding_id);
        (plan, model)
    }

    /// What the passes are for.
    pub(super) fn purpose(&self, training: bool) -> cell_language::Purpose {
        cell_language::Purpose { training, dropout: training, weights: self.settings.loss }
    }

    /// Asks the decoder for the genes of cells.
    pub(super) fn expression_collator(&self, config: &TrainConfig, joint: &Joint) -> Result<Collator> {
        let (expression, tokens) = (&self.config.expression, &config.data.tokens);
        let asked = CollateConfig {
            max_seq_len: expression.max_genes + expression.zero_genes + 1,
            value_mode: ValueMode::Log1p,
            target_sum: tokens.target_sum,
            include_zero_genes: expression.zero_genes,
            objective: Objective::None,
            ..CollateConfig::default()
        };
        Ok(Collator::new(joint.data.dataset.vocab(), asked)?)
    }

    /// Whether the decoder learns distributions of counts.
    pub(super) fn counts(&self) -> bool {
        self.config.expression.head == ExpressionHead::Zinb
    }

    /// That the weights of the base model are there, which planning does without.
    ///
    /// # Errors
    /// Those of the files.
    pub(super) fn check_files(&self) -> Result<()> {
        if self.source.is_new() { Ok(()) } else { LanguageFiles::open(&self.source.path).map(|_| ()).map_err(Error::from) }
    }

    /// The largest batches of so many cells that can occur.
    pub(super) fn sizes(&self, trainer: &Trainer, batch: usize) -> Sizes {
        let (expression, dataset) = (&self.config.expression, &trainer.data().dataset);
        let panels = (0..dataset.reports().len()).map(|source| dataset.panel(source).len());
        let longest = dataset.lengths().into_iter().max().unwrap_or(0).min(expression.max_genes);
        let genes = longest + expression.zero_genes.min(panels.max().unwrap_or(0));
        Sizes {
            cells: trainer.largest(batch),
            tokens: self.settings.pairs.max_length.next_multiple_of(PAD_TO_MULTIPLE),
            generated: batch,
            genes: (genes + 1).next_multiple_of(CollateConfig::default().pad_to_multiple) - 1,
            neighbours: self.settings.neighbors.k,
        }
    }

    /// What the stage will allocate on each of the devices that share its batches; `longest` is the longest text that stage 1 reads.
    pub(super) fn memory_plan(&self, trainer: &Trainer, longest: usize, devices: usize) -> StagePlan {
        let (weights, model) = self.declare(trainer.data().dataset.vocab().pad());
        let parameters = weights.count();
        let batch = self.settings.train.batch_size.div_ceil(devices);
        let mut plans = Vec::from(weights.into_plans());
        plans.push(model.plan(self.sizes(trainer, batch), &self.purpose(true)));
        if self.settings.neighbors.k > 0 {
            plans.push(model.joint().text_plan(Dims { batch, seq_len: longest }));
        }
        StagePlan { stage: NUMBER, plans, parameters }
    }

    /// Random weights, then those of stage 1's model folder `first`, the means of the training cells, then those of the base model.
    pub(super) fn initialise(
        &self,
        config: &TrainConfig,
        joint: &Joint,
        model: &CellLanguage<f32>,
        parameters: &Parameters<f32>,
        stream: &Stream,
        first: &Path,
    ) -> Result<()> {
        parameters.initialise(stream, config.seed)?;
        let other = |name: &str| [LANGUAGE, "llm_proj", gene_expression::PREFIX].iter().any(|part| name.starts_with(part));
        parameters.load_matching(stream, &Checkpoint::open(first)?, &|name| !other(name))?;
        let decoder = |name: &str| parameters.named(&format!("{}.{name}", gene_expression::PREFIX)).map(|found| found.parameter.value);
        if self.config.expression.gene_table == GeneTable::Encoder {
            let mut values = stream.fetch(parameters.named("encoder.embedding.weight")?.parameter.value)?;
            // As the encoder reads them, behind its norm: from rows as small as its table's the decoder hardly tells genes apart.
            values.chunks_exact_mut(self.config.expression.gene_dim).for_each(normalise);
            stream.upload(decoder("gene_embed.weight")?, &values)?;
        }
        if self.config.expression.gene_readout {
            let (data, tokens, bias) = (&joint.data, &config.data.tokens, decoder(gene_expression::GENE_BIAS)?);
            let means = gene_means(&data.dataset, &data.split.train, self.config.expression.head, tokens.target_sum)?;
            let mut values = vec![0.0; bias.len()];
            values.iter_mut().step_by(bias.width()).zip(means).for_each(|(value, mean)| *value = mean);
            stream.upload(bias, &values)?;
        }
        if self.source.is_new() {
            return Ok(());
        }
        model.language().load(parameters, stream, &LanguageFiles::open(&self.source.path)?, config.seed)
    }

    /// What the model folder says of the language model.
    pub(super) fn description(&self, data: &TrainingData) -> Result<LanguageBundle> {
        let CellLanguageConfig { language, positions, projection_dim, expression, .. } = self.config.clone();
        let keeps_base = self.settings.tuning.mode != TuningMode::Full;
        Ok(LanguageBundle {
            model: language,
            positions,
            tuning: Tuning { gradient_checkpointing: false, ..self.tuned.language.clone() },
            base: keeps_base.then(|| BaseModel::of(&self.source.path)).transpose()?,
            projection_dim,
            expression,
            pairs: self.settings.pairs.clone(),
            neighbors: self.settings.neighbors.clone(),
            unknown_threshold: 0.0,
            sizes: if self.counts() { sizes(data)? } else { CellSizes::default() },
        })
    }
}

/// Totals of the training cells.
fn sizes(data: &TrainingData) -> Result<CellSizes> {
    let dataset = &data.dataset;
    let label = |row: usize| dataset.labels()[row].map(|label| dataset.classes()[label as usize].as_str());
    let of_cell = |&row: &usize| Ok((label(row), dataset.cell(row)?.total));
    Ok(CellSizes::of(data.split.train.iter().map(of_cell).collect::<Result<Vec<_>>>()?))
}

/// To mean 0 and mean square 1; numbers that are all the same become 0.
fn normalise(row: &mut [f32]) {
    let count = row.len() as f64;
    let mean = row.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let variance = row.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
    let scale = if variance > 0.0 { variance.sqrt().recip() } else { 0.0 };
    row.iter_mut().for_each(|value| *value = ((f64::from(*value) - mean) * scale) as f32);
}
