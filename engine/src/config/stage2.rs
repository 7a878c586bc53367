//! Stage 2: the language model, and how it learns to describe and to write cells.

use std::path::PathBuf;

use scmmgpt_loader::language::{LanguageConfig, LanguageTokenizer, PairConfig};
use serde::{Deserialize, Serialize};

use super::{OptimizerConfig, TrainConfig, Tuning, TuningMode, domain, positive, share};
use crate::Result;
use crate::model::cell_language::LossWeights;

/// Which language model stage 2 starts from, and its sizes where it starts from nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LanguageModelConfig {
    /// Hugging Face folder of a Llama model, or `.gguf` file; empty: random weights of the sizes below.
    pub path: PathBuf,
    /// `tokenizer.json`, or a folder with one; empty: that of `path`.
    pub tokenizer: PathBuf,
    /// Numbers a token.
    pub hidden_size: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Query heads; `hidden_size / num_attention_heads` must be a multiple of 8.
    pub num_attention_heads: usize,
    /// Key and value heads, a divisor of the query heads.
    pub num_key_value_heads: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Added to mean squares.
    pub rms_norm_eps: f64,
    /// Base of the rotation frequencies.
    pub rope_theta: f64,
    /// Whether the output product uses the token table.
    pub tie_word_embeddings: bool,
    /// Token in front of a sequence.
    pub bos_token: String,
    /// Token behind a sequence.
    pub eos_token: String,
}

impl Default for LanguageModelConfig {
    fn default() -> Self {
        LanguageModelConfig {
            path: PathBuf::new(),
            tokenizer: PathBuf::new(),
            hidden_size: 128,
            intermediate_size: 384,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 512,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
            bos_token: "<s>".into(),
            eos_token: "</s>".into(),
        }
    }
}

/// How many of a cell's vectors the expression decoder looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpressionKeys {
    /// All of them.
    #[default]
    All,
    /// The first, as the reference does: the same context for every gene.
    First,
}

/// Where the decoder's gene table starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeneTable {
    /// As a copy of the cell encoder's, whose width it then has, each row brought to mean 0 and mean square 1.
    #[default]
    Encoder,
    /// At random, as in the reference.
    Random,
}

/// What the expression decoder says of a gene.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpressionHead {
    /// log1p of its normalised count, learned by the squared error.
    #[default]
    Mse,
    /// The distribution of its count, a zero-inflated negative binomial, learned by its likelihood.
    Zinb,
}

/// Sizes of the expression decoder, and what it is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpressionConfig {
    /// Numbers a gene; 0 in a training configuration: as many as the cell encoder's genes have.
    pub gene_dim: usize,
    /// Attention heads; `gene_dim / num_attention_heads` must be a multiple of 8.
    pub num_attention_heads: usize,
    /// What is looked at.
    pub keys: ExpressionKeys,
    /// What is said.
    pub head: ExpressionHead,
    /// Where the gene table starts.
    pub gene_table: GeneTable,
    /// Whether each gene reads what it has seen by a row of its own too, and has a bias, which starts at its mean over the training
    /// cells. The reference has neither.
    pub gene_readout: bool,
    /// Most expressed genes of a cell that are asked for, those with the highest counts.
    pub max_genes: usize,
    /// So many genes that were measured as 0 join them, chosen at random in every epoch.
    pub zero_genes: usize,
}

impl Default for ExpressionConfig {
    fn default() -> Self {
        ExpressionConfig {
            gene_dim: 0,
            num_attention_heads: 4,
            keys: ExpressionKeys::default(),
            head: ExpressionHead::default(),
            gene_table: GeneTable::default(),
            gene_readout: true,
            max_genes: 1200,
            zero_genes: 600,
        }
    }
}

/// Cells like the one that is to be made from a text, beside the text: the nearest training cells in stage 1's space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NeighborConfig {
    /// Neighbours; 0: none.
    pub k: usize,
    /// A neighbour weighs `softmax(similarity / temperature)`.
    pub temperature: f64,
    /// Probability that a sequence is trained without its neighbours.
    pub dropout: f64,
    /// `obs` column (`donor_id`, ..) whose cells of the same value are no neighbours in training; empty: only the cell itself is not.
    pub exclude_key: String,
}

impl Default for NeighborConfig {
    fn default() -> Self {
        NeighborConfig { k: 0, temperature: 0.1, dropout: 0.5, exclude_key: String::new() }
    }
}

/// How stage 2 is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stage2Config {
    /// Model folder of a former run with stage 1; stages 0 and 1 are skipped then.
    pub init: Option<PathBuf>,
    /// Whether the cell encoder learns too.
    pub tune_cell_encoder: bool,
    /// Whether the Q-Former learns too.
    pub tune_qformer: bool,
    /// Width between the two products that turn queries into rows of the language model.
    pub projection_dim: usize,
    /// What of the language model learns.
    pub tuning: Tuning,
    /// Sequences of cells and texts.
    pub pairs: PairConfig,
    /// The expression decoder.
    pub expression: ExpressionConfig,
    /// Neighbours of cells that are made from text.
    pub neighbors: NeighborConfig,
    /// Weights of the three losses.
    pub loss: LossWeights,
    /// How it is learned.
    pub train: OptimizerConfig,
}

impl Default for Stage2Config {
    fn default() -> Self {
        Stage2Config {
            init: None,
            tune_cell_encoder: false,
            tune_qformer: false,
            projection_dim: 256,
            tuning: Tuning::default(),
            pairs: PairConfig::default(),
            expression: ExpressionConfig::default(),
            neighbors: NeighborConfig::default(),
            loss: LossWeights::default(),
            train: OptimizerConfig::default(),
        }
    }
}

