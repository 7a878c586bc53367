//! What can be wrong with tokenizers, ontologies, templates, labels and passages.

use std::path::PathBuf;

/// What can go wrong with text; part of the loader's [`Error`](crate::Error).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file or folder named as a tokenizer is something else.
    #[error(
        "{} is not a WordPiece tokenizer: {reason}; give BERT's vocab.txt, a tokenizer.json, or a folder with one of them",
        path.display()
    )]
    NotTokenizer {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A vocabulary without tokens that every text needs.
    #[error("{} lacks the special tokens {}; give the vocabulary of a BERT model", path.display(), tokens.join(", "))]
    MissingSpecial {
        /// The file.
        path: PathBuf,
        /// The tokens.
        tokens: Vec<&'static str>,
    },
    /// A token stands on two lines of a vocabulary.
    #[error("{}: token `{token}` stands on lines {first} and {second}; each token stands once", path.display())]
    DuplicateToken {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// Line, from 1.
        first: usize,
        /// Line, from 1.
        second: usize,
    },
    /// The ids of a tokenizer are not 0, 1, 2, ...
    #[error("{}: token `{token}` has id {id} where {expected} comes next; ids must be 0, 1, 2, .. without gap or repetition", path.display())]
    TokenIds {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// The next free id.
        expected: u32,
    },
    /// The tokenizer refused a text.
    #[error("cannot tokenize a text: {reason}")]
    Encode {
        /// The tokenizer's reason.
        reason: String,
    },
    /// A text without any token.
    #[error("a text is empty: it has no character that becomes a token; leave it out or write one")]
    Empty,
    /// Texts and their classes differ in number.
    #[error("{texts} texts, but {classes} classes: give one class for each text")]
    ClassCount {
        /// Texts.
        texts: usize,
        /// Classes.
        classes: usize,
    },
}
