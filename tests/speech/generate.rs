//! `infer generate`.

use std::path::Path;

use scmmgpt_loader::h5ad::{AnnData, Slot};
use serde_json::Value;

use crate::setup::{CELLS, counts_model, fail, json, neighbors_model, python, succeed, values_model};

/// `[cells, genes]`.
fn dense(path: &str) -> Vec<Vec<f32>> {
    let data = AnnData::open(Path::new(path)).unwrap();
    let block = data.matrix(&Slot::X).unwrap().rows(0..data.n_obs()).unwrap();
    let row = |row: usize| {
        let mut values = vec![0.0; data.n_vars()];
        let (columns, numbers) = block.row(row);
        columns.iter().zip(numbers).for_each(|(&column, &value)| values[column as usize] = value);
        values
    };
    (0..data.n_obs()).map(row).collect()
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }

    fn generate(&self, model: &str, name: &str, more: &[&str]) -> Vec<Vec<f32>> {
        let output = self.path(name);
        succeed(&[&["infer", "generate", "--model", model, "--output", &output][..], more].concat());
        dense(&output)
    }
}

const READ: &str = r#"
import sys, anndata
data = anndata.read_h5ad(sys.argv[1])
assert data.shape == (6, 765), data.shape
assert data.obs_names.is_unique and (data.X.data == data.X.data.round()).all() and data.X.data.min() > 0
assert list(data.obs["scmmgpt_prompt"])[:3] == ["cell type: B cell."] * 3
assert data.obs["cell_type"].isna().tolist() == [True] * 3 + [False] * 3 and data.obs["cell_type"].iloc[5] == "platelet"
made = data.uns["scmmgpt"]["generated"]
assert made["values"] == "counts" and made["sampled"] and made["seed"] == 7 and made["cells_a_prompt"] == 3
"#;

#[test]
fn counts_are_drawn_around_their_means() {
    let (files, model) = (Files::new(), counts_model());
    let both = ["--prompt", "cell type: B cell.", "--cell-type", "platelet", "--seed", "7", "-n", "3"];
    let cells = files.generate(model, "drawn.h5ad", &both);
    python(READ, &files.path("drawn.h5ad"));
    assert!(cells.len() == 6 && cells[0] != cells[1] && cells[3] != cells[4]);
    assert!(cells.iter().flatten().all(|count| count.fract() == 0.0 && *count >= 0.0));
    assert_eq!(files.generate(model, "again.h5ad", &[&both[..], &["--threads", "1"]].concat()), cells);
    assert_ne!(files.generate(model, "other.h5ad", &["--prompt", "cell type: B cell.", "-n", "3", "--seed", "8"])[0], cells[0]);
    // A cell depends on its number, not on how many follow.
    let many = ["--prompt", "cell type: B cell.", "-n", "400", "--seed", "7"];
    let as_trained = files.generate(model, "more.h5ad", &many);
    assert_eq!(as_trained[..3], cells[..3]);
    let total = |cell: &Vec<f32>| cell.iter().map(|&count| f64::from(count)).sum::<f64>();
    let smallest = as_trained.iter().map(total).fold(f64::INFINITY, f64::min);
    let largest = as_trained.iter().map(total).fold(0.0, f64::max);
    assert!(largest < 6000.0 && largest > 3.0 * smallest, "{smallest} to {largest}: training cells have 400 to 4000 counts here");

    let more = files.generate(model, "ten_thousand.h5ad", &[&many[..], &["--total-counts", "10000"]].concat());
    let means = files.generate(model, "means.h5ad", &["--prompt", "cell type: B cell.", "--mean", "--total-counts", "10000"]);
    let average = more.iter().flatten().map(|&count| f64::from(count)).sum::<f64>() / more.len() as f64;
    let expected: f64 = means[0].iter().map(|&mean| f64::from(mean)).sum();
    assert!((average / expected - 1.0).abs() < 0.1, "400 cells have {average} counts on average, expected {expected}");
    let fifth = files.generate(model, "fifth.h5ad", &["--prompt", "cell type: B cell.", "--mean", "--total-counts", "2000"]);
    assert!(fifth[0].iter().zip(&means[0]).all(|(fifth, mean)| (fifth * 5.0 - mean).abs() <= 1e-4 * mean));
}

#[test]
fn values_follow_the_text() {
    let (files, model) = (Files::new(), values_model());
    std::fs::write(files.path("prompts.txt"), "cell type: B cell.\n\ncell type: platelet.\n").unwrap();
    let cells = files.generate(model, "values.h5ad", &["--prompts", &files.path("prompts.txt")]);
    assert!(cells.len() == 2 && cells[0] != cells[1] && cells.iter().flatten().all(|value| (0.0..20.0).contains(value)));
    assert_eq!(files.generate(model, "alone.h5ad", &["--prompt", "cell type: platelet."])[0], cells[1], "company changes no bit");
}

