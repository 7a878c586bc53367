//! Training of the cell encoder: data, loop, optimizer, checkpoints.

mod batch_loop;
mod checkpoint;
mod data;
mod evaluate;
mod log;
mod optimizer;
mod schedule;
mod trainer;

pub use data::TrainingData;
pub use evaluate::Evaluation;
pub use schedule::Schedule;
pub use trainer::{Observer, Outcome, Progress, Trainer};
