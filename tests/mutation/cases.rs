//! Kernel cases in processes of their own: a driver that has reported something answers nothing more in its process.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, ExitCode};

use scmmgpt_kernels::runtime::Device;
use scmmgpt_kernels::{registry, testing};

/// Names the cases of a child, `element/kernel/case` a line.
const CASES: &str = "SCMMGPT_MUTATION_CASES";
/// Warp instructions after which a CTA counts as endless; no case comes near it.
const BUDGET: &str = "4194304";
const STARTED: &str = "case: ";

/// What the emulated device leaves open: schedule, sums inside matrix instructions, errors of approximate functions.
pub(crate) const SETTINGS: [[&str; 3]; 3] = [["0", "sequential", "hash"], ["1", "exact", "highest"], ["2", "blocks", "lowest"]];

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// Every case within its tolerance.
    Well,
    /// A check of the emulator spoke.
    Reported,
    /// The text or the launch was refused.
    Refused,
    /// A result left the case's tolerance.
    Values,
}

/// The child's half: runs the cases that the environment names until one fails. None: this process is no child.
pub(crate) fn run_as_child() -> Option<ExitCode> {
    let wanted = std::env::var(CASES).ok()?;
    let device = Device::cuda(0, 1).expect("the parent has found the driver");
    let kernels = registry();
    for name in wanted.lines() {
        let (element, rest) = name.split_once('/').expect("element/kernel/case");
        let (kernel, wanted) = rest.split_once('/').expect("element/kernel/case");
        let verify = match element {
            "bf16" => testing::verify_bf16_on,
            "f16" => testing::verify_f16_on,
            "tf32" => testing::verify_tf32_on,
            _ => testing::verify_on,
        };
        let cases = kernels.iter().filter(|(other, _)| *other == kernel).flat_map(|(_, cases)| cases);
        for case in cases.filter(|case| case.name == wanted) {
            eprintln!("{STARTED}{name}");
            if let Err(message) = verify(&device, case, 1) {
                eprintln!("{message}");
                return Some(ExitCode::FAILURE);
            }
        }
    }
    Some(ExitCode::SUCCESS)
}

fn child(cases: &str, [seed, mma, approx]: [&str; 3]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of this test"));
    command.env(CASES, cases).env("SCMMGPT_EMULATOR_THREADS", "1").env("SCMMGPT_EMULATOR_BUDGET", BUDGET);
    command.env("SCMMGPT_EMULATOR_SEED", seed).env("SCMMGPT_EMULATOR_MMA", mma).env("SCMMGPT_EMULATOR_APPROX", approx);
    command
}

/// Runs cases with a patched text, under one setting after the other until something is noticed.
pub(crate) fn run(cases: &str, patch: &str) -> End {
    for setting in SETTINGS {
        let output = child(cases, setting).env("SCMMGPT_EMULATOR_PATCH", patch).output().expect("a child");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            continue;
        }
        let spoke = said.lines().find_map(|line| line.strip_prefix("libcuda: "));
        return match spoke {
            Some(report) if report.starts_with("PTX line") || report.starts_with("launch of") => End::Refused,
            Some(_) => End::Reported,
            None => End::Values,
        };
    }
    End::Well
}

/// The cases that launch an entry.
pub(crate) struct Launched {
    /// Quickest first, as [`run`] takes them.
    pub(crate) cases: String,
    /// What they take together, counted by the device.
    pub(crate) work: u64,
}

/// Every entry that some case of these kernels launches.
pub(crate) fn launches(wanted: &dyn Fn(&str) -> bool) -> BTreeMap<String, Launched> {
    let (mut found, mut work): (BTreeMap<String, BTreeSet<String>>, BTreeMap<String, u64>) = Default::default();
    for (kernel, cases) in registry().into_iter().filter(|(kernel, _)| wanted(kernel)) {
        let cases = cases.iter().filter(|case| !case.timed);
        let names: Vec<_> =
            cases.flat_map(|case| ["f32", "bf16", "f16", "tf32"].map(|element| format!("{element}/{kernel}/{}", case.name))).collect();
        let output = child(&names.join("\n"), SETTINGS[0]).env("SCMMGPT_EMULATOR_COUNT", "1").output().expect("a child");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{kernel} fails as it is:\n{said}");
        let mut case = String::new();
        for line in said.lines() {
            if let Some(name) = line.strip_prefix(STARTED) {
                case = name.to_string();
            } else if let Some(entry) = line.strip_prefix("libcuda: ") {
                found.entry(entry.to_string()).or_default().insert(case.clone());
            } else if let Some(count) = line.strip_prefix("  ").and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()) {
                *work.entry(case.clone()).or_default() += count;
            }
        }
    }
    let of = |case: &String| work.get(case).copied().unwrap_or_default();
    let ordered = |cases: BTreeSet<String>| {
        let work = cases.iter().map(of).sum();
        let mut cases: Vec<String> = cases.into_iter().collect();
        cases.sort_by_key(of);
        Launched { cases: cases.join("\n"), work }
    };
    found.into_iter().map(|(entry, cases)| (entry, ordered(cases))).collect()
}
