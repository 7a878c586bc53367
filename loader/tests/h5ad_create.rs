//! New AnnData files, read back here and by Python.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

use scmmgpt_loader::Error;
use scmmgpt_loader::h5ad::{Additions, AnnData, Column, CsrBlock, Slot, UnsValue, create};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn matrix() -> CsrBlock {
    CsrBlock { start: 0, n_vars: 4, indptr: vec![0, 2, 2, 5], indices: vec![1, 3, 0, 1, 2], values: vec![2.0, 5.0, 0.5, 1.5, -2.5] }
}

fn additions() -> Additions {
    let kind = Column::Categorical { codes: vec![0, -1, 1], categories: names(&["B cell", "é"]) };
    Additions {
        obs: vec![("prompt".into(), Column::Text(names(&["a", "", "ü b"]))), ("kind".into(), kind)],
        uns: vec![("made".into(), UnsValue::Map(vec![("seed".into(), UnsValue::Integer(7))]))],
        ..Additions::default()
    }
}

const READ: &str = r#"
import sys, anndata
data = anndata.read_h5ad(sys.argv[1])
assert data.shape == (3, 4), data.shape
assert data.X.toarray().tolist() == [[0, 2, 0, 5], [0, 0, 0, 0], [0.5, 1.5, -2.5, 0]], data.X.toarray()
assert list(data.obs_names) == ["one", "two", "three"] and list(data.var_names) == ["A", "B", "C", "Dé"]
assert list(data.obs.columns) == ["prompt", "kind"] and list(data.var.columns) == []
assert list(data.obs["prompt"]) == ["a", "", "ü b"] and list(data.obs["kind"].cat.categories) == ["B cell", "é"]
assert data.uns["made"]["seed"] == 7 and str(data.X.dtype) == "float32"
data.obs["more"] = 1
data.write_h5ad(sys.argv[1])
"#;

#[test]
fn a_new_file_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new.h5ad");
    let (cells, genes) = (names(&["one", "two", "three"]), names(&["A", "B", "C", "Dé"]));
    create(&file, &cells, &genes, &matrix(), &additions(), false).unwrap();
    let data = AnnData::open(&file).unwrap();
    assert_eq!((data.obs_names().unwrap(), data.var_names(&Slot::X).unwrap()), (cells.clone(), genes.clone()));
    assert_eq!(data.matrix(&Slot::X).unwrap().rows(0..3).unwrap(), matrix());
    assert_eq!(data.obs_keys().unwrap(), ["prompt", "kind"]);
    assert_eq!(data.obs("kind").unwrap(), additions().obs[1].1);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    drop(data);
    if let Some(python) = std::env::var_os("SCMMGPT_PYTHON") {
        let output = Command::new(python).args(["-c", READ]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(AnnData::open(&file).unwrap().obs_keys().unwrap(), ["prompt", "kind", "more"]);
    }

    let refused = create(&file, &cells, &genes, &matrix(), &additions(), false);
    assert!(matches!(refused, Err(Error::OutputExists { .. })));
    create(&file, &cells, &genes, &matrix(), &Additions::default(), true).unwrap();
    assert!(AnnData::open(&file).unwrap().obs_keys().unwrap().is_empty());
    for (cells, genes) in [(&cells[..2], &genes[..]), (&cells, &genes[..3]), (&names(&["a", "b\0", "c"]), &genes)] {
        assert!(matches!(create(&file, cells, genes, &matrix(), &Additions::default(), true), Err(Error::Addition { .. })));
    }
    assert!(matches!(create(Path::new("/no/such/x.h5ad"), &cells, &genes, &matrix(), &additions(), false), Err(Error::Io { .. })));
}

/// No expressed gene, many cells: no array may be refused for being empty or long.
#[test]
fn empty_and_long_matrices_are_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new.h5ad");
    let cells: Vec<String> = (0..70_000).map(|cell| cell.to_string()).collect();
    let long = CsrBlock { start: 0, n_vars: 2, indptr: (0..=70_000).collect(), indices: vec![1; 70_000], values: vec![3.0; 70_000] };
    for x in [CsrBlock { indptr: vec![0; 70_001], indices: vec![], values: vec![], ..long.clone() }, long] {
        create(&file, &cells, &names(&["A", "B"]), &x, &Additions::default(), true).unwrap();
        let rows = AnnData::open(&file).unwrap().matrix(&Slot::X).unwrap().rows(69_990..70_000).unwrap();
        assert_eq!(rows.values.len(), if x.values.is_empty() { 0 } else { 10 });
        if let Some(python) = std::env::var_os("SCMMGPT_PYTHON") {
            let code = "import sys, anndata; x = anndata.read_h5ad(sys.argv[1]).X; print(x.shape, x.sum())";
            let output = Command::new(python).args(["-c", code]).arg(&file).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
