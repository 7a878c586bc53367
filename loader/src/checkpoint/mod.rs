//! Model weights on disk: safetensors, in one file or in shards.
//!
//! Reading maps the files and hands out views; nothing is copied until a caller asks for `f32`. Every
//! range is checked when the checkpoint is opened, so a view can not fail or fault later (as long as
//! nobody rewrites the file, see [`MappedFile`]).
//!
//! # Source
//! The format: <https://github.com/huggingface/safetensors>; the index: Hugging Face `transformers`.

mod convert;
mod header;
mod require;
mod shards;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use header::MAX_HEADER_BYTES;
pub use require::TensorProblem;
pub use safetensors::Dtype;
pub use shards::{FILE_NAME, INDEX_NAME};
pub use write::{TensorSpec, write, write_with};

use crate::mapped_file::MappedFile;
use crate::{Error, Result};
use header::Entry;

/// An opened checkpoint: tensors by name, mapped, never copied.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<MappedFile>,
    /// Tensor name to its file (position in `files`) and its place there.
    tensors: BTreeMap<String, (usize, Entry)>,
    metadata: BTreeMap<String, String>,
}

/// One tensor of a [`Checkpoint`], row-major, little-endian, in place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorView<'a> {
    /// Type of an element.
    pub dtype: Dtype,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: &'a [usize],
    /// The elements' bytes. Alignment is whatever the file gives: see [`Checkpoint::f32s`].
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// Number of elements: the product of the shape.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Checkpoint {
    /// Opens a `.safetensors` file, a `model.safetensors.index.json`, or a folder holding either.
    ///
    /// In a folder `model.safetensors` comes first, then the index, then the only `.safetensors` file.
    ///
    /// # Errors
    /// `Io`, `NotSafetensors` (git-lfs pointer, HTML, pickle, ..), `TruncatedFile`, `HeaderTooLarge`,
    /// `Header`, `Json`, `TensorRange`, `DuplicateTensor`, `ShardName` (a name or link that leaves the
    /// folder), `ShardTensor` (the index and a shard disagree), `NoCheckpoint`.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let layout = shards::locate(path.as_ref())?;
        let mut files = Vec::new();
        let mut tensors: BTreeMap<String, (usize, Entry)> = BTreeMap::new();
        let mut metadata = BTreeMap::new();
        for (position, file) in layout.files.iter().enumerate() {
            let mapped = MappedFile::open(file)?;
            let header = header::parse(file, mapped.bytes())?;
            for (name, entry) in header.tensors {
                if let Some((first, _)) = tensors.get(&name) {
                    let (first, second) = (layout.files[*first].clone(), file.clone());
                    return Err(Error::DuplicateTensor { name, first, second });
                }
                tensors.insert(name, (position, entry));
            }
            metadata.extend(header.metadata);
            files.push(mapped);
        }
        for (name, &position) in &layout.index {
            if tensors.get(name).is_none_or(|(found, _)| *found != position) {
                let (index, shard) = (layout.path, layout.files[position].clone());
                return Err(Error::ShardTensor { index, shard, name: name.clone() });
            }
        }
        Ok(Checkpoint { path: layout.path, files, tensors, metadata })
    }

    /// The file, or the index of the shards.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The text entries of the header; of shards, all together (a later shard wins).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensor of this name, in place.
    ///
    /// # Errors
    /// `MissingTensor`, with the most similar name of the file if one is close.
    pub fn view(&self, name: &str) -> Result<TensorView<'_>> {
        let Some((file, entry)) = self.tensors.get(name) else {
            return Err(require::missing(self, name));
        };
        let bytes = &self.files[*file].bytes()[entry.range.clone()];
        Ok(TensorView { dtype: entry.dtype, shape: &entry.shape, bytes })
    }
}
