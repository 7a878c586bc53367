//! Texts about cells: ontology terms, descriptions, literature, labels; and batches of them.

mod batch;
mod error;

pub use batch::{PAD_TO_MULTIPLE, TextBatch, TextCollator};
pub use error::TextError;
