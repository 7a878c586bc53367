//! Cells from `.h5ad` files: one vocabulary, one dataset, whatever the files' panels and storage.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use scmmgpt_loader::dataset::CellDataset;
use scmmgpt_loader::dataset::CellDatasetBuilder;
use scmmgpt_loader::h5ad::{AnnData, Slot};
use scmmgpt_loader::vocab::GeneVocab;

use crate::Result;

/// Cells that are read from a file at a time.
pub(crate) const ROWS_PER_BLOCK: usize = 4096;

/// Which cells, and which of their columns.
#[derive(Clone, Debug)]
pub(crate) struct CellFiles<'a> {
    /// The files.
    pub(crate) files: &'a [PathBuf],
    /// Where the expression stands.
    pub(crate) slot: Slot,
    /// `obs` column with labels.
    pub(crate) label_key: Option<&'a str>,
    /// `obs` column with batches (donor, chemistry, ..).
    pub(crate) batch_key: Option<&'a str>,
    /// Labels that count as none.
    pub(crate) ignore_labels: &'a [String],
}

impl CellFiles<'_> {
    /// A vocabulary of all genes that any of the files measured.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn vocabulary(&self) -> Result<GeneVocab> {
        let mut genes = BTreeSet::new();
        for file in self.files {
            genes.extend(AnnData::open(file)?.var_names(&self.slot)?);
        }
        Ok(GeneVocab::from_genes(genes)?)
    }

    /// Reads the cells, block by block, onto a vocabulary.
    ///
    /// # Errors
    /// Those of the files; a missing column lists those that exist.
    pub(crate) fn read(&self, vocabulary: Arc<GeneVocab>) -> Result<CellDataset> {
        let mut builder = CellDatasetBuilder::new(vocabulary);
        for file in self.files {
            let data = AnnData::open(file)?;
            let labels = match self.label_key {
                Some(key) => Some(data.obs(key)?.labels().into_iter().map(|label| self.counted(label)).collect()),
                None => None,
            };
            let matrix = data.matrix(&self.slot)?;
            let name = file.display().to_string();
            builder.add_source(&name, &data.var_names(&self.slot)?, matrix.blocks(ROWS_PER_BLOCK), labels)?;
            if let Some(key) = self.batch_key {
                builder.add_batches(data.obs(key)?.labels())?;
            }
        }
        Ok(builder.build())
    }

    fn counted(&self, label: Option<String>) -> Option<String> {
        label.filter(|label| !label.is_empty() && !self.ignore_labels.contains(label))
    }
}
