//! The invariants of the house, kept by a test instead of by memory.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Files that git knows or would know, with their texts, by path from the root.
fn sources(ends: &[&str]) -> Vec<(String, String)> {
    let output = Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "git ls-files failed: run the tests in a checkout");
    let names = String::from_utf8(output.stdout).unwrap();
    let wanted = names.lines().filter(|name| ends.iter().any(|end| name.ends_with(end)));
    let read = |name: &str| std::fs::read_to_string(root().join(name)).ok().map(|text| (name.to_string(), text));
    let sources: Vec<_> = wanted.filter_map(read).collect();
    assert!(!sources.is_empty());
    sources
}

fn fail_on(offences: Vec<String>) {
    assert!(offences.is_empty(), "{} offences:\n{}", offences.len(), offences.join("\n"));
}

#[test]
fn files_have_at_most_500_lines() {
    // What compilers and emitters wrote is as long as it is.
    let ours = |name: &str| !["tools/emulator/tests/foreign/", "kernels/golden/"].iter().any(|folder| name.starts_with(folder));
    let long = |(name, text): (String, String)| {
        let lines = text.lines().count();
        (lines > 500 && ours(&name)).then(|| format!("{name}: {lines} lines"))
    };
    fail_on(sources(&[".rs", ".py", ".sh", ".ptx"]).into_iter().filter_map(long).collect());
}

#[test]
fn unsafe_stands_only_in_its_rooms_and_is_justified() {
    let allowed = |name: &str| {
        name.starts_with("kernels/src/runtime/")
            || (name.starts_with("kernels/src/") && name.contains("simd"))
            || name == "loader/src/mapped_file.rs"
            || name.starts_with("tools/")
            || name == "tests/tidy.rs"
    };
    let mut offences = Vec::new();
    for (name, text) in sources(&[".rs"]) {
        for (at, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let keyword = code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
            if keyword && !allowed(&name) {
                offences.push(format!("{name}:{}: unsafe outside its rooms", at + 1));
            }
        }
    }
    fail_on(offences);
}

#[test]
fn crates_point_one_way() {
    let manifest = |name: &str| std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
    let mut offences = Vec::new();
    let forbidden: [(&str, &[&str]); 4] = [
        ("kernels", &["scmmgpt-loader", "scmmgpt-engine", "serde"]),
        ("loader", &["scmmgpt-kernels", "scmmgpt-engine"]),
        ("engine", &["anyhow", "clap"]),
        ("cli", &["scmmgpt-kernels", "scmmgpt-loader", "rayon", "half"]),
    ];
    for (member, words) in forbidden {
        let text = manifest(member);
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("scmmgpt-kernels = { path = \".\""));
        for line in lines {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if words.contains(&name) {
                offences.push(format!("{member}/Cargo.toml: {line}"));
            }
        }
    }
    for (name, text) in sources(&[".rs"]) {
        let product =
            name.starts_with("engine/") || name.starts_with("cli/") || name.starts_with("kernels/") || name.starts_with("loader/");
        if product && text.contains("emulator") {
            offences.push(format!("{name}: the product knows no emulator"));
        }
        if name.starts_with("kernels/src/") && (text.contains("std::fs") || text.contains("std::path")) {
            offences.push(format!("{name}: kernels know no file"));
        }
    }
    fail_on(offences);
}

#[test]
fn every_kernel_folder_is_whole_and_registered() {
    let library = std::fs::read_to_string(root().join("kernels/src/lib.rs")).unwrap();
    let list = library.split("kernels! {").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
    // A kernel that emits its texts names their function behind a colon.
    let listed: Vec<&str> =
        list.lines().map(|line| line.trim().split([',', ':']).next().unwrap()).filter(|name| !name.is_empty()).collect();
    let mut sorted = listed.clone();
    sorted.sort_unstable();
    assert_eq!(listed, sorted, "the list of kernels is alphabetical");
    let folders = std::fs::read_dir(root().join("kernels/src")).unwrap().map(|entry| entry.unwrap().path());
    let is_kernel = |path: &PathBuf| path.is_dir() && !path.ends_with("runtime") && !path.ends_with("testing");
    let mut offences = Vec::new();
    for folder in folders.filter(is_kernel) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        if !listed.contains(&name.as_str()) {
            offences.push(format!("kernels/src/{name}: not in the list of kernels/src/lib.rs"));
        }
        let missing = ["mod.rs", "cpu.rs", "cases.rs"].into_iter().filter(|file| !folder.join(file).is_file());
        offences.extend(missing.map(|file| format!("kernels/src/{name}: no {file}")));
    }
    fail_on(offences);
}

#[test]
fn nothing_is_left_undone_or_tied_to_a_machine() {
    let words = [concat!("to", "do!("), concat!("unimpl", "emented!("), concat!("FIX", "ME"), concat!("#[ig", "nore")];
    let homes = ["work", "root", "home"].map(|home| format!("\"/{home}/"));
    let mut offences = Vec::new();
    for (name, text) in sources(&[".rs", ".py", ".sh", ".toml", ".md", "run"]) {
        for (at, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) || homes.iter().any(|home| line.contains(home.as_str())) {
                offences.push(format!("{name}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    fail_on(offences);
}

/// Paths in backticks that the README's code map names exist.
#[test]
fn the_code_map_is_true() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let map = readme.split("## Code map").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("README has a code map");
    let names: Vec<&str> = map.split('`').skip(1).step_by(2).filter(|name| name.contains('/')).collect();
    assert!(names.len() >= 8, "the code map names its folders");
    let missing = names.into_iter().filter(|name| !root().join(name.trim_start_matches('/')).exists());
    fail_on(missing.map(|name| format!("README.md: {name} does not exist")).collect());
}

#[test]
fn data_files_have_an_origin() {
    let text = std::fs::read_to_string(root().join("tests/data/README.md")).unwrap();
    let undocumented = |path: PathBuf| -> Option<String> {
        let name = path.file_name()?.to_string_lossy().into_owned();
        (name != "README.md" && !text.contains(&name)).then(|| format!("tests/data/{name}: no origin in tests/data/README.md"))
    };
    let entries = std::fs::read_dir(root().join(Path::new("tests/data"))).unwrap();
    fail_on(entries.filter_map(|entry| undocumented(entry.unwrap().path())).collect());
}
