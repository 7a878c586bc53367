//! What the program does with a language model: describe, label by writing, make cells, talk.

mod annotate;
mod chat;
mod describe;
mod dtype;
mod generate;
#[path = "../program/mod.rs"]
mod program;
mod setup;
