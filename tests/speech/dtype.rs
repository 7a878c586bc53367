//! `--dtype`: what the language model computes in.

use std::path::Path;

use scmmgpt_loader::h5ad::{AnnData, Column};

use crate::setup::{CELLS, counts_model, fail, run, succeed, with_batch_size};

fn numbers(path: &str, key: &str) -> Vec<f64> {
    let Column::Number(values) = AnnData::open(Path::new(path)).unwrap().obs(key).unwrap() else { panic!("no numbers") };
    values
}

/// Share of labels that are equal.
fn agreement(left: &[Option<String>], right: &[Option<String>]) -> f64 {
    left.iter().zip(right).filter(|(left, right)| left == right).count() as f64 / left.len() as f64
}

fn largest_difference(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f64::max)
}

#[test]
fn narrow_elements_say_nearly_the_same_and_the_file_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let model = counts_model();
    let annotate = |model: &str, output: &str, dtype: &str| {
        let arguments = ["infer", "annotate", "--method", "generative", "--model", model, "--cells", CELLS, "--output", output];
        succeed(&[&arguments[..], &["--overwrite", "--dtype", dtype]].concat());
        (AnnData::open(Path::new(output)).unwrap().obs("scmmgpt_label").unwrap().labels(), numbers(output, "scmmgpt_probability"))
    };
    let describe = |model: &str, output: &str, dtype: &str| {
        // Behind the first token texts of a model that has learned little part by a hair.
        let arguments = ["infer", "describe", "--model", model, "--cells", CELLS, "--output", output, "--max-new-tokens", "1"];
        succeed(&[&arguments[..], &["--num-beams", "1", "--dtype", dtype]].concat());
        numbers(output, "scmmgpt_description_score")
    };
    let (labels, exact) = annotate(model, &path("f32.h5ad"), "f32");
    let said = describe(model, &path("said-f32.h5ad"), "f32");
    let other = with_batch_size(model, 9, &folder.path().join("other"));
    for dtype in ["bf16", "int8"] {
        let (file, again) = (path(&format!("{dtype}.h5ad")), path("again.h5ad"));
        let (narrow, near) = annotate(model, &file, dtype);
        let error = largest_difference(&exact, &near);
        let (same, scores) = (agreement(&labels, &narrow), describe(model, &path(&format!("said-{dtype}.h5ad")), dtype));
        let score = largest_difference(&said, &scores);
        println!("{dtype}: probabilities within {error:.5}, scores within {score:.5}, {same:.3} of the labels are equal");
        assert!(error > 0.0 && score > 0.0, "{dtype} gives the bits of f32");
        assert!(error < 0.02 && score < 0.1 && same > 0.95, "{error} {score} {same}");
        // No bit depends on the batch or the threads.
        assert_eq!(annotate(&other, &again, dtype).1, near);
        let bytes = std::fs::read(path(&format!("said-{dtype}.h5ad"))).unwrap();
        assert!(bytes.windows(dtype.len()).any(|part| part == dtype.as_bytes()), "uns names {dtype}");
    }
}

#[test]
fn other_elements_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.h5ad").to_string_lossy().into_owned();
    let model = counts_model();
    let cells = ["--model", model, "--cells", CELLS, "--output", &output];
    assert!(fail(2, &[&["infer", "describe"], &cells[..], &["--dtype", "f16"]].concat()).contains("bf16"));
    // Without a language model that writes there is nothing to choose.
    assert!(fail(2, &[&["infer", "annotate"], &cells[..], &["--dtype", "bf16"]].concat()).contains("--method"));
    let arguments = ["infer", "chat", "--model", model, "--cells", CELLS, "--max-new-tokens", "4", "--dtype", "bf16"];
    let output = run(&arguments, "What is it?\nWhy?\n");
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().lines().count() >= 2);
}
