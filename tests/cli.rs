//! The program as a user runs it: train, annotate, embed, score; errors and exit codes; killed and resumed.

#[path = "program/killed.rs"]
mod killed;
mod program;
#[path = "program/run.rs"]
mod run;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use killed::succeed_though_killed;
use program::{program, root};
use run::{fail, succeed};
use scmmgpt_loader::h5ad::{AnnData, Column};

const CELLS: &str = "tests/data/pbmc68k_700.h5ad";

/// Settings that make the annotator small enough for a test.
const SMALL: [&str; 12] = [
    "--set",
    "model.hidden_size=16",
    "--set",
    "model.num_attention_heads=2",
    "--set",
    "model.intermediate_size=16",
    "--set",
    "train.epochs=3",
    "--set",
    "data.tokens.max_seq_len=64",
    "--set",
    "train.save_steps=4",
];

fn train(out: &str, more: &[&str]) -> Vec<String> {
    let first = ["train", "--config", "configs/annotate.toml", "--out", out, "--quiet"];
    first.iter().chain(&SMALL).chain(more).map(ToString::to_string).collect()
}

fn strings(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn train_annotate_embed_and_score() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (model, labelled, mapped, embedded) = (path("model"), path("labelled.h5ad"), path("mapped.h5ad"), path("embedded.h5ad"));
    let table = succeed(&strings(&train(&model, &[])));
    for name in ["scmmgpt", "logistic regression", "k-NN on PCA", "majority"] {
        assert!(table.contains(name), "{table}");
    }

    let annotate = ["infer", "annotate", "--model", &model, "--cells", CELLS, "--output"];
    succeed(&[&annotate[..], &[&labelled]].concat());
    succeed(&[&annotate[..], &[&mapped, "--reference", CELLS, "--k", "5"]].concat());
    let expected = AnnData::open(&root().join(CELLS)).unwrap();
    for output in [&labelled, &mapped] {
        let data = AnnData::open(Path::new(output)).unwrap();
        assert_eq!(data.obs_names().unwrap(), expected.obs_names().unwrap());
        let Column::Categorical { codes, categories } = data.obs("scmmgpt_label").unwrap() else { panic!("not categorical") };
        assert!(codes.len() == 700 && categories.len() > 1, "{categories:?}");
        let Column::Number(probabilities) = data.obs("scmmgpt_probability").unwrap() else { panic!("not numeric") };
        assert!(probabilities.iter().all(|probability| (0.0..=1.0).contains(probability)));
    }
    let json = succeed(&["eval", "annotation", "--cells", &mapped, "--label-key", "cell_type", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["n"], 700);

    let embed = ["infer", "embed", "--model", &model, "--cells", CELLS, "--output", &embedded];
    succeed(&embed);
    let one = AnnData::open(Path::new(&embedded)).unwrap().obsm("X_scmmgpt").unwrap();
    assert_eq!((one.rows, one.columns), (700, 16));
    assert!(one.values.iter().all(|value| value.is_finite()) && one.values.iter().any(|value| *value != 0.0));
    assert!(fail(2, &embed).contains("exists"));
    succeed(&[&embed[..], &["--overwrite", "--threads", "1"]].concat());
    assert_eq!(AnnData::open(Path::new(&embedded)).unwrap().obsm("X_scmmgpt").unwrap().values, one.values);
}

#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (whole, killed) = (path("whole"), path("killed"));
    let started = std::time::Instant::now();
    succeed(&strings(&train(&whole, &["--threads", "2"])));
    succeed_though_killed(&train(&killed, &["--threads", "1", "--resume"]), started.elapsed());
    for name in ["model.safetensors", "config.json", "log.jsonl", "evaluation.json"] {
        let read = |folder: &str| std::fs::read(Path::new(folder).join(name)).unwrap();
        assert!(read(&whole) == read(&killed), "{name} differs");
    }
}

#[cfg(unix)]
#[test]
fn sigterm_saves_and_exits_75() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run").to_string_lossy().into_owned();
    let arguments = train(&out, &["--set", "train.epochs=200", "--set", "train.early_stopping_patience=0"]);
    let mut child = Command::new(program()).args(&arguments).current_dir(root()).stderr(Stdio::null()).spawn().unwrap();
    let log = Path::new(&out).join("log.jsonl");
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while std::fs::metadata(&log).map_or(0, |metadata| metadata.len()) < 1000 {
        assert!(std::time::Instant::now() < deadline, "no step was logged");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(std::fs::read_dir(Path::new(&out).join("checkpoints")).unwrap().count() > 0);
}

#[test]
fn bad_input_is_refused_with_its_code_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (out, text, output) = (path("out"), path("text.h5ad"), path("output.h5ad"));
    std::fs::write(&text, "this is not HDF5").unwrap();
    let train = |more: &[&str]| -> Vec<String> {
        ["train", "--config", "configs/annotate.toml", "--out", &out].iter().chain(more).map(ToString::to_string).collect()
    };
    assert!(fail(2, &strings(&train(&["--set", "train.batch_size=0"]))).contains("train.batch_size"));
    assert!(fail(2, &strings(&train(&["--set", "train.no_such_key=1"]))).contains("no_such_key"));
    assert!(fail(2, &strings(&train(&["--set", "no equals sign"]))).contains("section.key=value"));
    assert!(fail(2, &["train", "--config", "no_such.toml"]).contains("--out"));
    assert!(fail(3, &strings(&train(&["--set", &format!("data.train=[{text:?}]")]))).contains("text.h5ad"));
    assert!(fail(3, &strings(&train(&["--set", "data.label_key=no_such_column"]))).contains("no_such_column"));
    assert!(fail(6, &strings(&train(&["--device", "cuda:99"]))).contains("--device cpu"));
    assert!(fail(4, &["infer", "embed", "--model", &out, "--cells", CELLS, "--output", &output]).contains("config.json"));
    assert!(!Path::new(&out).exists() && !Path::new(&output).exists());
    let plan = succeed(&strings(&train(&["--dry-run"])));
    assert!(plan.contains("activations") && plan.contains("total"), "{plan}");
    assert!(!Path::new(&out).exists());
}
