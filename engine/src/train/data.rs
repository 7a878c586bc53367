//! The cells of a run: read, put on one vocabulary, divided.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use scmmgpt_loader::dataset::CellDataset;
use scmmgpt_loader::split::{self, Fractions, Split};
use scmmgpt_loader::vocab::GeneVocab;

use crate::cells::CellFiles;
use crate::config::{DataConfig, slot};
use crate::{Error, Result};

/// Everything a run learns from and is tested on.
#[derive(Clone, Debug)]
pub struct TrainingData {
    /// All cells.
    pub dataset: Arc<CellDataset>,
    /// Their parts.
    pub split: Split,
    /// Classes of the cell-type head: the labels that occur among the training cells, sorted.
    pub classes: Vec<String>,
    /// For each class of the dataset its class of the head; none for a label that no training cell has.
    pub head_classes: Vec<Option<u32>>,
}

impl TrainingData {
    /// Reads the files of a configuration and divides their cells. With `classify`, only labelled cells are kept.
    ///
    /// # Errors
    /// Those of the files; `Labels` when fewer than two classes are left to train on.
    pub fn read(config: &DataConfig, seed: u64, classify: bool) -> Result<TrainingData> {
        let files: Vec<PathBuf> = config.train.iter().chain(&config.test).cloned().collect();
        let of = |files| CellFiles {
            files,
            slot: slot(&config.layer),
            label_key: (!config.label_key.is_empty()).then_some(config.label_key.as_str()),
            batch_key: (!config.test_key.is_empty()).then_some(config.test_key.as_str()),
            ignore_labels: &config.ignore_labels,
        };
        let vocabulary = match &config.vocabulary {
            Some(file) => GeneVocab::from_file(file)?,
            None => of(&config.train).vocabulary()?,
        };
        let dataset = of(&files).read(Arc::new(vocabulary))?;
        dataset.check_mode(config.tokens.value_mode)?;
        let mut split = divide(config, &dataset, seed)?;
        if classify {
            // Labels may be missing; a cell without one can teach this head nothing and test nothing.
            keep_labelled(&mut split, &dataset);
        }
        let present: BTreeSet<u32> = split.train.iter().filter_map(|&row| dataset.labels()[row]).collect();
        if classify && present.len() < 2 {
            let reason = format!("{} class among the training cells, at least 2 are needed; check data.label_key", present.len());
            let files = files.iter().map(|file| file.display().to_string()).collect();
            return Err(Error::Labels { key: config.label_key.clone(), files, reason });
        }
        let classes = present.iter().map(|&class| dataset.classes()[class as usize].clone()).collect();
        let position = |class: u32| present.iter().position(|&other| other == class).map(|at| at as u32);
        let head_classes = (0..dataset.classes().len() as u32).map(position).collect();
        Ok(TrainingData { dataset: Arc::new(dataset), split, classes, head_classes })
    }
}

impl TrainingData {
    /// The same without the cells that have no label.
    pub(super) fn labelled(&self) -> TrainingData {
        let mut data = self.clone();
        keep_labelled(&mut data.split, &data.dataset);
        data
    }

    /// Training and validation cells together: everything that a model may have learned from.
    pub(super) fn learned(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = self.split.train.iter().chain(&self.split.validation).copied().collect();
        rows.sort_unstable();
        rows
    }
}

fn keep_labelled(split: &mut Split, dataset: &CellDataset) {
    for part in [&mut split.train, &mut split.validation, &mut split.test] {
        part.retain(|&row| dataset.labels()[row].is_some());
    }
}

/// Test cells: those of the test files, else those with the held-out values of a column, else a random share by label. Validation
/// cells: a random share, by label, of the rest.
fn divide(config: &DataConfig, dataset: &CellDataset, seed: u64) -> Result<Split> {
    let (labels, validation) = (Some(dataset.labels()), config.validation_fraction);
    if !config.test.is_empty() {
        let part = |row| dataset.cell(row).map(|cell| if cell.source < config.train.len() { "train" } else { "test" });
        let parts = (0..dataset.len()).map(|row| Ok(Some(part(row)?.to_string()))).collect::<Result<Vec<_>>>()?;
        return Ok(split::hold_out_by(&parts, &["test".into()], labels, validation, seed)?);
    }
    if !config.test_key.is_empty() {
        let names = dataset.batch_names();
        let values: Vec<_> = dataset.batches().iter().map(|batch| batch.map(|batch| names[batch as usize].clone())).collect();
        return Ok(split::hold_out_by(&values, &config.test_values, labels, validation, seed)?);
    }
    // `validation_fraction` is a share of what is left after the test cells.
    let fractions = Fractions { validation: validation * (1.0 - config.test_fraction), test: config.test_fraction };
    Ok(split::random(dataset.len(), labels, fractions, seed)?)
}
