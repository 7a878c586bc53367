//! What a model asks of a checkpoint, answered all at once.

use std::fmt;

use super::Checkpoint;
use crate::{Error, Result};

/// One way in which a checkpoint differs from what a model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TensorProblem {
    /// No tensor has this name.
    Missing {
        /// The name asked for.
        name: String,
        /// Shape the model needs.
        expected: Vec<usize>,
    },
    /// The tensor has another shape.
    Shape {
        /// Its name.
        name: String,
        /// Shape the model needs.
        expected: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
    },
}

impl fmt::Display for TensorProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            TensorProblem::Missing { name, expected } => {
                write!(formatter, "`{name}`: expected {expected:?}, got nothing")
            }
            TensorProblem::Shape { name, expected, got } => {
                write!(formatter, "`{name}`: expected {expected:?}, got {got:?}")
            }
        }
    }
}

impl Checkpoint {
    /// Checks that every listed tensor is there in the listed shape. Tensors beyond the list are allowed.
    ///
    /// # Errors
    /// `Tensors`, with **all** missing and mis-shaped tensors in the order of the list.
    pub fn require<N: AsRef<str>, S: AsRef<[usize]>>(&self, wanted: &[(N, S)]) -> Result<()> {
        let problem = |(name, expected): &(N, S)| {
            let (name, expected) = (name.as_ref().to_owned(), expected.as_ref().to_vec());
            match self.view(&name) {
                Err(_) => Some(TensorProblem::Missing { name, expected }),
                Ok(view) if view.shape == expected => None,
                Ok(view) => Some(TensorProblem::Shape { name, expected, got: view.shape.to_vec() }),
            }
        };
        let problems: Vec<_> = wanted.iter().filter_map(problem).collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::Tensors { path: self.path().into(), wanted: wanted.len(), problems })
    }
}

/// The error for a name that is not there: points to a tensor with the same last parts, as when a file
/// was saved from inside a wrapper (`module.`).
pub(super) fn missing(checkpoint: &Checkpoint, name: &str) -> Error {
    let similar =
        checkpoint.names().find(|have| have.ends_with(&format!(".{name}")) || name.ends_with(&format!(".{have}"))).map(str::to_owned);
    Error::MissingTensor { name: name.to_owned(), path: checkpoint.path().into(), similar }
}
