//! What can be wrong with tokenizers, ontologies, templates, labels and passages.

use std::path::PathBuf;

use crate::error::name_list;

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

    /// A file named as an ontology is something else.
    #[error(
        "{} is not an ontology: {reason}; expected {{\"cell_types\": {{id: {{\"name\", \"definition\", ..}}}}}}, the inner object alone, or an OBO graph",
        path.display()
    )]
    NotOntology {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A cell type that the ontology does not have.
    #[error("no cell type `{label}` in {}; similar names: {}", path.display(), name_list(similar))]
    UnknownTerm {
        /// What was looked for.
        label: String,
        /// The ontology.
        path: PathBuf,
        /// Names that share words with it.
        similar: Vec<String>,
    },
    /// A template that cannot be read.
    #[error("template `{template}`, character {position}: {problem}; fields stand in {{ }}, parts that may be left out in [ ]")]
    Template {
        /// The template.
        template: String,
        /// Where, from 0.
        position: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// A template names a column that does not exist.
    #[error(
        "a template names `{field}`, which is no column of obs in {}; available: cell_type, definition, synonym, synonyms, and the columns {}",
        path.as_ref().map_or("any file".into(), |path| path.display().to_string()), name_list(available)
    )]
    UnknownField {
        /// The name.
        field: String,
        /// The file that lacks it; `None`: all of them.
        path: Option<PathBuf>,
        /// Columns that exist.
        available: Vec<String>,
    },
    /// A template needs what is not known.
    #[error(
        "template `{template}` needs `{field}`, which is not known of {subject}; write it in brackets, `[ {{{field}}}]`, to leave it out then"
    )]
    MissingField {
        /// The template.
        template: String,
        /// The field.
        field: String,
        /// Of what it is not known.
        subject: String,
    },
    /// A class prompt needs what differs between the cells of a class.
    #[error(
        "class prompt `{template}` needs `{field}`, which does not make a class; it may name the cell type{}: write others in brackets, or in every template",
        columns.iter().map(|column| format!(", {column}")).collect::<String>()
    )]
    ClassPrompt {
        /// The template.
        template: String,
        /// The field.
        field: String,
        /// Columns that make a class.
        columns: Vec<String>,
    },
    /// A line of a literature file that is no passage.
    #[error("{}, line {line}: {reason}; each line is {{\"key\": .., \"text\": .., \"source\": ..}}", path.display())]
    Passage {
        /// The file.
        path: PathBuf,
        /// Line, from 1; 0: the whole file.
        line: usize,
        /// Why.
        reason: String,
    },
    /// Literature is to be used, but none of it is about any cell.
    #[error(
        "no passage of {} is about any cell, by {}; its keys are {}: correct them, name the column with such values in literature_keys, or set literature_share = 0",
        path.display(), name_list(fields), name_list(keys)
    )]
    UnusedLiterature {
        /// The file.
        path: PathBuf,
        /// Keys of its passages.
        keys: Vec<String>,
        /// Fields of the cells that were looked up.
        fields: Vec<String>,
    },
    /// Labels that cannot be told apart or are none.
    #[error("labels of {}: {reason}", path.display())]
    Labels {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A cell without a label has no text.
    #[error("cell {row} has no label and so no text; leave it out")]
    Unlabelled {
        /// Row of the dataset.
        row: usize,
    },
}
