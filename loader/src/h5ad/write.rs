//! Writes a copy of an AnnData file with results added.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use hdf5_pure::AttrValue;

use super::column::Column;
use super::edit::Edit;
use super::store::{Node, Store, hdf5_error};
use super::{AnnData, DenseArray};
use crate::{AtomicFile, Error, Result};

/// What to add to an AnnData file. An element of the same name is replaced.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Additions {
    /// Columns of `obs`, each of `n_obs` entries.
    pub obs: Vec<(String, Column)>,
    /// Dense matrices of `obsm`, each of `n_obs` rows; stored as `f32`.
    pub obsm: Vec<(String, DenseArray)>,
    /// Entries of `uns`.
    pub uns: Vec<(String, UnsValue)>,
}

/// A value in `uns`, AnnData's tree of everything else.
#[derive(Clone, Debug, PartialEq)]
pub enum UnsValue {
    /// One string.
    Text(String),
    /// One float.
    Number(f64),
    /// One integer.
    Integer(i64),
    /// One boolean.
    Boolean(bool),
    /// An array of strings.
    TextList(Vec<String>),
    /// An array of floats.
    Numbers(Vec<f64>),
    /// A nested dictionary.
    Map(Vec<(String, UnsValue)>),
}

/// Writes `output`: the bytes of `input` with `additions` put in.
///
/// Everything of the input is kept, also what this library cannot read; anndata 0.8 and later read
/// the result. The file is written beside the output, read back, made durable and then renamed, so
/// that any failure leaves an existing output as it was. An input in HDF5's oldest layout (what
/// h5py writes unless told otherwise) is held in memory while it is changed.
///
/// # Errors
/// `OutputIsInput` when both are one file, also through links; `OutputExists` without `overwrite`;
/// `Addition` for a wrong number of rows, codes outside their categories, a name that cannot be
/// stored or is given twice, and for files of anndata before 0.7; `Hdf5` for a file that cannot be
/// changed without loss; and the errors of [`AnnData::open`].
pub fn write_with(input: &Path, output: &Path, additions: &Additions, overwrite: bool) -> Result<()> {
    if is_same_file(input, output) {
        return Err(Error::OutputIsInput { path: output.to_path_buf() });
    }
    if !overwrite && fs::symlink_metadata(output).is_ok() {
        return Err(Error::OutputExists { path: output.to_path_buf() });
    }
    let data = AnnData::open(input)?;
    check(&data, additions)?;

    let mut copy = copy_of(input, output)?;
    match add(&data, additions, copy.temporary_path()) {
        Err(Error::Hdf5 { source, .. }) if matches!(*source, hdf5_pure::Error::EditUnsupported(_)) => {
            // Some newer layouts of groups cannot be added to. Written anew they can.
            copy = repacked(input, output)?;
            add(&data, additions, copy.temporary_path())?;
        }
        result => result?,
    }
    check_written(&data, additions, copy.temporary_path(), output)?;
    copy.commit()
}

/// The bytes of `input`, to become `output`.
fn copy_of(input: &Path, output: &Path) -> Result<AtomicFile> {
    let io = |action, path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    };
    let mut copy = AtomicFile::create(output)?;
    let mut source = File::open(input).map_err(io("open", input))?;
    std::io::copy(&mut source, &mut copy).and_then(|_| copy.flush()).map_err(io("write", output))?;
    Ok(copy)
}

/// The objects of `input`, written anew, to become `output`.
fn repacked(input: &Path, output: &Path) -> Result<AtomicFile> {
    refuse_changes(&Store::open(input)?, "")?;
    // The HDF5 layer may put its result in place of the file of that name, so that one is only a
    // stop on the way: the bytes are moved to a file that is certainly ours.
    let rough = AtomicFile::create(output)?;
    hdf5_pure::repack(input, rough.temporary_path(), &hdf5_pure::RepackOptions::new())
        .map_err(|source| hdf5_error("write a copy of", input, "/", source))?;
    copy_of(rough.temporary_path(), output)
}

