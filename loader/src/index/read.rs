//! An index on disk: header and tail in memory, blocks mapped when asked for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use half::bf16;
use serde::Deserialize;

use super::header::{Entry, HEADER_BYTES, Header, checksum};
use super::write::NO_LABEL;
use super::{IndexElement, IndexError, IndexSpec};
use crate::mapped_file::MappedRange;
use crate::{Error, Result};

/// An open index. Shared between threads as it is.
///
/// The file must not change while it is open, see [`MappedFile`](crate::mapped_file::MappedFile).
#[derive(Debug)]
pub struct VectorIndex {
    path: PathBuf,
    file: File,
    header: Header,
    entries: Vec<Entry>,
    /// `[blocks]`: those that agreed with their checksums.
    verified: Vec<AtomicBool>,
    names: Names,
}

/// What the tail says in words.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    labels: Vec<String>,
    metadata: BTreeMap<String, String>,
}

/// Some consecutive items, mapped.
#[derive(Debug)]
pub struct Block<'a> {
    index: &'a VectorIndex,
    bytes: MappedRange,
    first: usize,
    items: usize,
}

impl VectorIndex {
    /// Opens an index: reads and checks header and tail, and that the file has room for exactly the blocks that they list.
    ///
    /// # Errors
    /// `Io`; `Index` for whatever is wrong, naming the part; `Json`.
    pub fn open(path: impl AsRef<Path>) -> Result<VectorIndex> {
        let path = path.as_ref();
        let io_error = |action| move |source| Error::Io { action, path: path.to_path_buf(), source };
        let mut file = File::open(path).map_err(io_error("open"))?;
        let len = file.metadata().map_err(io_error("read"))?.len();
        let mut start = Vec::new();
        file.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut start).map_err(io_error("read"))?;
        let header = Header::decode(path, &start, len)?;
        let tail = MappedRange::open(&file, path, header.tail_offset, header.tail_bytes)?;
        if checksum(tail.bytes()) != header.tail_checksum {
            return Err(IndexError::Checksum { path: path.into(), part: "the directory".into(), offset: header.tail_offset }.into());
        }
        let entries = header.directory(path, tail.bytes())?;
        let json = &tail.bytes()[entries.len() * super::header::ENTRY_BYTES..];
        let json_error = |source| Error::Json { path: path.into(), what: "tail of the index", source };
        let names: Names = serde_json::from_slice(json).map_err(json_error)?;
        drop(tail);
        let verified = entries.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(VectorIndex { path: path.into(), file, header, entries, verified, names })
    }

    /// Maps every block once, which compares it with its checksum; nothing of it stays in memory.
    ///
    /// # Errors
    /// `Index`, naming the first block that differs; `Io`.
    pub fn verify(&self) -> Result<()> {
        (0..self.blocks()).try_for_each(|number| self.block(number).map(drop))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds.
    pub fn spec(&self) -> IndexSpec {
        self.header.spec
    }

    /// Items.
    pub fn len(&self) -> usize {
        self.header.items as usize
    }

    /// Never: an index has at least one item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The distinct labels, in order of first appearance.
    pub fn labels(&self) -> &[String] {
        &self.names.labels
    }

    /// The entries given by whoever built it.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.names.metadata
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.entries.len()
    }

    /// Maps a block. Its bytes are in memory as long as they are used, and gone when it is dropped. The first time it is compared with
    /// its checksum, and every name and label number is read.
    ///
    /// # Errors
    /// `Index` beyond the last block, or for one that is damaged; `Io`.
    pub fn block(&self, number: usize) -> Result<Block<'_>> {
        let Some(entry) = self.entries.get(number) else { return Err(self.beyond("block", number, self.blocks())) };
        let bytes = MappedRange::open(&self.file, &self.path, entry.offset, entry.bytes)?;
        let first = number * self.header.block_items as usize;
        let block = Block { index: self, bytes, first, items: self.header.items_of(number) };
        if !self.verified[number].load(Ordering::Relaxed) {
            block.verify(number, entry)?;
            self.verified[number].store(true, Ordering::Relaxed);
        }
        Ok(block)
    }

    /// Name and label of an item.
    ///
    /// # Errors
    /// `Index` beyond the last item, or for a damaged block; `Io`.
    pub fn item(&self, item: usize) -> Result<(String, Option<&str>)> {
        if item >= self.len() {
            return Err(self.beyond("item", item, self.len()));
        }
        let size = self.header.block_items as usize;
        let block = self.block(item / size)?;
        Ok((block.id(item % size)?.to_owned(), block.label(item % size)?))
    }

    fn beyond(&self, what: &'static str, place: usize, count: usize) -> Error {
        IndexError::Beyond { path: self.path.clone(), what, place, count }.into()
    }
}

