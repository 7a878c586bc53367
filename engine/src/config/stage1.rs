//! Stage 1: what joins cells with texts, and how it is learned.

use std::path::PathBuf;

use scmmgpt_loader::batch::Objective;
use scmmgpt_loader::text::DescriptionConfig;
use serde::{Deserialize, Serialize};

use super::{OptimizerConfig, TrainConfig, domain, positive, share};
use crate::Result;
use crate::model::cell_text::{Contrast, LossWeights};

/// The texts that cells are paired with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// WordPiece vocabulary: `vocab.txt`, `tokenizer.json`, or a folder with one of them.
    pub tokenizer: PathBuf,
    /// Names, synonyms and definitions of cell types (JSON, as the loader's `Ontology` reads it); none: a type is its name.
    pub ontology: Option<PathBuf>,
    /// Passages about cell types (JSON Lines), as additional positive texts.
    pub literature: Option<PathBuf>,
    /// Most tokens of a text, `[CLS]` and `[SEP]` included.
    pub max_length: usize,
    /// Hugging Face BERT folder with the text branch's initial weights; none: random.
    pub init: Option<PathBuf>,
    /// How cells become texts.
    pub descriptions: DescriptionConfig,
}

impl Default for TextConfig {
    fn default() -> Self {
        TextConfig {
            tokenizer: PathBuf::new(),
            ontology: None,
            literature: None,
            max_length: 128,
            init: None,
            descriptions: DescriptionConfig::default(),
        }
    }
}

/// How stage 1 is learned. The temperature of the contrastive loss stands in `[qformer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stage1Config {
    /// Model folder of a former run whose cell encoder is taken over; stage 0 is skipped then.
    pub init: Option<PathBuf>,
    /// Whether the cell encoder learns too.
    pub tune_cell_encoder: bool,
    /// Weight of masked reconstruction, on a pass of its own; it multiplies the weights of `[loss]`.
    pub masked: f64,
    /// Label smoothing of the captioning loss.
    pub label_smoothing: f64,
    /// Weights of the three objectives.
    pub loss: LossWeights,
    /// Who is contrasted with whom.
    pub contrast: Contrast,
    /// How it is learned.
    pub train: OptimizerConfig,
}

impl Default for Stage1Config {
    fn default() -> Self {
        Stage1Config {
            init: None,
            tune_cell_encoder: true,
            masked: 0.0,
            label_smoothing: 0.1,
            loss: LossWeights::default(),
            contrast: Contrast::default(),
            train: OptimizerConfig::default(),
        }
    }
}

impl TextConfig {
    /// Checks every field against its domain.
    pub(super) fn check(&self) -> Result<()> {
        let named = !self.tokenizer.as_os_str().is_empty();
        domain("text.tokenizer", "\"\"", named, "name a WordPiece vocabulary (vocab.txt or tokenizer.json)")?;
        domain("text.max_length", self.max_length, self.max_length >= 8, "at least 8")
    }
}

impl Stage1Config {
    /// Checks every field against its domain, and against the rest of the configuration.
    pub(super) fn check(&self, config: &TrainConfig) -> Result<()> {
        config.text.check()?;
        positive("stage1.train.epochs", self.train.epochs as usize)?;
        self.train.check("stage1.train")?;
        let labelled = !config.data.label_key.is_empty();
        domain("data.label_key", "\"\"", labelled, "name the obs column with the cell types: stage 1 pairs cells with texts by it")?;
        let LossWeights { contrastive, matching, captioning } = self.loss;
        let weights = [
            ("stage1.loss.contrastive", contrastive),
            ("stage1.loss.matching", matching),
            ("stage1.loss.captioning", captioning),
            ("stage1.masked", self.masked),
        ];
        for (key, weight) in weights {
            domain(key, weight, weight >= 0.0 && weight.is_finite(), "0 or more")?;
        }
        domain("stage1.loss.contrastive", contrastive, contrastive > 0.0, "above 0: without it cells and texts share no space")?;
        share("stage1.label_smoothing", self.label_smoothing)?;
        let hides = config.data.tokens.objective != Objective::None && (config.loss.expression > 0.0 || config.loss.mvc > 0.0);
        let expected = "0, or set data.tokens.objective and loss.expression or loss.mvc, which say what is reconstructed";
        domain("stage1.masked", self.masked, self.masked == 0.0 || hides, expected)?;
        let learns = self.masked == 0.0 || self.tune_cell_encoder;
        domain("stage1.masked", self.masked, learns, "0, or set stage1.tune_cell_encoder=true")?;
        domain("stage1.train.batch_size", self.train.batch_size, self.train.batch_size > 1, "at least 2: a cell needs a negative")?;
        domain("stage1.contrast.group", self.contrast.group, self.contrast.group != 1, "0, or at least 2")
    }
}
