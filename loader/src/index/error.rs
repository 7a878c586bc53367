//! What can be wrong with a retrieval index.

use std::path::PathBuf;

/// What can go wrong with a retrieval index; part of the loader's [`Error`](crate::Error).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The file is of another kind.
    #[error("{} is not a retrieval index: it does not begin as one; give a file that was built as an index", path.display())]
    NotIndex {
        /// The file.
        path: PathBuf,
    },
    /// The file is of a later (or broken) version.
    #[error("{}: index version {found}, this program reads version {expected}; build the index again, or use a newer program", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version read here.
        expected: u32,
    },
    /// The file ends too early, or goes on behind its end.
    #[error("{}: {len} bytes, {needed} are needed up to the end of {what}; the file was cut short or changed, copy or build it again", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Whose end.
        what: &'static str,
        /// Where it ends.
        needed: u64,
        /// Bytes in the file.
        len: u64,
    },
    /// Bytes are not those that were written.
    #[error("{}: {part} (from byte {offset}) does not have the checksum that was written; the file is damaged, copy or build it again", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// `the header`, `the directory`, `block 3 (items 300 to 399)`.
        part: String,
        /// Where the part begins.
        offset: u64,
    },
    /// A field contradicts another one or the format.
    #[error("{}: {field} is {found}, expected {expected}; the file is damaged or was not written by this program", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Which.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it can be.
        expected: String,
    },
    /// Something that does not fit was to be put into an index.
    #[error("item {item} (`{id}`) of {}: {found}, expected {expected}", path.display())]
    Item {
        /// The file to be written.
        path: PathBuf,
        /// Place of the item, from 0.
        item: u64,
        /// Its name.
        id: String,
        /// What was given.
        found: String,
        /// What would do.
        expected: String,
    },
    /// An index of nothing.
    #[error("{}: an index needs at least one item; nothing was written", path.display())]
    Empty {
        /// The file to be written.
        path: PathBuf,
    },
    /// Asked for an item or block beyond the end.
    #[error("{}: {what} {place} asked for, there are {count}", path.display())]
    Beyond {
        /// The file.
        path: PathBuf,
        /// `item` or `block`.
        what: &'static str,
        /// The place asked for.
        place: usize,
        /// How many there are.
        count: usize,
    },
}
