//! Files to host memory: AnnData `.h5ad`, safetensors checkpoints, gene vocabularies, expression
//! preprocessing, seeded splits and padded batches. Knows no device and no model.
#![deny(unsafe_code)]

mod atomic;
mod error;
pub mod h5ad;

pub use atomic::AtomicFile;
pub use error::{Error, Result};
