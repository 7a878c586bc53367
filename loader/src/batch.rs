//! Padded batches of cells, and what the objective asks of them.

use serde::{Deserialize, Serialize};

use crate::binning::DEFAULT_BINS;
use crate::dataset::CellDataset;
use crate::expression::ValueMode;
use crate::sample::{self, Sample};
use crate::vocab::GeneVocab;
use crate::{Error, Result};

/// Label of a cell without one: no loss.
pub const NO_LABEL: i32 = -100;

/// Cells as padded token sequences, row-major.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CellBatch {
    /// Cells.
    pub batch: usize,
    /// Tokens of each row, padding included: the longest cell rounded up to `pad_to_multiple`.
    pub seq_len: usize,
    /// `[batch, seq_len]`: `<cls>`, then genes; pads are `vocab.pad()`.
    pub gene_ids: Vec<u32>,
    /// `[batch, seq_len]`: what the model reads; hidden values are `mask_value`, pads `pad_value`,
    /// `<cls>` `cls_value`.
    pub values: Vec<f32>,
    /// `[batch, seq_len]`: the same before hiding.
    pub targets: Vec<f32>,
    /// `[batch, seq_len]`: 1 where the objective predicts the value, else 0; 0 for `<cls>` and pads.
    pub target_mask: Vec<f32>,
    /// `[batch]`: tokens including `<cls>`, without pads.
    pub lengths: Vec<u32>,
    /// `[batch]`: tokens of the known prefix including `<cls>`; equals `lengths` unless the objective is
    /// generative.
    pub known_lengths: Vec<u32>,
    /// `[batch]`: class, or [`NO_LABEL`].
    pub labels: Vec<i32>,
    /// `[batch]`: dataset rows.
    pub rows: Vec<usize>,
}

/// Which values a model is asked to predict.
///
/// # Source
/// scGPT `scgpt/data_collator.py`; MODEL.md §2.5-2.6.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// None: the model reads everything.
    #[default]
    None,
    /// `int(genes * ratio)` values, chosen at random, are hidden in place.
    Masked {
        /// Share of the genes, 0..1.
        ratio: f32,
    },
    /// A ratio is drawn for each cell; `int(genes * ratio)` genes chosen at random move behind the others
    /// and their values are hidden. (For a cell that fills the sequence these are scGPT's
    /// `int((max_len - 1) * ratio)` genes.)
    Generative {
        /// Shares of the genes, 0..1; one is drawn with equal probability.
        ratios: Vec<f32>,
    },
}

/// Which genes of a cell are kept when there is not room for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Those with the highest values.
    #[default]
    Top,
    /// Random ones in training, those with the highest values otherwise.
    Random,
}

/// How cells become sequences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CollateConfig {
    /// Most tokens of a cell, `<cls>` included.
    pub max_seq_len: usize,
    /// Which numbers the model reads.
    pub value_mode: ValueMode,
    /// Total count of a cell after normalisation, for `Log1p`.
    pub target_sum: f64,
    /// Bins including bin 0, for `Binned`.
    pub n_bins: usize,
    /// Value of pads.
    pub pad_value: f32,
    /// Value of hidden genes.
    pub mask_value: f32,
    /// Value of `<cls>`.
    pub cls_value: f32,
    /// Sequences are padded to a multiple of this. The last multiple may exceed `max_seq_len`.
    pub pad_to_multiple: usize,
    /// So many genes that the source measured as 0 join each cell, chosen at random; they have their
    /// places even when the expressed genes have to be cut.
    pub include_zero_genes: usize,
    /// Which genes are kept when there is not room for all.
    pub sampling: Sampling,
    /// What is to be predicted.
    pub objective: Objective,
    /// Training only: probability of leaving an expressed gene out.
    pub gene_dropout: f32,
    /// Training only: keep each molecule with a probability drawn uniformly from this range, before
    /// normalisation (counts only).
    pub count_thinning: Option<(f32, f32)>,
}

impl Default for CollateConfig {
    fn default() -> CollateConfig {
        CollateConfig {
            max_seq_len: 1200,
            value_mode: ValueMode::Binned,
            target_sum: 1e4,
            n_bins: DEFAULT_BINS,
            pad_value: -2.0,
            mask_value: -1.0,
            cls_value: 0.0,
            pad_to_multiple: 8,
            include_zero_genes: 0,
            sampling: Sampling::Top,
            objective: Objective::None,
            gene_dropout: 0.0,
            count_thinning: None,
        }
    }
}

