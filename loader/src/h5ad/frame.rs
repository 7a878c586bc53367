//! `obs` and `var`: an index and columns, in the layouts anndata has used since 0.7. The older
//! compound arrays are in `records.rs`.

use hdf5_pure::{AttrValue, Dataset, Group};

use super::column::{Column, python_bool};
use super::records::Records;
use super::store::{DAMAGED, Kind, Node, Store};
use crate::{Error, Result};

const UNSUPPORTED: &str = "this column encoding is not supported; convert it in Python first";

/// An open dataframe; nothing of it is in memory.
pub(super) enum Frame {
    /// One object a column (anndata 0.7 and later).
    Columns { store: Store, key: String, node: Node },
    /// One compound array (before 0.7).
    Records(Records),
}

impl Frame {
    /// The dataframe at `key`. `categories` is where a compound array keeps its categories.
    pub(super) fn open(store: &Store, key: &str, categories: &str) -> Result<Option<Frame>> {
        Ok(match store.find(key)? {
            None => None,
            Some(Node::Dataset(dataset)) => Some(Frame::Records(Records::open(store, key, dataset, categories)?)),
            Some(node) => Some(Frame::Columns { store: store.clone(), key: key.into(), node }),
        })
    }

    /// The row names.
    pub(super) fn index(&self) -> Result<Vec<String>> {
        match self {
            Frame::Records(records) => records.index(),
            Frame::Columns { store, key, .. } => {
                let name = self.index_name()?;
                let column = self.read(&name)?.ok_or_else(|| {
                    let key = format!("{key}/{name}");
                    store.malformed(&key, "the row names", "nothing", DAMAGED)
                })?;
                let labels = column.labels().into_iter().enumerate();
                labels
                    .map(|(row, label)| {
                        label.ok_or_else(|| {
                            let found = format!("a missing value at row {row}");
                            store.malformed(key, "a name for every row", found, DAMAGED)
                        })
                    })
                    .collect()
            }
        }
    }

    /// Rows, without reading the names.
    pub(super) fn len(&self) -> Result<usize> {
        let (store, key) = match self {
            Frame::Records(records) => return Ok(records.len()),
            Frame::Columns { store, key, .. } => (store, key),
        };
        let index = format!("{key}/{}", self.index_name()?);
        // The index can itself be a group: nullable strings, written by the newest versions.
        let values = match store.find(&index)? {
            Some(Node::Group(_)) => format!("{index}/values"),
            _ => index,
        };
        let dataset = store.dataset(&values)?;
        store.length(&values, &dataset)
    }

    /// Column names in the file's order, without the index.
    pub(super) fn keys(&self) -> Result<Vec<String>> {
        let (store, key, node) = match self {
            Frame::Records(records) => return Ok(records.keys()),
            Frame::Columns { store, key, node } => (store, key, node),
        };
        let attributes = store.attributes(key, node)?;
        if let Some(order) = attributes.get("column-order").and_then(AttrValue::as_strings) {
            return Ok(order.to_vec());
        }
        // No usable order: an empty one is stored as an array of no floats.
        let index = self.index_name()?;
        let mut names = store.children(key)?;
        names.retain(|name| *name != index && name != "__categories");
        Ok(names)
    }

    /// The column `name`.
    pub(super) fn column(&self, name: &str) -> Result<Column> {
        let column = match self {
            Frame::Records(records) => records.column(name)?,
            Frame::Columns { .. } => self.read(name)?,
        };
        if let Some(column) = column {
            return Ok(column);
        }
        let (store, key) = match self {
            Frame::Records(records) => (records.store(), records.key()),
            Frame::Columns { store, key, .. } => (store, key.as_str()),
        };
        Err(Error::MissingKey { path: store.path_buf(), parent: key.into(), key: name.into(), available: self.keys()? })
    }

    pub(super) fn index_name(&self) -> Result<String> {
        let Frame::Columns { store, key, node } = self else {
            return Ok(String::from("index"));
        };
        let attributes = store.attributes(key, node)?;
        Ok(attributes.get("_index").and_then(AttrValue::as_str).unwrap_or("_index").to_owned())
    }

