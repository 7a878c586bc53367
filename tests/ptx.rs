//! Every PTX text of the repository: assembled by ptxas for every target, without warnings and without spills; every entry launched.

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGETS: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// `$PTXAS`, what `tools/setup-cuda.sh` installs, or the first on the path.
fn ptxas() -> PathBuf {
    if let Some(path) = std::env::var_os("PTXAS") {
        return path.into();
    }
    let installed = std::fs::read_dir(root().join(".tools/cuda/lib")).ok().and_then(|mut folders| {
        folders.find_map(|folder| {
            let path = folder.ok()?.path().join("site-packages/nvidia/cu13/bin/ptxas");
            path.exists().then_some(path)
        })
    });
    let path = installed.unwrap_or_else(|| "ptxas".into());
    assert!(Command::new(&path).arg("--version").output().is_ok(), "there is no ptxas: run tools/setup-cuda.sh");
    path
}

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

#[test]
fn every_text_assembles_for_every_target_without_spills() {
    let (ptxas, texts) = (ptxas(), files(".ptx"));
    assert!(!texts.is_empty());
    let mut failures = Vec::new();
    for text in &texts {
        for target in TARGETS {
            let output = Command::new(&ptxas)
                .args(["-v", "-Werror", "-warn-spills", "-warn-lmem-usage", "-arch", target, "-o", "/dev/null"])
                .arg(text)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if !output.status.success() || said.contains("C75") {
                failures.push(format!("{} for {target}:\n{said}", text.display()));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// ptxas may fuse a product and a sum that are not marked, and then the emulated result is not the device's.
#[test]
fn sums_and_products_say_how_they_round() {
    for file in files(".ptx") {
        for (line, text) in std::fs::read_to_string(&file).unwrap().lines().enumerate() {
            let opcode = text.trim().trim_start_matches(['@', '!']).split_whitespace();
            let unmarked = opcode.into_iter().any(|word| {
                let parts: Vec<&str> = word.split('.').collect();
                matches!(parts[0], "add" | "sub" | "mul") && parts.last() == Some(&"f32") && !parts.contains(&"rn")
            });
            assert!(!unmarked, "{}:{}: `{}` without .rn", file.display(), line + 1, text.trim());
        }
    }
}

#[test]
fn every_entry_is_launched() {
    for file in files(".ptx") {
        let text = std::fs::read_to_string(&file).unwrap();
        let launcher = std::fs::read_to_string(file.with_file_name("cuda.rs")).unwrap();
        for after in text.split(".entry").skip(1) {
            let entry = after.split('(').next().unwrap().trim();
            let name = entry.trim_end_matches("_f32");
            assert!(launcher.contains(&format!("\"{name}")), "{}: nobody launches {entry}", file.display());
        }
    }
}
