//! HDF5 objects by name: every failure names the file and the object, every length is checked
//! against the file's size before memory is asked for.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hdf5_pure::{AttrValue, ChunkCacheConfig, Dataset, DatasetAccessProperties, Datatype, FormatError, Group};

use crate::{Error, Result};

/// No filter that the reader supports shrinks data more than deflate, whose limit is 1032 : 1. A
/// dataset that claims to be larger than that allows is a lie of a damaged file, and believing it
/// would ask for terabytes.
const MAX_COMPRESSION: u64 = 1100;

/// What to do about a file that contradicts itself.
pub(super) const DAMAGED: &str = "the file is damaged or was cut short; copy or write it again";

/// An open HDF5 file; clones share it.
#[derive(Clone)]
pub(super) struct Store {
    file: hdf5_pure::File,
    path: Arc<Path>,
    bytes: u64,
}

/// An object in the file.
pub(super) enum Node {
    Group(Group),
    Dataset(Dataset),
}

/// What the elements of a dataset are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Boolean,
    Integer,
    Float,
    Other,
}

impl Kind {
    pub(super) fn of(datatype: &Datatype) -> Kind {
        match datatype {
            Datatype::FixedPoint { .. } => Kind::Integer,
            Datatype::FloatingPoint { .. } => Kind::Float,
            Datatype::String { .. } | Datatype::VariableLength { is_string: true, .. } => Kind::Text,
            // h5py's bool: an enumeration of FALSE and TRUE over one byte.
            Datatype::Enumeration { members, .. } if members.len() == 2 => Kind::Boolean,
            _ => Kind::Other,
        }
    }
}

