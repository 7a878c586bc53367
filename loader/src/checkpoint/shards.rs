//! Which files a path stands for: one file, an index with its shards, or a folder with either.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::json_pairs::Pairs;
use crate::{Error, Result};

/// Name of the index of a checkpoint in shards.
pub const INDEX_NAME: &str = "model.safetensors.index.json";
/// Name of a checkpoint in one file.
pub const FILE_NAME: &str = "model.safetensors";

/// The files of a checkpoint, and, where an index lists them, the file of each tensor.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) files: Vec<PathBuf>,
    /// Tensor name to position in `files`; empty without an index.
    pub(super) index: BTreeMap<String, usize>,
    /// The path that names the checkpoint in errors.
    pub(super) path: PathBuf,
}

/// Finds the files `path` stands for.
pub(super) fn locate(path: &Path) -> Result<Layout> {
    if path.is_dir() {
        return locate_in_folder(path);
    }
    if path.extension().is_some_and(|extension| extension == "json") {
        return read_index(path);
    }
    Ok(single(path.to_path_buf()))
}

fn single(path: PathBuf) -> Layout {
    Layout { files: vec![path.clone()], index: BTreeMap::new(), path }
}

/// `model.safetensors`, else the index, else the only `.safetensors` file: the order of Hugging Face.
fn locate_in_folder(folder: &Path) -> Result<Layout> {
    if folder.join(FILE_NAME).exists() {
        return Ok(single(inside(folder, FILE_NAME)?));
    }
    if folder.join(INDEX_NAME).exists() {
        return read_index(&folder.join(INDEX_NAME));
    }
    let io_error = |source| Error::Io { action: "read", path: folder.into(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error)? {
        let name = entry.map_err(io_error)?.file_name();
        // A hidden name is a writer's temporary file.
        if let Some(name) = name.to_str()
            && name.ends_with(".safetensors")
            && !name.starts_with('.')
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    match names.as_slice() {
        [name] => Ok(single(inside(folder, name)?)),
        _ => Err(Error::NoCheckpoint { folder: folder.into(), found: names }),
    }
}

#[derive(serde::Deserialize)]
struct IndexFile {
    weight_map: Pairs<String>,
}

fn read_index(path: &Path) -> Result<Layout> {
    let text = fs::read(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })?;
    let what = "safetensors index";
    let parsed: IndexFile = serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.into(), what, source })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut positions = BTreeMap::new();
    let mut files = Vec::new();
    let mut index = BTreeMap::new();
    for (tensor, shard) in parsed.weight_map.0 {
        let position = match positions.get(&shard) {
            Some(&position) => position,
            None => {
                files.push(inside(folder, &shard)?);
                positions.insert(shard, files.len() - 1);
                files.len() - 1
            }
        };
        if let Some(first) = index.insert(tensor.clone(), position) {
            let (first, second) = (files[first].clone(), files[position].clone());
            return Err(Error::DuplicateTensor { name: tensor, first, second });
        }
    }
    if files.is_empty() {
        return Err(Error::NoCheckpoint { folder: folder.into(), found: Vec::new() });
    }
    Ok(Layout { files, index, path: path.to_path_buf() })
}

/// `folder/name`, where `name` is one plain file name and the file really stands in the folder.
///
/// A symbolic link must point back into the folder. The one exception is the cache of the Hugging Face
/// hub, whose `snapshots/<revision>/` holds nothing but links into the `blobs/` beside it.
fn inside(folder: &Path, name: &str) -> Result<PathBuf> {
    let unsafe_name = |why| Error::ShardName { folder: folder.into(), name: name.to_owned(), why };
    let mut components = Path::new(name).components();
    let plain = matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none();
    if !plain || name.contains(['/', '\\', '\0']) {
        return Err(unsafe_name("it is not a plain file name inside the folder"));
    }
    let path = folder.join(name);
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let real = |path: &Path| fs::canonicalize(path).map_err(|source| Error::Io { action: "open", path: path.into(), source });
    let (real_folder, real_file) = (real(folder)?, real(&path)?);
    let blobs =
        real_folder.parent().filter(|snapshots| snapshots.ends_with("snapshots")).and_then(Path::parent).map(|model| model.join("blobs"));
    if real_file.starts_with(&real_folder) || blobs.is_some_and(|blobs| real_file.starts_with(blobs)) {
        Ok(path)
    } else {
        Err(unsafe_name("it is a symbolic link that leaves the folder"))
    }
}
