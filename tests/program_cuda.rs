//! The program on a CUDA device: the CPU's results, the same bytes under any schedule, and what happens when a device fails. Needs a
//! driver, as tests/kernels.rs does; failures are asked of the emulated one, by its environment (`tools/libcuda`).

mod driver;
mod program;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use driver::device;
use program::{program, root};
use scmmgpt_loader::h5ad::{Additions, AnnData, Column, Slot, create};
use serde_json::Value;

const CELLS: &str = "tests/data/pbmc68k_700.h5ad";

/// Settings of the emulated driver.
type Driver<'a> = &'a [(&'a str, &'a str)];

fn run(driver: Driver, arguments: &[&str]) -> Output {
    let settings = driver.iter().map(|(name, value)| (format!("SCMMGPT_EMULATOR_{name}"), value));
    Command::new(program()).args(arguments).envs(settings).current_dir(root()).output().unwrap()
}

/// Runs what must end with this code; what it says.
fn ends(code: i32, driver: Driver, arguments: &[&str]) -> String {
    let output = run(driver, arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{driver:?} {arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// All heads, masked and plain tokens, dropout, few cells: two epochs.
const SMALL: [&str; 13] = [
    "model.hidden_size=16",
    "model.num_attention_heads=2",
    "model.intermediate_size=24",
    "train.epochs=2",
    "train.save_steps=2",
    "train.early_stopping_patience=2",
    "data.test_fraction=0.9",
    "data.validation_fraction=0.2",
    "data.tokens.max_seq_len=40",
    "data.tokens.objective={masked={ratio=0.4}}",
    "loss.expression=1.0",
    "loss.mvc=1.0",
    "train.learning_rate=1e-3",
];

/// Both stages of a joint model on three types, a few steps each.
const SMALL_TEXT: [&str; 16] = [
    "model.hidden_size=16",
    "model.num_attention_heads=2",
    "model.intermediate_size=16",
    "train.epochs=1",
    "data.ignore_labels=['dendritic cell', 'CD14-positive monocyte', 'CD4-positive, CD25-positive, alpha-beta regulatory T cell', \
     'CD8-positive, alpha-beta cytotoxic T cell', 'CD4-positive, alpha-beta memory T cell', 'hematopoietic precursor cell', \
     'naive thymus-derived CD4-positive, alpha-beta T cell']",
    "data.test_fraction=0.6",
    "data.validation_fraction=0.3",
    "data.tokens.max_seq_len=24",
    "qformer.hidden_size=16",
    "qformer.num_attention_heads=2",
    "qformer.intermediate_size=16",
    "qformer.num_query_tokens=2",
    "qformer.projection_dim=8",
    "text.max_length=16",
    "stage1.train.epochs=2",
    "stage1.train.warmup_steps=2",
];

/// All three stages, for 36 cells.
const SMALL_LANGUAGE: [&str; 30] = [
    "model.hidden_size=16",
    "model.num_attention_heads=2",
    "model.intermediate_size=16",
    "train.epochs=1",
    "data.test_fraction=0.2",
    "data.validation_fraction=0.2",
    "data.tokens.max_seq_len=24",
    "qformer.hidden_size=16",
    "qformer.num_attention_heads=2",
    "qformer.intermediate_size=16",
    "qformer.num_query_tokens=2",
    "qformer.projection_dim=8",
    "text.max_length=16",
    "stage1.train.epochs=1",
    "stage1.train.warmup_steps=2",
    "language.hidden_size=16",
    "language.intermediate_size=24",
    "language.num_hidden_layers=2",
    "language.num_attention_heads=2",
    "language.num_key_value_heads=1",
    "language.max_position_embeddings=48",
    "stage2.pairs.max_length=40",
    "stage2.projection_dim=8",
    "stage2.expression.max_genes=24",
    "stage2.expression.zero_genes=8",
    "stage2.expression.num_attention_heads=2",
    "stage2.neighbors.k=2",
    "stage2.train.epochs=2",
    "stage2.train.warmup_steps=2",
    "stage2.train.learning_rate=3e-3",
];

fn train<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    train_as("configs/annotate.toml", &SMALL, out, more)
}

fn train_as<'a>(config: &'a str, settings: &[&'a str], out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["train", "--config", config, "--out", out];
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    [&arguments, more].concat()
}

/// The log's numbers, a line after the other.
fn log(folder: &str) -> Vec<BTreeMap<String, Value>> {
    let text = std::fs::read_to_string(Path::new(folder).join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every number of two logs agrees to 1e-4.
fn same_log(device: &str, host: &str) {
    let (got, expected) = (log(device), log(host));
    assert!(got.len() == expected.len() && got.len() > 8, "{} and {} lines", got.len(), expected.len());
    for (got, expected) in got.iter().zip(&expected) {
        for (name, expected) in expected {
            let (Some(expected), Some(got)) = (expected.as_f64(), got[name].as_f64()) else {
                assert_eq!(expected, &got[name], "{name}");
                continue;
            };
            assert!((got - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{name}: {got} on the device, {expected} on the CPU");
        }
    }
}

fn bytes(folder: &str, name: &str) -> Vec<u8> {
    std::fs::read(Path::new(folder).join(name)).unwrap()
}

/// Names and bytes of the checkpoints.
fn checkpoints(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(Path::new(folder).join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.to_string_lossy().into_owned(), std::fs::read(&path).unwrap())).collect()
}

fn labels(path: &str) -> Vec<String> {
    let Column::Categorical { codes, categories } = AnnData::open(Path::new(path)).unwrap().obs("scmmgpt_label").unwrap() else {
        panic!("not categorical")
    };
    codes.iter().map(|code| categories[usize::try_from(*code).unwrap()].clone()).collect()
}

#[test]
fn training_and_inference_are_the_cpus() {
    let Some(device) = device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (whole, host, broken) = (path("whole"), path("host"), path("broken"));
    ends(0, &[], &train(&whole, &["--device", "cuda"]));
    ends(0, &[], &train(&host, &["--device", "cpu"]));
    same_log(&whole, &host);

    // Another order of warps and streams, a kernel that fails on the way, and no memory at the first attempt to go on.
    if device.is_software() {
        let said = ends(6, &[("SEED", "5"), ("FAULT", "1200")], &train(&broken, &["--device", "cuda"]));
        assert!(said.contains("CUDA_ERROR_ILLEGAL_ADDRESS") && said.contains("resume"), "{said}");
        let kept = checkpoints(&broken);
        assert!(!kept.is_empty());
        let said = ends(5, &[("MEMORY", "500000")], &train(&broken, &["--device", "cuda", "--resume"]));
        assert!(said.contains("out of memory"), "{said}");
        assert!(checkpoints(&broken) == kept, "a run that failed touched its checkpoints");
    } else {
        ends(0, &[], &train(&broken, &["--device", "cuda"]));
    }
    ends(0, &[("SEED", "9")], &train(&broken, &["--device", "cuda", "--resume"]));
    for name in ["model.safetensors", "config.json", "log.jsonl", "evaluation.json"] {
        assert!(bytes(&whole, name) == bytes(&broken, name), "{name} differs between two runs");
    }

    for (task, check) in [("annotate", true), ("embed", false)] {
        let outputs = ["cuda", "cpu"].map(|device| {
            let output = path(&format!("{task}_{device}.h5ad"));
            ends(0, &[], &["infer", task, "--model", &whole, "--cells", CELLS, "--output", &output, "--device", device]);
            output
        });
        if check {
            assert_eq!(labels(&outputs[0]), labels(&outputs[1]));
            continue;
        }
        let [got, expected] = outputs.map(|output| AnnData::open(Path::new(&output)).unwrap().obsm("X_scmmgpt").unwrap().values);
        let worst = got.iter().zip(&expected).map(|(got, expected)| (got - expected).abs()).fold(0.0, f32::max);
        assert!(got.len() == expected.len() && worst <= 1e-4, "embeddings differ by {worst}");
    }
}

#[test]
fn training_with_texts_and_labels_by_text_are_the_cpus() {
    if device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let folders = ["cuda", "cpu"].map(path);
    for (out, device) in folders.iter().zip(["cuda", "cpu"]) {
        ends(0, &[], &train_as("configs/cell_text.toml", &SMALL_TEXT, out, &["--device", device]));
    }
    same_log(&folders[0], &folders[1]);
    let named = path("labels.txt");
    std::fs::write(&named, "B cell\nnatural killer cell\n").unwrap();
    // One model on both; and each device's own model.
    let label = |model: &str, device: &str| {
        let output = path(&format!("{device}.h5ad"));
        let task = ["infer", "annotate", "--model", model, "--cells", CELLS, "--output", &output, "--overwrite"];
        ends(0, &[], &[&task[..], &["--labels", &named, "--unknown-threshold", "0", "--device", device]].concat());
        labels(&output)
    };
    let expected = label(&folders[0], "cpu");
    assert_eq!(label(&folders[0], "cuda"), expected);
    assert_eq!(label(&folders[1], "cpu"), expected);
    assert!(expected.iter().collect::<std::collections::BTreeSet<_>>().len() > 1, "{expected:?}");
}

/// Twelve cells of each of three types.
fn few_cells(path: &Path) {
    let data = AnnData::open(&root().join(CELLS)).unwrap();
    let (names, types) = (data.obs_names().unwrap(), data.obs("cell_type").unwrap().labels());
    let of = |kind: &str| (0..names.len()).filter(|&row| types[row].as_deref() == Some(kind)).take(12).collect::<Vec<_>>();
    let rows = ["B cell", "dendritic cell", "natural killer cell"].map(of).concat();
    let x = data.matrix(&Slot::X).unwrap().rows(0..names.len()).unwrap().select(&rows).unwrap();
    let cells: Vec<String> = rows.iter().map(|&row| names[row].clone()).collect();
    let kinds = rows.iter().map(|&row| types[row].clone().unwrap()).collect();
    let additions = Additions { obs: vec![("cell_type".into(), Column::Text(kinds))], ..Additions::default() };
    create(path, &cells, &data.var_names(&Slot::X).unwrap(), &x, &additions, false).unwrap();
}

/// Lines of JSON.
fn lines(path: &str) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_language_model_trains_describes_labels_and_makes_cells_as_on_the_cpu() {
    if device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (cells, folders) = (path("few.h5ad"), ["cuda", "cpu"].map(path));
    few_cells(Path::new(&cells));
    let data = format!("data.train=['{cells}']");
    for (out, device) in folders.iter().zip(["cuda", "cpu"]) {
        ends(0, &[], &train_as("configs/cell_language.toml", &SMALL_LANGUAGE, out, &["--set", &data, "--device", device]));
    }
    same_log(&folders[0], &folders[1]);

    // One model on both, and each device's own model.
    let on = |model: &str, device: &str, task: &str, more: &[&str], file: &str| {
        let output = path(&format!("{device}_{file}"));
        let arguments = ["infer", task, "--model", model, "--output", &output, "--overwrite", "--device", device];
        ends(0, &[], &[&arguments[..], more].concat());
        output
    };
    let runs = [(&folders[0], "cpu"), (&folders[0], "cuda"), (&folders[1], "cpu")];
    let describe = ["--cells", &cells, "--group-key", "cell_type", "--max-new-tokens", "10"];
    let described = runs.map(|(model, device)| lines(&on(model, device, "describe", &describe, "described.jsonl")));
    for (expected, got) in described[1..].iter().flat_map(|run| described[0].iter().zip(run)) {
        assert_eq!((&got["cell"], &got["description"]), (&expected["cell"], &expected["description"]));
        let [got, expected] = [got, expected].map(|line| line["score"].as_f64().unwrap());
        assert!((got - expected).abs() <= 1e-4 * expected.abs(), "{got} and {expected}");
    }
    assert!(described[0].len() == 3 && described[0].iter().all(|line| line["description"] != ""));

    let method = ["--cells", &cells, "--method", "generative"];
    let labelled = runs.map(|(model, device)| labels(&on(model, device, "annotate", &method, "labelled.h5ad")));
    assert!(labelled[0].len() == 36 && labelled[1] == labelled[0] && labelled[2] == labelled[0]);

    let texts = ["--prompt", "cell type: B cell.", "--prompt", "cell type: dendritic cell.", "--mean"];
    let made = runs.map(|(model, device)| {
        let data = AnnData::open(Path::new(&on(model, device, "generate", &texts, "made.h5ad"))).unwrap();
        let block = data.matrix(&Slot::X).unwrap().rows(0..2).unwrap();
        (block.indices.clone(), block.values.clone())
    });
    for got in &made[1..] {
        assert!(got.0 == made[0].0 && got.0.len() > 2);
        let worst = got.1.iter().zip(&made[0].1).map(|(got, expected)| (got / expected - 1.0).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-3, "means of counts differ by {worst} of themselves");
    }
}

#[test]
fn what_cannot_compute_is_refused_before_anything_is_written() {
    let Some(device) = device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run").to_string_lossy().into_owned();
    let on = |device| train(&out, &["--device", device]);
    assert!(ends(6, &[], &on("cuda:99")).contains("counted from 0"));
    assert!(ends(6, &[], &on("tpu")).contains("auto, cpu and cuda:N"));
    if !device.is_software() {
        return;
    }
    let old = ends(6, &[("DRIVER", "11070")], &on("cuda"));
    assert!(old.contains("CUDA 11.7") && old.contains("11.8"), "{old}");
    assert!(ends(6, &[("CAPABILITY", "75")], &on("cuda")).contains("7.5"));
    assert!(ends(5, &[("MEMORY", "500000")], &on("cuda")).contains("out of memory"));
    let mut hidden = Command::new(program());
    let alone = hidden.args(on("cuda")).env_remove("LD_LIBRARY_PATH").current_dir(root()).output().unwrap();
    assert_eq!(alone.status.code(), Some(6), "no driver");
    assert!(String::from_utf8_lossy(&alone.stderr).contains("no CUDA driver was found"));
    assert!(!Path::new(&out).exists());

    let plan = |driver| ends(0, driver, &train(&out, &["--device", "auto", "--dry-run", "--verbose"]));
    assert!(plan(&[]).contains("device: cpu"), "software is taken only by name");
    assert!(plan(&[("PCI_DEVICE", "3")]).contains("device: cuda:0"));
    assert!(plan(&[("PCI_DEVICE", "3"), ("DRIVER", "11070")]).contains("device: cpu"), "what cannot be used is not taken");
}
