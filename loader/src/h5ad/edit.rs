//! Puts AnnData's elements into an HDF5 file that exists: one function an encoding.

use std::path::Path;

use hdf5_pure::{AttrValue, DatasetBuilder, Datatype, EnumTypeBuilder, File, Group};

use super::DenseArray;
use super::column::Column;
use super::store::hdf5_error;
use super::write::UnsValue;
use crate::{Error, Result};

/// An HDF5 file whose group `unordered` has nothing but the boolean attribute `ordered = false`.
///
/// A categorical column needs that attribute, older readers insist on its being a boolean, and the
/// HDF5 layer can copy a boolean attribute but not make one. Made by
/// `tools/golden/make_h5ad_fixtures.py`.
const UNORDERED: &[u8] = include_bytes!("unordered.h5");

/// Fills a dataset.
trait Build: FnOnce(&mut DatasetBuilder) -> &mut DatasetBuilder {}

impl<F: FnOnce(&mut DatasetBuilder) -> &mut DatasetBuilder> Build for F {}

type Hdf5Result<T> = std::result::Result<T, hdf5_pure::Error>;

/// A file open for adding. Changes are staged; [`Edit::commit`] writes them.
pub(super) struct Edit<'a> {
    file: File,
    /// The file's name in errors: the temporary copy's own would help nobody.
    shown: &'a Path,
}

