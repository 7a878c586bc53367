//! Training, stage by stage: data, loop, optimizer, checkpoints.

mod calibration;
mod cell_stage;
mod checkpoint;
mod data;
mod evaluate;
mod gene_means;
mod held_out;
mod joint;
mod joint_calibration;
mod language;
mod language_stage;
mod linear_expert;
mod log;
mod neighbours;
mod optimizer;
mod schedule;
mod space_expert;
mod stage;
mod text_stage;
mod trainer;
mod written_threshold;

pub use data::TrainingData;
pub use evaluate::{Evaluation, HeldOutLosses};
pub use held_out::HeldOut;
pub use optimizer::Optimizer;
pub use schedule::Schedule;
pub use trainer::{Observer, Outcome, Progress, STAGE0, STAGE1, StagePlan, Trainer};
