//! The gene vocabulary: symbol <-> index of the embedding table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::Path;

use crate::atomic::AtomicFile;
use crate::gene_map::{current_name, fold};
use crate::json_pairs::Pairs;
use crate::{Error, Result};

/// Token that fills a sequence up.
pub const PAD: &str = "<pad>";
/// Token in front of every cell; its output is the cell embedding.
pub const CLS: &str = "<cls>";
/// Token that ends a cell (unused by the encoder, part of the released vocabularies).
pub const EOC: &str = "<eoc>";

/// Gene symbols and the special tokens, indexed from 0 without gaps. Unknown genes have no index
/// ([`id`](Self::id)) or, where one is needed, that of `<pad>` ([`id_or_pad`](Self::id_or_pad)).
///
/// # Source
/// scGPT `scgpt/tokenizer/gene_tokenizer.py`, `GeneVocab`; specials as in its `examples/pretrain.py`.
#[derive(Debug, Clone)]
pub struct GeneVocab {
    tokens: Vec<String>,
    index: HashMap<String, u32>,
    /// Name without case and Ensembl version; `None` where several genes share it.
    folded: HashMap<String, Option<u32>>,
    pad: u32,
    cls: u32,
    eoc: u32,
}

impl PartialEq for GeneVocab {
    fn eq(&self, other: &GeneVocab) -> bool {
        self.tokens == other.tokens
    }
}

impl GeneVocab {
    /// Reads a JSON object symbol -> index (scGPT's `vocab.json`). Special tokens that are absent are
    /// appended in the order `<pad>`, `<cls>`, `<eoc>`.
    ///
    /// # Errors
    /// `Io`, `Json`, `VocabDuplicate`, `VocabGap`.
    pub fn from_file(path: impl AsRef<Path>) -> Result<GeneVocab> {
        let path = path.as_ref();
        let text = std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })?;
        let pairs: Pairs<u64> =
            serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.into(), what: "gene vocabulary", source })?;
        GeneVocab::from_pairs(&path.display().to_string(), pairs.0)
    }

    /// Makes a vocabulary from the genes of one or more files: renamed genes under their approved symbol,
    /// Ensembl ids without version, each once, sorted; then the special tokens.
    ///
    /// # Errors
    /// `VocabGap` can not occur; `Setting` when there is no gene, or more than `u32` can count.
    pub fn from_genes<S: AsRef<str>>(genes: impl IntoIterator<Item = S>) -> Result<GeneVocab> {
        let mut sorted = BTreeSet::new();
        for gene in genes {
            let gene = gene.as_ref().trim();
            if !gene.is_empty() && !is_special(gene) {
                sorted.insert(current_name(gene).to_owned());
            }
        }
        if sorted.is_empty() {
            let expected = "at least one gene name";
            return Err(Error::Setting { setting: "genes", got: "none".to_owned(), expected });
        }
        GeneVocab::new(sorted.into_iter().collect())
    }

    /// Makes a vocabulary from (token, index) pairs in any order; `origin` names them in errors.
    ///
    /// # Errors
    /// `VocabDuplicate`, `VocabGap`.
    pub fn from_pairs(origin: &str, pairs: impl IntoIterator<Item = (String, u64)>) -> Result<GeneVocab> {
        let origin = origin.to_owned();
        let (mut by_index, mut by_name) = (BTreeMap::new(), HashMap::new());
        for (name, index) in pairs {
            if let Some(first) = by_index.insert(index, name.clone()) {
                return Err(Error::VocabDuplicate { origin, first, second: name, index });
            }
            if by_name.insert(name.clone(), index).is_some() {
                return Err(Error::VocabDuplicate { origin, first: name.clone(), second: name, index });
            }
        }
        let len = by_index.len();
        if let Some(missing) = (0..len as u64).find(|index| !by_index.contains_key(index)) {
            return Err(Error::VocabGap { origin, len, missing });
        }
        GeneVocab::new(by_index.into_values().collect())
    }

    /// `tokens` are distinct; appends the specials and builds the look-up tables.
    fn new(mut tokens: Vec<String>) -> Result<GeneVocab> {
        for special in [PAD, CLS, EOC] {
            if !tokens.iter().any(|token| token == special) {
                tokens.push(special.to_owned());
            }
        }
        if u32::try_from(tokens.len()).is_err() {
            let (got, expected) = (tokens.len().to_string(), "at most 4294967295 entries");
            return Err(Error::Setting { setting: "vocabulary size", got, expected });
        }
        let ids = || tokens.iter().zip(0u32..);
        let index: HashMap<_, _> = ids().map(|(token, id)| (token.clone(), id)).collect();
        let mut folded = HashMap::new();
        for (token, id) in ids().filter(|(token, _)| !is_special(token)) {
            folded.entry(fold(token)).and_modify(|shared| *shared = None).or_insert(Some(id));
        }
        let special = |name| index.get(name).copied().unwrap_or_default();
        let (pad, cls, eoc) = (special(PAD), special(CLS), special(EOC));
        Ok(GeneVocab { tokens, index, folded, pad, cls, eoc })
    }

    /// Writes the JSON object symbol -> index, in order of the indices, atomically.
    ///
    /// # Errors
    /// `Io`.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let object: serde_json::Map<_, _> = self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
        let mut file = AtomicFile::create(path)?;
        writeln!(file, "{:#}", serde_json::Value::Object(object)).map_err(|source| Error::Io {
            action: "write",
            path: path.into(),
            source,
        })?;
        file.commit()
    }

    /// The index of exactly this token.
    pub fn id(&self, symbol: &str) -> Option<u32> {
        self.index.get(symbol).copied()
    }

    /// The index of exactly this token, or that of `<pad>`: the default index of scGPT.
    pub fn id_or_pad(&self, symbol: &str) -> u32 {
        self.id(symbol).unwrap_or(self.pad)
    }

    /// The index of a gene by its name without case and version, if only one gene has it.
    pub(crate) fn folded_id(&self, folded: &str) -> Option<u32> {
        self.folded.get(folded).copied().flatten()
    }

    /// The token of an index.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }

    /// All tokens in order of their indices, specials included.
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }

    /// Number of tokens, specials included: the rows of the embedding table.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Never: a vocabulary has its special tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Index of `<pad>`.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Index of `<cls>`.
    pub fn cls(&self) -> u32 {
        self.cls
    }

    /// Index of `<eoc>`.
    pub fn eoc(&self) -> u32 {
        self.eoc
    }
}

