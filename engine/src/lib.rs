//! Train and run scMMGPT models from Rust: the cell encoder, cells and texts in one space, their tasks and metrics.
//!
//! [`train::Trainer`] trains what a [`config::TrainConfig`] describes and leaves a model folder; [`bundle::Bundle`] opens one;
//! [`task`] holds what it can do with cells. Everything runs on a [`Device`].
//!
//! ```no_run
//! use std::path::Path;
//!
//! use scmmgpt_engine::Device;
//! use scmmgpt_engine::bundle::Bundle;
//! use scmmgpt_engine::task::embed::{Embed, embed};
//!
//! fn main() -> scmmgpt_engine::Result<()> {
//!     let bundle = Bundle::open(Path::new("runs/demo"), &Device::cpu(0)?)?;
//!     let (cells, output) = (Path::new("in.h5ad"), Path::new("out.h5ad"));
//!     let task = Embed { cells, output, layer: None, overwrite: false, command: "my program" };
//!     let (report, width) = embed(&bundle, &task, &mut |done, total| eprintln!("{done} of {total} cells"))?;
//!     println!("{} cells embedded in {width} dimensions", report.cells);
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

pub mod baseline;
pub mod bundle;
mod cells;
pub mod config;
mod error;
pub mod generate;
pub mod layer;
pub mod metric;
pub mod model;
pub mod neighbours;
mod novelty;
mod predict;
pub mod retrieve;
mod scgpt;
pub mod task;
mod texts;
pub mod train;
pub mod weights;

pub use error::{Error, Result};
pub use scmmgpt_kernels::Error as KernelError;
pub use scmmgpt_kernels::runtime::{Device, Plan};
pub use scmmgpt_loader::Error as LoaderError;
pub use scmmgpt_loader::dataset::SourceReport;
pub use texts::LabelSource;
