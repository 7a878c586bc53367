//! What users ask of a trained model: one file a task.

pub mod annotate;
pub(crate) mod by_text;
pub mod doctor;
pub mod embed;
mod output;
pub mod pair_scores;
pub mod score;

pub use output::{Provenance, write_result};
