//! Files of labels for annotation without training on them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Descriptions, TextError};
use crate::json_pairs::Pairs;
use crate::{Error, Result};

/// One label that cells may get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The label.
    pub name: String,
    /// The cell type that it means: the label itself, unless the file says otherwise.
    pub cell_type: String,
    /// What the file says about it besides: `definition`, or columns that make a class (`condition`).
    pub fields: BTreeMap<String, String>,
}

/// The labels of a file, in its order.
#[derive(Debug, Clone)]
pub struct LabelSet {
    path: PathBuf,
    labels: Vec<Label>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Description(String),
    Fields(Pairs<String>),
}

impl LabelSet {
    /// Reads one label a line (empty lines and lines that begin with `#` are skipped), or a JSON object: `{label: description}`, or
    /// `{label: {"cell_type": .., "definition": .., "condition": ..}}` where a label is more than a type.
    ///
    /// # Errors
    /// `Io`; `Json`; `Text` for an empty label or entry, a label that occurs twice, or fewer than two labels.
    pub fn open(path: impl AsRef<Path>) -> Result<LabelSet> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })?;
        let labels = if text.trim_start().starts_with('{') {
            let json_error = |source| Error::Json { path: path.into(), what: "label set", source };
            let Pairs(entries) = serde_json::from_str::<Pairs<Entry>>(&text).map_err(json_error)?;
            entries.into_iter().map(label).collect()
        } else {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines.map(plain).collect()
        };
        LabelSet::new(path, labels)
    }

    /// Labels that are cell types, from anywhere; `origin` names them in errors.
    ///
    /// # Errors
    /// `Text` as [`open`](Self::open).
    pub fn from_types<S: AsRef<str>>(origin: impl AsRef<Path>, names: &[S]) -> Result<LabelSet> {
        LabelSet::new(origin.as_ref(), names.iter().map(|name| plain(name.as_ref())).collect())
    }

    fn new(path: &Path, labels: Vec<Label>) -> Result<LabelSet> {
        let refused = |reason| TextError::Labels { path: path.into(), reason };
        let mut seen = BTreeSet::new();
        for label in &labels {
            let empty = |text: &String| text.trim().is_empty();
            if empty(&label.name) || empty(&label.cell_type) || label.fields.iter().any(|(field, value)| empty(field) || empty(value)) {
                return Err(refused(format!("label `{}` or something said about it is empty", label.name)).into());
            }
            if !seen.insert(&label.name) {
                return Err(refused(format!("label `{}` occurs twice", label.name)).into());
            }
        }
        if labels.len() < 2 {
            let reason = format!("{} label(s), at least two are needed: with one, every cell would get it", labels.len());
            return Err(refused(reason).into());
        }
        Ok(LabelSet { path: path.into(), labels })
    }

    /// The labels, in the order of the file.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// The text of every label, `[labels]`.
    ///
    /// # Errors
    /// `Text` when the class prompt needs something that neither the file nor the ontology says about a label, or when two labels come
    /// to the same text: no model could tell them apart.
    pub fn texts(&self, descriptions: &Descriptions) -> Result<Vec<String>> {
        self.distinct(|label| descriptions.class_text(&label.cell_type, &label.fields))
    }

    /// What every label's text begins with and is told by, `[labels]`: see [`Descriptions::name_text`].
    ///
    /// # Errors
    /// As [`texts`](Self::texts).
    pub fn name_texts(&self, descriptions: &Descriptions) -> Result<Vec<String>> {
        self.distinct(|label| descriptions.name_text(&label.cell_type, &label.fields))
    }

    fn distinct(&self, text: impl Fn(&Label) -> Result<String>) -> Result<Vec<String>> {
        let mut texts: Vec<String> = Vec::with_capacity(self.labels.len());
        for label in &self.labels {
            let text = text(label)?;
            if let Some(other) = texts.iter().position(|other| *other == text) {
                let reason = format!("labels `{}` and `{}` have the same text: {text}", self.labels[other].name, label.name);
                return Err(TextError::Labels { path: self.path.clone(), reason }.into());
            }
            texts.push(text);
        }
        Ok(texts)
    }
}

fn plain(name: &str) -> Label {
    Label { name: name.to_owned(), cell_type: name.to_owned(), fields: BTreeMap::new() }
}

fn label((name, entry): (String, Entry)) -> Label {
    let mut label = plain(&name);
    match entry {
        Entry::Description(text) => {
            label.fields.insert("definition".to_owned(), text);
        }
        Entry::Fields(Pairs(fields)) => label.fields.extend(fields),
    }
    if let Some(cell_type) = label.fields.remove("cell_type") {
        label.cell_type = cell_type;
    }
    label
}
