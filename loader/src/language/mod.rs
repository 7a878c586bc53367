//! A language model's files: a Hugging Face folder or a GGUF file, seen the same way.
//!
//! Tensors go by their Hugging Face names (`model.layers.0.self_attn.q_proj.weight`), sizes by the fields of `config.json`.

mod cell_tokens;
mod config;
mod gguf;
mod pairs;
mod tokenizer;

use std::path::Path;

pub use cell_tokens::CellTokens;
pub use config::LanguageConfig;
pub use pairs::{Direction, IGNORE, LanguageBatch, PairCollator, PairConfig};
pub use tokenizer::LanguageTokenizer;

use crate::checkpoint::Checkpoint;
use crate::gguf::Gguf;
use crate::{Error, Result};

/// An opened language model; weights stay in their mapped files.
#[derive(Debug)]
pub struct LanguageFiles {
    config: LanguageConfig,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    Checkpoint(Checkpoint),
    Gguf(Gguf),
}

impl LanguageFiles {
    /// Opens a folder with `config.json` and safetensors (one file or shards), or a `.gguf` file.
    ///
    /// # Errors
    /// `Io`, `Json`, `Language` when it is no Llama architecture or a field contradicts another, and those of the weights' format.
    pub fn open(path: impl AsRef<Path>) -> Result<LanguageFiles> {
        let path = path.as_ref();
        if path.is_dir() {
            let config = LanguageConfig::read(&path.join("config.json"))?;
            return Ok(LanguageFiles { config, weights: Weights::Checkpoint(Checkpoint::open(path)?) });
        }
        let file = Gguf::open(path)?;
        Ok(LanguageFiles { config: gguf::config(&file)?, weights: Weights::Gguf(file) })
    }

    /// Sizes and constants alone; a folder's weights need not be there yet.
    ///
    /// # Errors
    /// As [`LanguageFiles::open`], but for those of a folder's weights.
    pub fn config_of(path: impl AsRef<Path>) -> Result<LanguageConfig> {
        let path = path.as_ref();
        if path.is_dir() { LanguageConfig::read(&path.join("config.json")) } else { gguf::config(&Gguf::open(path)?) }
    }

    /// Sizes and constants.
    pub fn config(&self) -> &LanguageConfig {
        &self.config
    }

    /// Whether there is a tensor of this Hugging Face name.
    pub fn contains(&self, name: &str) -> bool {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.contains(name),
            Weights::Gguf(file) => gguf::name(name).is_some_and(|name| file.contains(&name)),
        }
    }

    /// A tensor's numbers in row-major order, in Hugging Face's layout.
    ///
    /// # Errors
    /// `MissingTensor`, or `Tensors` when its sizes are not `shape`; those of the format.
    pub fn to_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => {
                checkpoint.require(&[(name.to_string(), shape.to_vec())])?;
                checkpoint.to_f32(name)
            }
            Weights::Gguf(file) => gguf::read(file, &self.config, name, shape),
        }
    }
}

/// What keeps a file from being a language model that can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LanguageError {
    /// Another architecture.
    #[error("{} describes a model of type {found:?}; only \"llama\" can be read (Llama, TinyLlama, SmolLM2, ..)", path.display())]
    Architecture {
        /// The file.
        path: std::path::PathBuf,
        /// What it says.
        found: String,
    },
    /// A field that would change the computation in a way that is not built.
    #[error("{}: {field} is {found}: {expected}", path.display())]
    Field {
        /// The file.
        path: std::path::PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What can be read.
        expected: &'static str,
    },
    /// A file is no tokenizer, or one that cannot be rebuilt.
    #[error("{} is not a tokenizer that can be read: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        reason: String,
    },
    /// A tensor has other sizes than the configuration asks for.
    #[error("tensor `{name}` of {}: expected {expected:?}, got {got:?}", path.display())]
    Shape {
        /// The file.
        path: std::path::PathBuf,
        /// The tensor's name in Hugging Face's words.
        name: String,
        /// From the configuration.
        expected: Vec<usize>,
        /// In the file.
        got: Vec<usize>,
    },
}

impl LanguageError {
    fn field(path: &Path, field: &'static str, found: impl ToString, expected: &'static str) -> Error {
        LanguageError::Field { path: path.into(), field, found: found.to_string(), expected }.into()
    }
}
