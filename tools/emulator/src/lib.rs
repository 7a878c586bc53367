//! Executes PTX on the CPU.
//!
//! A [`Device`] has memory, loads texts and launches their entries, 32 lanes of a warp at a time. On the way it checks what values alone
//! cannot show: bounds, alignment, uninitialised reads, races on shared and global memory, asynchronous copies that were not waited
//! for, barriers with missing threads, operations that lanes of a warp do not reach together, deadlocks. What the hardware leaves open
//! (order of warps and CTAs, sums inside matrix instructions, errors of approximate functions) is chosen by seed and model.

#[macro_use]
mod lanes;
mod count;
mod decode;
mod device;
mod error;
mod integer;
mod lexer;
mod machine;
mod memory;
mod numeric;
mod parser;
mod print;
mod program;
mod shared;
mod syntax;

pub use count::{CLASS_NAMES, CLASSES, Class, Counters};
pub use device::{Config, Device, Function, Launch, Module, Parameter, SHARED_DEFAULT};
pub use error::{Error, Fault, Place, Result};
pub use numeric::{ApproxModel, MmaModel, Numerics};
