//! ptxas and nvdisasm: where they are, and what they say.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A tool: the path in its environment variable, what `tools/setup-cuda.sh` installs, or the first on the path.
fn tool(name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(name.to_uppercase()) {
        return path.into();
    }
    let installed = std::fs::read_dir(root().join(".tools/cuda/lib")).ok().and_then(|mut folders| {
        folders.find_map(|folder| {
            let path = folder.ok()?.path().join("site-packages/nvidia/cu13/bin").join(name);
            path.exists().then_some(path)
        })
    });
    let path = installed.unwrap_or_else(|| name.into());
    assert!(Command::new(&path).arg("--version").output().is_ok(), "there is no {name}: run tools/setup-cuda.sh");
    path
}

/// The assembler.
pub(crate) fn ptxas() -> PathBuf {
    tool("ptxas")
}

/// The disassembler.
#[allow(dead_code, reason = "not every test that shares this file disassembles")]
pub(crate) fn nvdisasm() -> PathBuf {
    tool("nvdisasm")
}
