//! `doctor`: is this device to be trusted?

use scmmgpt_engine::task::doctor::{KernelHealth, examine};

use crate::arguments::Global;

pub(crate) fn run(global: &Global, cases: &[String]) -> anyhow::Result<()> {
    let device = global.open_device()?;
    if !global.json {
        println!("{}", device.describe());
        if device.is_software() {
            println!("This device is software: its driver reports no hardware behind it. Results count, times do not.");
        }
    }
    let health = examine(&device, cases, &mut |kernel| {
        if !global.json {
            println!("  {:<16} {}", kernel.kernel, verdict(kernel));
            kernel.failures.iter().for_each(|failure| println!("    {failure}"));
        }
    });
    anyhow::ensure!(!health.kernels.is_empty(), "no kernel has a case whose name contains {}", cases.join(" or "));
    if global.json {
        println!("{}", serde_json::to_string(&health)?);
    }
    anyhow::ensure!(health.is_well(), "the device computes something else than the CPU; do not use it, and report this");
    Ok(())
}

fn verdict(kernel: &KernelHealth) -> String {
    match (kernel.failures.len(), kernel.absent) {
        (0, 0) => format!("{} cases agree", kernel.passed),
        (0, _) => "does not run on this device".into(),
        (failed, _) => format!("{failed} of {} cases differ", failed + kernel.passed),
    }
}