impl<'a> Block<'a> {
    /// Place of the first item in the index.
    pub fn first(&self) -> usize {
        self.first
    }

    /// Items of the block.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Never: a block has at least one item.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// `[items, vectors_per_item, width]`: in place where the file has `f32`, else converted (exactly).
    pub fn vectors(&self) -> Cow<'_, [f32]> {
        let bytes = &self.bytes.bytes()[..self.vector_bytes()];
        match self.index.header.spec.element {
            IndexElement::F32 => match bytemuck::try_cast_slice(bytes) {
                Ok(values) if cfg!(target_endian = "little") => Cow::Borrowed(values),
                _ => Cow::Owned(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()),
            },
            IndexElement::Bf16 => Cow::Owned(bytes.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect()),
        }
    }

    /// The name of the item at this place of the block.
    ///
    /// # Errors
    /// `Index` beyond the last item, or when the names are damaged.
    pub fn id(&self, at: usize) -> Result<&str> {
        let start = if at == 0 { 0 } else { self.number(1, at - 1)? };
        let end = self.number(1, at)?;
        let names = &self.bytes.bytes()[self.vector_bytes() + 8 * self.items..];
        let name = names.get(start as usize..end as usize).and_then(|name| std::str::from_utf8(name).ok());
        name.ok_or_else(|| self.damaged("a name", format!("bytes {start} to {end}"), format!("UTF-8 within {} bytes", names.len())))
    }

    /// The label of the item at this place of the block.
    ///
    /// # Errors
    /// `Index` beyond the last item, or for a number without a label.
    pub fn label(&self, at: usize) -> Result<Option<&'a str>> {
        let number = self.number(0, at)?;
        if number == NO_LABEL {
            return Ok(None);
        }
        let labels = self.index.labels();
        let label = labels.get(number as usize).map(String::as_str);
        label.map(Some).ok_or_else(|| self.damaged("a label number", number.to_string(), format!("less than {}", labels.len())))
    }

    fn verify(&self, number: usize, entry: &Entry) -> Result<()> {
        if checksum(self.bytes.bytes()) != entry.checksum {
            let part = format!("block {number} (items {} to {})", self.first, self.first + self.items - 1);
            return Err(IndexError::Checksum { path: self.index.path.clone(), part, offset: entry.offset }.into());
        }
        for at in 0..self.items {
            self.id(at)?;
            self.label(at)?;
        }
        Ok(())
    }

    fn vector_bytes(&self) -> usize {
        // The directory was checked to have room for it.
        self.items * self.index.header.spec.item_bytes().unwrap_or_default()
    }

    /// Entry `at` of the first or second list of numbers behind the vectors.
    fn number(&self, list: usize, at: usize) -> Result<u32> {
        if at >= self.items {
            return Err(self.index.beyond("item", self.first + at, self.index.len()));
        }
        let start = self.vector_bytes() + 4 * (list * self.items + at);
        let bytes = self.bytes.bytes().get(start..).and_then(<[u8]>::first_chunk);
        bytes
            .map(|&bytes| u32::from_le_bytes(bytes))
            .ok_or_else(|| self.damaged("a block", "a short one".into(), "room for its items".into()))
    }

    fn damaged(&self, field: &'static str, found: String, expected: String) -> Error {
        IndexError::Field { path: self.index.path.clone(), field, found, expected }.into()
    }
}