/// Refuses what writing anew would change: chunks of 65,536 or more elements along one dimension,
/// which come out in an encoding that libhdf5 2 cannot read, and datasets without an extent, which
/// come out as scalars (unless anndata marked them as `None` and so will not look).
fn refuse_changes(store: &Store, key: &str) -> Result<()> {
    // Hard links can lead back up; AnnData's own trees are a few levels deep.
    if key.split('/').count() > 64 {
        return Err(Error::addition(store.path(), key, "at most 64 levels", "more".into()));
    }
    for name in store.children(if key.is_empty() { "/" } else { key })? {
        let key = if key.is_empty() { name } else { format!("{key}/{name}") };
        let Some(node) = store.find(&key)? else {
            continue;
        };
        let Node::Dataset(dataset) = &node else {
            refuse_changes(store, &key)?;
            continue;
        };
        let error = |source| store.error(&key, source);
        let long = dataset.chunk_shape().map_err(error)?;
        let long = long.into_iter().flatten().find(|&length| length >= 1 << 16);
        if let Some(long) = long {
            let expected = "chunks below 65536 elements (write the file again in Python)";
            return Err(Error::addition(store.path(), &key, expected, format!("{long}")));
        }
        let scalar = store.shape(&key, dataset)?.is_empty();
        if scalar && dataset.read_raw().map_err(error)?.is_empty() {
            let attributes = store.attributes(&key, &node)?;
            if attributes.get("encoding-type").and_then(AttrValue::as_str) != Some("null") {
                let found = String::from("a dataset without an extent");
                return Err(Error::addition(store.path(), &key, "values", found));
            }
        }
    }
    Ok(())
}

/// Three commits, because what a commit creates can be filled only by the next one.
fn add(data: &AnnData, additions: &Additions, path: &Path) -> Result<()> {
    let store = Store::open(data.path())?;
    let edit = Edit::open(path, data.path())?;

    let targets = [
        ("obs", additions.obs.iter().map(|(name, _)| name).collect::<Vec<_>>()),
        ("obsm", additions.obsm.iter().map(|(name, _)| name).collect()),
        ("uns", additions.uns.iter().map(|(name, _)| name).collect()),
    ];
    for (parent, names) in &targets {
        if !names.is_empty() && store.find(parent)?.is_none() {
            edit.group(parent, "dict", "0.1.0")?;
        }
        for name in names {
            let key = format!("{parent}/{name}");
            if store.find(&key)?.is_some() {
                edit.remove(&key)?;
            }
            // Labels of a replaced column in the layout of anndata 0.7 would be taken for its own.
            let labels = format!("{parent}/__categories/{name}");
            if *parent == "obs" && store.find(&labels)?.is_some() {
                edit.remove(&labels)?;
            }
        }
    }
    edit.commit()?;

    for (name, column) in &additions.obs {
        let key = format!("obs/{name}");
        match column {
            Column::Categorical { .. } => edit.categorical_group(&key)?,
            column => edit.column(&key, column)?,
        }
    }
    for (name, array) in &additions.obsm {
        edit.dense(&format!("obsm/{name}"), array)?;
    }
    for (name, value) in &additions.uns {
        edit.uns(&format!("uns/{name}"), value)?;
    }
    edit.commit()?;

    for (name, column) in &additions.obs {
        if let Column::Categorical { codes, categories } = column {
            edit.categorical(&format!("obs/{name}"), codes, categories)?;
        }
    }
    if !additions.obs.is_empty() {
        let mut order = data.obs_keys()?;
        let fresh = additions.obs.iter().map(|(name, _)| name);
        let fresh: Vec<_> = fresh.filter(|name| !order.contains(name)).cloned().collect();
        order.extend(fresh);
        edit.column_order("obs", order)?;
    }
    edit.commit()?;
    edit.close()
}

/// Refuses what could not be read back, before anything is written.
fn check(data: &AnnData, additions: &Additions) -> Result<()> {
    let path = data.path();
    let store = Store::open(path)?;
    let n_obs = data.n_obs();
    let parents = [("obs", additions.obs.is_empty()), ("obsm", additions.obsm.is_empty()), ("uns", additions.uns.is_empty())];
    for (parent, unused) in parents {
        if !unused && let Some(Node::Dataset(_)) = store.find(parent)? {
            let expected = "the layout of anndata 0.7 or newer (read and write it in Python once)";
            return Err(Error::addition(path, parent, expected, "one compound array".into()));
        }
    }
    check_names(path, "obs", additions.obs.iter().map(|(name, _)| name))?;
    check_names(path, "obsm", additions.obsm.iter().map(|(name, _)| name))?;
    check_names(path, "uns", additions.uns.iter().map(|(name, _)| name))?;

    let index = data.obs.index_name()?;
    for (name, column) in &additions.obs {
        let key = format!("obs/{name}");
        if *name == index || name == "_index" || name == "__categories" {
            let found = String::from("the name of the index or of a part of the format");
            return Err(Error::addition(path, &key, "another name", found));
        }
        check_length(path, &key, n_obs, column.len())?;
        check_column(path, &key, column)?;
    }
    for (name, array) in &additions.obsm {
        let key = format!("obsm/{name}");
        check_length(path, &key, n_obs, array.rows)?;
        if array.columns == 0 || Some(array.values.len()) != array.rows.checked_mul(array.columns) {
            let (rows, columns) = (array.rows, array.columns);
            let found = format!("{} values for {rows} x {columns}", array.values.len());
            return Err(Error::addition(path, &key, "rows x columns values, at least one", found));
        }
    }
    additions.uns.iter().try_for_each(|(name, value)| check_uns(path, &format!("uns/{name}"), value))
}

