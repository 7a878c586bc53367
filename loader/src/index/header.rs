//! Header and directory as bytes, and every check that they allow.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::{IndexElement, IndexError, IndexMetric, IndexSpec};
use crate::Result;

/// First bytes of the file.
pub(super) const SIGN: [u8; 8] = *b"scmmidx\n";
/// The version written and read.
pub(super) const VERSION: u32 = 1;
/// Parts begin at multiples of this.
pub(super) const ALIGNMENT: usize = 64;
/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 192;
/// Bytes of a block's entry in the directory.
pub(super) const ENTRY_BYTES: usize = 48;
/// Bytes in front of the header's own checksum.
const CHECKED_BYTES: usize = 104;

pub(super) type Checksum = [u8; 32];

/// Everything that the header says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Header {
    pub(super) spec: IndexSpec,
    pub(super) block_items: u32,
    pub(super) items: u64,
    pub(super) blocks: u64,
    pub(super) tail_offset: u64,
    /// Bytes of directory and JSON together.
    pub(super) tail_bytes: u64,
    pub(super) tail_checksum: Checksum,
}

/// Place of a block.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) checksum: Checksum,
}

pub(super) fn checksum(bytes: &[u8]) -> Checksum {
    Sha256::digest(bytes).into()
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let element = match self.spec.element {
            IndexElement::F32 => 0u32,
            IndexElement::Bf16 => 1,
        };
        let metric = match self.spec.metric {
            IndexMetric::InnerProduct => 0u32,
            IndexMetric::Euclidean => 1,
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(SIGN);
        for field in [VERSION, element, metric, self.spec.width as u32, self.spec.vectors_per_item as u32, self.block_items] {
            bytes.extend(field.to_le_bytes());
        }
        for field in [self.items, self.blocks, self.tail_offset, self.tail_bytes] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(self.tail_checksum);
        bytes.resize(CHECKED_BYTES, 0);
        bytes.extend(checksum(&bytes));
        let mut header = [0; HEADER_BYTES];
        header[..bytes.len()].copy_from_slice(&bytes);
        header
    }

    /// Reads and checks the header of a file of `len` bytes that begins with `bytes`.
    pub(super) fn decode(path: &Path, bytes: &[u8], len: u64) -> Result<Header> {
        if !bytes.starts_with(&SIGN) {
            return Err(IndexError::NotIndex { path: path.into() }.into());
        }
        if bytes.len() < HEADER_BYTES {
            return Err(IndexError::Length { path: path.into(), what: "the header", needed: HEADER_BYTES as u64, len }.into());
        }
        let mut rest = &bytes[SIGN.len()..];
        let version = u32_field(&mut rest);
        if version != VERSION {
            return Err(IndexError::Version { path: path.into(), found: version, expected: VERSION }.into());
        }
        let (checked, stored) = bytes[..HEADER_BYTES].split_at(CHECKED_BYTES);
        if stored[..32] != checksum(checked) || stored[32..].iter().any(|&byte| byte != 0) {
            return Err(IndexError::Checksum { path: path.into(), part: "the header".into(), offset: 0 }.into());
        }
        let refused = |field, found: u64, expected: &str| IndexError::Field {
            path: path.into(),
            field,
            found: found.to_string(),
            expected: expected.to_owned(),
        };
        let element = match u32_field(&mut rest) {
            0 => IndexElement::F32,
            1 => IndexElement::Bf16,
            other => return Err(refused("the element type", other.into(), "0 (f32) or 1 (bf16)").into()),
        };
        let metric = match u32_field(&mut rest) {
            0 => IndexMetric::InnerProduct,
            1 => IndexMetric::Euclidean,
            other => return Err(refused("the metric", other.into(), "0 (inner product) or 1 (Euclidean)").into()),
        };
        let (width, vectors_per_item) = (u32_field(&mut rest) as usize, u32_field(&mut rest) as usize);
        let spec = IndexSpec { width, vectors_per_item, element, metric };
        let block_items = u32_field(&mut rest);
        let [items, blocks, tail_offset, tail_bytes] = [(); 4].map(|()| u64_field(&mut rest));
        for (field, value) in [
            ("the width", width as u64),
            ("vectors an item", vectors_per_item as u64),
            ("items a block", block_items.into()),
            ("items", items),
        ] {
            if value == 0 {
                return Err(refused(field, 0, "at least 1").into());
            }
        }
        let expected = items.div_ceil(block_items.into());
        if blocks != expected {
            return Err(refused("the number of blocks", blocks, &expected.to_string()).into());
        }
        let least = blocks.checked_mul(ENTRY_BYTES as u64);
        if least.is_none_or(|least| tail_bytes < least) {
            return Err(refused("the length of the tail", tail_bytes, "room for an entry of every block").into());
        }
        let needed = tail_offset.checked_add(tail_bytes).ok_or_else(|| refused("the place of the tail", tail_offset, "inside the file"))?;
        if needed != len {
            return Err(IndexError::Length { path: path.into(), what: "the tail", needed, len }.into());
        }
        let mut tail_checksum = Checksum::default();
        tail_checksum.copy_from_slice(&rest[..32]);
        Ok(Header { spec, block_items, items, blocks, tail_offset, tail_bytes, tail_checksum })
    }

    /// Items of a block.
    pub(super) fn items_of(&self, block: usize) -> usize {
        let size = u64::from(self.block_items);
        (self.items - block as u64 * size).min(size) as usize
    }

    /// Bytes of a block without its names; `None` when it overflows.
    fn fixed_bytes(&self, block: usize) -> Option<u64> {
        let items = self.items_of(block) as u64;
        items.checked_mul((self.spec.item_bytes()? as u64).checked_add(8)?)
    }

    /// Reads the directory at the start of the tail, and checks that its blocks fill the file without gaps.
    pub(super) fn directory(&self, path: &Path, tail: &[u8]) -> Result<Vec<Entry>> {
        let refused = |field, found: u64, expected: u64| IndexError::Field {
            path: path.into(),
            field,
            found: found.to_string(),
            expected: expected.to_string(),
        };
        let mut next = HEADER_BYTES as u64;
        let mut entries = Vec::new();
        for (block, mut rest) in tail[..self.blocks as usize * ENTRY_BYTES].chunks_exact(ENTRY_BYTES).enumerate() {
            let (offset, bytes) = (u64_field(&mut rest), u64_field(&mut rest));
            if offset != next {
                return Err(refused("the place of a block", offset, next).into());
            }
            let least = self.fixed_bytes(block).unwrap_or(u64::MAX);
            let fits = |_: &u64| bytes >= least && bytes.is_multiple_of(ALIGNMENT as u64);
            next = next.checked_add(bytes).filter(fits).ok_or_else(|| refused("the length of a block", bytes, least))?;
            let mut checksum = Checksum::default();
            checksum.copy_from_slice(rest);
            entries.push(Entry { offset, bytes, checksum });
        }
        if next != self.tail_offset {
            return Err(refused("the place of the tail", self.tail_offset, next).into());
        }
        Ok(entries)
    }
}

impl Entry {
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.offset.to_le_bytes());
        bytes.extend(self.bytes.to_le_bytes());
        bytes.extend(self.checksum);
    }
}

/// Takes the next four bytes; 0 where there are fewer.
fn u32_field(rest: &mut &[u8]) -> u32 {
    rest.split_off(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_field(rest: &mut &[u8]) -> u64 {
    rest.split_off(..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}
