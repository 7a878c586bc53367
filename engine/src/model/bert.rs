//! A Hugging Face BERT as the start of a Q-Former.
//!
//! The text half of the Q-Former then computes what that BERT computes. Three things differ from its files:
//! - the feed-forward half of the queries (`intermediate_query`, `output_query`) starts as a copy of the text's;
//! - the word table has a row for `[DEC]` behind BERT's last, which keeps its random values;
//! - there are no token types: the row of type 0, which every token of a text has, is added to the positions. (The reference leaves it
//!   out, so that its text model is not quite the one that it loads.)
//!
//! # Source
//! scMMGPT `blip2.py`, `init_Qformer`, and `blip2qformer.py`; LAVIS `Qformer.py`.

use std::path::Path;

use scmmgpt_kernels::runtime::{Float, Real, Stream};
use scmmgpt_loader::checkpoint::Checkpoint;
use serde::Deserialize;

use crate::config::QFormerConfig;
use crate::weights::{Declared, Parameters};
use crate::{Error, Result};

/// Where a BERT keeps its sizes.
const CONFIG: &str = "config.json";

/// What is read of `config.json`.
#[derive(Debug, Deserialize)]
struct BertConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    vocab_size: usize,
    #[serde(default = "default_types")]
    type_vocab_size: usize,
    #[serde(default = "default_eps")]
    layer_norm_eps: f64,
    #[serde(default = "default_act")]
    hidden_act: String,
    #[serde(default = "default_positions")]
    position_embedding_type: String,
    #[serde(default = "default_dropout")]
    hidden_dropout_prob: f32,
    #[serde(default = "default_dropout")]
    attention_probs_dropout_prob: f32,
}

// What Hugging Face's `BertConfig` has where a file says nothing.
fn default_types() -> usize {
    2
}
fn default_eps() -> f64 {
    1e-12
}
fn default_act() -> String {
    "gelu".into()
}
fn default_positions() -> String {
    "absolute".into()
}
fn default_dropout() -> f32 {
    0.1
}

impl BertConfig {
    fn read(folder: &Path) -> Result<BertConfig> {
        let file = folder.join(CONFIG);
        let text = std::fs::read_to_string(&file).map_err(|source| Error::Io { action: "read", path: file.clone(), source })?;
        serde_json::from_str(&text).map_err(|error| Error::ConfigSyntax { file, reason: error.to_string() })
    }

    /// The shape that its file must have for one of our parameters: tables by word and position have their own number of rows.
    fn shape<T: Float>(&self, ours: &Declared<T>) -> Vec<usize> {
        let mut shape = ours.parameter.value.shape().to_vec();
        let is = |end: &str| ours.name.ends_with(end);
        if is("word_embeddings.weight") || is("cls.predictions.bias") {
            shape[0] = self.vocab_size;
        } else if is("position_embeddings.weight") {
            shape[0] = self.max_position_embeddings;
        }
        shape
    }
}

/// The sizes of the BERT in `folder`, and its dropout, in a configuration whose other fields are those of `base`. The vocabulary gets
/// one row more, for `[DEC]`.
///
/// # Errors
/// `Io` and `ConfigSyntax` when `config.json` is missing or damaged.
pub fn with_sizes(folder: &Path, base: QFormerConfig) -> Result<QFormerConfig> {
    let bert = BertConfig::read(folder)?;
    Ok(QFormerConfig {
        hidden_size: bert.hidden_size,
        num_hidden_layers: bert.num_hidden_layers,
        num_attention_heads: bert.num_attention_heads,
        intermediate_size: bert.intermediate_size,
        max_position_embeddings: bert.max_position_embeddings,
        vocab_size: bert.vocab_size + 1,
        layer_norm_eps: bert.layer_norm_eps,
        hidden_dropout_prob: bert.hidden_dropout_prob,
        attention_probs_dropout_prob: bert.attention_probs_dropout_prob,
        ..base
    })
}

/// Whether the BERT in `folder` can be the start of a Q-Former of these sizes.
///
/// # Errors
/// `BertMismatch` when not; `Io` and `ConfigSyntax` when `config.json` is missing or damaged.
pub fn check_sizes(folder: &Path, config: &QFormerConfig) -> Result<()> {
    compare(&BertConfig::read(folder)?, config, folder)
}

/// What [`load_bert`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BertImport {
    /// Parameters of the Q-Former that now have BERT's values.
    pub loaded: usize,
    /// Parameters of the Q-Former that BERT does not have: they keep what they had.
    pub kept: Vec<String>,
}