#[test]
fn training_cells_beside_the_text_have_a_say_and_are_named() {
    let (files, model) = (Files::new(), neighbors_model());
    let output = files.path("beside.h5ad");
    let beside = ["infer", "generate", "--model", model, "--output", &output, "--overwrite", "--prompt", "cell type: platelet."];
    let made = json(&beside);
    let cells = dense(&output);
    let neighbors = made["generated"]["neighbors"][0].as_array().unwrap();
    let similarities: Vec<f64> = neighbors.iter().map(|neighbor| neighbor["similarity"].as_f64().unwrap()).collect();
    assert!(similarities.len() == 2 && similarities.is_sorted_by(|left, right| left >= right), "as many as in training");
    let audit = AnnData::open(Path::new(&output)).unwrap().obs("scmmgpt_neighbors").unwrap().labels()[0].clone().unwrap();
    let audit: Vec<Value> = serde_json::from_str(&audit).unwrap();
    let short = |neighbor: &Value| (neighbor["item"].clone(), neighbor["name"].clone(), neighbor["similarity"].as_f64().unwrap() as f32);
    assert!(audit.iter().map(short).eq(neighbors.iter().map(short)), "{audit:?}");

    // The same cells as a search by text finds among all cells, but for those that were held out.
    let index = files.path("cells.index");
    succeed(&["infer", "index", "--model", model, "--cells", CELLS, "--output", &index, "--label-key", "cell_type"]);
    let found = json(&["infer", "retrieve", "--model", model, "--index", &index, "--text", "cell type: platelet.", "--top", "700"]);
    let ranked: Vec<&Value> = found["results"][0]["hits"].as_array().unwrap().iter().map(|hit| &hit["name"]).collect();
    let places: Vec<usize> = neighbors.iter().map(|neighbor| ranked.iter().position(|name| **name == neighbor["name"]).unwrap()).collect();
    assert!(places.is_sorted() && places[0] < 60, "{places:?}: the nearest of the training cells, a seventh of all");

    let without = files.generate(model, "without.h5ad", &["--prompt", "cell type: platelet.", "--neighbors", "0"]);
    let three = files.generate(model, "three.h5ad", &["--prompt", "cell type: platelet.", "--neighbors", "3"]);
    assert!(cells != without && without != three, "{similarities:?}");
    assert!(cells != three, "{similarities:?}");
    assert!(!AnnData::open(Path::new(&files.path("without.h5ad"))).unwrap().obs_keys().unwrap().contains(&"scmmgpt_neighbors".into()));
    let both = ["--cell-type", "platelet", "--cell-type", "B cell", "--obs", "tissue=blood", "--obs", "tissue=spleen"];
    let made = json(&[&["infer", "generate", "--model", model, "--output", &output, "--overwrite"], &both[..]].concat());
    let prompts = ["platelet. tissue: blood", "platelet. tissue: spleen", "B cell. tissue: blood", "B cell. tissue: spleen"];
    assert_eq!(made["generated"]["prompts"], serde_json::json!(prompts.map(|prompt| format!("cell type: {prompt}."))));
    let tissues = AnnData::open(Path::new(&output)).unwrap().obs("tissue").unwrap().labels();
    assert_eq!(tissues, ["blood", "spleen", "blood", "spleen"].map(|tissue| Some(tissue.to_owned())));
    let unknown = ["--cell-type", "platelet", "--obs", "donor=1"];
    let refused = [&["infer", "generate", "--model", model, "--output", &output, "--overwrite"], &unknown[..]].concat();
    assert!(fail(2, &refused).contains("tissue"), "what may be said is listed");

    let refused = ["infer", "generate", "--model", values_model(), "--output", &output, "--overwrite", "--prompt", "a", "--neighbors", "1"];
    assert!(fail(4, &refused).contains("stage2.neighbors.k"));
}

#[test]
fn what_cannot_be_made_is_refused() {
    let files = Files::new();
    let (model, output) = (values_model(), files.path("out.h5ad"));
    let refused = |code, more: &[&str]| fail(code, &[&["infer", "generate", "--model", model, "--output", &output][..], more].concat());
    refused(2, &[]);
    assert!(refused(2, &["--prompt", "a", "--obs", "tissue=blood"]).contains("--cell-type"));
    assert!(refused(2, &["--cell-type", "platelet", "--obs", "tissue"]).contains("column"));
    assert!(refused(3, &["--prompt", " "]).contains("empty"));
    assert!(refused(3, &["--prompt", &"cell ".repeat(200)]).contains("shorten"));
    assert!(refused(4, &["--prompt", "a", "-n", "2"]).contains("zinb"));
    assert!(refused(4, &["--prompt", "a", "--total-counts", "100"]).contains("log1p"));
    assert!(refused(2, &["--prompt", "a", "--total-counts", "-1"]).contains("total_counts"));
    std::fs::write(files.path("none.txt"), "\n \n").unwrap();
    assert!(refused(2, &["--prompts", &files.path("none.txt")]).contains("at least one prompt"));
    let stage1 = format!("{model}/stage1");
    assert!(fail(4, &["infer", "generate", "--model", &stage1, "--output", &output, "--prompt", "a"]).contains("[stage2]"));
    assert!(!Path::new(&output).exists());
    std::fs::write(&output, "mine").unwrap();
    assert!(refused(2, &["--prompt", "a"]).contains("exists"));
}
