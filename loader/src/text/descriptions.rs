//! What is said about a cell of a type: templates, class prompts, and which parts of a text make a class.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Literature, Metadata, Ontology, Template, Term, TextError};
use crate::h5ad::AnnData;
use crate::{Error, Result};

/// The authors' form: the type's name and, where the ontology has the type, its definition.
///
/// # Source
/// MODEL.md §5.2; scMMGPT `data_utils.py`, lines 39-52 and 104-113.
pub const AUTHORS_TEMPLATE: &str = "cell type: {cell_type}.[ {definition}]";
/// The authors' prompt of a class in annotation, for `class_prompt`.
///
/// # Source
/// MODEL.md §5.2; scMMGPT `retrieval_dataset.py`, lines 243-276.
pub const AUTHORS_CLASS_PROMPT: &str = "This cell belongs to {cell_type}[: {definition}]";

/// Sentences of our own for `template_pool`: more ways to say the same, with whatever `obs` knows.
pub const TEMPLATE_POOL: [&str; 8] = [
    AUTHORS_TEMPLATE,
    "A single cell of the type {cell_type}[, also known as {synonym}].[ {definition}]",
    "{cell_type}[ from {tissue}][, {condition}].[ {definition}]",
    "Transcriptome of one {cell_type}[ taken from {tissue}][ of a {sex} donor][ at the {development_stage}].[ {definition}]",
    "[{definition} ]This describes the {cell_type}[, which is also called {synonyms}].",
    "[Tissue: {tissue}. ][Sex: {sex}. ][Development stage: {development_stage}. ][Condition: {condition}. ]Cell type: {cell_type}.",
    "Among the cells[ of the {tissue}], this one was identified as {cell_type}[ ({synonym})].[ {definition}]",
    "Cell identity: {cell_type}[; synonyms: {synonyms}][; condition: {condition}].",
];

/// Fields that are not columns of `obs`.
pub(super) const CELL_TYPE: &str = "cell_type";
const DEFINITION: &str = "definition";
const SYNONYM: &str = "synonym";
const SYNONYMS: &str = "synonyms";
const OWN_FIELDS: [&str; 4] = [CELL_TYPE, DEFINITION, SYNONYM, SYNONYMS];

/// How cells become texts.
///
/// Fields of a template: `{cell_type}`, the type's name; `{definition}`; `{synonym}`, one of them, and `{synonyms}`, all; any other is
/// a column of `obs`. A part in brackets is left out for cells of which one of its fields is unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DescriptionConfig {
    /// One is drawn for each cell and epoch in training; elsewhere it is the first.
    pub templates: Vec<String>,
    /// Draw from [`TEMPLATE_POOL`] too.
    pub template_pool: bool,
    /// What describes a class of cells, with the fields that make a class. None: the first template, so that a model reads what it was
    /// trained on; [`AUTHORS_CLASS_PROMPT`] is the authors'.
    pub class_prompt: Option<String>,
    /// Training only: probability that a passage of literature takes the description's place, for a cell that has passages.
    pub literature_share: f64,
    /// By which fields of a cell its passages are found: `cell_type`, or columns of `obs` with (say) dataset ids.
    pub literature_keys: Vec<String>,
}

impl Default for DescriptionConfig {
    fn default() -> DescriptionConfig {
        DescriptionConfig {
            templates: vec![AUTHORS_TEMPLATE.to_owned()],
            template_pool: false,
            class_prompt: None,
            literature_share: 0.0,
            literature_keys: vec![CELL_TYPE.to_owned()],
        }
    }
}

/// Templates, ontology and literature together: whatever turns the knowledge of a cell into a text.
#[derive(Debug, Clone)]
pub struct Descriptions {
    pub(super) templates: Vec<Template>,
    class_prompt: Template,
    class_columns: Vec<String>,
    ontology: Option<Ontology>,
    pub(super) literature: Option<Literature>,
    pub(super) literature_share: f64,
    pub(super) literature_keys: Vec<String>,
    /// Columns of `obs`: whether a file must have them, and whether any must.
    columns: BTreeMap<String, Need>,
}

/// How much a column of `obs` is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// Named by the pool alone: used where it exists.
    Welcome,
    /// Named inside brackets: at least one file has it, else the name is wrong.
    Somewhere,
    /// Named outside brackets.
    Everywhere,
}

impl Descriptions {
    /// Reads the templates.
    ///
    /// # Errors
    /// `Text` for a template that cannot be read, or a class prompt that needs what does not make a class; `Setting` for
    /// `literature_share` without literature or outside 0..1.
    pub fn new(config: &DescriptionConfig, ontology: Option<Ontology>, literature: Option<Literature>) -> Result<Descriptions> {
        let share = config.literature_share;
        if !(0.0..=1.0).contains(&share) || (share > 0.0 && literature.is_none()) {
            let expected = "0 to 1, and 0 without a file of passages";
            return Err(Error::Setting { setting: "literature_share", got: share.to_string(), expected });
        }
        let configured = config.templates.iter().map(|text| Template::parse(text)).collect::<Result<Vec<_>>>()?;
        let first = configured.first().ok_or(Error::Setting { setting: "templates", got: "none".to_owned(), expected: "at least one" })?;
        let class_prompt = config.class_prompt.as_deref().map_or_else(|| Ok(first.clone()), Template::parse)?;

        let mut columns: BTreeMap<String, Need> = BTreeMap::new();
        let mut need = |names: BTreeSet<&str>, need: Need| {
            for name in names.into_iter().filter(|name| !OWN_FIELDS.contains(name)) {
                let entry = columns.entry(name.to_owned()).or_insert(need);
                *entry = need.max(*entry);
            }
        };
        for template in &configured {
            need(template.fields(false), Need::Everywhere);
            need(template.fields(true), Need::Somewhere);
        }
        if share > 0.0 {
            need(config.literature_keys.iter().map(String::as_str).collect(), Need::Somewhere);
        }
        let mut templates = configured;
        if config.template_pool {
            for text in TEMPLATE_POOL.iter().filter(|text| !config.templates.iter().any(|own| own == *text)) {
                let template = Template::parse(text)?;
                need(template.fields(true), Need::Welcome);
                templates.push(template);
            }
        }
        let every = |name: &&String| templates.iter().all(|template| template.fields(false).contains(name.as_str()));
        let class_columns: Vec<String> = columns.keys().filter(every).cloned().collect();
        let known = |name: &&str| OWN_FIELDS.contains(name) || class_columns.iter().any(|column| column == name);
        if let Some(field) = class_prompt.fields(false).into_iter().find(|field| !known(field)) {
            let (template, field, columns) = (class_prompt.source().to_owned(), field.to_owned(), class_columns.clone());
            return Err(TextError::ClassPrompt { template, field, columns }.into());
        }
        let (literature_share, literature_keys) = (share, config.literature_keys.clone());
        Ok(Descriptions { templates, class_prompt, class_columns, ontology, literature, literature_share, literature_keys, columns })
    }

