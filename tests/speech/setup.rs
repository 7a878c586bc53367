//! Small models, trained once for all tests, and the program.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::program::{program, root};

pub(crate) const CELLS: &str = "tests/data/pbmc68k_700.h5ad";

/// Settings that make `configs/cell_language.toml` small enough for a test.
const SMALL: [&str; 26] = [
    "model.hidden_size=16",
    "model.num_attention_heads=2",
    "model.intermediate_size=16",
    "data.tokens.max_seq_len=48",
    "data.test_fraction=0.8",
    "train.epochs=1",
    "qformer.hidden_size=16",
    "qformer.num_attention_heads=2",
    "qformer.intermediate_size=16",
    "qformer.num_query_tokens=2",
    "qformer.projection_dim=8",
    "text.max_length=24",
    "stage1.train.epochs=1",
    "language.hidden_size=32",
    "language.intermediate_size=48",
    "language.num_hidden_layers=2",
    "language.num_attention_heads=2",
    "language.num_key_value_heads=1",
    "language.max_position_embeddings=96",
    "stage2.train.epochs=6",
    "stage2.train.learning_rate=3e-3",
    "stage2.train.warmup_steps=5",
    "stage2.pairs.max_length=40",
    "stage2.projection_dim=16",
    "stage2.expression.zero_genes=40",
    "stage2.expression.num_attention_heads=2",
];

pub(crate) fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(program())
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that fails before it reads closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

pub(crate) fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments, "");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(&[arguments, &["--json"]].concat())).unwrap()
}

/// Runs what must fail with this code; the message.
pub(crate) fn fail(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments, "");
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

fn trained(name: &str, more: &[&str]) -> String {
    let out = folder().join(name).to_string_lossy().into_owned();
    let settings = SMALL.iter().chain(more).flat_map(|setting| ["--set", setting]);
    let first = ["train", "--config", "configs/cell_language.toml", "--out", &out, "--quiet", "--threads", "1"];
    succeed(&first.into_iter().chain(settings).collect::<Vec<_>>());
    out
}

/// A model whose decoder gives distributions of counts.
pub(crate) fn counts_model() -> &'static str {
    static MODEL: OnceLock<String> = OnceLock::new();
    MODEL.get_or_init(|| trained("counts", &["stage2.expression.head=zinb", "stage2.neighbors.k=0"]))
}

/// A model whose decoder gives log1p values.
pub(crate) fn values_model() -> &'static str {
    static MODEL: OnceLock<String> = OnceLock::new();
    MODEL.get_or_init(|| trained("values", &["stage2.expression.head=mse", "stage2.neighbors.k=0", "stage2.train.epochs=2"]))
}

/// A model that has learned beside two training cells, from texts that may name the tissue.
pub(crate) fn neighbors_model() -> &'static str {
    static MODEL: OnceLock<String> = OnceLock::new();
    let templates = "text.descriptions.templates=['cell type: {cell_type}.[ tissue: {tissue}.]']";
    MODEL.get_or_init(|| trained("neighbors", &["stage2.neighbors.k=2", "stage2.expression.head=mse", "stage2.train.epochs=2", templates]))
}

/// A copy of a model folder with another batch size.
pub(crate) fn with_batch_size(model: &str, size: usize, to: &Path) -> String {
    copy(Path::new(model), to);
    let file = to.join("config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    config["batch_size"] = size.into();
    std::fs::write(&file, config.to_string()).unwrap();
    to.to_string_lossy().into_owned()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Runs a script with the Python that has anndata, where there is one.
pub(crate) fn python(script: &str, file: &str) {
    let Some(python) = std::env::var_os("SCMMGPT_PYTHON") else {
        println!("NOT RUN: SCMMGPT_PYTHON does not name a Python with anndata");
        return;
    };
    let output = Command::new(python).args(["-c", script, file]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