impl Store {
    pub(super) fn open(path: &Path) -> Result<Store> {
        let io = |source| Error::Io { action: "open", path: path.to_path_buf(), source };
        let bytes = fs::metadata(path).map_err(io)?.len();
        let file = hdf5_pure::File::open_streaming(path).map_err(|source| match source {
            hdf5_pure::Error::Io(source) => io(source),
            source => hdf5_error("open", path, "/", source),
        })?;
        let store = Store { file, path: path.into(), bytes };
        // A download that stopped early can still open: its directory may stand at the front.
        let end = store.file.superblock().eof_address;
        if end > bytes {
            let (expected, found) = (format!("{end} bytes"), format!("{bytes}"));
            return Err(store.malformed("/", expected, found, DAMAGED));
        }
        Ok(store)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn path_buf(&self) -> PathBuf {
        self.path.to_path_buf()
    }

    pub(super) fn error(&self, key: &str, source: hdf5_pure::Error) -> Error {
        hdf5_error("read", &self.path, key, source)
    }

    pub(super) fn malformed(&self, key: &str, expected: impl Into<String>, found: impl Into<String>, advice: &'static str) -> Error {
        Error::Malformed { path: self.path_buf(), key: key.into(), expected: expected.into(), found: found.into(), advice }
    }

    /// The object at `key`, or `None` where there is none.
    pub(super) fn find(&self, key: &str) -> Result<Option<Node>> {
        match self.file.group(key) {
            Ok(group) => return Ok(Some(Node::Group(group))),
            Err(hdf5_pure::Error::NotAGroup(_)) => {}
            Err(hdf5_pure::Error::Format(FormatError::PathNotFound(_))) => return Ok(None),
            Err(source) => return Err(self.error(key, source)),
        }
        match self.dataset_at(key) {
            Ok(dataset) => {
                self.check_chunks(key, &dataset)?;
                Ok(Some(Node::Dataset(dataset)))
            }
            // Something along the way, or the object itself, is neither: nothing we can use.
            Err(
                hdf5_pure::Error::NotAGroup(_) | hdf5_pure::Error::NotADataset(_) | hdf5_pure::Error::Format(FormatError::PathNotFound(_)),
            ) => Ok(None),
            Err(source) => Err(self.error(key, source)),
        }
    }

    /// The dataset at `key`, which must exist.
    pub(super) fn dataset(&self, key: &str) -> Result<Dataset> {
        match self.find(key)? {
            Some(Node::Dataset(dataset)) => Ok(dataset),
            Some(Node::Group(_)) => Err(self.malformed(key, "a dataset", "a group", DAMAGED)),
            None => Err(self.malformed(key, "a dataset", "nothing", DAMAGED)),
        }
    }

    /// The dataset with a chunk cache that fits `rows` leading rows at a time, so that windows
    /// which share a chunk do not decompress it twice.
    fn dataset_at(&self, key: &str) -> std::result::Result<Dataset, hdf5_pure::Error> {
        const MIB: u64 = 1 << 20;
        let dataset = self.file.dataset(key)?;
        let (Ok(Some(chunk)), Ok(shape)) = (dataset.chunk_shape(), dataset.shape()) else {
            return Ok(dataset);
        };
        // One band of chunks: all that share a row with the window's edge.
        let band = chunk.iter().zip(&shape).skip(1).map(|(&c, &n)| n.div_ceil(c.max(1)) * c);
        let cells = band.fold(chunk.first().copied().unwrap_or(1), u64::saturating_mul);
        let bytes = cells.saturating_mul(dataset.element_size()?).saturating_mul(2);
        let bytes = bytes.clamp(MIB, 256 * MIB) as usize;
        let cache = ChunkCacheConfig::new().with_max_bytes(bytes).with_max_slots(1 << 14);
        self.file.dataset_with_options(key, DatasetAccessProperties::new().with_chunk_cache(cache))
    }

    /// Refuses chunks that reach past the end of the file, and chunks larger than such a file can
    /// hold: the HDF5 layer takes the memory before it looks.
    fn check_chunks(&self, key: &str, dataset: &Dataset) -> Result<()> {
        let (Ok(Some(shape)), Ok(size)) = (dataset.chunk_shape(), dataset.element_size()) else {
            return Ok(());
        };
        // An index that cannot be listed is not read either; that error comes with the reading.
        let chunks = dataset.chunks().unwrap_or_default();
        let outside = chunks.iter().find(|chunk| {
            let end = chunk.address.checked_add(chunk.storage_size);
            end.is_none_or(|end| end > self.bytes)
        });
        if let Some(chunk) = outside {
            let found = format!("{} bytes at {}", chunk.storage_size, chunk.address);
            let expected = format!("chunks inside the file's {} bytes", self.bytes);
            return Err(self.malformed(key, expected, found, DAMAGED));
        }
        let bytes = shape.iter().try_fold(size, |product, &n| product.checked_mul(n));
        if !chunks.is_empty() && bytes.is_none_or(|bytes| bytes > self.largest()) {
            let expected = format!("chunks that a file of {} bytes can hold", self.bytes);
            return Err(self.malformed(key, expected, format!("shape {shape:?}"), DAMAGED));
        }
        Ok(())
    }

    /// The most bytes that the whole file can unpack to.
    fn largest(&self) -> u64 {
        self.bytes.saturating_mul(MAX_COMPRESSION)
    }

    /// Names of what stands in the group at `key`, sorted; empty where there is no such group.
    pub(super) fn children(&self, key: &str) -> Result<Vec<String>> {
        let group = match self.find(key)? {
            Some(Node::Group(group)) => group,
            _ => return Ok(Vec::new()),
        };
        let mut names = group.groups().map_err(|source| self.error(key, source))?;
        names.extend(group.datasets().map_err(|source| self.error(key, source))?);
        names.sort();
        Ok(names)
    }

    pub(super) fn attributes(&self, key: &str, node: &Node) -> Result<HashMap<String, AttrValue>> {
        match node {
            Node::Group(group) => group.attrs(),
            Node::Dataset(dataset) => dataset.attrs(),
        }
        .map_err(|source| self.error(key, source))
    }

    /// The shape, after checking that a file of this size can hold that many elements.
    pub(super) fn shape(&self, key: &str, dataset: &Dataset) -> Result<Vec<usize>> {
        let shape = dataset.shape().map_err(|source| self.error(key, source))?;
        let size = dataset.element_size().map_err(|source| self.error(key, source))?;
        let bytes = shape.iter().try_fold(size, |product, &n| product.checked_mul(n));
        if bytes.is_none_or(|bytes| bytes > self.largest()) {
            let found = format!("shape {shape:?}");
            let expected = format!("what a file of {} bytes can hold", self.bytes);
            return Err(self.malformed(key, expected, found, DAMAGED));
        }
        Ok(shape.into_iter().map(|n| n as usize).collect())
    }

    /// The length of a one-dimensional dataset (a scalar counts as one element).
    pub(super) fn length(&self, key: &str, dataset: &Dataset) -> Result<usize> {
        match self.shape(key, dataset)?.as_slice() {
            [] => Ok(1),
            [length] => Ok(*length),
            shape => Err(self.malformed(key, "one dimension", format!("shape {shape:?}"), DAMAGED)),
        }
    }

    pub(super) fn kind(&self, key: &str, dataset: &Dataset) -> Result<Kind> {
        let datatype = dataset.datatype().map_err(|source| self.error(key, source))?;
        Ok(Kind::of(&datatype))
    }

    /// All elements of a one-dimensional dataset of strings.
    pub(super) fn texts(&self, key: &str, dataset: &Dataset) -> Result<Vec<String>> {
        let length = self.length(key, dataset)?;
        let texts = dataset.read_string().map_err(|source| self.error(key, source))?;
        self.same_length(key, length, texts)
    }

    /// All elements of a one-dimensional numeric dataset.
    pub(super) fn numbers(&self, key: &str, dataset: &Dataset) -> Result<Vec<f64>> {
        let length = self.length(key, dataset)?;
        let numbers = dataset.read_f64().map_err(|source| self.error(key, source))?;
        self.same_length(key, length, numbers)
    }

    /// All elements of a one-dimensional dataset of integers or booleans.
    pub(super) fn integers(&self, key: &str, dataset: &Dataset) -> Result<Vec<i64>> {
        let length = self.length(key, dataset)?;
        self.integer_window(key, dataset, 0, length)
    }

    /// Elements `start..start + count` of a one-dimensional dataset of integers.
    pub(super) fn integer_window(&self, key: &str, dataset: &Dataset, start: usize, count: usize) -> Result<Vec<i64>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if !matches!(self.kind(key, dataset)?, Kind::Integer | Kind::Boolean) {
            return Err(self.malformed(key, "integers", self.type_name(dataset), DAMAGED));
        }
        let values = dataset.read_i64_rows(start as u64, count as u64).map_err(|source| self.error(key, source))?;
        self.same_length(key, count, values)
    }