fn check_names<'a>(path: &Path, parent: &str, names: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut seen = HashSet::new();
    for name in names {
        if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
            let expected = "a name without `/`, not empty, not `.` or `..`";
            return Err(Error::addition(path, parent, expected, format!("{name:?}")));
        }
        if !seen.insert(name) {
            let found = format!("`{name}` twice");
            return Err(Error::addition(path, parent, "each name once", found));
        }
    }
    Ok(())
}

fn check_length(path: &Path, key: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let expected = format!("{expected} rows, one a cell");
    Err(Error::addition(path, key, &expected, format!("{found}")))
}

fn check_column(path: &Path, key: &str, column: &Column) -> Result<()> {
    match column {
        Column::Text(texts) => check_texts(path, key, texts),
        Column::Categorical { codes, categories } => {
            check_texts(path, key, categories)?;
            let mut seen = HashSet::new();
            if let Some(twice) = categories.iter().find(|label| !seen.insert(*label)) {
                let found = format!("`{twice}` twice");
                return Err(Error::addition(path, key, "each category once", found));
            }
            let last = categories.len() as i64 - 1;
            let outside = codes.iter().find(|&&code| code < -1 || i64::from(code) > last);
            outside.map_or(Ok(()), |code| {
                let expected = format!("codes from -1 to {last}");
                Err(Error::addition(path, key, &expected, format!("{code}")))
            })
        }
        Column::Number(_) | Column::Boolean(_) => Ok(()),
    }
}

fn check_texts(path: &Path, key: &str, texts: &[String]) -> Result<()> {
    // HDF5 strings end at a zero byte: the rest would be lost.
    match texts.iter().find(|text| text.contains('\0')) {
        Some(text) => Err(Error::addition(path, key, "text without zero bytes", format!("{text:?}"))),
        None => Ok(()),
    }
}

fn check_uns(path: &Path, key: &str, value: &UnsValue) -> Result<()> {
    match value {
        UnsValue::Text(text) => check_texts(path, key, std::slice::from_ref(text)),
        UnsValue::TextList(texts) => check_texts(path, key, texts),
        UnsValue::Map(entries) => {
            check_names(path, key, entries.iter().map(|(name, _)| name))?;
            entries.iter().try_for_each(|(name, value)| check_uns(path, &format!("{key}/{name}"), value))
        }
        _ => Ok(()),
    }
}

/// Reads the additions back: a file that cannot be read must not take the place of one that can.
fn check_written(data: &AnnData, additions: &Additions, path: &Path, output: &Path) -> Result<()> {
    let written = AnnData::open(path)?;
    let lost = |key: &str| {
        let found = String::from("something else when read back");
        Err(Error::addition(output, key, "what was written", found))
    };
    if (written.n_obs(), written.n_vars()) != (data.n_obs(), data.n_vars()) {
        return lost("obs");
    }
    for (name, column) in &additions.obs {
        if written.obs(name)?.labels() != column.labels() {
            return lost(&format!("obs/{name}"));
        }
    }
    for (name, array) in &additions.obsm {
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        if bits(&written.obsm(name)?.values) != bits(&array.values) {
            return lost(&format!("obsm/{name}"));
        }
    }
    Ok(())
}

/// Whether two paths lead to one file, through symbolic or hard links.
fn is_same_file(one: &Path, two: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(one), Ok(two)) = (fs::metadata(one), fs::metadata(two)) {
        use std::os::unix::fs::MetadataExt;
        return (one.dev(), one.ino()) == (two.dev(), two.ino());
    }
    matches!((fs::canonicalize(one), fs::canonicalize(two)), (Ok(one), Ok(two)) if one == two)
}
