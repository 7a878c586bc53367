//! The texts of a dataset's cells, drawn anew in every epoch.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::classes::Classes;
use super::descriptions::{CELL_TYPE, Subject};
use super::{Descriptions, Metadata, Passage, Template, TextBatch, TextCollator, TextError, literature};
use crate::batch::SampleKey;
use crate::dataset::CellDataset;
use crate::random::{Purpose, Random};
use crate::{Error, Result};

/// A class of cells: those that the templates describe alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextClass {
    /// `B cell`, or `B cell | stimulated` where columns of `obs` make classes too.
    pub name: String,
    /// The class prompt, filled in.
    pub text: String,
}

/// A text for one cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellText {
    /// The text.
    pub text: String,
    /// The cell's class: an index into [`CellTexts::classes`].
    pub class: u32,
    /// The id of the passage, where the text is one.
    pub source: Option<String>,
    /// What the passage is about.
    key: Option<String>,
}

/// Descriptions for the cells of a dataset.
#[derive(Debug, Clone)]
pub struct CellTexts {
    descriptions: Arc<Descriptions>,
    metadata: Metadata,
    /// Labels of the dataset.
    labels: Vec<String>,
    /// `[cells]`: index into `labels`.
    label_of: Vec<Option<u32>>,
    classes: Vec<TextClass>,
    /// `[cells]`: index into `classes`.
    class_of: Vec<Option<u32>>,
}

impl CellTexts {
    /// Describes the labelled cells of a dataset; `metadata` is of the same files in the same order.
    ///
    /// # Errors
    /// `ColumnLength` when the metadata have another number of cells; `Text` when a template names something outside brackets that a
    /// cell does not have, or when literature is to be used and no cell has any.
    pub fn new(descriptions: Arc<Descriptions>, dataset: &CellDataset, metadata: Metadata) -> Result<CellTexts> {
        if metadata.rows() != dataset.len() {
            let (source_name, got) = ("the dataset".to_owned(), metadata.rows());
            return Err(Error::ColumnLength { source_name, column: "metadata", expected: dataset.len(), got });
        }
        let mut texts = CellTexts {
            descriptions,
            metadata,
            labels: dataset.classes().to_vec(),
            label_of: dataset.labels().to_vec(),
            classes: Vec::new(),
            class_of: Vec::new(),
        };
        texts.check_cells()?;
        texts.find_classes()?;
        Ok(texts)
    }

    /// Every template can be filled in for every labelled cell, and literature that is asked for is about some of them.
    fn check_cells(&self) -> Result<()> {
        let mut with_passages = 0;
        for row in self.rows() {
            for template in &self.descriptions.templates {
                self.render(row, 0, template)?;
            }
            with_passages += usize::from(!self.passages(row)?.is_empty());
        }
        match &self.descriptions.literature {
            Some(literature) if with_passages == 0 && self.descriptions.literature_share > 0.0 => {
                let keys = literature.keys().map(str::to_owned).collect();
                Err(TextError::UnusedLiterature { path: literature.path().into(), keys, fields: self.descriptions.literature_keys.clone() }
                    .into())
            }
            _ => Ok(()),
        }
    }

    fn find_classes(&mut self) -> Result<()> {
        let columns = self.descriptions.class_columns();
        let mut found: BTreeMap<Vec<&str>, Vec<usize>> = BTreeMap::new();
        for row in self.rows() {
            let label = self.label(row)?;
            let name = self.descriptions.term(label).map_or(label, |term| &term.name);
            let values = columns.iter().map(|column| self.metadata.value(column, row).unwrap_or_default());
            found.entry(std::iter::once(name).chain(values).collect()).or_default().push(row);
        }
        let (mut classes, mut class_of) = (Vec::new(), vec![None; self.label_of.len()]);
        for (values, rows) in found {
            let fields = columns.iter().cloned().zip(values[1..].iter().map(|value| value.to_string())).collect();
            let text = self.descriptions.class_text(values[0], &fields)?;
            rows.into_iter().for_each(|row| class_of[row] = Some(classes.len() as u32));
            classes.push(TextClass { name: values.join(" | "), text });
        }
        (self.classes, self.class_of) = (classes, class_of);
        Ok(())
    }