    fn read(&self, name: &str) -> Result<Option<Column>> {
        let Frame::Columns { store, key, .. } = self else {
            return Ok(None);
        };
        if name.is_empty() {
            return Ok(None);
        }
        let path = format!("{key}/{name}");
        match store.find(&path)? {
            None => Ok(None),
            Some(Node::Group(group)) => read_group(store, &path, group).map(Some),
            Some(Node::Dataset(dataset)) => {
                let codes_of = format!("{key}/__categories/{name}");
                match store.find(&codes_of)? {
                    // anndata 0.7: codes here, labels in a sibling group.
                    Some(Node::Dataset(labels)) => {
                        let labels = plain(store, &codes_of, &labels)?;
                        categorical(store, &path, &dataset, labels).map(Some)
                    }
                    _ => plain(store, &path, &dataset).map(Some),
                }
            }
        }
    }
}

/// A column that is a group: categorical, or values with a mask.
fn read_group(store: &Store, key: &str, group: Group) -> Result<Column> {
    let node = Node::Group(group);
    let attributes = store.attributes(key, &node)?;
    let encoding = attributes.get("encoding-type").and_then(AttrValue::as_str).unwrap_or("none");
    if encoding == "categorical" {
        let (codes_key, labels_key) = (format!("{key}/codes"), format!("{key}/categories"));
        let labels = match store.find(&labels_key)? {
            Some(Node::Group(group)) => read_group(store, &labels_key, group)?,
            _ => plain(store, &labels_key, &store.dataset(&labels_key)?)?,
        };
        return categorical(store, &codes_key, &store.dataset(&codes_key)?, labels);
    }
    if !encoding.starts_with("nullable-") {
        let found = format!("encoding-type `{encoding}`");
        return Err(store.malformed(key, "a column encoding", found, UNSUPPORTED));
    }
    let (values_key, mask_key) = (format!("{key}/values"), format!("{key}/mask"));
    let mask = store.integers(&mask_key, &store.dataset(&mask_key)?)?;
    let values = plain(store, &values_key, &store.dataset(&values_key)?)?;
    if mask.len() != values.len() {
        let found = format!("{}", mask.len());
        return Err(store.malformed(&mask_key, format!("{} flags", values.len()), found, DAMAGED));
    }
    let missing = mask.into_iter().map(|flag| flag != 0);
    Ok(match values {
        Column::Number(numbers) => {
            Column::Number(numbers.into_iter().zip(missing).map(|(n, gap)| if gap { f64::NAN } else { n }).collect())
        }
        Column::Boolean(flags) => Column::Boolean(flags.into_iter().zip(missing).map(|(flag, gap)| flag.filter(|_| !gap)).collect()),
        Column::Text(texts) => {
            Column::from_optional_texts(texts.into_iter().zip(missing).map(|(text, gap)| (!gap).then_some(text)).collect())
        }
        categorical => categorical,
    })
}

/// A column that is one dataset.
pub(super) fn plain(store: &Store, key: &str, dataset: &Dataset) -> Result<Column> {
    match store.kind(key, dataset)? {
        Kind::Text => Ok(Column::Text(store.texts(key, dataset)?)),
        Kind::Integer | Kind::Float => Ok(Column::Number(store.numbers(key, dataset)?)),
        Kind::Boolean => {
            let flags = store.integers(key, dataset)?;
            Ok(Column::Boolean(flags.into_iter().map(|flag| Some(flag != 0)).collect()))
        }
        Kind::Other => {
            let found = store.type_name(dataset);
            Err(store.malformed(key, "text, numbers or booleans", found, UNSUPPORTED))
        }
    }
}

fn categorical(store: &Store, key: &str, codes: &Dataset, labels: Column) -> Result<Column> {
    coded(store, key, store.integers(key, codes)?, &labels)
}

/// Codes and their labels, checked against each other.
pub(super) fn coded(store: &Store, key: &str, codes: Vec<i64>, labels: &Column) -> Result<Column> {
    let categories: Vec<String> = match labels {
        Column::Boolean(flags) => flags.iter().map(|f| python_bool(*f == Some(true)).to_owned()).collect(),
        other => other.labels().into_iter().map(Option::unwrap_or_default).collect(),
    };
    let check = |code: i64| match i32::try_from(code) {
        Ok(code) if code >= -1 && (code as i64) < categories.len() as i64 => Ok(code),
        _ => {
            let expected = format!("codes from -1 to {}", categories.len() as i64 - 1);
            Err(store.malformed(key, expected, format!("{code}"), DAMAGED))
        }
    };
    let codes = codes.into_iter().map(check).collect::<Result<Vec<_>>>()?;
    Ok(Column::Categorical { codes, categories })
}
