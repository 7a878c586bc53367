//! AnnData files (`.h5ad`): cells by genes with annotations, as scanpy and CELLxGENE use them.
//!
//! Reading is lazy and streaming: opening a file reads names and shapes, [`Matrix::rows`] reads the
//! rows asked for. Understood are anndata's on-disk formats from 0.6 (compound `obs` and `var`,
//! `h5sparse_format`) to 0.12 (nullable columns and strings); CSR, CSC and dense matrices of any
//! integer or float type, plain, gzip or lzf. What is not understood is skipped until it is asked
//! for. [`write_with`] writes a copy of a file with results added, [`create`] a new file.
//! Source: anndata documentation, "On-disk format".

mod block;
mod column;
mod create;
mod csc;
mod edit;
mod frame;
mod heap;
mod matrix;
mod records;
mod store;
mod write;

use std::fmt;
use std::path::Path;

pub use block::CsrBlock;
pub use column::Column;
pub use create::create;
use frame::Frame;
pub use matrix::{Matrix, Storage};
use store::{DAMAGED, Node, Store};
pub use write::{Additions, UnsValue, write_with};

use crate::{Error, Result};

/// Which expression matrix of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The main matrix.
    #[default]
    X,
    /// One of `layers`.
    Layer(String),
    /// The matrix set aside in `raw`, which has genes of its own.
    Raw,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slot::X => f.write_str("X"),
            Slot::Layer(name) => write!(f, "layers/{name}"),
            Slot::Raw => f.write_str("raw/X"),
        }
    }
}

/// A dense matrix, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseArray {
    /// Rows (cells).
    pub rows: usize,
    /// Values a row.
    pub columns: usize,
    /// `[rows * columns]`, row by row.
    pub values: Vec<f32>,
}

/// An open AnnData file. Nothing of its matrices is in memory; it can be shared between threads.
///
/// The file must not change while it is open.
pub struct AnnData {
    store: Store,
    obs: Frame,
    var: Frame,
    n_obs: usize,
    n_vars: usize,
}

impl AnnData {
    /// Opens a file and checks that it has `obs` and `var`. (A file without `X` is allowed: its
    /// layers can be read.)
    ///
    /// # Errors
    /// `Io` when it cannot be opened, `Hdf5` when it is not HDF5 or cut short, `NotAnnData` when it
    /// is some other HDF5 file, `Malformed` when `obs` or `var` has no index.
    pub fn open(path: &Path) -> Result<AnnData> {
        let store = Store::open(path)?;
        let frame = |missing| match Frame::open(&store, missing, "uns")? {
            Some(frame) => Ok(frame),
            None => {
                let found = store.children("/")?;
                Err(Error::NotAnnData { path: store.path_buf(), missing, found })
            }
        };
        let (obs, var) = (frame("obs")?, frame("var")?);
        let (n_obs, n_vars) = (obs.len()?, var.len()?);
        Ok(AnnData { store, obs, var, n_obs, n_vars })
    }

    /// The file, as it was given to [`AnnData::open`].
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// Cells.
    pub fn n_obs(&self) -> usize {
        self.n_obs
    }

    /// Genes of `X` and of the layers; `raw` can have more.
    pub fn n_vars(&self) -> usize {
        self.n_vars
    }

    /// Names of the cells. Not always unique.
    ///
    /// # Errors
    /// `Hdf5` or `Malformed` when they cannot be read.
    pub fn obs_names(&self) -> Result<Vec<String>> {
        self.obs.index()
    }

    /// Names of the genes of `slot`, in the order of its columns.
    ///
    /// # Errors
    /// `MissingKey` for a slot that the file does not have; `Hdf5` or `Malformed`.
    pub fn var_names(&self, slot: &Slot) -> Result<Vec<String>> {
        self.with_var(slot, Frame::index)
    }

    /// Names of the columns of `obs`, in the file's order.
    ///
    /// # Errors
    /// `Hdf5` or `Malformed`.
    pub fn obs_keys(&self) -> Result<Vec<String>> {
        self.obs.keys()
    }

    /// A column of `obs`, `[n_obs]`.
    ///
    /// # Errors
    /// `MissingKey` with the names that exist; `Malformed` for an encoding that is not understood
    /// or codes outside their categories; `Hdf5`.
    pub fn obs(&self, key: &str) -> Result<Column> {
        let column = self.obs.column(key)?;
        self.check_rows(&format!("obs/{key}"), column.len(), self.n_obs)?;
        Ok(column)
    }

    /// Names of the columns of the genes' table of `slot`.
    ///
    /// # Errors
    /// As [`AnnData::var_names`].
    pub fn var_keys(&self, slot: &Slot) -> Result<Vec<String>> {
        self.with_var(slot, Frame::keys)
    }

    /// A column of the genes' table of `slot`.
    ///
    /// # Errors
    /// As [`AnnData::obs`] and [`AnnData::var_names`].
    pub fn var(&self, slot: &Slot, key: &str) -> Result<Column> {
        let (column, rows) = self.with_var(slot, |var| Ok((var.column(key)?, var.len()?)))?;
        self.check_rows(&format!("var/{key}"), column.len(), rows)?;
        Ok(column)
    }

