//! Device runtime and every compute kernel of scmmgpt-engine.
//!
//! One folder a kernel: `mod.rs` (arguments, shapes, the one dispatch on the device), `cpu.rs` (the CPU path) and `cases.rs`
//! (what tests, gradient checks and benches run). [`runtime`] holds devices, streams, memory plans and tensor handles.
//! This crate knows no file format and no model.

mod error;
pub mod runtime;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::{Error, Result};

/// Declares the kernel folders and collects their cases for tests and benches.
macro_rules! kernels {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $($(#[$doc])* pub mod $name;)*

        /// Every kernel's cases, in the order of the list above.
        #[cfg(feature = "testing")]
        pub fn registry() -> Vec<(&'static str, Vec<testing::Case>)> {
            vec![$((stringify!($name), $name::cases::cases())),*]
        }
    };
}

kernels! {
    activation,
    adamw,
    attention,
    contrastive,
    cross_entropy,
    dropout,
    embedding,
    gemm,
    gene_embedding,
    l2_normalize,
    layer_norm,
    mse,
    pool,
    reduce,
    topk,
}

/// Every PTX text that the kernels can emit: entry and module.
pub fn texts() -> Vec<(String, String)> {
    [attention::texts(), gemm::texts()].concat()
}
