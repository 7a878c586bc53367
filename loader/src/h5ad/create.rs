//! Writes a new AnnData file.

use std::fs;
use std::path::Path;

use hdf5_pure::{AttrValue, FileBuilder};

use super::edit::text;
use super::store::hdf5_error;
use super::{Additions, CsrBlock, write_with};
use crate::{AtomicFile, Error, Result};

/// Name of the index of `obs` and `var`.
const INDEX: &str = "_index";

/// Writes `output` from nothing: the matrix `x` (CSR, `f32`), names of cells and genes, and `additions`. The file appears whole or not at
/// all; anndata 0.8 and later read it.
///
/// # Errors
/// `OutputExists` without `overwrite`; `Addition` when names and matrix differ in number, a name holds a zero byte, and as in
/// [`write_with`]; `Io`, `Hdf5`.
pub fn create(output: &Path, cells: &[String], genes: &[String], x: &CsrBlock, additions: &Additions, overwrite: bool) -> Result<()> {
    if !overwrite && fs::symlink_metadata(output).is_ok() {
        return Err(Error::OutputExists { path: output.to_path_buf() });
    }
    if (cells.len(), genes.len()) != (x.n_rows(), x.n_vars) {
        let expected = format!("{} x {}, the numbers of names", cells.len(), genes.len());
        return Err(Error::addition(output, "X", &expected, format!("{} x {}", x.n_rows(), x.n_vars)));
    }
    if let Some(name) = cells.iter().chain(genes).find(|name| name.contains('\0')) {
        return Err(Error::addition(output, "obs and var", "names without zero bytes", format!("{name:?}")));
    }
    // The additions go the way of all additions: into a copy, which is read back before it takes its name.
    let plain = AtomicFile::create(output)?;
    let error = |source| hdf5_error("write", output, "/", source);
    build(cells, genes, x).write(plain.temporary_path()).map_err(error)?;
    write_with(plain.temporary_path(), output, additions, overwrite)
}

/// Matrix and names, with an encoding for every element.
fn build(cells: &[String], genes: &[String], x: &CsrBlock) -> FileBuilder {
    let mut file = FileBuilder::new();
    for (name, value) in encoding("anndata", "0.1.0") {
        file.set_attr(name, value);
    }
    for (key, names) in [("obs", cells), ("var", genes)] {
        let mut frame = file.create_group(key);
        for (name, value) in encoding("dataframe", "0.2.0") {
            frame.set_attr(name, value);
        }
        frame.set_attr(INDEX, text(INDEX));
        frame.set_attr("column-order", AttrValue::VarLenStringArray(Vec::new()));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let index = frame.create_dataset(INDEX).with_vlen_strings(&names);
        for (name, value) in encoding("string-array", "0.2.0") {
            index.set_attr(name, value);
        }
        file.add_group(frame.finish());
    }
    let mut matrix = file.create_group("X");
    for (name, value) in encoding("csr_matrix", "0.1.0") {
        matrix.set_attr(name, value);
    }
    matrix.set_attr("shape", AttrValue::I64Array(vec![x.n_rows() as i64, x.n_vars as i64]));
    matrix.create_dataset("data").with_f32_data(&x.values);
    matrix.create_dataset("indices").with_i32_data(&x.indices.iter().map(|&column| column as i32).collect::<Vec<_>>());
    matrix.create_dataset("indptr").with_i64_data(&x.indptr.iter().map(|&end| end as i64).collect::<Vec<_>>());
    file.add_group(matrix.finish());
    file
}

fn encoding(kind: &str, version: &str) -> [(&'static str, AttrValue); 2] {
    [("encoding-type", text(kind)), ("encoding-version", text(version))]
}
