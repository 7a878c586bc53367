//! Reads every layout of AnnData that the fixtures hold, and files that are broken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use scmmgpt_loader::Error;
use scmmgpt_loader::h5ad::{AnnData, Column, CsrBlock, Slot, Storage};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn open(name: &str) -> AnnData {
    AnnData::open(&fixture(name)).unwrap()
}

/// The fixtures' matrix: `value(i, j) = (7 i + 3 j) % 5`.
fn check_matrix(data: &AnnData, slot: &Slot, n_vars: usize, storage: Storage) {
    let matrix = data.matrix(slot).unwrap();
    assert_eq!((matrix.n_obs(), matrix.n_vars()), (6, n_vars), "{slot}");
    assert_eq!(matrix.storage(), storage, "{slot}");
    for rows in [1, 2, 4, 6, 100] {
        let mut all = CsrBlock::empty(0, n_vars);
        for block in matrix.blocks(rows) {
            let block = block.unwrap();
            assert_eq!(block.start, all.n_rows());
            all.append(&block).unwrap();
        }
        assert_eq!(all.n_rows(), 6);
        for i in 0..6 {
            let (indices, values) = all.row(i);
            let mut found = vec![0.0; n_vars];
            for (&j, &value) in indices.iter().zip(values) {
                assert!(value != 0.0, "{slot}: an explicit zero was kept");
                found[j as usize] = value;
            }
            let expected: Vec<f32> = (0..n_vars).map(|j| ((7 * i + 3 * j) % 5) as f32).collect();
            assert_eq!(found, expected, "{slot} row {i}");
        }
    }
    assert_eq!(matrix.rows(3..3).unwrap().n_rows(), 0);
    assert!(matches!(matrix.rows(5..7), Err(Error::RowRange { end: 7, n_obs: 6, .. })));
}

fn names(prefix: &str, n: usize) -> Vec<String> {
    (0..n).map(|i| format!("{prefix}{i}")).collect()
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| text.to_string()).collect()
}

fn cell_types() -> Column {
    Column::Categorical { codes: vec![0, 2, -1, 0, 1, 2], categories: texts(&["B", "NK", "T"]) }
}

/// `==` that takes NaN for NaN.
fn assert_numbers(column: Column, expected: &[f64]) {
    let Column::Number(found) = column else { panic!("{column:?}") };
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
}

const SCORES: [f64; 6] = [0.5, f64::NAN, 1.5, 2.0, -1.0, 3.25];
const DOUBLETS: [bool; 6] = [true, false, false, true, false, true];

#[test]
fn h5ad_modern_matrices() {
    let data = open("modern_matrices.h5ad");
    check_matrix(&data, &Slot::X, 5, Storage::Csr);
    check_matrix(&data, &Slot::Layer("csc".into()), 5, Storage::Csc);
    check_matrix(&data, &Slot::Layer("half".into()), 5, Storage::Dense);
    assert!(data.has_raw());
    check_matrix(&data, &Slot::Raw, 7, Storage::Csr);
    assert_eq!(data.var_names(&Slot::Raw).unwrap(), names("raw", 7));
    assert_eq!(data.layers().unwrap(), ["csc", "half"]);
    assert_eq!(data.obs_keys().unwrap(), Vec::<String>::new());
    assert_eq!(data.obsm_keys().unwrap(), ["X_umap"]);
    let umap = data.obsm("X_umap").unwrap();
    assert_eq!((umap.rows, umap.columns), (6, 2));
    assert_eq!(umap.values, (0..12).map(|v| v as f32).collect::<Vec<_>>());
    let error = data.obsm("X_pca").unwrap_err().to_string();
    assert!(error.contains("X_umap"), "{error}");
    let error = data.matrix(&Slot::Layer("counts".into())).unwrap_err().to_string();
    assert!(error.contains("available: `csc`, `half`"), "{error}");
}

