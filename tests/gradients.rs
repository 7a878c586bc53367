//! Every backward against central differences in f64.

use scmmgpt_kernels::{registry, testing};

#[test]
fn every_backward_is_the_derivative_of_its_forward() {
    let mut failures = Vec::new();
    for (kernel, cases) in registry() {
        for case in cases.iter().filter(|case| case.differentiable && !case.timed) {
            failures.extend(testing::gradcheck(case, 3).err().map(|message| format!("{kernel} {message}")));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