impl LanguageModelConfig {
    /// Whether it starts from random weights.
    pub fn is_new(&self) -> bool {
        self.path.as_os_str().is_empty()
    }

    /// Where the tokenizer is.
    pub fn tokenizer(&self) -> &PathBuf {
        if self.tokenizer.as_os_str().is_empty() { &self.path } else { &self.tokenizer }
    }

    /// The sizes of a model from nothing, for the tokens of its tokenizer.
    ///
    /// # Errors
    /// `Setting` when the tokenizer has no such token, `Language` when sizes do not fit each other.
    pub fn new_model(&self, tokenizer: &LanguageTokenizer) -> Result<LanguageConfig> {
        let token = |key: &str, token: &String| {
            let expected = format!("a token of {}", self.tokenizer().display());
            domain(key, format!("{token:?}"), tokenizer.id(token).is_some(), &expected).map(|()| tokenizer.id(token))
        };
        let bos_token_id = token("language.bos_token", &self.bos_token)?;
        let eos_token_ids = token("language.eos_token", &self.eos_token)?.into_iter().collect();
        let heads = self.num_attention_heads;
        let fits = heads > 0 && self.hidden_size.is_multiple_of(heads) && (self.hidden_size / heads).is_multiple_of(8);
        domain("language.num_attention_heads", heads, fits, "hidden_size / num_attention_heads must be a multiple of 8")?;
        let config = LanguageConfig {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.hidden_size / heads,
            vocab_size: tokenizer.vocab_size(),
            max_position_embeddings: self.max_position_embeddings,
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: self.rope_theta,
            tie_word_embeddings: self.tie_word_embeddings,
            bos_token_id,
            eos_token_ids,
        };
        config.check(std::path::Path::new("[language]"))?;
        Ok(config)
    }
}

impl ExpressionConfig {
    /// Checks every field against its domain; `gene_dim` is decided by now.
    ///
    /// # Errors
    /// `Setting`, naming the first that is outside.
    pub fn check(&self) -> Result<()> {
        let heads = self.num_attention_heads;
        positive("stage2.expression.gene_dim", self.gene_dim)?;
        let fits = heads > 0 && self.gene_dim.is_multiple_of(heads) && (self.gene_dim / heads).is_multiple_of(8);
        domain("stage2.expression.num_attention_heads", heads, fits, "gene_dim / num_attention_heads must be a multiple of 8")?;
        positive("stage2.expression.max_genes", self.max_genes)
    }
}

impl Stage2Config {
    /// Checks every field against its domain, and against the rest of the configuration.
    pub(super) fn check(&self, config: &TrainConfig) -> Result<()> {
        let follows = config.stage1.is_some() || self.init.is_some();
        domain("stage2.init", "none", follows, "a model folder of a run with [stage1], or add a [stage1] section")?;
        let once = config.stage1.is_none() || self.init.is_none();
        domain("stage2.init", "set", once, "left out beside a [stage1] section: stage 2 takes over what stage 1 has learned")?;
        if self.init.is_none() {
            config.text.check()?;
        }
        let labelled = !config.data.label_key.is_empty();
        domain("data.label_key", "\"\"", labelled, "name the obs column with the cell types: stage 2 pairs cells with texts by it")?;
        let language = &config.language;
        let named = !language.tokenizer().as_os_str().is_empty();
        domain("language.path", "\"\"", named, "a Hugging Face folder or .gguf file, or set language.tokenizer for a model from nothing")?;
        let learns = !language.is_new() || self.tuning.mode == TuningMode::Full;
        domain("stage2.tuning.mode", "not full", learns, "full: without language.path the weights are random, and have to be learned")?;
        self.tuning.check("stage2.tuning")?;
        let tokens = self.tuning.new_tokens;
        domain("stage2.tuning.new_tokens", tokens, tokens == 0, "left out: tokenizer and qformer.num_query_tokens decide it")?;
        positive("stage2.projection_dim", self.projection_dim)?;
        let LossWeights { language, reconstruction, expression } = self.loss;
        let weights =
            [("stage2.loss.language", language), ("stage2.loss.reconstruction", reconstruction), ("stage2.loss.expression", expression)];
        for (key, weight) in weights {
            domain(key, weight, weight >= 0.0 && weight.is_finite(), "0 or more")?;
        }
        domain("stage2.loss", "0", weights.iter().any(|(_, weight)| *weight > 0.0), "at least one loss must have a weight above 0")?;
        positive("stage2.train.epochs", self.train.epochs as usize)?;
        self.train.check("stage2.train")?;
        self.check_neighbors()
    }

    fn check_neighbors(&self) -> Result<()> {
        let NeighborConfig { k, temperature, dropout, .. } = self.neighbors;
        let expected = "0, or set stage2.expression.keys=\"all\": one key and neighbours beside it are not the reference's decoder";
        domain("stage2.neighbors.k", k, k == 0 || self.expression.keys == ExpressionKeys::All, expected)?;
        let frozen = !self.tune_qformer && !self.tune_cell_encoder;
        let expected = "0, or freeze cell encoder and Q-Former: neighbours are found, and kept, in stage 1's space";
        domain("stage2.neighbors.k", k, k == 0 || frozen, expected)?;
        domain("stage2.neighbors.temperature", temperature, temperature > 0.0 && temperature.is_finite(), "above 0")?;
        share("stage2.neighbors.dropout", dropout)
    }
}
