//! Files to host memory: AnnData `.h5ad`, safetensors checkpoints, gene vocabularies, expression
//! preprocessing, seeded splits, texts and their tokens, padded batches, retrieval indexes. Knows no device and no model.
#![deny(unsafe_code)]

mod aliases;
mod atomic;
pub mod batch;
pub mod batch_order;
pub mod binning;
pub mod checkpoint;
pub mod dataset;
mod dataset_builder;
mod error;
pub mod expression;
pub mod gene_map;
pub mod gguf;
pub mod h5ad;
pub mod highly_variable;
pub mod index;
mod json_pairs;
pub mod language;
pub mod mapped_file;
pub mod prefetch;
mod random;
mod sample;
pub mod scale;
pub mod split;
pub mod text;
pub mod tokenizer;
pub mod vocab;

pub use atomic::AtomicFile;
pub use error::{Error, Result};
