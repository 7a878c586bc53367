//! Texts about cells: ontology terms, descriptions, literature, labels; and batches of them.
//!
//! [`Descriptions`] knows what may be said, [`CellTexts`] says it of the cells of a dataset, [`LabelSet`] of labels that somebody gives.

mod batch;
mod cell_texts;
mod classes;
mod descriptions;
mod error;
mod labels;
mod literature;
mod metadata;
mod ontology;
mod ontology_file;
mod template;

pub use batch::{PAD_TO_MULTIPLE, TextBatch, TextCollator};
pub use cell_texts::{CellText, CellTexts, TextClass};
pub use descriptions::{AUTHORS_CLASS_PROMPT, AUTHORS_TEMPLATE, DescriptionConfig, Descriptions, TEMPLATE_POOL};
pub use error::TextError;
pub use labels::{Label, LabelSet};
pub use literature::{Literature, Passage};
pub use metadata::Metadata;
pub use ontology::{Ontology, Term};
pub use template::Template;
