//! What the loader writes, read back by Python's anndata and h5py and compared with the input.
//!
//! Needs a Python with anndata, named by the environment variable `SCMMGPT_PYTHON`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use scmmgpt_loader::Error;
use scmmgpt_loader::h5ad::{Additions, AnnData, Column, DenseArray, Slot, UnsValue, write_with};

fn additions(n: usize) -> Additions {
    let categorical = |codes: Vec<i32>, labels: &[&str]| Column::Categorical {
        codes,
        categories: labels.iter().map(|label| label.to_string()).collect(),
    };
    let codes = |modulus: usize| (0..n).map(move |i| (i % modulus) as i32);
    let many: Vec<String> = (0..200).map(|i| format!("k{i}")).collect();
    let score = |i: usize| if i == 1 { f64::NAN } else { i as f64 / 4.0 };
    let comment = |i: usize| {
        if i.is_multiple_of(5) { String::new() } else { format!("cell {i} ü") }
    };
    let obs = vec![
        // The first replaces a column where there is one.
        ("cell_type", categorical(codes(2).collect(), &["é", "even more"])),
        ("predicted", categorical(codes(4).map(|c| c - 1).collect(), &["b", "a", "c"])),
        ("many", Column::Categorical { codes: codes(200).collect(), categories: many }),
        ("score_new", Column::Number((0..n).map(score).collect())),
        ("sure", Column::Boolean((0..n).map(|i| Some(i % 3 == 0)).collect())),
        ("maybe", Column::Boolean((0..n).map(|i| (i % 3 != 1).then_some(i % 2 == 1)).collect())),
        ("comment", Column::Text((0..n).map(comment).collect())),
    ];
    let values = (0..n * 3).map(|v| v as f32 / 8.0).collect();
    let deep = UnsValue::Map(vec![("x".into(), UnsValue::Integer(1))]);
    let list = vec![String::from("x"), String::new(), "long ".repeat(20)];
    let entries = vec![
        ("text", UnsValue::Text("scMMGPT é".into())),
        ("number", UnsValue::Number(0.25)),
        ("integer", UnsValue::Integer(-(1 << 40))),
        ("boolean", UnsValue::Boolean(true)),
        ("list", UnsValue::TextList(list)),
        ("empty", UnsValue::TextList(Vec::new())),
        ("numbers", UnsValue::Numbers(vec![1.0, f64::NAN, -3.5])),
        ("map", UnsValue::Map(vec![("deep".into(), deep)])),
        ("nothing", UnsValue::Map(Vec::new())),
    ];
    let entries = entries.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    Additions {
        obs: obs.into_iter().map(|(name, column)| (name.to_string(), column)).collect(),
        obsm: vec![("X_new".into(), DenseArray { rows: n, columns: 3, values })],
        uns: vec![("new".into(), UnsValue::Map(entries))],
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn h5ad_python_reads_what_is_written() {
    let Some(python) = std::env::var_os("SCMMGPT_PYTHON") else {
        println!("skipped: SCMMGPT_PYTHON does not name a Python with anndata");
        return;
    };
    let loader = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = loader.parent().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let script = root.join("tools/golden/make_h5ad_fixtures.py");
    run(Command::new(&python).arg(script).arg(folder.path()).arg("--all"));

    let mut inputs: Vec<PathBuf> = ["full_plain", "full_gzip", "full_lzf", "modern_columns", "modern_matrices", "legacy_categories"]
        .iter()
        .map(|name| folder.path().join(name).with_extension("h5ad"))
        .collect();
    inputs.push(root.join("tests/data/pbmc68k_700.h5ad"));
    // More files of one's own, separated like a search path.
    if let Some(more) = std::env::var_os("SCMMGPT_H5AD") {
        inputs.extend(std::env::split_paths(&more));
    }
    let output = folder.path().join("output.h5ad");
    for input in &inputs {
        let data = AnnData::open(input).unwrap();
        write_with(input, &output, &additions(data.n_obs()), true).unwrap_or_else(|error| panic!("{}: {error}", input.display()));
        // Adding to what was added must work as well.
        let again = folder.path().join("again.h5ad");
        write_with(&output, &again, &additions(data.n_obs()), true).unwrap();
        for written in [&output, &again] {
            let compare = loader.join("tests/h5ad_compare.py");
            let text = run(Command::new(&python).arg(compare).arg(input).arg(written));
            println!("{}: {}", input.display(), text.trim());
        }
    }

    // The old compound layout cannot take columns; a layer of every encoding reads.
    let legacy = folder.path().join("legacy_records.h5ad");
    let refused = write_with(&legacy, &output, &additions(6), true);
    assert!(matches!(refused, Err(Error::Addition { .. })), "{refused:?}");
    for name in ["full_plain", "full_gzip", "full_lzf"] {
        let data = AnnData::open(&folder.path().join(name).with_extension("h5ad")).unwrap();
        let x = data.matrix(&Slot::X).unwrap().rows(0..6).unwrap();
        for layer in data.layers().unwrap() {
            let layer = data.matrix(&Slot::Layer(layer)).unwrap().rows(0..6).unwrap();
            assert_eq!(layer, x);
        }
    }
}
