//! Configuration: what TOML files say and `--set` overrides. Field names are Hugging Face's and scGPT's where they have one.

mod optimizer;
mod qformer;
mod stage1;
mod stage2;
mod tuning;

use std::path::{Path, PathBuf};

use scmmgpt_loader::batch::{CollateConfig, Objective};
use scmmgpt_loader::h5ad::Slot;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

pub use optimizer::{OptimizerConfig, ScheduleKind};
pub use qformer::{CellTextConfig, QFormerConfig, TextPooling};
pub use stage1::{Stage1Config, TextConfig};
pub use stage2::{ExpressionConfig, ExpressionHead, ExpressionKeys, GeneTable, LanguageModelConfig, NeighborConfig, Stage2Config};
pub use tuning::{LoraConfig, PROJECTIONS, Tuning, TuningMode};

/// Which vector stands for the whole cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellEmbedding {
    /// The `<cls>` token's.
    #[default]
    Cls,
    /// Mean over the cell's tokens, `<cls>` included, padding excluded.
    Mean,
    /// Sum over the genes weighted by their values, L2-normalised.
    Weighted,
}

/// Sizes of the cell encoder and its heads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Numbers a token.
    pub hidden_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads; `hidden_size / num_attention_heads` must be a multiple of 8.
    pub num_attention_heads: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Rows of the gene table; 0 in a training configuration: as many as the vocabulary has.
    pub vocab_size: usize,
    /// Added to variances.
    pub layer_norm_eps: f64,
    /// Dropout everywhere in the encoder.
    pub hidden_dropout_prob: f32,
    /// Whether what generated tokens attend to passes the output projection, as that of known tokens does. The authors' public
    /// generative code leaves it out: false for weights that were trained by it.
    pub generated_out_proj: bool,
    /// Which vector stands for the cell.
    pub cell_embedding: CellEmbedding,
    /// Linear layers of the cell-type head.
    pub classifier_layers: usize,
    /// Values above this are read as this.
    pub max_value: f64,
    /// Multiply the cell-type head's probabilities with those of a linear expert (a logistic regression on the training cells) to this
    /// power; 0: no expert.
    pub gene_linear_weight: f32,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            hidden_size: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            intermediate_size: 512,
            vocab_size: 0,
            layer_norm_eps: 1e-5,
            hidden_dropout_prob: 0.2,
            generated_out_proj: true,
            cell_embedding: CellEmbedding::Cls,
            classifier_layers: 3,
            max_value: 512.0,
            gene_linear_weight: 0.0,
        }
    }
}

impl ModelConfig {
    /// Checks every field against its domain.
    ///
    /// # Errors
    /// `Setting`, naming the first that is outside.
    pub fn check(&self) -> Result<()> {
        let heads = self.num_attention_heads;
        let divides = heads > 0 && self.hidden_size.is_multiple_of(heads);
        positive("model.hidden_size", self.hidden_size)?;
        positive("model.num_hidden_layers", self.num_hidden_layers)?;
        positive("model.intermediate_size", self.intermediate_size)?;
        positive("model.classifier_layers", self.classifier_layers)?;
        let head_dim = if divides { self.hidden_size / heads } else { 0 };
        let fits = head_dim > 0 && head_dim.is_multiple_of(8);
        domain("model.num_attention_heads", heads, fits, "hidden_size / num_attention_heads must be a multiple of 8")?;
        let dropout = self.hidden_dropout_prob;
        domain("model.hidden_dropout_prob", dropout, (0.0..1.0).contains(&dropout), "0 or more, below 1")?;
        let expert = self.gene_linear_weight;
        domain("model.gene_linear_weight", expert, expert >= 0.0 && expert.is_finite(), "0 or more")?;
        domain("model.layer_norm_eps", self.layer_norm_eps, self.layer_norm_eps > 0.0, "must be above 0")?;
        domain("model.max_value", self.max_value, self.max_value > 0.0, "must be above 0")
    }
}

/// Where cells come from and how they are divided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// `.h5ad` files to train on.
    pub train: Vec<PathBuf>,
    /// `.h5ad` files to test on; when given, nothing of `train` is held out for testing.
    pub test: Vec<PathBuf>,
    /// `obs` column with the cell types; empty: cells have no labels.
    pub label_key: String,
    /// `X`, `raw`, or a layer's name.
    pub layer: String,
    /// Gene vocabulary (JSON: symbol to index); none: the genes of the training files.
    pub vocabulary: Option<PathBuf>,
    /// Share of `train` that is held out for testing, drawn by label.
    pub test_fraction: f64,
    /// Share of what is left that is held out for validation, drawn by label.
    pub validation_fraction: f64,
    /// `obs` column by which cells are held out for testing instead (`donor`, `batch`, ..).
    pub test_key: String,
    /// Its values that are held out.
    pub test_values: Vec<String>,
    /// Cells with these labels count as unlabelled.
    pub ignore_labels: Vec<String>,
    /// How cells become token sequences.
    pub tokens: CollateConfig,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            train: Vec::new(),
            test: Vec::new(),
            label_key: String::new(),
            layer: "X".into(),
            vocabulary: None,
            test_fraction: 0.3,
            validation_fraction: 0.1,
            test_key: String::new(),
            test_values: Vec::new(),
            ignore_labels: vec!["unknown".into()],
            tokens: CollateConfig::default(),
        }
    }
}

/// The slot that a name means: `X`, `raw`, or a layer.
pub fn slot(layer: &str) -> Slot {
    match layer {
        "X" => Slot::X,
        "raw" | "raw/X" => Slot::Raw,
        name => Slot::Layer(name.trim_start_matches("layers/").to_string()),
    }
}

