//! Variable-length strings inside compound records.
//!
//! The HDF5 layer resolves strings of a whole dataset, but hands out a compound record as bytes: a
//! string field is then 16 of them, the text's length, the address of a *global heap collection*
//! and the number of an object in it. This reads those collections, which old AnnData files need.
//! Source: HDF5 File Format Specification 3.0, III.E (Global Heap).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::store::{DAMAGED, Store};
use crate::{Error, Result};

/// Larger than any collection a writer makes by itself; guards the allocation.
const MAX_COLLECTION: u64 = 1 << 30;

/// Collections of a file, read when first asked for.
pub(super) struct Heap<'a> {
    store: &'a Store,
    file: File,
    bytes: u64,
    collections: HashMap<u64, HashMap<u16, Vec<u8>>>,
}

impl<'a> Heap<'a> {
    pub(super) fn open(store: &'a Store) -> Result<Heap<'a>> {
        let io = |source| Error::Io { action: "open", path: store.path_buf(), source };
        let file = File::open(store.path()).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        Ok(Heap { store, file, bytes, collections: HashMap::new() })
    }

    /// The text that a 16-byte reference names. `key` is the field, for the error.
    pub(super) fn text(&mut self, key: &str, reference: &[u8]) -> Result<String> {
        let broken = |found: String| self.store.malformed(key, "a reference to a stored string", found, DAMAGED);
        let (Some(length), Some(address), Some(object)) = (word(reference, 0, 4), word(reference, 4, 8), word(reference, 12, 4)) else {
            return Err(broken(format!("{} bytes", reference.len())));
        };
        if length == 0 {
            return Ok(String::new());
        }
        if !self.collections.contains_key(&address) {
            let objects = self.read_collection(address).map_err(|source| Error::Io {
                action: "read a string heap of",
                path: self.store.path_buf(),
                source,
            })?;
            self.collections.insert(address, objects);
        }
        u16::try_from(object)
            .ok()
            .and_then(|object| self.collections.get(&address)?.get(&object))
            .and_then(|bytes| bytes.get(..length as usize))
            .map(|bytes| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned())
            .ok_or_else(|| broken(format!("object {object} of the heap at byte {address}")))
    }

    fn read_collection(&mut self, address: u64) -> io::Result<HashMap<u16, Vec<u8>>> {
        let mut header = [0; 16];
        self.file.seek(SeekFrom::Start(address))?;
        self.file.read_exact(&mut header)?;
        let size = word(&header, 8, 8).unwrap_or(0);
        let room = self.bytes.saturating_sub(address).min(MAX_COLLECTION);
        if &header[..4] != b"GCOL" || size < 16 || size > room {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; size as usize - 16];
        self.file.read_exact(&mut body)?;
        let mut objects = HashMap::new();
        let mut at = 0usize;
        // Object 0 is the free space that ends the collection.
        while let (Some(index @ 1..), Some(length)) = (word(&body, at, 2), word(&body, at + 8, 8)) {
            let start = at + 16;
            let end = start.checked_add(length as usize).filter(|&end| end <= body.len());
            let end = end.ok_or(io::ErrorKind::InvalidData)?;
            objects.insert(index as u16, body[start..end].to_vec());
            at = start + (length as usize).next_multiple_of(8);
        }
        Ok(objects)
    }
}

/// A little-endian number of `size` bytes at `at`.
fn word(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let mut word = [0; 8];
    word.get_mut(..size)?.copy_from_slice(bytes.get(at..at.checked_add(size)?)?);
    Some(u64::from_le_bytes(word))
}
