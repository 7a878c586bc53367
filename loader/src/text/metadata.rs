//! Columns of `obs` that texts name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::TextError;
use super::descriptions::Need;
use crate::Result;
use crate::h5ad::AnnData;

/// Some columns of `obs` for the cells of one or more files; equal values are stored once.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    columns: BTreeMap<String, Values>,
    rows: usize,
}

#[derive(Debug, Clone, Default)]
struct Values {
    distinct: Vec<String>,
    /// `[rows]`: index into `distinct`.
    codes: Vec<Option<u32>>,
}

impl Metadata {
    /// For cells of which nothing but the label is known.
    pub fn empty(rows: usize) -> Metadata {
        Metadata { columns: BTreeMap::new(), rows }
    }

    /// Columns given by the caller, each `[rows]`.
    ///
    /// # Errors
    /// `ColumnLength`.
    pub fn from_columns(rows: usize, columns: impl IntoIterator<Item = (String, Vec<Option<String>>)>) -> Result<Metadata> {
        let mut metadata = Metadata::empty(rows);
        for (name, values) in columns {
            if values.len() != rows {
                let (source_name, got) = (name, values.len());
                return Err(crate::Error::ColumnLength { source_name, column: "metadata", expected: rows, got });
            }
            metadata.columns.insert(name, Values::default().extended(values));
        }
        Ok(metadata)
    }

    pub(super) fn read<'a>(files: impl IntoIterator<Item = &'a AnnData>, needs: &BTreeMap<String, Need>) -> Result<Metadata> {
        let mut metadata = Metadata::empty(0);
        let mut available = BTreeSet::new();
        for file in files {
            let keys = file.obs_keys()?;
            for (name, need) in needs {
                let exists = keys.contains(name);
                if !exists && *need == Need::Everywhere {
                    let (field, path, available) = (name.clone(), Some(file.path().into()), keys);
                    return Err(TextError::UnknownField { field, path, available }.into());
                }
                let values = if exists { file.obs(name)?.labels() } else { vec![None; file.n_obs()] };
                let column = metadata.columns.remove(name).unwrap_or_default();
                metadata.columns.insert(name.clone(), column.extended(values));
            }
            available.extend(keys);
            metadata.rows += file.n_obs();
        }
        let absent = needs.iter().find(|(name, need)| **need == Need::Somewhere && !available.contains(*name));
        match absent {
            None => Ok(metadata),
            Some((name, _)) => {
                let (field, available) = (name.clone(), available.into_iter().collect());
                Err(TextError::UnknownField { field, path: None, available }.into())
            }
        }
    }

    /// Cells.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// What a column says about a cell.
    pub fn value(&self, column: &str, row: usize) -> Option<&str> {
        let values = self.columns.get(column)?;
        let code = values.codes.get(row).copied().flatten()?;
        values.distinct.get(code as usize).map(String::as_str)
    }
}

impl Values {
    fn extended(mut self, values: Vec<Option<String>>) -> Values {
        let mut codes: HashMap<String, u32> = self.distinct.iter().cloned().zip(0..).collect();
        for value in values {
            // A value that says nothing is none.
            let code = value.filter(|value| !value.trim().is_empty()).map(|value| {
                *codes.entry(value).or_insert_with_key(|value| {
                    self.distinct.push(value.clone());
                    self.distinct.len() as u32 - 1
                })
            });
            self.codes.push(code);
        }
        self
    }
}
