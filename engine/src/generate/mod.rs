//! Text from a language model: prompts go through it once, then one token at a time behind the cached keys and values.
//!
//! [`Generator`] holds the sequences of a batch; [`answer`](answer::answer) writes behind prompts, by the most probable token, by
//! sampling or by beams; [`labels`] gives the probabilities of whole texts to choose from.

pub mod answer;
mod beam;
mod chooser;
pub mod config;
pub mod counts;
pub(crate) mod dtype;
mod generator;
pub mod labels;
pub mod sampler;
pub mod sizes;
mod text;

pub use chooser::{Choice, Chosen, Draw};
pub use config::GenerationConfig;
pub use dtype::Dtype;
pub use generator::{Generator, Prompt};