#[test]
fn h5ad_modern_columns() {
    let data = open("modern_columns.h5ad");
    assert_eq!((data.n_obs(), data.n_vars()), (6, 5));
    assert_eq!(data.obs_names().unwrap(), names("cell", 6));
    assert_eq!(data.var_names(&Slot::X).unwrap(), names("gene", 5));
    assert_eq!(data.obs("cell_type").unwrap(), cell_types());
    assert_numbers(data.obs("counts").unwrap(), &[0., 10., 20., 30., 40., 50.]);
    assert_numbers(data.obs("score").unwrap(), &SCORES);
    assert_eq!(data.obs("doublet").unwrap(), Column::Boolean(DOUBLETS.map(Some).to_vec()));
    let notes = ["é", "", "c", "d", "e", "long text with spaces"];
    assert_eq!(data.obs("note").unwrap(), Column::Text(texts(&notes)));
    assert_numbers(data.obs("maybe_int").unwrap(), &[1., f64::NAN, 3., 4., 5., 6.]);
    let flags = [Some(true), None, Some(false), Some(true), Some(true), Some(false)];
    assert_eq!(data.obs("maybe_bool").unwrap(), Column::Boolean(flags.to_vec()));
    let labels = data.obs("maybe_text").unwrap().labels();
    let expected = ["x", "", "y", "x", "z", "y"].map(|t| (!t.is_empty()).then(|| t.to_string()));
    assert_eq!(labels, expected);
    let categories = texts(&["0", "1", "2"]);
    let cluster = Column::Categorical { codes: vec![0, 1, 0, 2, 1, 0], categories };
    assert_eq!(data.obs("cluster").unwrap(), cluster);
    let order = ["cell_type", "counts", "score", "doublet", "note", "maybe_int", "maybe_bool", "maybe_text", "cluster"];
    assert_eq!(data.obs_keys().unwrap(), order);
    assert_eq!(data.var_keys(&Slot::X).unwrap(), ["highly_variable"]);
    assert_eq!(data.var(&Slot::X, "highly_variable").unwrap().len(), 5);
    let error = data.obs("cell_typ").unwrap_err().to_string();
    assert!(error.contains("available: `cell_type`, `counts`, `score`"), "{error}");
    // Written without a matrix, without layers and without raw.
    assert!(!data.has_raw());
    assert!(matches!(data.matrix(&Slot::X), Err(Error::MissingKey { .. })));
    assert!(matches!(data.matrix(&Slot::Raw), Err(Error::MissingKey { .. })));
}

#[test]
fn h5ad_legacy_records() {
    let data = open("legacy_records.h5ad");
    assert_eq!((data.n_obs(), data.n_vars()), (6, 5));
    assert_eq!(data.obs_names().unwrap(), names("cell", 6));
    assert_eq!(data.var_names(&Slot::X).unwrap(), names("gene", 5));
    let keys = ["cell_type", "counts", "score", "note", "doublet"];
    assert_eq!(data.obs_keys().unwrap(), keys);
    assert_eq!(data.obs("cell_type").unwrap(), cell_types());
    assert_numbers(data.obs("counts").unwrap(), &[0., -10., -20., -30., -40., -50.]);
    assert_numbers(data.obs("score").unwrap(), &SCORES);
    let notes = Column::Text(texts(&["a", "", "ccccc", "d", "e", "f"]));
    assert_eq!(data.obs("note").unwrap(), notes);
    assert_eq!(data.obs("doublet").unwrap(), Column::Boolean(DOUBLETS.map(Some).to_vec()));
    assert!(matches!(data.obs("index"), Err(Error::MissingKey { .. })));
    check_matrix(&data, &Slot::X, 5, Storage::Csr);
    check_matrix(&data, &Slot::Raw, 7, Storage::Dense);
    assert_eq!(data.var_names(&Slot::Raw).unwrap(), names("raw", 7));
    let categories = texts(&["coding", "other"]);
    let kinds = Column::Categorical { codes: vec![0, 1, 0, 1, 0, 1, -1], categories };
    assert_eq!(data.var(&Slot::Raw, "kind").unwrap(), kinds);
}