    /// Names of the layers, sorted.
    ///
    /// # Errors
    /// `Hdf5` when they cannot be listed.
    pub fn layers(&self) -> Result<Vec<String>> {
        self.store.children("layers")
    }

    /// Whether the file has a `raw` matrix.
    pub fn has_raw(&self) -> bool {
        matches!(self.raw(), Ok(Some(_)))
    }

    /// Names of the matrices in `obsm`, sorted.
    ///
    /// # Errors
    /// `Hdf5` when they cannot be listed.
    pub fn obsm_keys(&self) -> Result<Vec<String>> {
        self.store.children("obsm")
    }

    /// A dense matrix of `obsm`, such as `X_umap`: `[n_obs, columns]`. Values may be NaN.
    ///
    /// # Errors
    /// `MissingKey` with the names that exist; `Malformed` for a sparse matrix, a dataframe or a
    /// wrong number of rows; `Hdf5`.
    pub fn obsm(&self, key: &str) -> Result<DenseArray> {
        let path = format!("obsm/{key}");
        let dataset = match self.store.find(&path)? {
            Some(Node::Dataset(dataset)) if !key.is_empty() => dataset,
            Some(Node::Group(_)) if !key.is_empty() => {
                let advice = "convert it to a dense array in Python first";
                return Err(self.store.malformed(&path, "a dense array", "a group", advice));
            }
            _ => return Err(self.missing("obsm", key, self.obsm_keys()?)),
        };
        let (rows, columns) = match self.store.shape(&path, &dataset)?.as_slice() {
            [rows] => (*rows, 1),
            [rows, columns] => (*rows, *columns),
            shape => {
                let found = format!("shape {shape:?}");
                return Err(self.store.malformed(&path, "two dimensions", found, DAMAGED));
            }
        };
        self.check_rows(&path, rows, self.n_obs)?;
        let values = self.store.value_window(&path, &dataset, 0, rows, columns)?;
        Ok(DenseArray { rows, columns, values })
    }

    /// Opens a matrix for reading by rows. See [`Matrix`] for what this costs.
    ///
    /// # Errors
    /// `MissingKey` for a slot that the file does not have; `Malformed` when its shape is not that
    /// of `obs` and `var` or its arrays contradict each other; `Hdf5`.
    pub fn matrix(&self, slot: &Slot) -> Result<Matrix> {
        let n_vars = self.with_var(slot, Frame::len)?;
        let key = match slot {
            Slot::X => String::from("X"),
            Slot::Layer(name) => format!("layers/{name}"),
            Slot::Raw => self.raw()?.map_or_else(|| slot.to_string(), |(matrix, _, _)| matrix.into()),
        };
        let null = match self.store.find(&key)? {
            Some(node) => {
                let attributes = self.store.attributes(&key, &node)?;
                attributes.get("encoding-type").and_then(|kind| kind.as_str()) == Some("null")
            }
            None => true,
        };
        if null {
            return Err(match slot {
                Slot::Layer(name) => self.missing("layers", name, self.layers()?),
                _ => self.missing("/", &key, self.store.children("/")?),
            });
        }
        Matrix::open(&self.store, &key, self.n_obs, n_vars)
    }

    /// Where `raw` keeps its matrix, its genes and their categories: a group since anndata 0.7,
    /// dotted names at the root before.
    fn raw(&self) -> Result<Option<(&'static str, &'static str, &'static str)>> {
        const PLACES: [(&str, &str, &str); 2] = [("raw/X", "raw/var", "uns"), ("raw.X", "raw.var", "raw.cat")];
        for place in PLACES {
            if self.store.find(place.0)?.is_some() {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    fn with_var<T>(&self, slot: &Slot, read: impl FnOnce(&Frame) -> Result<T>) -> Result<T> {
        if *slot != Slot::Raw {
            return read(&self.var);
        }
        let Some((_, key, categories)) = self.raw()? else {
            return Err(self.missing("/", "raw", self.store.children("/")?));
        };
        match Frame::open(&self.store, key, categories)? {
            Some(frame) => read(&frame),
            None => Err(self.store.malformed(key, "the genes of `raw`", "nothing", DAMAGED)),
        }
    }

    fn check_rows(&self, key: &str, found: usize, expected: usize) -> Result<()> {
        if found == expected {
            return Ok(());
        }
        let (expected, found) = (format!("{expected} rows"), format!("{found}"));
        Err(self.store.malformed(key, expected, found, DAMAGED))
    }

    fn missing(&self, parent: &str, key: &str, available: Vec<String>) -> Error {
        let path = self.store.path_buf();
        Error::MissingKey { path, parent: parent.into(), key: key.into(), available }
    }
}

impl fmt::Debug for AnnData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnnData({}: {} x {})", self.path().display(), self.n_obs, self.n_vars)
    }
}