    /// The ontology.
    pub fn ontology(&self) -> Option<&Ontology> {
        self.ontology.as_ref()
    }

    /// Columns of `obs` that make a class together with the cell type: those that **every** template names outside brackets. Cells of
    /// one type that differ in such a column have different texts at all times, so they may be each other's negatives.
    pub fn class_columns(&self) -> &[String] {
        &self.class_columns
    }

    /// Columns of `obs` that the text of a class may name; those outside brackets, for which it is true, it must have.
    pub fn class_text_columns(&self) -> BTreeMap<&str, bool> {
        let of = |optional: bool| self.class_prompt.fields(optional).into_iter().map(move |name| (name, !optional));
        of(true).chain(of(false)).filter(|(name, _)| !OWN_FIELDS.contains(name)).collect()
    }

    /// Reads the columns that the templates name from the files of a dataset, in the order in which the dataset was built.
    ///
    /// # Errors
    /// Those of the files; `Text` for a column that no file has, or one that is named outside brackets and not in every file: both
    /// list the columns that exist.
    pub fn metadata<'a>(&self, files: impl IntoIterator<Item = &'a AnnData>) -> Result<Metadata> {
        Metadata::read(files, &self.columns)
    }

    /// The term of a label, if the ontology has it.
    pub fn term(&self, label: &str) -> Option<&Term> {
        self.ontology.as_ref()?.get(label)
    }

    /// The text of a class: its cell type, and whatever else is known of it (`definition`, which takes the place of the ontology's, or
    /// a column of [`class_columns`](Self::class_columns)).
    ///
    /// # Errors
    /// `Text` when the class prompt names something outside brackets that is unknown.
    pub fn class_text(&self, cell_type: &str, fields: &BTreeMap<String, String>) -> Result<String> {
        let column = |name: &str| fields.get(name).map(String::as_str);
        let subject = Subject { cell_type, term: self.term(cell_type), definition: column(DEFINITION), column: &column, synonym: 0 };
        subject.render(&self.class_prompt).map_err(|field| {
            let (template, field, subject) = (self.class_prompt.source().to_owned(), field.to_owned(), format!("class `{cell_type}`"));
            TextError::MissingField { template, field, subject }.into()
        })
    }

    /// The beginning by which the text of a class differs from others: the first template with the name of the cell type and `fields`,
    /// without what an ontology or a definition says besides. Where the template needs more than that, it is the whole text of the class.
    ///
    /// # Errors
    /// As [`class_text`](Self::class_text).
    pub fn name_text(&self, cell_type: &str, fields: &BTreeMap<String, String>) -> Result<String> {
        let column = |name: &str| fields.get(name).filter(|_| name != DEFINITION).map(String::as_str);
        let cell_type = self.term(cell_type).map_or(cell_type, |term| &term.name);
        let subject = Subject { cell_type, term: None, definition: None, column: &column, synonym: 0 };
        subject.render(&self.templates[0]).or_else(|_| self.class_text(cell_type, fields))
    }
}

/// Whatever is known of the cells that a text is about.
pub(super) struct Subject<'a> {
    pub(super) cell_type: &'a str,
    pub(super) term: Option<&'a Term>,
    /// Instead of the term's.
    pub(super) definition: Option<&'a str>,
    pub(super) column: &'a dyn Fn(&str) -> Option<&'a str>,
    /// Which synonym to use.
    pub(super) synonym: usize,
}

impl<'a> Subject<'a> {
    /// The text; the name of a missing field is the error.
    pub(super) fn render<'t>(&self, template: &'t Template) -> std::result::Result<String, &'t str> {
        template.render(&|field| self.value(field))
    }

    fn value(&self, field: &str) -> Option<Cow<'a, str>> {
        let synonyms = || self.term.map(|term| term.synonyms.as_slice()).filter(|synonyms| !synonyms.is_empty());
        match field {
            CELL_TYPE => Some(self.term.map_or(self.cell_type, |term| &term.name).into()),
            DEFINITION => self.definition.or_else(|| self.term?.definition.as_deref()).map(Cow::from),
            SYNONYM => synonyms().and_then(|synonyms| synonyms.get(self.synonym)).map(Cow::from),
            SYNONYMS => synonyms().map(|synonyms| list(synonyms).into()),
            column => (self.column)(column).map(Cow::from),
        }
    }
}

/// `a, b and c`.
fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
