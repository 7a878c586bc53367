//! Training, stage by stage: data, loop, optimizer, checkpoints.

mod calibration;
mod cell_stage;
mod checkpoint;
mod data;
mod evaluate;
mod joint;
mod language;
mod language_stage;
mod linear_expert;
mod log;
mod neighbours;
mod optimizer;
mod schedule;
mod stage;
mod text_stage;
mod trainer;

pub use data::TrainingData;
pub use evaluate::{Evaluation, HeldOut};
pub use schedule::Schedule;
pub use trainer::{Observer, Outcome, Progress, STAGE0, STAGE1, StagePlan, Trainer};