#[test]
fn h5ad_legacy_categories() {
    let data = open("legacy_categories.h5ad");
    assert_eq!(data.obs_keys().unwrap(), ["cell_type", "counts"]);
    assert_eq!(data.obs("cell_type").unwrap(), cell_types());
    assert_eq!(data.var_keys(&Slot::X).unwrap(), Vec::<String>::new());
    check_matrix(&data, &Slot::X, 5, Storage::Dense);
}

#[test]
fn h5ad_real_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/pbmc68k_700.h5ad");
    let data = AnnData::open(&path).unwrap();
    assert_eq!((data.n_obs(), data.n_vars()), (700, 765));
    let matrix = data.matrix(&Slot::X).unwrap();
    assert_eq!((matrix.storage(), matrix.nnz_hint()), (Storage::Csr, Some(174_400)));
    let whole = matrix.rows(0..700).unwrap();
    assert_eq!(whole.values.len(), 174_400);
    for block in matrix.blocks(64) {
        let block = block.unwrap();
        for row in 0..block.n_rows() {
            assert_eq!(block.row(row), whole.row(block.start + row));
        }
    }
    let Column::Categorical { codes, categories } = data.obs("cell_type").unwrap() else { panic!() };
    assert_eq!((codes.len(), categories.len()), (700, 10));
    assert_eq!(data.var_names(&Slot::X).unwrap().len(), 765);
}

/// `Err` of opening the file and reading all of it.
fn read_all(path: &Path) -> scmmgpt_loader::Result<()> {
    let data = AnnData::open(path)?;
    data.obs_names()?;
    for key in data.obs_keys()? {
        data.obs(&key)?;
    }
    let mut slots = vec![Slot::X, Slot::Raw];
    slots.extend(data.layers()?.into_iter().map(Slot::Layer));
    for slot in &slots {
        data.var_names(slot)?;
        for key in data.var_keys(slot)? {
            data.var(slot, &key)?;
        }
        for block in data.matrix(slot)?.blocks(4) {
            block?;
        }
    }
    for key in data.obsm_keys()? {
        data.obsm(&key)?;
    }
    Ok(())
}

#[test]
fn h5ad_a_size_no_such_file_can_hold_is_refused_before_memory_is_taken() {
    let error = AnnData::open(&fixture("broken_huge.h5ad")).unwrap_err().to_string();
    assert!(error.contains("bytes can hold, found shape [1099511627776]"), "{error}");
}

#[test]
fn h5ad_not_hdf5_or_not_anndata() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.h5ad");
    assert!(matches!(AnnData::open(&path), Err(Error::Io { action: "open", .. })));
    for text in ["", "cell,gene\n"] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(AnnData::open(&path), Err(Error::Hdf5 { .. })));
    }
    let mut file = hdf5_pure::FileBuilder::new();
    file.create_dataset("matrix").with_f64_data(&[1.0]);
    file.write(&path).unwrap();
    let error = AnnData::open(&path).unwrap_err().to_string();
    assert!(error.contains("expected `obs` at its root, found `matrix`"), "{error}");
}

/// Cut at many places and with single bytes changed, a file is an error or reads; it never panics.
#[test]
fn h5ad_damaged_files_do_not_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.h5ad");
    for name in ["legacy_records.h5ad", "modern_columns.h5ad", "modern_matrices.h5ad"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        for cut in (0..bytes.len()).step_by(509) {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert!(read_all(&path).is_err(), "{name} cut at {cut}");
        }
        for at in (0..bytes.len()).step_by(61) {
            let mut damaged = bytes.clone();
            damaged[at] ^= if at % 2 == 0 { 0xff } else { 0x10 };
            std::fs::write(&path, &damaged).unwrap();
            let _ = read_all(&path);
        }
    }
}
