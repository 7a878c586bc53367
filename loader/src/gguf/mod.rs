//! GGUF: one file with a language model's weights, sizes and tokenizer, as llama.cpp keeps them.
//!
//! Every length and offset is checked against the file before it is used, and nothing is allocated that the file could not fill. The
//! weights stay in the mapped file until a caller asks for numbers.
//!
//! # Source
//! The format's description in the ggml repository (`docs/gguf.md`), versions 2 and 3.

mod blocks;
mod error;
mod read;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

pub use blocks::Storage;
pub use error::GgufError;

use crate::Result;
use crate::mapped_file::MappedFile;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Any floating-point number.
    Real(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// Unsigned or signed integers, or truth values.
    Integers(Vec<i64>),
    /// Floating-point numbers.
    Reals(Vec<f64>),
    /// Texts.
    Texts(Vec<String>),
}

/// Where a tensor lies, and how.
#[derive(Clone, Debug, PartialEq)]
struct Tensor {
    /// Outermost first, as PyTorch has them (the file has them the other way round).
    shape: Vec<usize>,
    storage: Storage,
    range: Range<usize>,
}

/// An opened GGUF file.
#[derive(Debug)]
pub struct Gguf {
    map: MappedFile,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

impl Gguf {
    /// Opens a file and checks its whole header.
    ///
    /// # Errors
    /// `Io`, `Gguf`.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf> {
        let map = MappedFile::open(path)?;
        let (metadata, tensors) = read::header(map.path(), map.bytes())?;
        Ok(Gguf { map, metadata, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| GgufError::MissingTensor { path: self.path().into(), name: name.into() }.into())
    }

    /// Sizes of a tensor, outermost first.
    ///
    /// # Errors
    /// `MissingTensor`.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.tensor(name)?.shape)
    }

    /// A tensor's numbers in row-major order; quantised blocks are multiplied out.
    ///
    /// # Errors
    /// `MissingTensor`.
    pub fn to_f32(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(name)?;
        Ok(tensor.storage.expand(&self.map.bytes()[tensor.range.clone()]))
    }

    /// A metadata value.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    fn metadata_error(&self, key: &str, expected: &'static str) -> crate::Error {
        let found = match self.metadata.get(key) {
            None => "missing".into(),
            Some(value) => {
                let text = format!("{value:?}");
                text.chars().take(80).collect()
            }
        };
        GgufError::Metadata { path: self.path().into(), key: key.into(), found, expected }.into()
    }

    /// A whole number that is 0 or more.
    ///
    /// # Errors
    /// `Metadata` when it is missing or something else.
    pub fn unsigned(&self, key: &str) -> Result<usize> {
        let value = match self.metadata.get(key) {
            Some(Value::Unsigned(value)) => usize::try_from(*value).ok(),
            Some(Value::Signed(value)) => usize::try_from(*value).ok(),
            _ => None,
        };
        value.ok_or_else(|| self.metadata_error(key, "a whole number of 0 or more"))
    }

    /// A finite number.
    ///
    /// # Errors
    /// `Metadata` when it is missing or something else.
    pub fn real(&self, key: &str) -> Result<f64> {
        match self.metadata.get(key) {
            Some(Value::Real(value)) if value.is_finite() => Ok(*value),
            _ => Err(self.metadata_error(key, "a finite number")),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// `Metadata` when it is missing or something else.
    pub fn text(&self, key: &str) -> Result<&str> {
        match self.metadata.get(key) {
            Some(Value::Text(value)) => Ok(value),
            _ => Err(self.metadata_error(key, "a text")),
        }
    }

    /// A list of texts.
    ///
    /// # Errors
    /// `Metadata` when it is missing or something else.
    pub fn texts(&self, key: &str) -> Result<&[String]> {
        match self.metadata.get(key) {
            Some(Value::Texts(values)) => Ok(values),
            _ => Err(self.metadata_error(key, "a list of texts")),
        }
    }

    /// A list of integers.
    ///
    /// # Errors
    /// `Metadata` when it is missing or something else.
    pub fn integers(&self, key: &str) -> Result<&[i64]> {
        match self.metadata.get(key) {
            Some(Value::Integers(values)) => Ok(values),
            _ => Err(self.metadata_error(key, "a list of integers")),
        }
    }
}
