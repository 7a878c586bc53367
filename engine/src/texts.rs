//! What reads and writes texts beside a joint model: tokenizer, ontology, templates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use scmmgpt_loader::AtomicFile;
use scmmgpt_loader::text::{Descriptions, Label, LabelSet, Literature, Ontology, TextBatch, TextCollator};
use scmmgpt_loader::tokenizer::TextTokenizer;

use crate::config::TextConfig;
use crate::{Error, Result};

const TOKENIZER: &str = "tokenizer.json";
const ONTOLOGY: &str = "ontology.json";

/// The text side of a run or of a model folder.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    /// Labels and cells to words.
    pub(crate) descriptions: Arc<Descriptions>,
    /// Words to batches.
    pub(crate) collator: TextCollator,
}

impl Texts {
    /// Opens what a configuration names; relative paths start at `base`.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn open(config: &TextConfig, base: &Path) -> Result<Texts> {
        let ontology = config.ontology.as_ref().map(|path| Ontology::open(base.join(path))).transpose()?;
        let literature = config.literature.as_ref().map(|path| Literature::open(base.join(path), ontology.as_ref())).transpose()?;
        let descriptions = Arc::new(Descriptions::new(&config.descriptions, ontology, literature)?);
        let tokenizer = Arc::new(TextTokenizer::open(base.join(&config.tokenizer))?);
        Ok(Texts { descriptions, collator: TextCollator::new(tokenizer, config.max_length)? })
    }

    /// Copies tokenizer and ontology into a model folder.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        self.collator.tokenizer().save(folder.join(TOKENIZER))?;
        match self.descriptions.ontology() {
            Some(ontology) => copy(ontology.path(), &folder.join(ONTOLOGY)),
            None => Ok(()),
        }
    }

    /// A configuration as it reads in a model folder: without what only training needs.
    pub(crate) fn in_folder(config: &TextConfig) -> TextConfig {
        let mut config = TextConfig { tokenizer: PathBuf::from(TOKENIZER), literature: None, init: None, ..config.clone() };
        config.ontology = config.ontology.map(|_| PathBuf::from(ONTOLOGY));
        config.descriptions.literature_share = 0.0;
        config
    }

    /// The labels of a file, or every term of the ontology.
    ///
    /// # Errors
    /// Those of the file; `Incapable` without an ontology.
    pub(crate) fn labels(&self, source: &LabelSource) -> Result<NamedTexts> {
        let set = self.label_set(source)?;
        let names = set.labels().iter().map(|label| label.name.clone()).collect();
        let described = |label: &&Label| label.fields.contains_key("definition") || self.descriptions.term(&label.cell_type).is_some();
        let by_name_alone = set.labels().iter().filter(|label| !described(label)).map(|label| label.name.clone()).collect();
        Ok(NamedTexts { names, texts: set.texts(&self.descriptions)?, by_name_alone })
    }

    /// The labels of a file, or every term of the ontology.
    ///
    /// # Errors
    /// As [`Texts::labels`].
    pub(crate) fn label_set(&self, source: &LabelSource) -> Result<LabelSet> {
        match source {
            LabelSource::File(path) => Ok(LabelSet::open(path)?),
            LabelSource::Ontology => {
                let reason = "it was trained without text.ontology; give a file of labels".into();
                let ontology = self.descriptions.ontology().ok_or(Error::Incapable { task: "label by ontology", reason })?;
                let names: Vec<&str> = ontology.terms().iter().map(|term| term.name.as_str()).collect();
                Ok(LabelSet::from_types(ontology.path(), &names)?)
            }
        }
    }

    /// What a class of training is told by, from its name (`B cell`, or `B cell | stimulated` where columns make classes too).
    ///
    /// # Errors
    /// Those of the template.
    pub(crate) fn class_name_text(&self, class: &str) -> Result<String> {
        let mut values = class.split(" | ");
        let cell_type = values.next().unwrap_or_default();
        let fields = self.descriptions.class_columns().iter().cloned().zip(values.map(String::from)).collect();
        Ok(self.descriptions.name_text(cell_type, &fields)?)
    }

    /// Texts as one batch.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub(crate) fn batch(&self, texts: &[String]) -> Result<TextBatch> {
        Ok(self.collator.collate(texts, None)?)
    }
}

/// Where labels for annotation by text come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelSource {
    /// A file: a label a line, or JSON with descriptions.
    File(PathBuf),
    /// All terms of the ontology that the model was trained with.
    Ontology,
}

/// Labels and what the model reads for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NamedTexts {
    /// `[labels]`.
    pub(crate) names: Vec<String>,
    /// `[labels]`.
    pub(crate) texts: Vec<String>,
    /// Labels of which neither the file nor the ontology says more than the name.
    pub(crate) by_name_alone: Vec<String>,
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).map_err(|source| Error::Io { action: "read", path: from.into(), source })?;
    let mut file = AtomicFile::create(to)?;
    std::io::Write::write_all(&mut file, &bytes).map_err(|source| Error::Io { action: "write", path: to.into(), source })?;
    Ok(file.commit()?)
}
