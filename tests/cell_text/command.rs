//! The program with texts: train, annotate by labels, embed, index, retrieve, score; killed and resumed; bad input.

use std::path::Path;
use std::time::Instant;

use scmmgpt_loader::h5ad::{AnnData, Column};
use serde_json::Value;

use crate::killed::succeed_though_killed;
use crate::run::{fail, succeed};

const CELLS: &str = "tests/data/pbmc68k_700.h5ad";

/// Settings that make `configs/cell_text.toml` small enough for a test.
const SMALL: [&str; 14] = [
    "model.hidden_size=16",
    "model.num_attention_heads=2",
    "model.intermediate_size=16",
    "data.tokens.max_seq_len=48",
    "train.epochs=1",
    "qformer.hidden_size=16",
    "qformer.num_attention_heads=2",
    "qformer.intermediate_size=16",
    "qformer.num_query_tokens=2",
    "qformer.projection_dim=8",
    "text.max_length=24",
    "stage1.train.epochs=2",
    "stage1.train.save_steps=5",
    "data.test_fraction=0.7",
];

fn train(out: &str, more: &[&str]) -> Vec<String> {
    let settings = SMALL.iter().flat_map(|setting| ["--set", setting]);
    let first = ["train", "--config", "configs/cell_text.toml", "--out", out, "--quiet"];
    first.into_iter().chain(settings).chain(more.iter().copied()).map(String::from).collect()
}

fn strings(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// A name and what it names.
fn named(pair: &Value) -> (&str, &Value) {
    (pair[0].as_str().unwrap(), &pair[1])
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(&[arguments, &["--json"]].concat())).unwrap()
}

