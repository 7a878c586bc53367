//! Text from a language model: against Hugging Face's `generate`, against scores of whole sequences, and that company changes nothing.

mod answers;
mod cache;
mod cuda;
#[path = "../driver/mod.rs"]
mod driver;
mod labels;
mod setup;
