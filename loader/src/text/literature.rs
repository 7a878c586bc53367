//! Passages about cell types or datasets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Ontology, TextError};
use crate::{Error, Result};

/// A passage of literature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// The text.
    pub text: String,
    /// Where it was taken from; goes into batches and logs.
    pub source: String,
}

/// Passages by what they are about.
///
/// # Source
/// MODEL.md §11c: our addition.
#[derive(Debug, Clone)]
pub struct Literature {
    path: PathBuf,
    passages: BTreeMap<String, Vec<Passage>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    text: String,
    source: String,
}

impl Literature {
    /// Reads JSON Lines, `{"key": .., "text": .., "source": ..}`. A key is a cell type by any of its names, if `ontology` is given, or
    /// whatever stands in a column of `obs` (a dataset id). Empty lines are skipped.
    ///
    /// # Errors
    /// `Io`; `Text` for a line that is no such object or has an empty entry, or a file without passages.
    pub fn open(path: impl AsRef<Path>, ontology: Option<&Ontology>) -> Result<Literature> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })?;
        let mut passages: BTreeMap<String, Vec<Passage>> = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let refused = |reason| TextError::Passage { path: path.into(), line: number, reason };
            let Line { key, text, source } = serde_json::from_str(line).map_err(|error| refused(error.to_string()))?;
            if let Some((name, _)) = [("key", &key), ("text", &text), ("source", &source)].iter().find(|(_, value)| value.trim().is_empty())
            {
                return Err(refused(format!("`{name}` is empty")).into());
            }
            passages.entry(self::key(&key, ontology)).or_default().push(Passage { text, source });
        }
        if passages.is_empty() {
            return Err(TextError::Passage { path: path.into(), line: 0, reason: "the file holds no passage".to_owned() }.into());
        }
        Ok(Literature { path: path.into(), passages })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What passages there are about, sorted: term ids, and other keys in lower case.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.passages.keys().map(String::as_str)
    }

    /// The passages under one of [`keys`](Self::keys).
    pub fn about(&self, key: &str) -> &[Passage] {
        self.passages.get(key).map_or(&[], Vec::as_slice)
    }
}

/// One spelling for all names of a thing.
pub(super) fn key(name: &str, ontology: Option<&Ontology>) -> String {
    match ontology.and_then(|ontology| ontology.get(name)) {
        Some(term) => term.id.clone(),
        None => name.trim().to_lowercase(),
    }
}