#[test]
fn train_label_index_and_retrieve() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (model, labelled, index, texts) = (path("model"), path("labelled.h5ad"), path("cells.index"), path("texts.jsonl"));
    let plan = json(&strings(&train(&model, &["--dry-run"])));
    assert_eq!(plan["stages"].as_array().unwrap().len(), 2);
    assert!(plan["stages"][1]["bytes"].as_u64() > plan["stages"][0]["bytes"].as_u64() && !Path::new(&model).exists());
    let table = succeed(&strings(&train(&model, &[])));
    for part in
        ["by text, similarity weight", "logistic regression", "k-NN on PCA", "majority", "text to cells", "cell to texts", "recall at 10"]
    {
        assert!(table.contains(part), "{part} is missing:\n{table}");
    }

    // Labels that no cell was trained with, three a cell.
    let labels = path("labels.txt");
    std::fs::write(&labels, "# some\nB cell\nT cell\nmonocyte\ndendritic cell\n").unwrap();
    let annotate = ["infer", "annotate", "--model", &model, "--cells", CELLS, "--output"];
    succeed(&[&annotate[..], &[&labelled, "--labels", &labels, "--top-n", "3", "--unknown-threshold", "0"]].concat());
    let data = AnnData::open(Path::new(&labelled)).unwrap();
    let probability = |key: &str| -> Vec<f64> {
        let Column::Number(values) = data.obs(key).unwrap() else { panic!("{key} is not numeric") };
        values
    };
    let (first, second) = (probability("scmmgpt_probability"), probability("scmmgpt_probability_2"));
    assert!(first.iter().zip(&second).all(|(first, second)| first >= second && (0.0..=1.0).contains(first)));
    let names = data.obs("scmmgpt_label").unwrap().labels();
    assert!(names.iter().flatten().all(|name| ["B cell", "T cell", "monocyte", "dendritic cell"].contains(&name.as_str())));
    // All labels at once sum to 1; the model's own classes are the default; the ontology has more.
    succeed(&[&annotate[..], &[&labelled, "--overwrite", "--labels", &labels, "--top-n", "4", "--unknown-threshold", "0"]].concat());
    let data = AnnData::open(Path::new(&labelled)).unwrap();
    let keys = ["scmmgpt_probability", "scmmgpt_probability_2", "scmmgpt_probability_3", "scmmgpt_probability_4"];
    let columns: Vec<Vec<f64>> =
        keys.iter().map(|key| if let Column::Number(values) = data.obs(key).unwrap() { values } else { vec![] }).collect();
    assert!((0..700).all(|cell| (columns.iter().map(|column| column[cell]).sum::<f64>() - 1.0).abs() < 1e-5));
    succeed(&[&annotate[..], &[&labelled, "--overwrite"]].concat());
    std::fs::write(&labels, "B cell\ndendritic cell\nnatural killer cell\nspace cell\n").unwrap();
    let summary = json(&[&annotate[..], &[&labelled, "--overwrite", "--labels", &labels]].concat());
    assert_eq!(summary["by_name_alone"], serde_json::json!(["space cell"]));
    succeed(&[&annotate[..], &[&labelled, "--overwrite", "--labels", "ontology"]].concat());

    assert_eq!(
        json(&["infer", "index", "--model", &model, "--cells", CELLS, "--output", &index, "--label-key", "cell_type"])["cells"],
        700
    );
    let retrieve = ["infer", "retrieve", "--model", &model];
    let found =
        json(&[&retrieve[..], &["--index", &index, "--text", "CD14-positive monocytes", "--text", "B cells", "--top", "5"]].concat());
    for result in found["results"].as_array().unwrap() {
        let similarities: Vec<f64> = result["hits"].as_array().unwrap().iter().map(|hit| hit["similarity"].as_f64().unwrap()).collect();
        assert!(similarities.len() == 5 && similarities.is_sorted_by(|left, right| left >= right), "{result}");
        assert!(result["hits"][0]["label"].is_string());
    }
    let found = json(&[&retrieve[..], &["--cells", CELLS, "--labels", &labels, "--top", "2"]].concat());
    assert_eq!(found["results"].as_array().unwrap().len(), 700);

    succeed(&["infer", "embed-text", "--model", &model, "--text", "a B cell", "--text", "a monocyte", "--output", &texts]);
    let lines: Vec<Value> = std::fs::read_to_string(&texts).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let norm: f64 = lines[1]["embedding"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap().powi(2)).sum();
    assert!(lines.len() == 2 && (norm - 1.0).abs() < 1e-5, "{norm}");
    let embedded = path("embedded.h5ad");
    succeed(&["infer", "embed", "--model", &model, "--cells", CELLS, "--output", &embedded]);
    assert_eq!(AnnData::open(Path::new(&embedded)).unwrap().obsm("X_scmmgpt").unwrap().columns, 8);
    // The cell encoder of stage 0 keeps its head.
    succeed(&["infer", "annotate", "--model", &format!("{model}/stage0"), "--cells", CELLS, "--output", &labelled, "--overwrite"]);

    let scored = json(&["eval", "zero-shot", "--model", &model, "--cells", CELLS, "--label-key", "cell_type", "--reference", CELLS]);
    assert!(scored["reports"].as_array().unwrap().len() >= 10 && scored["retrieval"].as_array().unwrap().len() == 2);
    // The right label is first as often as labels are right, and always among all ten.
    for ((name, recall), report) in scored["label_recall"].as_array().unwrap().iter().map(named).zip(scored["reports"].as_array().unwrap())
    {
        assert_eq!(name, report[0].as_str().unwrap());
        let at: Vec<f64> = recall["recall"].as_array().unwrap().iter().map(|at| at["value"].as_f64().unwrap()).collect();
        let accuracy = report[1]["accuracy"]["value"].as_f64().unwrap();
        assert!(at.len() == 10 && at.is_sorted() && at[9] == 1.0 && (at[0] - accuracy).abs() < 0.01, "{name}: {at:?}, {accuracy}");
    }
    let table = succeed(&["eval", "zero-shot", "--model", &model, "--cells", CELLS, "--label-key", "cell_type"]);
    assert!(table.contains("recall of the label at 1 to 10: 700 cells, 10 labels"), "{table}");
    let scored = json(&["eval", "few-shot", "--model", &model, "--cells", CELLS, "--label-key", "cell_type", "--shots", "1,4"]);
    assert_eq!(scored["tables"].as_array().unwrap().len(), 2);

    // Bad input.
    let one = path("one.txt");
    std::fs::write(&one, "B cell\n").unwrap();
    let refused = |labels: &str| fail(3, &[&annotate[..], &[&labelled, "--overwrite", "--labels", labels]].concat());
    assert!(refused(&one).contains("at least two"));
    std::fs::write(&one, "B cell\nB cell\n").unwrap();
    assert!(refused(&one).contains("twice"));
    std::fs::write(&one, "{\"B cell\": \"\", \"T cell\": \"x\"}").unwrap();
    assert!(refused(&one).contains("empty"));
    assert!(refused("no_such_file.txt").contains("no_such_file.txt"));
    let embed =
        |text: &str| ["infer", "embed-text", "--model", &model, "--output", &texts, "--overwrite", "--text", text].map(String::from);
    assert!(fail(3, &strings(&embed(" "))).contains("empty"));
    let long = json(&strings(&embed(&"cell ".repeat(100))));
    assert_eq!(long["truncated"], 1);
    assert!(fail(3, &[&retrieve[..], &["--index", CELLS, "--text", "B"]].concat()).contains("not a retrieval index"));
    let mut damaged = std::fs::read(&index).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(path("damaged.index"), damaged).unwrap();
    assert!(fail(3, &[&retrieve[..], &["--index", &path("damaged.index"), "--text", "B"]].concat()).contains("damaged.index"));
    let stage0 = format!("{model}/stage0");
    assert!(fail(4, &["infer", "retrieve", "--model", &stage0, "--index", &index, "--text", "B"]).contains("[stage1]"));
    let other = path("other");
    succeed(&strings(&train(&other, &["--seed", "9"])));
    assert!(fail(4, &["infer", "retrieve", "--model", &other, "--index", &index, "--text", "B"]).contains("another model"));
}

#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (whole, killed) = (path("whole"), path("killed"));
    let started = Instant::now();
    succeed(&strings(&train(&whole, &["--threads", "2"])));
    succeed_though_killed(&train(&killed, &["--threads", "1", "--resume"]), started.elapsed());
    for name in ["model.safetensors", "config.json", "log.jsonl", "evaluation.json", "tokenizer.json", "stage0/model.safetensors"] {
        let read = |folder: &str| std::fs::read(Path::new(folder).join(name)).unwrap();
        assert!(read(&whole) == read(&killed), "{name} differs");
    }
}
