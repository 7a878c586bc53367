//! Sizes of the Q-Former and of the joint cell-text model.

use scmmgpt_kernels::pool::Kind;
use serde::{Deserialize, Serialize};

use super::{ModelConfig, domain, positive};
use crate::Result;

/// Which vector stands for a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextPooling {
    /// That of its first token, `[CLS]`, as the reference has it.
    #[default]
    Cls,
    /// The mean over its tokens, `[CLS]` and `[SEP]` included (Reimers & Gurevych 2019, "Sentence-BERT", section 3). A text branch that
    /// starts from random weights tells texts apart by their words from the first step on; the first token must learn to look at them.
    Mean,
}

impl TextPooling {
    /// As the kernel has it.
    pub(crate) fn kind(self) -> Kind {
        match self {
            TextPooling::Cls => Kind::Cls,
            TextPooling::Mean => Kind::Mean,
        }
    }
}

/// Sizes of the Q-Former, in the words of Hugging Face's BERT and BLIP-2 configurations. The width of the cell features
/// (`encoder_hidden_size` there) is the cell encoder's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QFormerConfig {
    /// Numbers a token.
    pub hidden_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads; `hidden_size / num_attention_heads` must be a multiple of 8.
    pub num_attention_heads: usize,
    /// Width of the feed-forward parts.
    pub intermediate_size: usize,
    /// Most tokens of a text.
    pub max_position_embeddings: usize,
    /// Rows of the word table, `[DEC]` included; 0 in a training configuration: as many as the tokenizer has.
    pub vocab_size: usize,
    /// Token that starts a caption (`[DEC]`); none: the last of the vocabulary.
    pub decoder_start_token_id: Option<u32>,
    /// Added to variances.
    pub layer_norm_eps: f64,
    /// Dropout of embeddings and of what layers add.
    pub hidden_dropout_prob: f32,
    /// Dropout of attention probabilities.
    pub attention_probs_dropout_prob: f32,
    /// Learned queries that a cell is condensed into.
    pub num_query_tokens: usize,
    /// Queries look at the cell in layers 0, this, twice this, ..
    pub cross_attention_freq: usize,
    /// Which vector stands for a text.
    pub text_pooling: TextPooling,
    /// Width of the space that cells and texts are compared in.
    pub projection_dim: usize,
    /// Similarities are divided by this in the contrastive loss; where it starts when it is learned.
    pub temperature: f64,
    /// Whether the temperature is learned; it stays within 0.001 and 0.5 then.
    pub learn_temperature: bool,
    /// Turn cells towards the texts of the classes that a linear expert (a logistic regression on the training cells) gives them, its
    /// probabilities to a power between a quarter of this and four times it, which validation cells decide (without them: this); 0: no
    /// expert.
    pub gene_linear_weight: f32,
    /// Whether the model has a captioning head.
    pub captioning: bool,
}

impl Default for QFormerConfig {
    /// BERT-base with 32 queries, as the reference's scripts have it.
    fn default() -> Self {
        QFormerConfig {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            vocab_size: 0,
            decoder_start_token_id: None,
            layer_norm_eps: 1e-12,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            num_query_tokens: 32,
            cross_attention_freq: 2,
            text_pooling: TextPooling::Cls,
            projection_dim: 256,
            temperature: 0.1,
            learn_temperature: false,
            gene_linear_weight: 0.0,
            captioning: false,
        }
    }
}

impl QFormerConfig {
    /// Checks every field against its domain.
    ///
    /// # Errors
    /// `Setting`, naming the first that is outside.
    pub fn check(&self) -> Result<()> {
        let heads = self.num_attention_heads;
        positive("qformer.hidden_size", self.hidden_size)?;
        positive("qformer.num_hidden_layers", self.num_hidden_layers)?;
        positive("qformer.intermediate_size", self.intermediate_size)?;
        positive("qformer.max_position_embeddings", self.max_position_embeddings)?;
        positive("qformer.num_query_tokens", self.num_query_tokens)?;
        positive("qformer.cross_attention_freq", self.cross_attention_freq)?;
        positive("qformer.projection_dim", self.projection_dim)?;
        let fits = heads > 0 && self.hidden_size.is_multiple_of(heads) && (self.hidden_size / heads).is_multiple_of(8);
        domain("qformer.num_attention_heads", heads, fits, "hidden_size / num_attention_heads must be a multiple of 8")?;
        let dropouts = [
            ("qformer.hidden_dropout_prob", self.hidden_dropout_prob),
            ("qformer.attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ];
        for (key, dropout) in dropouts {
            domain(key, dropout, (0.0..1.0).contains(&dropout), "0 or more, below 1")?;
        }
        domain("qformer.layer_norm_eps", self.layer_norm_eps, self.layer_norm_eps > 0.0, "must be above 0")?;
        let temperature = self.temperature;
        domain("qformer.temperature", temperature, temperature > 0.0 && temperature.is_finite(), "must be above 0")?;
        let expert = self.gene_linear_weight;
        domain("qformer.gene_linear_weight", expert, expert >= 0.0 && expert.is_finite(), "0 or more")?;
        match self.decoder_start_token_id {
            Some(id) if self.vocab_size > 0 => {
                domain("qformer.decoder_start_token_id", id, (id as usize) < self.vocab_size, "must be below vocab_size")
            }
            _ => Ok(()),
        }
    }

    /// The token that a caption starts with.
    pub fn decoder_start(&self) -> u32 {
        self.decoder_start_token_id.unwrap_or(self.vocab_size.saturating_sub(1) as u32)
    }

    /// Whether the queries look at the cell in this layer.
    pub fn has_cross_attention(&self, layer: usize) -> bool {
        layer.is_multiple_of(self.cross_attention_freq)
    }
}

/// Sizes of the joint model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CellTextConfig {
    /// The cell encoder and its heads.
    pub model: ModelConfig,
    /// The Q-Former and its heads.
    pub qformer: QFormerConfig,
}

impl CellTextConfig {
    /// Checks both parts.
    ///
    /// # Errors
    /// `Setting`, naming the first field that is outside its domain.
    pub fn check(&self) -> Result<()> {
        self.model.check()?;
        self.qformer.check()
    }
}