    /// Rows `start..start + rows` of a numeric dataset as `f32`, each of `width` elements.
    pub(super) fn value_window(&self, key: &str, dataset: &Dataset, start: usize, rows: usize, width: usize) -> Result<Vec<f32>> {
        if rows == 0 || width == 0 {
            return Ok(Vec::new());
        }
        let datatype = dataset.datatype().map_err(|source| self.error(key, source))?;
        let values = match (Kind::of(&datatype), &datatype) {
            (_, Datatype::FloatingPoint { size: 2, .. }) => dataset.read_raw_rows(start as u64, rows as u64).map(|bytes| halves(&bytes)),
            (Kind::Integer | Kind::Float | Kind::Boolean, _) => dataset.read_f32_rows(start as u64, rows as u64),
            _ => return Err(self.malformed(key, "numbers", self.type_name(dataset), DAMAGED)),
        };
        self.same_length(key, rows * width, values.map_err(|source| self.error(key, source))?)
    }

    pub(super) fn type_name(&self, dataset: &Dataset) -> String {
        dataset.dtype().map_or_else(|_| String::from("an unknown type"), |dtype| dtype.to_string())
    }

    fn same_length<T>(&self, key: &str, expected: usize, values: Vec<T>) -> Result<Vec<T>> {
        if values.len() != expected {
            let found = format!("{}", values.len());
            return Err(self.malformed(key, format!("{expected} elements"), found, DAMAGED));
        }
        Ok(values)
    }
}

/// Half precision, which the HDF5 layer hands out as bytes only; numpy writes it little-endian.
fn halves(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
}

pub(super) fn hdf5_error(action: &'static str, path: &Path, key: &str, source: hdf5_pure::Error) -> Error {
    Error::Hdf5 { action, path: path.to_path_buf(), key: key.into(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_can_be_shared_between_threads() {
        fn check<T: Send + Sync>() {}
        check::<Store>();
        check::<crate::h5ad::AnnData>();
        check::<crate::h5ad::Matrix>();
    }
}
