//! What users ask of a trained model: one file a task.

pub mod annotate;
pub mod doctor;
pub mod embed;
mod output;
pub mod score;

pub use output::{Provenance, write_result};