/// What is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of the cell-type cross-entropy.
    pub classification: f64,
    /// Label smoothing of the cell-type cross-entropy.
    pub label_smoothing: f64,
    /// Weight of the masked-value loss of the expression decoder.
    pub expression: f64,
    /// Weight of the masked-value loss of the MVC decoder.
    pub mvc: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        LossConfig { classification: 0.0, label_smoothing: 0.0, expression: 1.0, mvc: 1.0 }
    }
}

/// A training run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Seed of everything random.
    pub seed: u64,
    /// safetensors file or folder (scGPT names) with the encoder's initial weights; none: random. A folder with scGPT's `args.json`
    /// and `vocab.json` also gives the sizes, the vocabulary and the binning that the configuration leaves open.
    pub init: Option<PathBuf>,
    /// The model.
    pub model: ModelConfig,
    /// The data.
    pub data: DataConfig,
    /// What is learned.
    pub loss: LossConfig,
    /// How it is learned.
    pub train: OptimizerConfig,
    /// The Q-Former of stage 1.
    pub qformer: QFormerConfig,
    /// The texts of stage 1.
    pub text: TextConfig,
    /// Stage 1: cells and texts together; none: the run ends with the cell encoder.
    pub stage1: Option<Stage1Config>,
    /// The language model of stage 2.
    pub language: LanguageModelConfig,
    /// Stage 2: a language model that reads and writes cells; none: the run ends before it.
    pub stage2: Option<Stage2Config>,
}

impl TrainConfig {
    /// Reads a TOML file and applies `key=value` overrides; values are TOML (`5`, `0.1`, `true`, `"text"`, `["a", "b"]`), and
    /// anything that is not counts as text.
    ///
    /// # Errors
    /// `Io`, `ConfigSyntax`, `Override`, and those of [`TrainConfig::check`].
    pub fn read(file: &Path, overrides: &[String]) -> Result<TrainConfig> {
        let text = std::fs::read_to_string(file).map_err(|source| Error::Io { action: "read", path: file.into(), source })?;
        let syntax = |reason: String| Error::ConfigSyntax { file: file.into(), reason };
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| syntax(error.to_string()))?;
        for assignment in overrides {
            set(&mut table, assignment)?;
        }
        crate::scgpt::complete(&mut table)?;
        let config: TrainConfig = table.try_into().map_err(|error: toml::de::Error| syntax(error.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// The configuration as TOML, every default spelled out.
    ///
    /// # Errors
    /// `ConfigSyntax`, never for a configuration that was read.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::ConfigSyntax { file: "config.toml".into(), reason: error.to_string() })
    }

    /// Checks every field against its domain.
    ///
    /// # Errors
    /// `Setting`, naming the first that is outside.
    pub fn check(&self) -> Result<()> {
        self.model.check()?;
        self.data.tokens.check()?;
        let (data, loss, train) = (&self.data, &self.loss, &self.train);
        domain("data.train", "[]", !data.train.is_empty(), "name at least one .h5ad file")?;
        share("data.test_fraction", data.test_fraction)?;
        share("data.validation_fraction", data.validation_fraction)?;
        let labelled = loss.classification == 0.0 || !data.label_key.is_empty();
        domain("data.label_key", "\"\"", labelled, "name the obs column with the cell types, or set loss.classification=0")?;
        let weights = [("loss.classification", loss.classification), ("loss.expression", loss.expression), ("loss.mvc", loss.mvc)];
        for (key, weight) in weights {
            domain(key, weight, weight >= 0.0 && weight.is_finite(), "0 or more")?;
        }
        domain("loss", "0", weights.iter().any(|(_, weight)| *weight > 0.0), "at least one loss must have a weight above 0")?;
        let masked = loss.expression > 0.0 || loss.mvc > 0.0;
        let hides = data.tokens.objective != Objective::None;
        domain("data.tokens.objective", "none", hides || !masked, "masked or generative, or set loss.expression=0 and loss.mvc=0")?;
        share("loss.label_smoothing", loss.label_smoothing)?;
        // Stage 0 may be left out where others follow.
        let learns = train.epochs > 0 || self.stage1.is_some() || self.stage2.is_some();
        domain("train.epochs", train.epochs, learns, "at least 1, or 0 with a [stage1] section")?;
        train.check("train")?;
        self.stage1.as_ref().map_or(Ok(()), |stage1| stage1.check(self))?;
        self.stage2.as_ref().map_or(Ok(()), |stage2| stage2.check(self))
    }
}

fn domain(key: &str, value: impl std::fmt::Display, holds: bool, expected: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Setting { key: key.into(), value: value.to_string(), expected: expected.into() }) }
}

fn positive(key: &str, value: usize) -> Result<()> {
    domain(key, value, value > 0, "must be at least 1")
}

fn share(key: &str, value: f64) -> Result<()> {
    domain(key, value, (0.0..1.0).contains(&value), "0 or more, below 1")
}

/// Applies one `section.key=value`.
fn set(table: &mut toml::Table, assignment: &str) -> Result<()> {
    let fail = |reason: &str| Error::Override { assignment: assignment.into(), reason: reason.into() };
    let (path, value) = assignment.split_once('=').ok_or_else(|| fail("there is no `=`"))?;
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.into()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().filter(|key| !key.is_empty()).ok_or_else(|| fail("the key is empty"))?;
    let mut section = table;
    for key in keys {
        let next = section.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        section = next.as_table_mut().ok_or_else(|| fail("a part of the key is a value, not a section"))?;
    }
    section.insert(last.into(), value);
    Ok(())
}
