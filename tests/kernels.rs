//! Every case of every kernel: f32 and bf16 against f64, and the same bits at any number of threads.

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