/// Gives a Q-Former the weights of the BERT in `folder` (`config.json` and safetensors; names with or without `bert.`). A Q-Former of
/// fewer layers takes the first ones. Cross-attention, queries, projections and, where the file has none, the language-model head keep
/// their values, and so does the word row of `[DEC]`: initialise first.
///
/// # Errors
/// `BertMismatch` when a size differs, naming both; `Tensors` of the loader with everything that is missing or mis-shaped; those of the
/// files. Nothing is loaded then.
pub fn load_bert<T: Float>(stream: &Stream, parameters: &Parameters<T>, config: &QFormerConfig, folder: &Path) -> Result<BertImport> {
    let bert = BertConfig::read(folder)?;
    compare(&bert, config, folder)?;
    let checkpoint = Checkpoint::open(folder)?;
    let (mut found, mut kept) = (Vec::new(), Vec::new());
    for declared in parameters.declared().iter().filter(|declared| declared.name.starts_with("Qformer.")) {
        match source(&checkpoint, &declared.name) {
            Some(name) => found.push((declared, name)),
            None => kept.push(declared.name.clone()),
        }
    }
    let types = source(&checkpoint, "Qformer.bert.embeddings.token_type_embeddings.weight").filter(|name| checkpoint.contains(name));
    let mut wanted: Vec<(String, Vec<usize>)> = found.iter().map(|(declared, name)| (name.clone(), bert.shape(declared))).collect();
    wanted.extend(types.iter().map(|name| (name.clone(), vec![bert.type_vocab_size, bert.hidden_size])));
    checkpoint.require(&wanted)?;
    let types = types.map(|name| checkpoint.to_f32(&name)).transpose()?.unwrap_or_default();
    for (declared, name) in &found {
        let mut values = checkpoint.to_f32(name)?;
        if declared.name.ends_with("position_embeddings.weight") {
            // The first row of the types.
            for row in values.chunks_exact_mut(bert.hidden_size) {
                row.iter_mut().zip(&types).for_each(|(value, of_type)| *value += of_type);
            }
        }
        let tensor = declared.parameter.value;
        let mut current = if values.len() < tensor.len() { stream.fetch(tensor)? } else { vec![T::default(); tensor.len()] };
        current.iter_mut().zip(&values).for_each(|(current, &value)| *current = T::from_acc(T::Acc::of(f64::from(value))));
        stream.upload(tensor, &current)?;
    }
    Ok(BertImport { loaded: found.len(), kept })
}

/// The name under which the file has a parameter; none for what no BERT has. A name that the file should have and does not is returned
/// too, so that it is listed as missing.
fn source(checkpoint: &Checkpoint, ours: &str) -> Option<String> {
    if ours.contains(".crossattention.") {
        return None;
    }
    let plain = ours.replace("intermediate_query.", "intermediate.").replace("output_query.", "output.");
    // Files from TensorFlow name a norm's parameters otherwise.
    let old = plain.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
    let body = plain.strip_prefix("Qformer.bert.");
    let mut candidates = Vec::new();
    for name in [&plain, &old] {
        match name.strip_prefix("Qformer.bert.") {
            Some(body) => candidates.extend([format!("bert.{body}"), body.to_string()]),
            None => candidates.extend(name.strip_prefix("Qformer.").map(String::from)),
        }
    }
    candidates.into_iter().find(|name| checkpoint.contains(name)).or(body.map(String::from))
}

fn compare(bert: &BertConfig, ours: &QFormerConfig, folder: &Path) -> Result<()> {
    let refuse = |field: &'static str, theirs: String, ours: String, advice: &'static str| {
        Err(Error::BertMismatch { folder: folder.into(), field, theirs, ours, advice })
    };
    let equal = [
        ("hidden_size", bert.hidden_size, ours.hidden_size),
        ("num_attention_heads", bert.num_attention_heads, ours.num_attention_heads),
        ("intermediate_size", bert.intermediate_size, ours.intermediate_size),
    ];
    for (field, theirs, ours) in equal {
        if theirs != ours {
            return refuse(field, theirs.to_string(), ours.to_string(), "set it to BERT's, or start from another BERT");
        }
    }
    let at_most = [
        ("num_hidden_layers", bert.num_hidden_layers, ours.num_hidden_layers),
        ("max_position_embeddings", bert.max_position_embeddings, ours.max_position_embeddings),
    ];
    for (field, theirs, ours) in at_most {
        if ours > theirs {
            return refuse(field, theirs.to_string(), ours.to_string(), "it may be lower than BERT's, never higher");
        }
    }
    if ours.vocab_size > bert.vocab_size + 1 {
        let advice = "use the tokenizer that came with this BERT: it may have one token more, [DEC]";
        return refuse("vocab_size", bert.vocab_size.to_string(), ours.vocab_size.to_string(), advice);
    }
    if bert.layer_norm_eps != ours.layer_norm_eps {
        return refuse("layer_norm_eps", bert.layer_norm_eps.to_string(), ours.layer_norm_eps.to_string(), "set it to BERT's");
    }
    let kinds = [("hidden_act", &bert.hidden_act, "gelu"), ("position_embedding_type", &bert.position_embedding_type, "absolute")];
    for (field, theirs, only) in kinds {
        if theirs != only {
            return refuse(field, theirs.clone(), only.into(), "nothing else is computed here; start from another BERT");
        }
    }
    Ok(())
}
