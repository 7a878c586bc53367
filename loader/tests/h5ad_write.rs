//! Writing results into a copy of an AnnData file: what is refused, and what a failure leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use scmmgpt_loader::Error;
use scmmgpt_loader::h5ad::{Additions, AnnData, Column, DenseArray, Slot, UnsValue, write_with};

fn input() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/pbmc68k_700.h5ad")
}

fn text(n: usize) -> Column {
    Column::Text(vec![String::from("x"); n])
}

fn obs(name: &str, column: Column) -> Additions {
    Additions { obs: vec![(name.into(), column)], ..Additions::default() }
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn h5ad_additions_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.h5ad");
    let codes: Vec<i32> = (0..700).map(|i| i % 3 - 1).collect();
    let predicted = Column::Categorical { codes, categories: vec!["B cell".into(), "monocyte".into()] };
    let values: Vec<f32> = (0..1400).map(|v| v as f32).collect();
    let mut additions = obs("predicted", predicted.clone());
    additions.obs.push(("cell_type".into(), predicted.clone()));
    additions.obsm = vec![("X_q".into(), DenseArray { rows: 700, columns: 2, values })];
    additions.uns = vec![("scmmgpt".into(), UnsValue::Map(vec![("version".into(), UnsValue::Text("0.1".into()))]))];
    write_with(&input(), &output, &additions, false).unwrap();

    let (old, new) = (AnnData::open(&input()).unwrap(), AnnData::open(&output).unwrap());
    assert_eq!(new.obs("predicted").unwrap(), predicted);
    assert_eq!(new.obs("cell_type").unwrap(), predicted, "replaced");
    let mut keys = old.obs_keys().unwrap();
    keys.push("predicted".into());
    assert_eq!(new.obs_keys().unwrap(), keys);
    assert_eq!(new.obsm("X_q").unwrap(), additions.obsm[0].1);
    assert_eq!(new.obs_names().unwrap(), old.obs_names().unwrap());
    let rows = |data: &AnnData| data.matrix(&Slot::X).unwrap().rows(0..700).unwrap();
    assert_eq!(rows(&new), rows(&old));
    assert_eq!(files(folder.path()), ["out.h5ad"]);
}

#[test]
fn h5ad_nothing_to_add_is_a_copy() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.h5ad");
    write_with(&input(), &output, &Additions::default(), false).unwrap();
    assert_eq!(AnnData::open(&output).unwrap().n_obs(), 700);
}

#[test]
fn h5ad_refusals_leave_the_output_alone() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.h5ad");
    fs::write(&output, "mine").unwrap();
    let good = obs("a", text(700));
    let refused = write_with(&input(), &output, &good, false);
    assert!(matches!(refused, Err(Error::OutputExists { .. })));

    let category =
        |codes, labels: &[&str]| Column::Categorical { codes, categories: labels.iter().map(|label| label.to_string()).collect() };
    let twice = Additions { obs: vec![("a".into(), text(700)), ("a".into(), text(700))], ..Additions::default() };
    let dense = |rows, columns, values: usize| Additions {
        obsm: vec![("X".into(), DenseArray { rows, columns, values: vec![0.0; values] })],
        ..Additions::default()
    };
    let uns = |name: &str, value| Additions { uns: vec![("u".into(), UnsValue::Map(vec![(name.into(), value)]))], ..Additions::default() };
    let bad = [
        (obs("a", text(699)), "700 rows, one a cell, found 699"),
        (obs("a", category(vec![2; 700], &["x", "y"])), "codes from -1 to 1, found 2"),
        (obs("a", category(vec![-2; 700], &["x"])), "found -2"),
        (obs("a", category(vec![0; 700], &["x", "x"])), "`x` twice"),
        (obs("a", category(vec![0; 700], &["x\0y"])), "without zero bytes"),
        (obs("a/b", text(700)), "a name without `/`"),
        (obs("", text(700)), "a name without `/`"),
        (obs("..", text(700)), "a name without `/`"),
        (obs("index", text(700)), "another name"),
        (twice, "`a` twice"),
        (dense(699, 1, 699), "700 rows"),
        (dense(700, 2, 1399), "1399 values for 700 x 2"),
        (dense(700, 0, 0), "at least one"),
        (uns("a/b", UnsValue::Boolean(true)), "a name without `/`"),
        (uns("a", UnsValue::TextList(vec!["\0".into()])), "without zero bytes"),
    ];
    for (additions, words) in bad {
        let error = write_with(&input(), &output, &additions, true).unwrap_err();
        assert!(matches!(error, Error::Addition { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(fs::read(&output).unwrap(), b"mine");
    }
    assert_eq!(files(folder.path()), ["out.h5ad"]);
    write_with(&input(), &output, &good, true).unwrap();
    assert!(AnnData::open(&output).unwrap().obs("a").is_ok());
}

#[test]
fn h5ad_the_input_is_never_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("in.h5ad");
    fs::copy(input(), &copy).unwrap();
    let before = fs::read(&copy).unwrap();
    let mut aliases = vec![copy.clone(), folder.path().join("./in.h5ad")];
    #[cfg(unix)]
    {
        let (soft, hard) = (folder.path().join("soft"), folder.path().join("hard"));
        std::os::unix::fs::symlink(&copy, &soft).unwrap();
        fs::hard_link(&copy, &hard).unwrap();
        aliases.extend([soft, hard]);
    }
    for output in &aliases {
        let refused = write_with(&copy, output, &obs("a", text(700)), true);
        assert!(matches!(refused, Err(Error::OutputIsInput { .. })), "{}", output.display());
    }
    assert_eq!(fs::read(&copy).unwrap(), before);
}

#[test]
fn h5ad_a_broken_input_or_a_missing_folder_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.h5ad");
    let bytes = fs::read(input()).unwrap();
    fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    let output = folder.path().join("out.h5ad");
    assert!(write_with(&broken, &output, &obs("a", text(700)), true).is_err());
    let nowhere = folder.path().join("no/out.h5ad");
    assert!(matches!(write_with(&input(), &nowhere, &obs("a", text(700)), true), Err(Error::Io { .. })));
    assert_eq!(files(folder.path()), ["broken.h5ad"]);
}
