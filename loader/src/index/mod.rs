//! Vectors with names, to search in: a file that may be larger than memory.
//!
//! An item (a cell, a text) has a name, perhaps a label, and one or more vectors of one width. [`IndexWriter`] takes items one after the
//! other and keeps a block of them in memory; [`VectorIndex`] maps one block at a time.
//!
//! # Format
//! Little-endian. Header and blocks are filled up with zeros to multiples of 64 bytes.
//!
//! | part | holds |
//! |---|---|
//! | header, 192 bytes | sign, version, element type, metric, width, vectors an item, items a block; items, blocks; place of the tail; checksum of the tail, checksum of the header |
//! | blocks | vectors `[items, vectors_per_item, width]`; label numbers, `u32` each; ends of the names, `u32` each; the names |
//! | tail | for every block its place, length and checksum; then JSON: `{"labels": [..], "metadata": {..}}` |
//!
//! Checksums are SHA-256. That of a block covers all its bytes: [`VectorIndex::block`] compares it when the block is first mapped,
//! [`VectorIndex::open`] those of header and tail.

mod error;
mod header;
mod read;
mod write;

use serde::{Deserialize, Serialize};

pub use error::IndexError;
pub use read::{Block, VectorIndex};
pub use write::IndexWriter;

/// What an index holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSpec {
    /// Numbers of a vector.
    pub width: usize,
    /// Vectors of an item: a cell has one for each of the model's queries, a text has one. An item scores as its best vector.
    pub vectors_per_item: usize,
    /// How numbers are stored.
    pub element: IndexElement,
    /// What a score is.
    pub metric: IndexMetric,
}

/// How the numbers of an index are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexElement {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bfloat16 (nearest, ties to even): half the size, relative error up to 2^-9.
    Bf16,
}

/// What a score of an index is; larger is better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexMetric {
    /// The inner product; of unit vectors the cosine.
    #[default]
    InnerProduct,
    /// Minus the squared distance.
    Euclidean,
}

impl IndexElement {
    /// Bytes of a number.
    fn bytes(self) -> usize {
        match self {
            IndexElement::F32 => 4,
            IndexElement::Bf16 => 2,
        }
    }
}

impl IndexSpec {
    /// Bytes of an item's vectors; `None` when it overflows.
    fn item_bytes(&self) -> Option<usize> {
        self.width.checked_mul(self.vectors_per_item)?.checked_mul(self.element.bytes())
    }
}
