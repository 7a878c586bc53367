//! `config.json` of a Llama model.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::LanguageError;
use crate::{AtomicFile, Error, Result};

/// Sizes and constants of a Llama model, under Hugging Face's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanguageConfig {
    /// Numbers a token.
    pub hidden_size: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads, a divisor of the query heads.
    pub num_key_value_heads: usize,
    /// Numbers a head, a multiple of 8.
    pub head_dim: usize,
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Added to mean squares.
    pub rms_norm_eps: f64,
    /// Base of the rotation frequencies.
    pub rope_theta: f64,
    /// Whether the output product uses the token table.
    pub tie_word_embeddings: bool,
    /// Token in front of a sequence, where there is one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
}

/// The fields of the file that matter; it has others.
#[derive(Debug, Deserialize)]
struct File {
    model_type: Option<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<RopeParameters>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    bos_token_id: Option<u32>,
    eos_token_id: Option<Tokens>,
}

/// Where newer files keep the rotation's constants.
#[derive(Debug, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Tokens {
    One(u32),
    Several(Vec<u32>),
}

impl LanguageConfig {
    /// Reads a Hugging Face `config.json`. Defaults are those of `LlamaConfig`: RMS epsilon 1e-6, rotation base 10,000, as many key heads
    /// as query heads.
    ///
    /// # Errors
    /// `Io`, `Json`, `Language`.
    pub fn read(path: &Path) -> Result<LanguageConfig> {
        let text = std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })?;
        let json = |source| Error::Json { path: path.into(), what: "language model's configuration", source };
        let file: File = serde_json::from_slice(&text).map_err(json)?;
        if let Some(found) = file.model_type.filter(|kind| kind != "llama") {
            return Err(LanguageError::Architecture { path: path.into(), found }.into());
        }
        if let Some(found) = file.hidden_act.filter(|act| act != "silu") {
            return Err(LanguageError::field(path, "hidden_act", found, "a Llama model has \"silu\""));
        }
        for (field, holds) in [("attention_bias", file.attention_bias), ("mlp_bias", file.mlp_bias)] {
            if holds {
                return Err(LanguageError::field(path, field, "true", "only products without bias can be read"));
            }
        }
        let kind = file.rope_parameters.as_ref().and_then(|rope| rope.rope_type.clone()).filter(|kind| kind != "default");
        let scaling = file.rope_scaling.filter(|scaling| !scaling.is_null()).map(|scaling| scaling.to_string());
        if let Some(found) = scaling.or(kind) {
            return Err(LanguageError::field(path, "rope_scaling", found, "only the plain rotation can be read"));
        }
        let theta = file.rope_theta.or(file.rope_parameters.and_then(|rope| rope.rope_theta));
        let config = LanguageConfig {
            hidden_size: file.hidden_size,
            intermediate_size: file.intermediate_size,
            num_hidden_layers: file.num_hidden_layers,
            num_attention_heads: file.num_attention_heads,
            num_key_value_heads: file.num_key_value_heads.unwrap_or(file.num_attention_heads),
            head_dim: file.head_dim.unwrap_or(file.hidden_size / file.num_attention_heads.max(1)),
            vocab_size: file.vocab_size,
            max_position_embeddings: file.max_position_embeddings,
            rms_norm_eps: file.rms_norm_eps.unwrap_or(1e-6),
            rope_theta: theta.unwrap_or(10_000.0),
            tie_word_embeddings: file.tie_word_embeddings,
            bos_token_id: file.bos_token_id,
            eos_token_ids: match file.eos_token_id {
                None => Vec::new(),
                Some(Tokens::One(token)) => vec![token],
                Some(Tokens::Several(tokens)) => tokens,
            },
        };
        config.check(path)?;
        Ok(config)
    }

    /// Writes a `config.json` that [`read`](Self::read) and Hugging Face's libraries understand, atomically.
    ///
    /// # Errors
    /// `Io`.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": false,
            "mlp_bias": false,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_ids,
            "torch_dtype": "float32",
        });
        let mut file = AtomicFile::create(path)?;
        let written = std::io::Write::write_all(&mut file, format!("{text:#}\n").as_bytes());
        written.map_err(|source| Error::Io { action: "write", path: path.into(), source })?;
        file.commit()
    }

    /// Checks that the sizes fit each other; `path` is named in errors.
    ///
    /// # Errors
    /// `Language`, naming the first field that does not.
    pub fn check(&self, path: &Path) -> Result<()> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (field, size) in sizes {
            if size == 0 || u32::try_from(size).is_err() {
                return Err(LanguageError::field(path, field, size, "expected 1 to 2^32 - 1"));
            }
        }
        let (heads, groups, head_dim) = (self.num_attention_heads, self.num_key_value_heads, self.head_dim);
        if groups == 0 || !heads.is_multiple_of(groups) {
            return Err(LanguageError::field(path, "num_key_value_heads", groups, "expected a divisor of num_attention_heads"));
        }
        if head_dim == 0 || !head_dim.is_multiple_of(8) {
            return Err(LanguageError::field(path, "head_dim", head_dim, "expected a multiple of 8"));
        }
        for (field, number) in [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)] {
            if !(number > 0.0 && number.is_finite()) {
                return Err(LanguageError::field(path, field, number, "expected a number above 0"));
            }
        }
        Ok(())
    }
}
