//! Every PTX text of the repository: assembled by ptxas for every target, without warnings and without spills; every entry launched.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use toolchain::{ptxas, root};

mod toolchain;

const TARGETS: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"];

fn files(ends: &str) -> Vec<PathBuf> {
    let folder = root().join("kernels/src");
    let mut found = Vec::new();
    for kernel in std::fs::read_dir(folder).unwrap() {
        let kernel = kernel.unwrap().path();
        if kernel.is_dir() {
            let inside = std::fs::read_dir(kernel).unwrap().map(|file| file.unwrap().path());
            found.extend(inside.filter(|file| file.to_string_lossy().ends_with(ends)));
        }
    }
    found.sort();
    found
}

/// Every text, by name: the plain ones, and those that the kernels emit.
fn texts() -> Vec<(String, String)> {
    let plain = files(".ptx").into_iter().map(|file| (file.display().to_string(), std::fs::read_to_string(&file).unwrap()));
    plain.chain(scmmgpt_kernels::texts()).collect()
}

/// Complaints of ptxas about a text for one target; none: it assembles without spills.
fn complaint(ptxas: &Path, folder: &Path, (name, text): &(String, String), target: &str) -> Option<String> {
    let file = folder.join(format!("{}.{target}.ptx", name.replace(['/', '\\'], "_")));
    std::fs::write(&file, text).unwrap();
    let arguments = ["-v", "-Werror", "-warn-spills", "-warn-lmem-usage", "-arch", target, "-o", "/dev/null"];
    let output = Command::new(ptxas).args(arguments).arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (!output.status.success() || said.contains("C75")).then(|| format!("{name} for {target}:\n{said}"))
}

#[test]
fn every_text_assembles_for_every_target_without_spills() {
    let (ptxas, texts, folder) = (ptxas(), texts(), tempfile::tempdir().unwrap());
    let jobs: Vec<_> = texts.iter().flat_map(|text| TARGETS.map(|target| (text, target))).collect();
    assert!(!jobs.is_empty());
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((text, target)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Before the lock is taken, so that the threads do not wait for each other.
                    let complaint = complaint(&ptxas, folder.path(), text, target);
                    failures.lock().unwrap().extend(complaint);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// ptxas may fuse a product and a sum that are not marked, and then the emulated result is not the device's.
#[test]
fn sums_and_products_say_how_they_round() {
    for (name, text) in texts() {
        for (line, text) in text.lines().enumerate() {
            let opcode = text.trim().trim_start_matches(['@', '!']).split_whitespace();
            let unmarked = opcode.into_iter().any(|word| {
                let parts: Vec<&str> = word.split('.').collect();
                matches!(parts[0], "add" | "sub" | "mul") && parts.last() == Some(&"f32") && !parts.contains(&"rn")
            });
            assert!(!unmarked, "{name}:{}: `{}` without .rn", line + 1, text.trim());
        }
    }
}

/// A plain text has no subroutines: what several of them say, they say in the same words.
#[test]
fn repeated_loops_are_identical() {
    for label in ["PHILOX", "SEARCH"] {
        let mut bodies: Vec<String> = Vec::new();
        for file in files(".ptx") {
            let text = std::fs::read_to_string(&file).unwrap();
            let (start, end) = (format!("{label}:\n"), format!("bra {label};"));
            bodies.extend(text.split(&start).skip(1).map(|rest| rest.split(&end).next().unwrap().to_string()));
        }
        assert!(bodies.len() > 1, "{label} stands in several texts");
        bodies.dedup();
        assert_eq!(bodies.len(), 1, "{label} has variants:\n{}", bodies.join("\n"));
    }
}

#[test]
fn every_entry_is_launched() {
    for file in files(".ptx") {
        let text = std::fs::read_to_string(&file).unwrap();
        let folder = std::fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        let launches = folder.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda")));
        let launcher: String = launches.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        for after in text.split(".entry").skip(1) {
            let entry = after.split('(').next().unwrap().trim();
            let name = entry.trim_end_matches("_f32").trim_end_matches("_bf16");
            assert!(launcher.contains(&format!("\"{name}")), "{}: nobody launches {entry}", file.display());
        }
    }
}
