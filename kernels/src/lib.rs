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

/// Declares the kernel folders and collects their cases and PTX texts for tests and benches. A kernel that emits its texts, instead of
/// keeping them in a `.ptx` file, names the function of its folder that lists them.
macro_rules! kernels {
    ($($name:ident $(: $texts:ident)?),* $(,)?) => {
        $(pub mod $name;)*

        /// Every kernel's cases, in the order of the list above.
        #[cfg(feature = "testing")]
        pub fn registry() -> Vec<(&'static str, Vec<testing::Case>)> {
            vec![$((stringify!($name), $name::cases::cases())),*]
        }

        /// Every PTX text that the kernels emit: entry and module.
        pub fn texts() -> Vec<(String, String)> {
            [$($($name::$texts(),)?)*].concat()
        }
    };
}

kernels! {
    activation,
    adamw,
    attention: texts,
    contrastive: texts,
    cross_entropy,
    dropout,
    embedding,
    gemm: texts,
    gene_embedding,
    int8_gemm,
    l2_normalize,
    layer_norm,
    mse,
    pool,
    reduce,
    rms_norm,
    rope,
    sample: texts,
    select,
    swiglu,
    topk: texts,
    zinb,
}
