//! The one error type of the loader.

use std::path::PathBuf;

/// What can go wrong between a file and host memory; every variant names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `open`, `read`, `write`, `rename`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// The HDF5 layer refused a file, an object in it, or a change to it.
    #[error("cannot {action} `{key}` in {}: {source}", path.display())]
    Hdf5 {
        /// What was tried: `open`, `read`, `add`, `replace`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The object's path inside the file; `/` is the file itself.
        key: String,
        /// The HDF5 layer's reason.
        source: Box<hdf5_pure::Error>,
    },

    /// An HDF5 file that is not an AnnData file.
    #[error(
        "{} is not an AnnData file: expected `{missing}` at its root, found {}; write it with \
         `adata.write_h5ad(..)`",
        path.display(), list(found)
    )]
    NotAnnData {
        /// The file.
        path: PathBuf,
        /// What the root lacks: `obs` or `var`.
        missing: &'static str,
        /// What the root holds.
        found: Vec<String>,
    },

    /// Something was asked for by a name that the file does not have.
    #[error("no `{key}` in `{parent}` of {}; available: {}", path.display(), list(available))]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// Where it was looked for: `obs`, `layers`, `obsm`, ...
        parent: String,
        /// The name asked for.
        key: String,
        /// The names that exist there.
        available: Vec<String>,
    },

    /// A part of an AnnData file contradicts the format or another part of the file.
    #[error("`{key}` in {}: expected {expected}, found {found}; {advice}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The object's path inside the file.
        key: String,
        /// What the format asks for.
        expected: String,
        /// What stands there.
        found: String,
        /// What to do.
        advice: &'static str,
    },

    /// An expression value that is not a finite number.
    #[error(
        "`{key}` in {}: row {row}, column {column} (both from 0) is {value}, expected a finite \
         number; replace NaN and infinite values before use",
        path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The matrix: `X`, `layers/counts`, `raw/X`.
        key: String,
        /// The cell, counted from 0.
        row: usize,
        /// The gene, counted from 0.
        column: usize,
        /// NaN, inf or -inf as read into `f32` (a larger `f64` value also becomes inf).
        value: f32,
    },

    /// Rows were asked for that the matrix does not have.
    #[error("`{key}` in {}: rows {start}..{end} asked for, it has {n_obs}", path.display())]
    RowRange {
        /// The file.
        path: PathBuf,
        /// The matrix.
        key: String,
        /// First row asked for.
        start: usize,
        /// One past the last row asked for.
        end: usize,
        /// Rows that exist.
        n_obs: usize,
    },

    /// Two blocks of cells over different numbers of genes, or a row that a block does not hold.
    #[error("block of {n_rows} rows x {n_vars} genes: {what} {found} does not fit it")]
    Block {
        /// What does not fit: `row` or `gene count`.
        what: &'static str,
        /// Its value.
        found: usize,
        /// Rows of the block.
        n_rows: usize,
        /// Genes of the block.
        n_vars: usize,
    },

    /// A result would be written over the file it was computed from.
    #[error("{} is the input file; choose another output", path.display())]
    OutputIsInput {
        /// The output, as given.
        path: PathBuf,
    },

    /// The output is there already and replacing it was not asked for.
    #[error("{} exists; choose another output or ask for overwriting", path.display())]
    OutputExists {
        /// The output, as given.
        path: PathBuf,
    },

    /// Something to be added to an AnnData file cannot be stored under that name or shape.
    #[error("cannot add `{key}` to {}: expected {expected}, found {found}", path.display())]
    Addition {
        /// The input file.
        path: PathBuf,
        /// Where it was to be added: `obs/cell_type_predicted`, ...
        key: String,
        /// What would be accepted.
        expected: String,
        /// What was given.
        found: String,
    },
}

/// A list of names as an error message shows it.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 40;
    if names.is_empty() {
        return String::from("nothing");
    }
    let mut text = names
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(", and {} more", names.len() - SHOWN));
    }
    text
}

/// The loader's result.
pub type Result<T> = std::result::Result<T, Error>;
