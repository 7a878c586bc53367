//! AnnData files whose parts contradict each other: each is refused with an error that says where.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hdf5_pure::{AttrValue, FileBuilder};
use scmmgpt_loader::Error;
use scmmgpt_loader::h5ad::{AnnData, CsrBlock, Slot};

/// Two cells, three genes: `[[1, 0, 2], [0, 0, 3]]`, with parts that a test can spoil.
struct Parts {
    shape: Vec<i64>,
    indptr: Vec<i64>,
    indices: Vec<i32>,
    data: Vec<f64>,
    encoding: &'static str,
    codes: Vec<i8>,
    text_data: bool,
}

impl Parts {
    fn good() -> Parts {
        Parts {
            shape: vec![2, 3],
            indptr: vec![0, 2, 3],
            indices: vec![2, 0, 2],
            data: vec![2.0, 1.0, 3.0],
            encoding: "csr_matrix",
            codes: vec![1, -1],
            text_data: false,
        }
    }

    /// Writes the file, opens it, reads the column and the matrix.
    fn read(self) -> scmmgpt_loader::Result<CsrBlock> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("parts.h5ad");
        let text = |value: &str| AttrValue::VarLenString(value.into());
        let mut file = FileBuilder::new();

        let mut obs = file.create_group("obs");
        obs.set_attr("_index", text("_index"));
        obs.create_dataset("_index").with_vlen_strings(&["a", "b"]);
        let mut column = obs.create_group("label");
        column.set_attr("encoding-type", text("categorical"));
        column.create_dataset("codes").with_i8_data(&self.codes);
        column.create_dataset("categories").with_vlen_strings(&["x", "y"]);
        obs.add_group(column.finish());
        file.add_group(obs.finish());

        let mut var = file.create_group("var");
        var.create_dataset("_index").with_vlen_strings(&["p", "q", "r"]);
        file.add_group(var.finish());

        let mut x = file.create_group("X");
        x.set_attr("encoding-type", text(self.encoding));
        x.set_attr("shape", AttrValue::I64Array(self.shape));
        x.create_dataset("indptr").with_i64_data(&self.indptr);
        x.create_dataset("indices").with_i32_data(&self.indices);
        if self.text_data {
            x.create_dataset("data").with_vlen_strings(&["1", "2", "3"]);
        } else {
            x.create_dataset("data").with_f64_data(&self.data);
        }
        file.add_group(x.finish());
        file.write(&path).unwrap();

        let data = AnnData::open(&path)?;
        data.obs("label")?;
        data.matrix(&Slot::X)?.rows(0..2)
    }
}

#[track_caller]
fn refused(spoil: impl FnOnce(&mut Parts), key: &str, words: &str) {
    let mut parts = Parts::good();
    spoil(&mut parts);
    let error = parts.read().unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("`{key}`")) && text.contains(words), "{text}");
    assert!(matches!(error, Error::Malformed { .. } | Error::NotFinite { .. }), "{error:?}");
}

#[test]
fn h5ad_good_parts_read() {
    let block = Parts::good().read().unwrap();
    assert_eq!(block.indptr, [0, 2, 3]);
    assert_eq!((block.indices, block.values), (vec![2, 0, 2], vec![2.0, 1.0, 3.0]));
    // The same arrays by columns: [[1, 3, 0], [0, 0, 0]] has 2 entries and an explicit zero.
    let mut csc = Parts::good();
    (csc.encoding, csc.indptr) = ("csc_matrix", vec![0, 1, 2, 3]);
    (csc.indices, csc.data) = (vec![0, 0, 1], vec![1.0, 3.0, 0.0]);
    let block = csc.read().unwrap();
    assert_eq!(block.indptr, [0, 2, 2]);
    assert_eq!((block.indices, block.values), (vec![0, 1], vec![1.0, 3.0]));
}

#[test]
fn h5ad_bad_starts() {
    refused(|p| p.indptr = vec![0, 3, 2], "X/indptr", "entry 2 from 3 to 3, found 2");
    refused(|p| p.indptr = vec![0, 4, 3], "X/indptr", "entry 1 from 0 to 3, found 4");
    refused(|p| p.indptr = vec![1, 2, 3], "X/indptr", "entry 0 from 0 to 0, found 1");
    refused(|p| p.indptr = vec![0, -1, 3], "X/indptr", "found -1");
    refused(|p| p.indptr = vec![0, 2, i64::MAX], "X/indptr", "entry 2 from 3 to 3");
    refused(|p| p.indptr = vec![0, 3], "X/indptr", "3 row or column starts, found 2");
}

#[test]
fn h5ad_bad_columns() {
    refused(|p| p.indices[2] = 3, "X/indices", "columns from 0 to 2, found 3");
    refused(|p| p.indices[0] = -1, "X/indices", "found -1");
    refused(|p| p.indices[1] = 2, "X/indices", "column 2 twice in row 0");
    refused(|p| p.indices.truncate(2), "X/indices", "3 entries");
    let csc = |p: &mut Parts| (p.encoding, p.indptr) = ("csc_matrix", vec![0, 1, 2, 3]);
    let spoil = |indices: [i32; 3]| {
        move |p: &mut Parts| {
            csc(p);
            p.indices = indices.to_vec();
        }
    };
    refused(spoil([0, 2, 1]), "X/indices", "rows from 0 to 1, found 2");
    refused(spoil([0, -1, 1]), "X/indices", "found -1");
    let twice = |p: &mut Parts| {
        (p.encoding, p.indptr) = ("csc_matrix", vec![0, 2, 2, 3]);
        p.indices = vec![1, 1, 0];
    };
    refused(twice, "X/indices", "row 1 twice in column 0");
}

#[test]
fn h5ad_bad_values() {
    refused(|p| p.data[2] = f64::NAN, "X", "row 1, column 2");
    refused(|p| p.data[0] = f64::NEG_INFINITY, "X", "row 0, column 2");
    refused(|p| p.data[1] = 1e300, "X", "is inf");
    refused(|p| p.text_data = true, "X/data", "numbers");
}

#[test]
fn h5ad_bad_shape_and_encoding() {
    refused(|p| p.shape = vec![3, 3], "X", "shape [2, 3]");
    refused(|p| p.shape = vec![-2, 3], "X", "no shape");
    refused(|p| p.shape = vec![2], "X", "found [2]");
    refused(|p| p.encoding = "coo_matrix", "X", "found encoding-type `coo_matrix`");
}

#[test]
fn h5ad_bad_codes() {
    refused(|p| p.codes = vec![0, 2], "obs/label/codes", "codes from -1 to 1, found 2");
    refused(|p| p.codes = vec![-2, 0], "obs/label/codes", "found -2");
    refused(|p| p.codes = vec![0], "obs/label", "2 rows, found 1");
}
