//! A file, or a part of one, as a slice of bytes: the only `unsafe` of the loader.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapOptions};

use crate::{Error, Result};

/// A read-only memory map of a whole file.
///
/// **The file must not be truncated or rewritten in place while the map lives:** its bytes would change
/// under the reader, or a read would end the process with a bus error. No program can rule that out, so
/// whoever opens a file takes that risk. Files replaced by a rename (as every writer of this crate does)
/// are safe: the map keeps the old file. Drop the map as soon as the bytes have been copied.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
    path: PathBuf,
}

impl MappedFile {
    /// Maps the file at `path`; an empty file gives an empty slice.
    ///
    /// # Errors
    /// `Io` when the file is missing, unreadable, a folder, or cannot be mapped (a pipe, say).
    pub fn open(path: impl AsRef<Path>) -> Result<MappedFile> {
        // SAFETY: this is the promise documented on `MappedFile`: the file stays as it is while open.
        unsafe { map(path.as_ref()) }
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A read-only memory map of a part of an open file, for files larger than memory: its pages leave the process when it is dropped.
///
/// The same holds as for [`MappedFile`]: the file must stay as it is meanwhile.
#[derive(Debug)]
pub struct MappedRange {
    map: Mmap,
}

impl MappedRange {
    /// Maps `len` bytes from `offset`; `path` is the file's, for errors.
    ///
    /// # Errors
    /// `Io` when the file ends before, or cannot be mapped.
    pub fn open(file: &File, path: &Path, offset: u64, len: u64) -> Result<MappedRange> {
        let io_error = |source| Error::Io { action: "map", path: path.to_path_buf(), source };
        let end = file.metadata().map_err(io_error)?.len();
        let Some(size) = usize::try_from(len).ok().filter(|_| offset.checked_add(len).is_some_and(|needed| needed <= end)) else {
            return Err(io_error(std::io::ErrorKind::UnexpectedEof.into()));
        };
        // SAFETY: this is the promise documented on `MappedFile`: the file stays as it is while open. It was long enough just now.
        let map = unsafe { MmapOptions::new().offset(offset).len(size).map(file) }.map_err(io_error)?;
        Ok(MappedRange { map })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// # Safety
/// The file must not be truncated or rewritten while the map lives: reads would fault or change.
unsafe fn map(path: &Path) -> Result<MappedFile> {
    let io_error = |action| move |source| Error::Io { action, path: path.to_path_buf(), source };
    let file = File::open(path).map_err(io_error("open"))?;
    // A folder opens on Unix, and mapping it gives a reason nobody understands.
    if file.metadata().map_err(io_error("read"))?.is_dir() {
        return Err(io_error("map")(std::io::ErrorKind::IsADirectory.into()));
    }
    // SAFETY: the caller of `map` promised that the file stays unmodified.
    let map = unsafe { Mmap::map(&file) }.map_err(io_error("map"))?;
    Ok(MappedFile { map, path: path.to_path_buf() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_bytes_and_outlives_a_rename_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"abc").unwrap();
        let mapped = MappedFile::open(&path).unwrap();
        std::fs::write(folder.path().join("b"), b"xyz!").unwrap();
        std::fs::rename(folder.path().join("b"), &path).unwrap();
        assert_eq!(mapped.bytes(), b"abc");
        assert_eq!(mapped.path(), path);
    }

    #[test]
    fn a_range_of_a_file_and_what_lies_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = File::open(&path).unwrap();
        let range = |offset, len| MappedRange::open(&file, &path, offset, len);
        assert_eq!(range(3, 4).unwrap().bytes(), b"3456");
        assert_eq!(range(10, 0).unwrap().bytes(), b"");
        assert!(range(3, 8).is_err() && range(u64::MAX, 2).is_err() && range(0, u64::MAX).is_err());
    }

    #[test]
    fn an_empty_file_is_empty_and_a_missing_one_or_a_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(MappedFile::open(&path).unwrap().bytes(), b"");
        assert!(MappedFile::open(folder.path().join("none")).is_err());
        let error = MappedFile::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("directory"), "{error}");
    }
}