    /// Rows of the labelled cells, ascending: those that have texts.
    pub fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.label_of.len()).filter(|&row| self.label_of[row].is_some())
    }

    /// The classes that occur among the cells, sorted by name.
    pub fn classes(&self) -> &[TextClass] {
        &self.classes
    }

    /// `[cells]`: index into [`classes`](Self::classes); `None` for an unlabelled cell.
    pub fn class_of(&self) -> &[Option<u32>] {
        &self.class_of
    }

    /// Labels that the ontology does not have: their texts lack a definition. Sorted; empty without an ontology.
    pub fn unknown_labels(&self) -> Vec<&str> {
        let Some(ontology) = self.descriptions.ontology() else { return Vec::new() };
        let mut used = vec![false; self.labels.len()];
        self.label_of.iter().flatten().for_each(|&label| used[label as usize] = true);
        let unknown = self.labels.iter().zip(used).filter(|(label, used)| *used && ontology.get(label).is_none());
        let mut unknown: Vec<&str> = unknown.map(|(label, _)| label.as_str()).collect();
        unknown.sort_unstable();
        unknown
    }

    /// The text of a cell: a pure function of the cell, (seed, epoch) in training, and the row.
    ///
    /// In training one template is drawn, one of the type's synonyms, and, with probability `literature_share`, one of its passages
    /// instead; elsewhere the text is that of the first template and the first synonym.
    ///
    /// # Errors
    /// `Row`; `Text` for a cell without a label.
    pub fn draw(&self, row: usize, key: SampleKey) -> Result<CellText> {
        let label = self.label(row)?;
        let class = self.class_of[row].unwrap_or_default();
        let Descriptions { templates, literature_share, .. } = &*self.descriptions;
        if !key.training {
            return Ok(CellText { text: self.render(row, 0, &templates[0])?, class, source: None, key: None });
        }
        let mut random = Random::new(key.seed, Purpose::Describe, key.epoch, row as u64);
        let template = &templates[random.below(templates.len())];
        let synonyms = self.descriptions.term(label).map_or(0, |term| term.synonyms.len());
        let synonym = random.below(synonyms);
        if random.uniform() < *literature_share {
            let passages = self.passages(row)?;
            if let Some((key, passage)) = passages.get(random.below(passages.len())) {
                let (text, source, key) = (passage.text.clone(), Some(passage.source.clone()), Some(key.clone()));
                return Ok(CellText { text, class, source, key });
            }
        }
        Ok(CellText { text: self.render(row, synonym, template)?, class, source: None, key: None })
    }

    /// The batch of these cells' texts, in this order.
    ///
    /// `classes` are those of [`class_of`](Self::class_of), except that cells which a passage in the batch is about become one class.
    ///
    /// # Errors
    /// As [`draw`](Self::draw) and [`TextCollator::collate`].
    pub fn collate(&self, collator: &TextCollator, rows: &[usize], key: SampleKey) -> Result<TextBatch> {
        let drawn = rows.iter().map(|&row| self.draw(row, key)).collect::<Result<Vec<_>>>()?;
        let mut joined = Classes::default();
        let about: HashMap<&str, u32> = drawn.iter().filter_map(|text| Some((text.key.as_deref()?, text.class))).collect();
        if !about.is_empty() {
            for (&row, text) in rows.iter().zip(&drawn) {
                let keys = self.keys(row)?;
                let classes = keys.iter().filter_map(|key| about.get(key.as_str()));
                classes.for_each(|&class| joined.join(class, text.class));
            }
        }
        let texts: Vec<&str> = drawn.iter().map(|text| text.text.as_str()).collect();
        let classes: Vec<u32> = drawn.iter().map(|text| joined.of(text.class)).collect();
        let mut batch = collator.collate(&texts, Some(&classes))?;
        batch.sources = drawn.into_iter().map(|text| text.source).collect();
        Ok(batch)
    }

    /// Under which keys literature about a cell is found.
    fn keys(&self, row: usize) -> Result<Vec<String>> {
        let label = self.label(row)?;
        let value = |field: &String| if field == CELL_TYPE { Some(label) } else { self.metadata.value(field, row) };
        let values = self.descriptions.literature_keys.iter().filter_map(value);
        Ok(values.map(|value| literature::key(value, self.descriptions.ontology())).collect())
    }

    /// The passages about a cell, each with its key.
    fn passages(&self, row: usize) -> Result<Vec<(String, &Passage)>> {
        let Some(literature) = &self.descriptions.literature else { return Ok(Vec::new()) };
        let keys = self.keys(row)?.into_iter();
        Ok(keys.flat_map(|key| literature.about(&key).iter().map(move |passage| (key.clone(), passage))).collect())
    }

    fn label(&self, row: usize) -> Result<&str> {
        let label = self.label_of.get(row).ok_or(Error::Row { row, rows: self.label_of.len() })?;
        let label = label.and_then(|label| self.labels.get(label as usize));
        label.map(String::as_str).ok_or_else(|| TextError::Unlabelled { row }.into())
    }

    fn render(&self, row: usize, synonym: usize, template: &Template) -> Result<String> {
        let label = self.label(row)?;
        let column = |name: &str| self.metadata.value(name, row);
        let subject = Subject { cell_type: label, term: self.descriptions.term(label), definition: None, column: &column, synonym };
        subject.render(template).map_err(|field| {
            let (template, field, subject) = (template.source().to_owned(), field.to_owned(), format!("cell {row} (`{label}`)"));
            TextError::MissingField { template, field, subject }.into()
        })
    }
}
