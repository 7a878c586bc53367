//! `infer describe`.

use std::path::Path;

use scmmgpt_loader::h5ad::{AnnData, Column};
use serde_json::Value;

use crate::setup::{CELLS, counts_model, fail, json, python, run, succeed, values_model, with_batch_size};

fn lines(path: &str) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn descriptions_come_into_the_file_and_company_changes_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (file, first, second) = (path("out.h5ad"), path("first.jsonl"), path("second.jsonl"));
    let describe = |model: &str, output: &str, more: &[&str]| {
        let arguments = ["infer", "describe", "--model", model, "--cells", CELLS, "--output", output, "--max-new-tokens", "10"];
        succeed(&[&arguments[..], more].concat())
    };
    let model = counts_model();
    let shown = describe(model, &file, &[]);
    assert!(shown.contains("wrote 700 descriptions"), "{shown}");
    let data = AnnData::open(Path::new(&file)).unwrap();
    let texts = data.obs("scmmgpt_description").unwrap().labels();
    let Column::Number(scores) = data.obs("scmmgpt_description_score").unwrap() else { panic!("scores are numbers") };
    assert!(texts.iter().flatten().all(|text| !text.is_empty()) && scores.iter().all(|score| *score < 0.0));
    python(
        "import sys, anndata; d = anndata.read_h5ad(sys.argv[1]); assert d.shape == (700, 765); assert d.obs['scmmgpt_description'].notna().all()",
        &file,
    );

    // The same as lines, whatever the batch and the number of threads; drawn by the cell's row and the seed.
    describe(model, &first, &["--threads", "1"]);
    let other = with_batch_size(model, 7, &folder.path().join("other"));
    describe(&other, &second, &["--threads", "2"]);
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap());
    for (line, (text, score)) in lines(&first).iter().zip(texts.iter().zip(&scores)) {
        assert_eq!((line["description"].as_str(), line["score"].as_f64()), (text.as_deref(), Some(*score)));
    }
    let sample = ["--overwrite", "--do-sample", "--temperature", "1.3", "--top-p", "0.95", "--seed"];
    describe(model, &first, &[&sample[..], &["3"]].concat());
    describe(&other, &second, &[&sample[..], &["3"]].concat());
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap());
    describe(model, &second, &[&sample[..], &["4"]].concat());
    assert!(std::fs::read(&first).unwrap() != std::fs::read(&second).unwrap());
    let distinct: std::collections::BTreeSet<String> = lines(&first).iter().map(|line| line["description"].to_string()).collect();
    assert!(distinct.len() > 300, "{} descriptions are drawn", distinct.len());
}

#[test]
fn a_group_has_the_description_of_its_most_central_cell() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let arguments = ["infer", "describe", "--model", counts_model(), "--cells", CELLS, "--max-new-tokens", "10", "--num-beams", "2"];
    let (whole, grouped, file) = (path("whole.jsonl"), path("grouped.jsonl"), path("grouped.h5ad"));
    succeed(&[&arguments[..], &["--output", &whole]].concat());
    let group = ["--group-key", "cell_type"];
    let summary = json(&[&arguments[..], &group, &["--output", &grouped]].concat());
    assert_eq!((summary["described"].as_u64(), summary["groups"].as_array().unwrap().len()), (Some(10), 10));
    let data = AnnData::open(Path::new(CELLS).canonicalize().unwrap_or_else(|_| crate::program::root().join(CELLS)).as_path()).unwrap();
    let (names, types) = (data.obs_names().unwrap(), data.obs("cell_type").unwrap().labels());
    let whole = lines(&whole);
    for line in lines(&grouped) {
        let row = names.iter().position(|name| Some(name.as_str()) == line["cell"].as_str()).unwrap();
        assert_eq!(types[row].as_deref(), line["group"].as_str(), "the central cell is one of the group");
        assert_eq!((&line["description"], &line["score"]), (&whole[row]["description"], &whole[row]["score"]));
    }
    succeed(&[&arguments[..], &group, &["--output", &file]].concat());
    let written = AnnData::open(Path::new(&file)).unwrap().obs("scmmgpt_description").unwrap().labels();
    for line in lines(&grouped) {
        let members = types.iter().zip(&written).filter(|(label, _)| label.as_deref() == line["group"].as_str());
        assert!(members.into_iter().all(|(_, text)| text.as_deref() == line["description"].as_str()));
    }
}

#[test]
fn what_cannot_be_described_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.h5ad").to_string_lossy().into_owned();
    let model = values_model();
    let arguments = ["infer", "describe", "--cells", CELLS, "--output", &output, "--model"];
    let refused = |code, more: &[&str]| fail(code, &[&arguments[..], &[model], more].concat());
    assert!(fail(4, &[&arguments[..], &[&format!("{model}/stage1")]].concat()).contains("[stage2]"));
    assert!(refused(2, &["--do-sample", "--temperature", "nan"]).contains("temperature"));
    assert!(refused(2, &["--do-sample", "--top-p", "-0.5"]).contains("top_p"));
    assert!(refused(2, &["--do-sample", "--num-beams", "3"]).contains("num_beams"));
    assert!(refused(2, &["--repetition-penalty", "0"]).contains("repetition_penalty"));
    assert!(refused(2, &["--max-new-tokens", "4", "--min-length", "4"]).contains("min_length"));
    assert!(refused(2, &["--stop", ""]).contains("stop"));
    assert!(refused(3, &["--prompt", &"cell ".repeat(200)]).contains("shorten"));
    assert!(refused(3, &["--group-key", "no_such_column"]).contains("no_such_column"));
    assert!(!Path::new(&output).exists());
    std::fs::write(&output, "mine").unwrap();
    assert!(refused(2, &[]).contains("exists"));
    let help = run(&["infer", "describe", "--help"], "");
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(["Examples:", "--group-key", "--num-beams", "--stop"].iter().all(|part| help.contains(part)), "{help}");
}
