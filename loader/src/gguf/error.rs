//! What can be wrong with a GGUF file.

use std::path::PathBuf;

/// A GGUF file that cannot be used; every variant names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file is something else.
    #[error("{} is not a GGUF file: it starts with {found:?}", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// Its first bytes, as text.
        found: String,
    },
    /// A version with another layout.
    #[error("{} is GGUF version {version}; versions 2 and 3 can be read: convert the model again with a current tool", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The file ends before, or claims more than, what it announces.
    #[error("{} is damaged: {what} at byte {offset} needs {needed} bytes, {left} are left; download or copy it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// Bytes it needs.
        needed: u64,
        /// Bytes there are.
        left: usize,
    },
    /// A field contradicts the format.
    #[error("{} is damaged: {what} at byte {offset} is {found}, expected {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        what: &'static str,
        /// Where it stands.
        offset: usize,
        /// Its value.
        found: String,
        /// What the format allows.
        expected: &'static str,
    },
    /// A name occurs twice.
    #[error("{} names `{name}` twice", path.display())]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// Key or tensor.
        name: String,
    },
    /// A tensor is asked for that the file does not have.
    #[error("{} has no tensor `{name}`", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor is stored in a way that cannot be read.
    #[error(
        "tensor `{name}` of {} is stored as type {kind}; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 can be read: quantise the model in one of them",
        path.display()
    )]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// GGML's number of the type.
        kind: u32,
    },
    /// A tensor's sizes do not fit its storage.
    #[error("tensor `{name}` of {}: {reason}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Metadata that a model needs is absent or of another kind.
    #[error("{}: metadata `{key}` is {found}, expected {expected}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What stands there.
        found: String,
        /// What is needed.
        expected: &'static str,
    },
}