impl<'a> Edit<'a> {
    pub(super) fn open(path: &Path, shown: &'a Path) -> Result<Edit<'a>> {
        let options = hdf5_pure::FileAccessProperties::new().with_sync_policy(hdf5_pure::SyncPolicy::OnClose);
        let file = File::open_rw_with_options(path, options).map_err(|source| hdf5_error("open for adding", shown, "/", source))?;
        Ok(Edit { file, shown })
    }

    pub(super) fn commit(&self) -> Result<()> {
        self.file.commit().map_err(|source| hdf5_error("write additions to", self.shown, "/", source))
    }

    pub(super) fn close(self) -> Result<()> {
        let shown = self.shown;
        self.file.close().map_err(|source| hdf5_error("close", shown, "/", source))
    }

    fn root(&self) -> Group {
        self.file.root()
    }

    fn staged<T>(&self, key: &str, result: Hdf5Result<T>) -> Result<T> {
        result.map_err(|source| hdf5_error("add", self.shown, key, source))
    }

    /// Stages the removal of whatever stands at `key`.
    pub(super) fn remove(&self, key: &str) -> Result<()> {
        let result = self.root().delete(key);
        result.map_err(|source| hdf5_error("replace", self.shown, key, source))
    }

    /// Stages a group with an encoding.
    pub(super) fn group(&self, key: &str, encoding: &str, version: &str) -> Result<()> {
        let result = self.root().create_group_with(key, |group| {
            group.set_attr("encoding-type", text(encoding));
            group.set_attr("encoding-version", text(version));
        });
        self.staged(key, result).map(|_| ())
    }

    /// Stages the group of a categorical column. Its content goes into the next commit.
    pub(super) fn categorical_group(&self, key: &str) -> Result<()> {
        let template = self.staged(key, File::from_bytes(UNORDERED.to_vec()))?;
        self.staged(key, self.file.copy_from(&template, "unordered", key))
    }

    /// Stages the content of a categorical column whose group is in the file.
    pub(super) fn categorical(&self, key: &str, codes: &[i32], labels: &[String]) -> Result<()> {
        let group = self.staged(key, self.file.group(key))?;
        self.staged(key, group.set_attr("encoding-type", text("categorical")))?;
        self.staged(key, group.set_attr("encoding-version", text("0.2.0")))?;
        self.texts(&format!("{key}/categories"), labels)?;
        // The narrowest type, as pandas has it; `codes` are below `labels.len()`.
        self.array(&format!("{key}/codes"), |codes_array| match labels.len() {
            0..=0x7f => codes_array.with_i8_data(&narrow(codes)),
            0x80..=0x7fff => codes_array.with_i16_data(&narrow(codes)),
            _ => codes_array.with_i32_data(codes),
        })
    }

    /// Stages a column that is not categorical.
    pub(super) fn column(&self, key: &str, column: &Column) -> Result<()> {
        match column {
            Column::Text(texts) => self.texts(key, texts),
            Column::Number(numbers) => self.array(key, |array| array.with_f64_data(numbers)),
            Column::Boolean(flags) if flags.iter().all(Option::is_some) => self.flags(key, flags.iter().map(|flag| *flag == Some(true))),
            Column::Boolean(flags) => {
                self.group(key, "nullable-boolean", "0.1.0")?;
                let values = flags.iter().map(|flag| *flag == Some(true));
                self.flags(&format!("{key}/values"), values)?;
                self.flags(&format!("{key}/mask"), flags.iter().map(Option::is_none))
            }
            Column::Categorical { codes, categories } => self.categorical(key, codes, categories),
        }
    }

    pub(super) fn dense(&self, key: &str, array: &DenseArray) -> Result<()> {
        let shape = [array.rows as u64, array.columns as u64];
        self.array(key, |data| data.with_f32_data(&array.values).with_shape(&shape))
    }

    /// Stages `value` and, if it is a map, everything in it.
    pub(super) fn uns(&self, key: &str, value: &UnsValue) -> Result<()> {
        match value {
            UnsValue::Text(value) => self.scalar(key, "string", |data| data.with_vlen_strings(&[value])),
            UnsValue::Number(value) => self.scalar(key, "numeric-scalar", |data| data.with_f64_data(&[*value])),
            UnsValue::Integer(value) => self.scalar(key, "numeric-scalar", |data| data.with_i64_data(&[*value])),
            UnsValue::Boolean(value) => {
                let datatype = self.staged(key, boolean())?;
                let value = [u8::from(*value)];
                self.scalar(key, "numeric-scalar", |data| data.with_enum_u8_data(datatype, &value))
            }
            UnsValue::TextList(values) => self.texts(key, values),
            UnsValue::Numbers(values) => self.array(key, |array| array.with_f64_data(values)),
            UnsValue::Map(entries) => {
                self.group(key, "dict", "0.1.0")?;
                entries.iter().try_for_each(|(name, value)| self.uns(&format!("{key}/{name}"), value))
            }
        }
    }

    /// Stages the list of column names of the dataframe at `key`.
    pub(super) fn column_order(&self, key: &str, names: Vec<String>) -> Result<()> {
        let group = self.staged(key, self.file.group(key))?;
        self.staged(key, group.set_attr("column-order", AttrValue::VarLenStringArray(names)))
    }

    fn texts(&self, key: &str, texts: &[String]) -> Result<()> {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        self.element(key, "string-array", |data| data.with_vlen_strings(&texts))
    }

    fn flags(&self, key: &str, flags: impl Iterator<Item = bool>) -> Result<()> {
        let (datatype, flags) = (self.staged(key, boolean())?, flags.map(u8::from));
        let flags: Vec<u8> = flags.collect();
        self.array(key, |array| array.with_enum_u8_data(datatype, &flags))
    }

    fn array(&self, key: &str, build: impl Build) -> Result<()> {
        self.element(key, "array", build)
    }

    fn scalar(&self, key: &str, encoding: &str, build: impl Build) -> Result<()> {
        self.element(key, encoding, |data| build(data).with_shape(&[]))
    }

    fn element(&self, key: &str, encoding: &str, build: impl Build) -> Result<()> {
        let result = self.root().create_dataset(key, |data| {
            build(data);
            data.set_attr("encoding-type", text(encoding));
            data.set_attr("encoding-version", text("0.2.0"));
        });
        self.staged(key, result).map(|_| ())
    }
}

/// A variable-length string, as h5py stores a Python `str`.
pub(super) fn text(value: &str) -> AttrValue {
    AttrValue::VarLenString(value.to_owned())
}

/// The type that h5py stores `bool` as.
fn boolean() -> Hdf5Result<Datatype> {
    let names = EnumTypeBuilder::with_base(hdf5_pure::make_i8_type());
    Ok(names.value("FALSE", 0).value("TRUE", 1).build()?)
}

fn narrow<T: TryFrom<i32> + Default>(codes: &[i32]) -> Vec<T> {
    codes.iter().map(|&code| T::try_from(code).unwrap_or_default()).collect()
}

impl Error {
    /// Something that cannot be added to `path`.
    pub(super) fn addition(path: &Path, key: &str, expected: &str, found: String) -> Error {
        Error::Addition { path: path.into(), key: key.into(), expected: expected.into(), found }
    }
}
