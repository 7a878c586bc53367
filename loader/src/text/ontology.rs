//! Cell types with their names, synonyms and definitions.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::{TextError, ontology_file};
use crate::Result;

/// One cell type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// `CL:0000236`.
    pub id: String,
    /// The preferred name.
    pub name: String,
    /// Other names of the same type.
    pub synonyms: Vec<String>,
    /// What the type is, if the file says so.
    pub definition: Option<String>,
    /// The types that it is a kind of: ids where the file has the term, else as the file writes them.
    pub parents: Vec<String>,
}

/// Terms, found by id, name or synonym.
#[derive(Debug, Clone)]
pub struct Ontology {
    path: PathBuf,
    terms: Vec<Term>,
    by_id: HashMap<String, usize>,
    by_name: HashMap<String, usize>,
    /// Lower-case names, and lower-case synonyms that are nobody's name; `None` where several terms share one.
    folded: HashMap<String, Option<usize>>,
}

impl Ontology {
    /// Reads a JSON file of one of three forms:
    /// - `{"cell_types": {id: {"name", "synonyms", "definition", "parents"}}}`, other entries being ignored;
    /// - the same without the outer object (`def` for `definition` is understood, as the authors' `obo.json` has it);
    /// - an OBO graph, `{"graphs": [{"nodes": [..], "edges": [..]}]}`, as Cell Ontology releases come: obsolete terms, properties and
    ///   nodes without a label are left out, and synonyms are the exact ones.
    ///
    /// # Errors
    /// `Io`; `Json`; `Text` when there are no terms, or one has no name or occurs twice.
    pub fn open(path: impl AsRef<Path>) -> Result<Ontology> {
        let path = path.as_ref();
        Ontology::new(path, ontology_file::read(path)?)
    }

    fn new(path: &Path, mut terms: Vec<Term>) -> Result<Ontology> {
        let refused = |reason| TextError::NotOntology { path: path.into(), reason };
        if terms.is_empty() {
            return Err(refused("it holds no term".to_owned()).into());
        }
        let (mut by_id, mut by_name) = (HashMap::new(), HashMap::new());
        for (place, term) in terms.iter().enumerate() {
            if by_id.insert(term.id.clone(), place).is_some() {
                return Err(refused(format!("term `{}` occurs twice", term.id)).into());
            }
            by_name.entry(term.name.clone()).or_insert(place);
        }
        let mut folded = HashMap::new();
        let mut insert = |text: &str, place: usize| {
            let shared = |found: &mut Option<usize>| *found = found.filter(|&first| first == place);
            folded.entry(text.to_lowercase()).and_modify(shared).or_insert(Some(place));
        };
        for (place, term) in terms.iter().enumerate() {
            insert(&term.name, place);
        }
        let names: BTreeSet<String> = terms.iter().map(|term| term.name.to_lowercase()).collect();
        for (place, term) in terms.iter().enumerate() {
            let synonyms = term.synonyms.iter().filter(|synonym| !names.contains(&synonym.to_lowercase()));
            synonyms.for_each(|synonym| insert(synonym, place));
        }
        let ids: Vec<String> = terms.iter().map(|term| term.id.clone()).collect();
        for parent in terms.iter_mut().flat_map(|term| &mut term.parents) {
            if let Some(&place) = by_name.get(parent) {
                *parent = ids[place].clone();
            }
        }
        Ok(Ontology { path: path.into(), terms, by_id, by_name, folded })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All terms, in the order of the file.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The term of this id, name, lower-case name or synonym, tried in this order. What several terms share without being one's exact
    /// name finds none.
    pub fn get(&self, label: &str) -> Option<&Term> {
        let label = label.trim();
        let exact = self.by_id.get(label).or_else(|| self.by_name.get(label)).copied();
        let place = exact.or_else(|| self.folded.get(&label.to_lowercase()).copied().flatten())?;
        self.terms.get(place)
    }

    /// As [`get`](Self::get), but a label that finds nothing is an error.
    ///
    /// # Errors
    /// `Text`, naming the terms of the most similar names.
    pub fn find(&self, label: &str) -> Result<&Term> {
        let unknown = || TextError::UnknownTerm { label: label.to_owned(), path: self.path.clone(), similar: self.similar(label) };
        self.get(label).ok_or_else(|| unknown().into())
    }

    /// Names that share most words with a label, at most five.
    fn similar(&self, label: &str) -> Vec<String> {
        let words = |text: &str| -> BTreeSet<String> {
            let words = text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
            words.map(|word| word.to_lowercase().trim_end_matches('s').to_owned()).collect()
        };
        // Every name ends in "cell": that word tells nothing.
        let wanted: BTreeSet<String> = words(label).into_iter().filter(|word| word != "cell").collect();
        let shared = |term: &Term| words(&term.name).intersection(&wanted).count();
        let mut candidates: Vec<_> = self.terms.iter().map(|term| (shared(term), term)).filter(|(shared, _)| *shared > 0).collect();
        candidates.sort_by_key(|(shared, term)| (Reverse(*shared), term.name.len(), term.name.clone()));
        candidates.into_iter().take(5).map(|(_, term)| term.name.clone()).collect()
    }
}
