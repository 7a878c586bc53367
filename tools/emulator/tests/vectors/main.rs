//! Every instruction of the sm_80 set by itself: edge operands, all combinations of them, one a thread, against what the ISA says in plain
//! host arithmetic that shares nothing with the emulator.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod arithmetic;
mod bench;
mod conversion;
mod exchange;
mod floating;
mod matrix;
mod memory;
