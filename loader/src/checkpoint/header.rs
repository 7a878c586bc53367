//! The header of one safetensors file: length, JSON, ranges; every check before any byte is used.
//!
//! The `safetensors` crate validates last and has the final word. What it lets through is checked here
//! first: a tensor named twice (its map keeps the last one silently), ranges beyond the end of the file
//! (their sum can overflow), and files that are something else altogether, which deserve a better word
//! than "header too large".

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};

use crate::json_pairs::Pairs;
use crate::{Error, Result};

/// Longest header read, in bytes: the official limit.
pub const MAX_HEADER_BYTES: usize = 100_000_000;
/// Bytes of the length in front of the header.
pub(super) const LENGTH_BYTES: usize = 8;

/// What the header says about one tensor.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Place in the file, in bytes from its start.
    pub(super) range: Range<usize>,
}

/// A checked header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) tensors: BTreeMap<String, Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Reads and checks the header of a whole file's bytes.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Header> {
    if let Some(found) = something_else(bytes) {
        return Err(Error::NotSafetensors { path: path.into(), found });
    }
    let truncated = |needed| Error::TruncatedFile { path: path.into(), needed, len: bytes.len() as u64 };
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>().ok_or(truncated(8))?;
    let size = u64::from_le_bytes(*length);
    if size > MAX_HEADER_BYTES as u64 {
        let limit = MAX_HEADER_BYTES as u64;
        return Err(Error::HeaderTooLarge { path: path.into(), size, limit });
    }
    let json = rest.get(..size as usize).ok_or(truncated(size + LENGTH_BYTES as u64))?;
    let data = &rest[size as usize..];
    check_pairs(path, json, data.len())?;

    let invalid = |source| Error::Header { path: path.into(), source };
    let (_, official) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
    let start = LENGTH_BYTES + json.len();
    let entry = |info: &TensorInfo| Entry {
        dtype: info.dtype,
        shape: info.shape.clone(),
        range: start + info.data_offsets.0..start + info.data_offsets.1,
    };
    let tensors = official.tensors().iter().map(|(name, info)| (name.clone(), entry(info))).collect();
    let metadata = official.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok(Header { tensors, metadata })
}

/// Names once each, and ranges inside the data: what the official parser assumes.
fn check_pairs(path: &Path, json: &[u8], data_len: usize) -> Result<()> {
    let header_json = |source| Error::Json { path: path.into(), what: "safetensors header", source };
    let Pairs(pairs) = serde_json::from_slice::<Pairs<serde_json::Value>>(json).map_err(header_json)?;
    let mut seen = std::collections::HashSet::new();
    for (name, value) in &pairs {
        if !seen.insert(name) {
            let (name, first) = (name.clone(), path.into());
            return Err(Error::DuplicateTensor { name, first, second: path.into() });
        }
        if name == "__metadata__" {
            continue;
        }
        let end = value["data_offsets"][1].as_u64();
        if end.is_some_and(|end| end > data_len as u64) {
            let (end, len) = (end.unwrap_or_default(), data_len as u64);
            return Err(Error::TensorRange { path: path.into(), name: name.clone(), end, len });
        }
    }
    Ok(())
}

/// Names the usual things that are stored under a checkpoint's name without being one.
fn something_else(bytes: &[u8]) -> Option<&'static str> {
    let head: String = bytes.iter().take(64).map(|&byte| (byte as char).to_ascii_lowercase()).collect();
    let text = head.trim_start();
    if bytes.is_empty() {
        Some("an empty file; download or copy it again")
    } else if text.starts_with("version https://git-lfs") {
        Some("a git-lfs pointer, not the file itself; run `git lfs pull`")
    } else if text.starts_with("<!doctype html") || text.starts_with("<html") {
        Some("an HTML page (a failed download or a login page); download the file itself")
    } else if text.starts_with("<?xml") {
        Some("an XML page (a failed download); download the file itself")
    } else if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80\x02") {
        Some("a PyTorch pickle (.pt, .bin); convert it to safetensors")
    } else if bytes.starts_with(b"GGUF") {
        Some("a GGUF file; convert it to safetensors")
    } else if bytes.starts_with(b"\x89HDF\r\n") {
        Some("an HDF5 file; convert it to safetensors")
    } else {
        None
    }
}
