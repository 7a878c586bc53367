//! The built program, for the tests that run it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The program, built in the profile of the tests.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_path_buf();
        let profile = if folder.ends_with("release") { "release" } else { "dev" };
        let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--profile", profile]).current_dir(root()).status().unwrap();
        assert!(built.success());
        folder.join("scmmgpt-engine")
    })
}
