//! Files that appear whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// A file written beside its final place and moved there only by [`AtomicFile::commit`].
///
/// Until then an existing file at that place stays as it was, and a reader never sees half a file.
/// Dropped without a commit, the temporary file is removed. (After a kill it stays behind under a
/// name that begins with a dot and ends in `.tmp`; it can be deleted.)
///
/// Where the path is a symbolic link, the file it points at is replaced and the link stays.
#[derive(Debug)]
pub struct AtomicFile {
    /// `None` once committed: nothing is left for `Drop` to remove.
    writer: Option<BufWriter<File>>,
    temporary: PathBuf,
    target: PathBuf,
}

impl AtomicFile {
    /// Opens a new temporary file in the folder of `path`.
    ///
    /// # Errors
    /// `Io` when the folder is missing or not writable, or when `path` is itself a folder.
    pub fn create(path: &Path) -> Result<AtomicFile> {
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let Some(name) = target.file_name().filter(|_| !target.is_dir()) else {
            return Err(io_error("write", path, io::ErrorKind::IsADirectory.into()));
        };
        // A name nobody else uses: the process id against other programs, the counter against
        // other threads, `create_new` against leftovers of a killed run with the same id.
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}-{count}.tmp", std::process::id()));
            let temporary = target.with_file_name(hidden);
            match OpenOptions::new().read(true).write(true).create_new(true).open(&temporary) {
                Ok(file) => {
                    return Ok(AtomicFile { writer: Some(BufWriter::new(file)), temporary, target });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_error("create", &temporary, error)),
            }
        }
    }

    /// Where the bytes stand until the commit, for a library that wants to open the file by name.
    /// Flush this writer before.
    pub fn temporary_path(&self) -> &Path {
        &self.temporary
    }

    /// Makes the file durable and puts it in its place: fsync, rename, fsync of the folder.
    ///
    /// # Errors
    /// `Io`; the temporary file is removed and the place keeps what it held, except when only the
    /// last step (the folder's fsync) failed: then the new file stands but may not survive a power cut.
    pub fn commit(mut self) -> Result<()> {
        let file = self.open_writer().and_then(|writer| {
            writer.flush()?;
            writer.get_ref().sync_all()
        });
        file.map_err(|source| io_error("write", &self.temporary, source))?;
        if let Ok(old) = fs::metadata(&self.target) {
            // A replaced file keeps who may read it; not worth failing over.
            let _ = fs::set_permissions(&self.temporary, old.permissions());
        }
        fs::rename(&self.temporary, &self.target).map_err(|source| io_error("rename", &self.target, source))?;
        self.writer = None;
        sync_folder(&self.target)
    }

    fn open_writer(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.writer.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open_writer()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open_writer()?.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.open_writer()?.seek(position)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            // `into_parts` throws the buffer away: a plain drop would write it out first.
            drop(writer.into_parts());
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Makes a rename durable: on Unix the folder entry is data of the folder and has its own fsync.
fn sync_folder(file: &Path) -> Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| io_error("sync", folder, source))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { action, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn commit_replaces_and_drop_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.bin");
        fs::write(&path, b"old").unwrap();

        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old", "untouched before the commit");
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old", "untouched after a drop");
        assert_eq!(names(folder.path()), ["weights.bin"]);

        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"____new").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(b"very").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"verynew");
        assert_eq!(names(folder.path()), ["weights.bin"]);
    }

    #[test]
    fn two_writers_do_not_share_a_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let (one, two) = (AtomicFile::create(&path).unwrap(), AtomicFile::create(&path).unwrap());
        assert_ne!(one.temporary_path(), two.temporary_path());
    }

    #[test]
    fn a_missing_folder_or_a_folder_as_target_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(AtomicFile::create(&folder.path().join("no/such/file")).is_err());
        assert!(AtomicFile::create(folder.path()).is_err());
        assert!(AtomicFile::create(Path::new("/")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, b"old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut file = AtomicFile::create(&link).unwrap();
        file.write_all(b"new").unwrap();
        file.commit().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
    }
}
