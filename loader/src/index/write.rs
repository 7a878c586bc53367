//! Building an index, block by block.

use std::collections::{BTreeMap, HashMap};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::bf16;

use super::header::{ALIGNMENT, Entry, HEADER_BYTES, Header, checksum};
use super::{IndexElement, IndexError, IndexSpec};
use crate::atomic::AtomicFile;
use crate::{Error, Result};

/// Bytes of a block's vectors, about.
const BLOCK_BYTES: usize = 4 << 20;
/// Number of a label that is none.
pub(super) const NO_LABEL: u32 = u32::MAX;

/// Takes items one after the other; the file appears at its place, whole, at [`commit`](Self::commit).
///
/// In memory are one block and the distinct labels.
#[derive(Debug)]
pub struct IndexWriter {
    path: PathBuf,
    file: AtomicFile,
    header: Header,
    metadata: BTreeMap<String, String>,
    labels: HashMap<String, u32>,
    block: Block,
    entries: Vec<Entry>,
    /// Bytes written.
    offset: u64,
}

/// The items that are not written yet.
#[derive(Debug, Default)]
struct Block {
    items: u32,
    vectors: Vec<u8>,
    labels: Vec<u8>,
    ends: Vec<u8>,
    names: Vec<u8>,
}

impl IndexWriter {
    /// Begins an index at `path`, with entries of the caller's (which model, which file) in its tail.
    ///
    /// # Errors
    /// `Io`; `Setting` for a width or number of vectors of 0, or beyond what a `u32` can count.
    pub fn create(path: impl AsRef<Path>, spec: IndexSpec, metadata: BTreeMap<String, String>) -> Result<IndexWriter> {
        let path = path.as_ref();
        for (setting, value) in [("width", spec.width), ("vectors_per_item", spec.vectors_per_item)] {
            if value == 0 || u32::try_from(value).is_err() {
                return Err(Error::Setting { setting, got: value.to_string(), expected: "1 to 4294967295" });
            }
        }
        let item_bytes = spec.item_bytes().unwrap_or(usize::MAX);
        let block_items = (BLOCK_BYTES / item_bytes).max(1) as u32;
        let header = Header { spec, block_items, items: 0, blocks: 0, tail_offset: 0, tail_bytes: 0, tail_checksum: Default::default() };
        let mut writer = IndexWriter {
            path: path.into(),
            file: AtomicFile::create(path)?,
            header,
            metadata,
            labels: HashMap::new(),
            block: Block::default(),
            entries: Vec::new(),
            offset: 0,
        };
        writer.write(&[0; HEADER_BYTES])?;
        Ok(writer)
    }

    /// Adds an item: its name, its label, its vectors `[vectors_per_item, width]`.
    ///
    /// # Errors
    /// `Index` for another number of values, one that is not finite (in the element type), or an empty name; `Io`.
    pub fn push(&mut self, id: &str, label: Option<&str>, vectors: &[f32]) -> Result<()> {
        let IndexSpec { width, vectors_per_item, element, .. } = self.header.spec;
        let refused = |found: String, expected: String| IndexError::Item {
            path: self.path.clone(),
            item: self.header.items,
            id: id.to_owned(),
            found,
            expected,
        };
        if vectors.len() != width * vectors_per_item {
            let expected = format!("{vectors_per_item} x {width}");
            return Err(refused(format!("{} numbers", vectors.len()), expected).into());
        }
        let finite = |value: f32| match element {
            IndexElement::F32 => value.is_finite(),
            IndexElement::Bf16 => bf16::from_f32(value).is_finite(),
        };
        if let Some(value) = vectors.iter().find(|value| !finite(**value)) {
            return Err(refused(format!("the number {value}"), format!("finite numbers in {element:?}")).into());
        }
        let end = self.block.names.len() + id.len();
        let Some(end) = u32::try_from(end).ok().filter(|_| !id.is_empty()) else {
            return Err(refused(format!("a name of {} bytes", id.len()), "a name, and not gigabytes of names".to_owned()).into());
        };
        match element {
            IndexElement::F32 => self.block.vectors.extend(vectors.iter().flat_map(|value| value.to_le_bytes())),
            IndexElement::Bf16 => self.block.vectors.extend(vectors.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes())),
        }
        let number = match label {
            None => NO_LABEL,
            Some(label) => match self.labels.get(label) {
                Some(&number) => number,
                None => {
                    let number = self.labels.len() as u32;
                    self.labels.insert(label.to_owned(), number);
                    number
                }
            },
        };
        self.block.labels.extend(number.to_le_bytes());
        self.block.names.extend(id.as_bytes());
        self.block.ends.extend(end.to_le_bytes());
        self.block.items += 1;
        self.header.items += 1;
        if self.block.items == self.header.block_items { self.flush() } else { Ok(()) }
    }

    /// Writes the last block and the tail, and puts the file in its place.
    ///
    /// # Errors
    /// `Index` when no item was added; `Io`. Nothing appears then.
    pub fn commit(mut self) -> Result<()> {
        if self.header.items == 0 {
            return Err(IndexError::Empty { path: self.path }.into());
        }
        if self.block.items > 0 {
            self.flush()?;
        }
        let mut labels: Vec<(String, u32)> = std::mem::take(&mut self.labels).into_iter().collect();
        labels.sort_by_key(|(_, number)| *number);
        let labels: Vec<String> = labels.into_iter().map(|(label, _)| label).collect();
        let mut tail = Vec::new();
        self.entries.iter().for_each(|entry| entry.encode(&mut tail));
        tail.extend(serde_json::json!({ "labels": labels, "metadata": self.metadata }).to_string().bytes());
        self.header.blocks = self.entries.len() as u64;
        (self.header.tail_offset, self.header.tail_bytes, self.header.tail_checksum) = (self.offset, tail.len() as u64, checksum(&tail));
        self.write(&tail)?;
        self.file.seek(SeekFrom::Start(0)).map_err(|source| io_error(&self.path, source))?;
        self.write(&self.header.encode())?;
        self.file.commit()
    }

    fn flush(&mut self) -> Result<()> {
        let block = std::mem::take(&mut self.block);
        let mut bytes = block.vectors;
        for part in [&block.labels, &block.ends, &block.names] {
            bytes.extend_from_slice(part);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        self.entries.push(Entry { offset: self.offset, bytes: bytes.len() as u64, checksum: checksum(&bytes) });
        self.write(&bytes)?;
        // The next block's vectors take as much.
        bytes.clear();
        self.block.vectors = bytes;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| io_error(&self.path, source))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

fn io_error(path: &Path, source: std::io::Error) -> Error {
    Error::Io { action: "write", path: path.into(), source }
}
