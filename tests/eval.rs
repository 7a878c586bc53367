//! `eval description` and `eval generation` as a user runs them: from files alone, with baselines, and what they refuse.

mod program;
#[path = "program/run.rs"]
mod run;

use std::ops::Range;
use std::path::{Path, PathBuf};

use program::root;
use run::{fail, succeed};
use scmmgpt_loader::h5ad::{Additions, AnnData, Column, write_with};
use serde_json::Value;

const CELLS: &str = "tests/data/pbmc68k_700.h5ad";
const ONTOLOGY: &str = "tests/data/cell_text.json";

fn labels() -> Vec<Option<String>> {
    AnnData::open(&root().join(CELLS)).unwrap().obs("cell_type").unwrap().labels()
}

/// The cells with more columns.
fn with_columns(folder: &Path, name: &str, columns: Vec<(&str, Vec<Option<String>>)>) -> String {
    let output: PathBuf = folder.join(name);
    let column = |texts: Vec<Option<String>>| {
        let mut categories: Vec<String> = texts.iter().flatten().cloned().collect();
        categories.sort_unstable();
        categories.dedup();
        let code = |text: &Option<String>| text.as_ref().map_or(-1, |text| categories.binary_search(text).unwrap() as i32);
        Column::Categorical { codes: texts.iter().map(code).collect(), categories }
    };
    let obs = columns.into_iter().map(|(key, texts)| (key.to_owned(), column(texts))).collect();
    write_with(&root().join(CELLS), &output, &Additions { obs, ..Additions::default() }, false).unwrap();
    output.to_string_lossy().into_owned()
}

/// The cells, of which these have a label in column `kind`.
fn some_cells(folder: &Path, name: &str, range: Range<usize>) -> String {
    let kind = labels().into_iter().enumerate().map(|(row, label)| label.filter(|_| range.contains(&row))).collect();
    with_columns(folder, name, vec![("kind", kind)])
}

fn value(report: &Value, row: &str, metric: &str) -> f64 {
    let rows = report["rows"].as_array().unwrap();
    let scores = &rows.iter().find(|found| found[0] == row).unwrap_or_else(|| panic!("no {row}"))[1];
    let score = scores.as_array().unwrap().iter().find(|found| found["metric"] == metric);
    score.unwrap_or_else(|| panic!("no {metric}"))["value"].as_f64().unwrap()
}

#[test]
fn descriptions_against_an_ontology_and_against_a_column() {
    let folder = tempfile::tempdir().unwrap();
    let labels = labels();
    let said = |label: &str| format!("cell type: {label}.");
    // Every fourth cell is called a monocyte, every tenth is not described.
    let predicted = labels.iter().enumerate().map(|(row, label)| {
        let label = if row % 4 == 0 { "monocyte" } else { label.as_deref().unwrap() };
        (row % 10 != 9).then(|| said(label))
    });
    let columns = vec![
        ("scmmgpt_description", predicted.collect()),
        ("truth", labels.iter().map(|label| label.as_deref().map(said)).collect()),
        ("longer", labels.iter().map(|label| label.as_deref().map(|label| format!("cell type: {label}. It is a cell."))).collect()),
    ];
    let file = with_columns(folder.path(), "described.h5ad", columns);
    let eval = ["eval", "description", "--predictions", &file];
    let json = |more: &[&str]| -> Value { serde_json::from_str(&succeed(&[&eval[..], more, &["--json"]].concat())).unwrap() };

    let report = json(&["--reference-key", "truth", "--label-key", "cell_type"]);
    let first = &report["rows"][0][1][0];
    assert_eq!((first["metric"].as_str(), first["n"].as_u64(), report["seed"].as_u64()), (Some("BLEU-2"), Some(700), Some(0)));
    assert!(first["low"].as_f64().unwrap() < first["value"].as_f64().unwrap() && report["definitions"]["BLEU-2"].is_string(), "{report}");
    let right = |row: usize| row % 10 != 9 && (!row.is_multiple_of(4) || labels[row].as_deref() == Some("monocyte"));
    let expected = (0..700).filter(|&row| right(row)).count() as f64 / 700.0;
    assert!((value(&report, "predictions", "type mention") - expected).abs() < 1e-9);
    assert!(value(&report, "majority text", "type mention") < expected);
    assert!(report["notes"].to_string().contains("70 cells have no prediction"), "{}", report["notes"]);
    assert!(report["notes"].to_string().contains("no text model"), "{}", report["notes"]);
    let other = json(&["--predicted-key", "truth", "--reference-key", "longer", "--seed", "4"]);
    let rouge = value(&other, "predictions", "ROUGE-1");
    assert!(rouge > 0.5 && rouge < 1.0 && other["seed"] == 4, "{other}");

    let made = json(&["--label-key", "cell_type", "--ontology", ONTOLOGY]);
    assert!(value(&made, "predictions", "ROUGE-1") < value(&report, "predictions", "ROUGE-1"), "definitions are longer");
    let table = succeed(&[&eval[..], &["--label-key", "cell_type"]].concat());
    assert!(table.contains("METEOR (exact, stem)  700  0.") && table.contains("WordNet"), "{table}");

    assert!(fail(2, &eval).contains("--reference-key"));
    assert!(fail(3, &[&eval[..], &["--reference-key", "nothing"]].concat()).contains("truth"), "existing columns are listed");
    assert!(fail(3, &["eval", "description", "--predictions", CELLS, "--label-key", "cell_type"]).contains("scmmgpt_description"));
    let missing = [&eval[..], &["--label-key", "cell_type", "--text-model", "nowhere"]].concat();
    assert!(fail(3, &missing).contains("nowhere"));
}

