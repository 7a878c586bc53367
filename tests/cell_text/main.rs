//! Stage 1: cells and texts together, from a configuration to a model folder, and what the program does with one.

mod command;
mod expert;
#[path = "../program/killed.rs"]
mod killed;
#[path = "../program/mod.rs"]
mod program;
#[path = "../program/run.rs"]
mod run;
mod setup;
mod space;
mod stage;
