//! Training, stage by stage: data, loop, optimizer, checkpoints.

mod calibration;
mod cell_stage;
mod checkpoint;
mod data;
mod evaluate;
mod joint;
mod joint_calibration;
mod linear_expert;
mod log;
mod optimizer;
mod schedule;
mod space_expert;
mod stage;
mod text_stage;
mod trainer;

pub use data::TrainingData;
pub use evaluate::Evaluation;
pub use schedule::Schedule;
pub use trainer::{Observer, Outcome, Progress, STAGE0, StagePlan, Trainer};