#[test]
fn generated_cells_against_real_ones_and_training_cells() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, range| some_cells(folder.path(), name, range);
    let (generated, reference, train) = (file("generated.h5ad", 0..70), file("reference.h5ad", 40..150), file("train.h5ad", 150..400));
    let eval = ["eval", "generation", "--cells", &generated, "--reference", &reference, "--label-key", "kind"];
    let json = |more: &[&str]| -> Value { serde_json::from_str(&succeed(&[&eval[..], more, &["--json"]].concat())).unwrap() };

    let report = json(&["--train", &train]);
    assert_eq!(report["rows"].as_array().unwrap().len(), 4);
    let accuracy = |row: &str| value(&report, row, "k-NN accuracy, k = 3");
    assert!(accuracy("generated") > 0.4 && accuracy("random training cell") > 0.4 && accuracy("class mean") > 0.7, "{report}");
    let variance = |row: &str| value(&report, row, "variance correlation");
    assert!(variance("class mean") < variance("random training cell"), "a mean does not vary");
    assert!(value(&report, "class mean", "sliced Wasserstein") > value(&report, "generated", "sliced Wasserstein"));
    assert!(report["notes"].to_string().contains("have no label and were left out"), "{}", report["notes"]);
    assert_eq!(report, json(&["--train", &train, "--threads", "1"]));
    assert!(report["definitions"]["nearest training cell"].is_string());

    // The same cells: no distance, the right genes.
    let same = ["eval", "generation", "--cells", &reference, "--reference", &reference, "--label-key", "kind", "--paired", "--json"];
    let same: Value = serde_json::from_str(&succeed(&same)).unwrap();
    assert!(value(&same, "generated", "sliced Wasserstein") < 1e-9 && value(&same, "generated", "top-5 genes of cells") == 1.0, "{same}");
    assert!(same["notes"].to_string().contains("baselines were left out"));

    let message = fail(3, &[&eval[..], &["--paired"]].concat());
    assert!(message.contains("without --paired"), "{message}");
    assert!(fail(3, &["eval", "generation", "--cells", CELLS, "--reference", &reference, "--label-key", "kind"]).contains("cell_type"));
    let empty = some_cells(folder.path(), "empty.h5ad", 0..0);
    assert!(
        fail(3, &["eval", "generation", "--cells", &empty, "--reference", &reference, "--label-key", "kind"])
            .contains("no cell has a label")
    );
}

#[test]
fn responses_to_a_condition() {
    let folder = tempfile::tempdir().unwrap();
    // Every other cell of a range is active; the condition has no effect but chance.
    let file = |name: &str, range: Range<usize>| {
        let within = |row: &usize| range.contains(row);
        let kind = labels().into_iter().enumerate().map(|(row, label)| label.filter(|_| within(&row))).collect();
        let state = |row: usize| Some(if row.is_multiple_of(2) { "rest" } else { "active" }.to_string());
        with_columns(folder.path(), name, vec![("kind", kind), ("state", (0..700).map(|row| state(row).filter(|_| row != 40)).collect())])
    };
    let (reference, train) = (file("reference.h5ad", 40..300), file("train.h5ad", 300..700));
    let eval = ["eval", "generation", "--reference", &reference, "--label-key", "kind", "--condition-key", "state", "--control", "rest"];
    let json = |more: &[&str]| -> Value { serde_json::from_str(&succeed(&[&eval[..], more, &["--json"]].concat())).unwrap() };
    let top = "response correlation, 50 genes";

    // The same cells respond as they do, and so does the mean of each label under each condition, but not that of each label.
    let same = json(&["--cells", &reference, "--train", &reference, "--genes", "CD74,LYZ"]);
    for row in ["generated", "class mean, by condition"] {
        for metric in ["response correlation", top, "response size"] {
            assert!((value(&same, row, metric) - 1.0).abs() < 1e-6, "{row}: {metric}");
        }
    }
    assert_eq!(value(&same, "generated", "response of CD74"), value(&same, "real cells", "response of CD74"));
    assert!(value(&same, "random cell, by condition", top) < 1.0 && same["definitions"]["response size"].is_string(), "{same}");
    let left_out = 3 * (700 - 259);
    assert!(same["notes"].to_string().contains(&format!("{left_out} cells")), "row 40 has no condition: {}", same["notes"]);

    // What training cells by chance do tells little about others, and is told apart from what they do.
    let other = json(&["--cells", &train, "--train", &train]);
    assert!(value(&other, "generated", "response correlation") < 0.5, "{other}");
    assert!((value(&other, "generated", top) - value(&other, "class mean, by condition", top)).abs() < 1e-5);
    assert!(value(&other, "control + others' response", "response size").is_finite());

    let control = ["eval", "generation", "--cells", &train, "--reference", &reference, "--label-key", "kind", "--condition-key", "state"];
    let refused = |code, more: &[&str]| fail(code, &[&control[..], more].concat());
    assert!(refused(2, &[]).contains("--control"));
    assert!(refused(3, &["--control", "asleep"]).contains("there are: active, rest"));
    assert!(refused(2, &["--control", "rest", "--genes", "NOGENE"]).contains("NOGENE"));
    let one = json(&["--cells", &file("few.h5ad", 41..42)]);
    assert!(one["notes"].to_string().contains("responses were left out"), "{}", one["notes"]);
}
