//! Every case of every kernel: f32 and bf16 against f64, the same bits at any number of threads, and a CUDA device against the CPU.

mod driver;

use scmmgpt_kernels::{registry, testing};

#[test]
fn every_case_computes_what_it_says() {
    let mut failures = Vec::new();
    for (kernel, cases) in registry() {
        assert!(!cases.is_empty(), "{kernel} has no cases");
        for case in cases.iter().filter(|case| !case.timed) {
            for seed in [1, 2] {
                failures.extend(testing::verify(case, seed).err().map(|message| format!("{kernel} {message}")));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Kernels without PTX say so when they are called; their folders have no `cuda.rs`.
fn has_cuda(kernel: &str) -> bool {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../kernels/src/{kernel}/cuda.rs")).exists()
}

/// Kernels whose PTX takes bf16 in every case; the others refuse it, except where all of a case is kept in f32.
const IN_BF16: [&str; 8] = ["attention", "cross_entropy", "embedding", "gemm", "int8_gemm", "rms_norm", "rope", "swiglu"];

#[test]
fn a_cuda_device_agrees_with_the_cpu() {
    let Some(device) = driver::device() else { return };
    eprintln!("{}", device.describe());
    let mut failures = Vec::new();
    for (kernel, cases) in registry() {
        for case in cases.iter().filter(|case| !case.timed) {
            match testing::verify_on(&device, case, 1) {
                Ok(ran) => assert_eq!(ran, has_cuda(kernel), "{kernel} {}: a folder with cuda.rs runs all its cases", case.name),
                Err(message) => failures.push(format!("{kernel} {message}")),
            }
            match testing::verify_bf16_on(&device, case, 1) {
                Ok(ran) => assert!(ran || !IN_BF16.contains(&kernel), "{kernel} {}: refused in bf16", case.name),
                Err(message) => failures.push(format!("{kernel} {message}")),
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