impl CollateConfig {
    /// Checks every setting against its range.
    ///
    /// # Errors
    /// `Setting`, naming the first that is out of range.
    pub fn check(&self) -> Result<()> {
        let check = |setting, holds: bool, got: String, expected| {
            if holds { Ok(()) } else { Err(Error::Setting { setting, got, expected }) }
        };
        let share = |ratio: &f32| (0.0..=1.0).contains(ratio);
        let text = |value: f32| value.to_string();
        let (length, zeros) = (self.max_seq_len, self.include_zero_genes);
        check("max_seq_len", length >= 2, length.to_string(), "at least 2: <cls> and a gene")?;
        let sum = self.target_sum;
        check("target_sum", sum > 0.0 && sum.is_finite(), sum.to_string(), "a number above 0")?;
        check("n_bins", self.n_bins >= 3, self.n_bins.to_string(), "at least 3")?;
        let multiple = self.pad_to_multiple;
        check("pad_to_multiple", multiple >= 1, multiple.to_string(), "at least 1")?;
        check("include_zero_genes", zeros + 1 < length, zeros.to_string(), "below max_seq_len - 1")?;
        let dropout = self.gene_dropout;
        check("gene_dropout", (0.0..1.0).contains(&dropout), text(dropout), "0 or more, below 1")?;
        if let Some((low, high)) = self.count_thinning {
            let holds = low > 0.0 && low <= high && high <= 1.0;
            check("count_thinning", holds, format!("{low}..{high}"), "0 < low <= high <= 1")?;
        }
        match &self.objective {
            Objective::None => Ok(()),
            Objective::Masked { ratio } => check("objective.masked.ratio", share(ratio), text(*ratio), "0 to 1"),
            Objective::Generative { ratios } => {
                let holds = !ratios.is_empty() && ratios.iter().all(share);
                check("objective.generative.ratios", holds, format!("{ratios:?}"), "one or more, each 0 to 1")
            }
        }
    }
}

/// What a sample's randomness depends on, besides the dataset row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleKey {
    /// The run's seed.
    pub seed: u64,
    /// Pass over the data; ignored outside training, where a cell always gives the same sample.
    pub epoch: u64,
    /// Whether augmentation and random selection apply.
    pub training: bool,
}

/// Turns rows of a dataset into batches.
#[derive(Debug, Clone)]
pub struct Collator {
    config: CollateConfig,
    pad: u32,
    cls: u32,
    vocab_len: usize,
}

impl Collator {
    /// A collator for datasets on `vocab`.
    ///
    /// # Errors
    /// `Setting` when a setting is out of its range.
    pub fn new(vocab: &GeneVocab, config: CollateConfig) -> Result<Collator> {
        config.check()?;
        Ok(Collator { config, pad: vocab.pad(), cls: vocab.cls(), vocab_len: vocab.len() })
    }

    /// The settings.
    pub fn config(&self) -> &CollateConfig {
        &self.config
    }

    /// The batch of these rows, in this order.
    ///
    /// Each row of the batch is a pure function of its cell, the settings, (seed, epoch, training) and the
    /// dataset row; the other rows decide only how far it is padded. A cell without known genes is
    /// `<cls>` alone.
    ///
    /// # Errors
    /// `EmptyBatch`; `Row`; `VocabMismatch`; `Scale` when the value mode can not be computed from a cell's
    /// source; `Setting` when counts are to be thinned and a source holds none.
    pub fn collate(&self, dataset: &CellDataset, rows: &[usize], key: SampleKey) -> Result<CellBatch> {
        if rows.is_empty() {
            return Err(Error::EmptyBatch);
        }
        let vocab = dataset.vocab();
        if (vocab.len(), vocab.pad(), vocab.cls()) != (self.vocab_len, self.pad, self.cls) {
            return Err(Error::VocabMismatch { dataset: vocab.len(), collator: self.vocab_len });
        }
        let samples = rows.iter().map(|&row| sample::draw(&self.config, dataset, row, key)).collect::<Result<Vec<_>>>()?;
        let longest = samples.iter().map(|sample| sample.genes.len() + 1).max().unwrap_or(1);
        let seq_len = longest.next_multiple_of(self.config.pad_to_multiple);
        let mut batch = CellBatch { batch: rows.len(), seq_len, ..CellBatch::default() };
        for (&row, sample) in rows.iter().zip(&samples) {
            self.push(&mut batch, sample);
            let label = dataset.labels()[row].and_then(|label| i32::try_from(label).ok());
            batch.labels.push(label.unwrap_or(NO_LABEL));
            batch.rows.push(row);
        }
        Ok(batch)
    }

    fn push(&self, batch: &mut CellBatch, sample: &Sample) {
        let config = &self.config;
        let end = batch.gene_ids.len() + batch.seq_len;
        batch.gene_ids.push(self.cls);
        batch.gene_ids.extend(&sample.genes);
        batch.gene_ids.resize(end, self.pad);

        batch.targets.push(config.cls_value);
        batch.targets.extend(&sample.values);
        batch.targets.resize(end, config.pad_value);

        let seen = |(&value, &hidden): (&f32, &bool)| if hidden { config.mask_value } else { value };
        batch.values.push(config.cls_value);
        batch.values.extend(sample.values.iter().zip(&sample.hidden).map(seen));
        batch.values.resize(end, config.pad_value);

        batch.target_mask.push(0.0);
        batch.target_mask.extend(sample.hidden.iter().map(|&hidden| f32::from(u8::from(hidden))));
        batch.target_mask.resize(end, 0.0);

        batch.lengths.push(sample.genes.len() as u32 + 1);
        batch.known_lengths.push(sample.known as u32 + 1);
    }
}
