//! What users ask of a trained model: one file a task.

pub mod annotate;
pub(crate) mod baselines;
pub(crate) mod by_language;
pub(crate) mod by_text;
pub mod chat;
pub mod describe;
pub mod doctor;
pub mod embed;
pub mod few_shot;
pub mod generate;
pub mod index;
pub(crate) mod joint_space;
pub mod label_recall;
mod output;
pub mod pair_scores;
pub mod retrieve;
pub mod score;
pub mod score_cells;
pub mod score_descriptions;
pub mod score_response;
pub(crate) mod speech;
pub(crate) mod writer;
pub mod zero_shot;

pub use output::{Provenance, write_result};
