//! `infer annotate --method generative`.

use std::path::Path;

use scmmgpt_loader::h5ad::{AnnData, Column};

use crate::setup::{CELLS, counts_model, fail, succeed, with_batch_size};

fn numbers(data: &AnnData, key: &str) -> Vec<f64> {
    let Column::Number(values) = data.obs(key).unwrap() else { panic!("{key} is not numeric") };
    values
}

fn rank(key: &str, rank: usize) -> String {
    if rank == 0 { key.to_string() } else { format!("{key}_{}", rank + 1) }
}

#[test]
fn only_labels_are_written_and_their_probabilities_sum_to_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (model, output, labels) = (counts_model(), path("out.h5ad"), path("labels.txt"));
    let annotate = |model: &str, more: &[&str]| {
        let arguments = ["infer", "annotate", "--method", "generative", "--cells", CELLS, "--output", &output, "--overwrite", "--model"];
        succeed(&[&arguments[..], &[model], more].concat());
        AnnData::open(Path::new(&output)).unwrap()
    };
    let data = annotate(model, &["--top-n", "10"]);
    let columns: Vec<Vec<f64>> = (0..10).map(|at| numbers(&data, &rank("scmmgpt_probability", at))).collect();
    let sum = |cell: usize| columns.iter().map(|column| column[cell]).sum::<f64>();
    assert!((0..700).all(|cell| (sum(cell) - 1.0).abs() < 1e-5));
    assert!((0..700).all(|cell| columns.windows(2).all(|pair| pair[0][cell] >= pair[1][cell])));
    let known: std::collections::BTreeSet<Option<String>> = data.obs("cell_type").unwrap().labels().into_iter().collect();
    for at in 0..10 {
        assert!(data.obs(&rank("scmmgpt_label", at)).unwrap().labels().iter().all(|label| known.contains(label)));
    }
    // Cells are told apart, and neither batch nor threads change a bit.
    let first = numbers(&data, "scmmgpt_probability");
    assert!(first.iter().any(|probability| (probability - first[0]).abs() > 1e-6), "every cell has the same probabilities");
    let other = with_batch_size(model, 9, &folder.path().join("other"));
    assert_eq!(numbers(&annotate(&other, &["--threads", "1"]), "scmmgpt_probability"), first);

    // Labels that no cell was trained with; one begins as another does. Below the threshold they are withheld.
    std::fs::write(&labels, "T cell\nT cell, naive\nspace cell\nB-lymphocyte\n").unwrap();
    let data = annotate(model, &["--labels", &labels, "--top-n", "4", "--unknown-threshold", "0.999999"]);
    let written = data.obs("scmmgpt_label_2").unwrap().labels();
    assert!(written.iter().flatten().all(|label| ["T cell", "T cell, naive", "space cell", "B-lymphocyte"].contains(&label.as_str())));
    let (names, first) = (data.obs("scmmgpt_label").unwrap().labels(), numbers(&data, "scmmgpt_probability"));
    assert!(names.iter().zip(&first).all(|(name, probability)| (name.as_deref() == Some("unknown")) == (*probability < 0.999999)));
    let columns: Vec<Vec<f64>> = (0..4).map(|at| numbers(&data, &rank("scmmgpt_probability", at))).collect();
    assert!((0..700).all(|cell| (columns.iter().map(|column| column[cell]).sum::<f64>() - 1.0).abs() < 1e-5));
    annotate(model, &["--labels", "ontology"]);

    let arguments = ["infer", "annotate", "--method", "generative", "--cells", CELLS, "--output", &output, "--overwrite", "--model"];
    let stage1 = format!("{model}/stage1");
    assert!(fail(4, &[&arguments[..], &[&stage1]].concat()).contains("[stage2]"));
    std::fs::write(&labels, format!("B cell\n{}\n", "long ".repeat(120))).unwrap();
    assert!(fail(3, &[&arguments[..], &[model, "--labels", &labels]].concat()).contains("longest label"));
    fail(2, &[&arguments[..], &[model, "--reference", CELLS]].concat());
}
