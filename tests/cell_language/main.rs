//! Stage 2: cells and a language model, from the passes to a model folder.

#[path = "../driver/mod.rs"]
mod driver;
mod golden;
mod leakage;
#[path = "../cell_text/setup.rs"]
mod run;
mod setup;
mod stage;
