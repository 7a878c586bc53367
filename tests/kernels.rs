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

/// Every entry of the PTX texts, plain and emitted.
fn entries() -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/src");
    let kernels = std::fs::read_dir(folder).unwrap().map(|kernel| kernel.unwrap().path()).filter(|path| path.is_dir());
    let files = kernels.flat_map(|kernel| std::fs::read_dir(kernel).unwrap().map(|file| file.unwrap().path()));
    let plain = files.filter(|file| file.extension().is_some_and(|extension| extension == "ptx"));
    let texts = plain.map(|file| std::fs::read_to_string(file).unwrap());
    let name = |after: &str| after.split('(').next().unwrap_or_default().trim().to_string();
    let plain = texts.flat_map(|text| text.split(".entry").skip(1).map(name).collect::<Vec<_>>());
    plain.chain(scmmgpt_kernels::texts().into_iter().map(|(entry, _)| entry)).collect()
}

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
            for verify in [testing::verify_f16_on, testing::verify_tf32_on] {
                match verify(&device, case, 1) {
                    Ok(ran) => assert_eq!(ran, case.f16.is_some(), "{kernel} {}: in f16 or tf32", case.name),
                    Err(message) => failures.push(format!("{kernel} {message}")),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    let launched = device.launched();
    let idle: Vec<_> = entries().into_iter().filter(|entry| !launched.contains(entry)).collect();
    assert!(idle.is_empty(), "{} entries that no case launches:\n{}", idle.len(), idle.join("\n"));
}
