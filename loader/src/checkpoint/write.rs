//! Writing one safetensors file: deterministic bytes, complete or not there at all.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Dtype;
use super::header::MAX_HEADER_BYTES;
use crate::atomic::AtomicFile;
use crate::{Error, Result};

/// Name, type and shape of a tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// Name, unique in the file.
    pub name: String,
    /// Type of an element: a whole number of bytes.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Size in bytes; `None` when it overflows or the type is no whole number of bytes.
    fn bytes(&self) -> Option<usize> {
        let count = self.shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size))?;
        let bits = self.dtype.bitsize();
        if bits.is_multiple_of(8) { count.checked_mul(bits / 8) } else { None }
    }
}

/// Writes tensors that are in memory; see [`write_with`].
///
/// # Errors
/// As [`write_with`].
pub fn write<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (&'a str, Dtype, &'a [usize], &'a [u8])>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut specs = Vec::new();
    let mut contents = BTreeMap::new();
    for (name, dtype, shape, bytes) in tensors {
        specs.push(TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() });
        contents.insert(name, bytes);
    }
    write_with(path, specs, metadata, |spec| Ok(Cow::Borrowed(contents.get(spec.name.as_str()).copied().unwrap_or_default())))
}

/// Writes a safetensors file, asking for the bytes of one tensor at a time (so that weights can come from
/// a device without all being in host memory).
///
/// Equal input gives equal bytes: wide element types come first (so every tensor is aligned to its
/// element), names are sorted within, and the header is padded with spaces to 8 bytes. The official
/// writer orders tensors alike. The file appears at `path` only when complete.
///
/// # Errors
/// `Io`; `DuplicateTensor`; `TensorSize` when `bytes_of` gives another number of bytes than the shape
/// needs; `TensorName` for `__metadata__`; `TensorType` for an element that is no whole number of bytes;
/// `HeaderTooLarge`; and whatever `bytes_of` returns. `path` keeps what it held.
pub fn write_with<'a>(
    path: impl AsRef<Path>,
    mut specs: Vec<TensorSpec>,
    metadata: &BTreeMap<String, String>,
    mut bytes_of: impl FnMut(&TensorSpec) -> Result<Cow<'a, [u8]>>,
) -> Result<()> {
    let path = path.as_ref();
    specs.sort_by(|a, b| b.dtype.bitsize().cmp(&a.dtype.bitsize()).then_with(|| a.name.cmp(&b.name)));
    let header = header(path, &specs, metadata)?;
    let mut file = AtomicFile::create(path)?;
    let io_error = |source| Error::Io { action: "write", path: path.into(), source };
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io_error)?;
    file.write_all(&header).map_err(io_error)?;
    for spec in &specs {
        let bytes = bytes_of(spec)?;
        let expected = spec.bytes().unwrap_or_default();
        if bytes.len() != expected {
            let (name, path) = (spec.name.clone(), path.into());
            return Err(Error::TensorSize { name, path, expected, got: bytes.len() });
        }
        file.write_all(&bytes).map_err(io_error)?;
    }
    file.commit()
}

fn header(path: &Path, specs: &[TensorSpec], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut object = Map::new();
    if !metadata.is_empty() {
        object.insert("__metadata__".to_owned(), json!(metadata));
    }
    let (mut offset, mut seen) = (0usize, HashSet::new());
    for spec in specs {
        let name = spec.name.clone();
        if name == "__metadata__" {
            return Err(Error::TensorName { name, path: path.into() });
        }
        if !seen.insert(&spec.name) {
            return Err(Error::DuplicateTensor { name, first: path.into(), second: path.into() });
        }
        let end = spec.bytes().and_then(|bytes| offset.checked_add(bytes)).ok_or_else(|| Error::TensorType {
            name,
            path: path.into(),
            got: format!("{} {:?}", spec.dtype, spec.shape),
        })?;
        let entry = json!({
            "dtype": spec.dtype.to_string(), "shape": spec.shape, "data_offsets": [offset, end],
        });
        object.insert(spec.name.clone(), entry);
        offset = end;
    }
    let mut header = Value::Object(object).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() > MAX_HEADER_BYTES {
        let (size, limit) = (header.len() as u64, MAX_HEADER_BYTES as u64);
        return Err(Error::HeaderTooLarge { path: path.into(), size, limit });
    }
    Ok(header)
}