/// Whether a name is that of a special token, so never that of a gene.
pub(crate) fn is_special(name: &str) -> bool {
    [PAD, CLS, EOC].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_keeps_every_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.json");
        let vocab = GeneVocab::from_genes(["CD3E", "A1BG", "CD3E", "IGJ", "ENSG00000000003.14", "<pad>"]).unwrap();
        assert_eq!(vocab.tokens(), ["A1BG", "CD3E", "ENSG00000000003", "JCHAIN", "<pad>", "<cls>", "<eoc>"]);
        vocab.save(&path).unwrap();
        assert_eq!(GeneVocab::from_file(&path).unwrap(), vocab);
        assert_eq!((vocab.pad(), vocab.cls(), vocab.eoc(), vocab.len()), (4, 5, 6, 7));
        assert_eq!((vocab.id("CD3E"), vocab.id("nope"), vocab.id_or_pad("nope")), (Some(1), None, 4));
        assert_eq!((vocab.token(3), vocab.token(7)), (Some("JCHAIN"), None));
    }

    #[test]
    fn special_tokens_in_the_file_keep_their_place() {
        let pairs = [("<cls>", 0), ("B", 2), ("A", 1)].map(|(name, id)| (name.to_owned(), id));
        let vocab = GeneVocab::from_pairs("x", pairs).unwrap();
        assert_eq!(vocab.tokens(), ["<cls>", "A", "B", "<pad>", "<eoc>"]);
        assert_eq!(vocab.cls(), 0);
    }

    #[test]
    fn malformed_files_are_named_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.json");
        let error = |text: &str| {
            std::fs::write(&path, text).unwrap();
            GeneVocab::from_file(&path).unwrap_err()
        };
        assert!(matches!(error(r#"{"A":0,"B":2}"#), Error::VocabGap { missing: 1, .. }));
        assert!(matches!(error(r#"{"A":1,"B":2}"#), Error::VocabGap { missing: 0, .. }));
        assert!(matches!(error(r#"{"A":0,"B":0}"#), Error::VocabDuplicate { index: 0, .. }));
        assert!(matches!(error(r#"{"A":0,"A":1}"#), Error::VocabDuplicate { .. }));
        for text in ["", "[]", r#"{"A":-1}"#, r#"{"A":"x"}"#, r#"{"A":0.5}"#, r#"{"A":0"#] {
            assert!(matches!(error(text), Error::Json { .. }), "{text}");
        }
        assert!(matches!(GeneVocab::from_file(folder.path().join("no")), Err(Error::Io { .. })));
        assert!(GeneVocab::from_genes([""]).is_err());
    }
}
