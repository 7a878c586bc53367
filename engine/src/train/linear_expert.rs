//! A linear expert: the logistic regression on the training cells.

use scmmgpt_kernels::runtime::Stream;
use scmmgpt_loader::batch::{CollateConfig, Collator, Objective, SampleKey};
use scmmgpt_loader::dataset::CellDataset;

use super::data::TrainingData;
use crate::Result;
use crate::baseline::{LogisticModel, LogisticOptions, SparseRows, fit_logistic_regression};
use crate::model::gene_linear;
use crate::weights::Parameters;

/// The expert's fit: half-way between raw values and z-scores, and half-way between equal cells and equal classes.
const OPTIONS: LogisticOptions =
    LogisticOptions { inverse_penalty: 1.0, tolerance: 1e-4, max_iterations: 1000, scale_exponent: 0.5, class_weight_exponent: 0.5 };

/// Cells that are collated at a time.
const CELLS: usize = 256;

/// The cells that an expert learns from.
#[derive(Clone, Copy)]
pub(super) struct Lesson<'a> {
    /// Their dataset.
    pub(super) dataset: &'a CellDataset,
    /// How the model reads them.
    pub(super) tokens: &'a CollateConfig,
    /// Which they are.
    pub(super) rows: &'a [usize],
    /// The class of a row; cells without one are passed over.
    pub(super) class_of: &'a dyn Fn(usize) -> Option<u32>,
    /// Rows of the gene table.
    pub(super) genes: usize,
}

/// The multinomial logistic regression on the values that the model reads.
///
/// # Errors
/// Those of the collator and the fit.
pub(super) fn fit(lesson: &Lesson<'_>) -> Result<LogisticModel> {
    let Lesson { dataset, tokens, rows, class_of, genes: columns } = *lesson;
    let plain = CollateConfig { objective: Objective::None, max_seq_len: usize::MAX / 2, ..tokens.clone() };
    let collator = Collator::new(dataset.vocab(), plain)?;
    let key = SampleKey { seed: 0, epoch: 0, training: false };
    let (mut indptr, mut indices, mut values, mut labels) = (vec![0], Vec::new(), Vec::new(), Vec::new());
    let rows: Vec<usize> = rows.iter().copied().filter(|&row| class_of(row).is_some()).collect();
    for chunk in rows.chunks(CELLS) {
        let batch = collator.collate(dataset, chunk, key)?;
        for (cell, &row) in chunk.iter().enumerate() {
            // The first token is <cls>.
            let genes = cell * batch.seq_len + 1..cell * batch.seq_len + batch.lengths[cell] as usize;
            indices.extend_from_slice(&batch.gene_ids[genes.clone()]);
            values.extend_from_slice(&batch.values[genes]);
            indptr.push(indices.len());
            labels.push(class_of(row).unwrap_or_default());
        }
    }
    let matrix = SparseRows { indptr: &indptr, indices: &indices, values: &values, columns };
    let all: Vec<usize> = (0..rows.len()).collect();
    Ok(fit_logistic_regression(matrix, &labels, &all, OPTIONS)?)
}

/// Fits the expert beside the cell-type head to the labelled cells among `rows`, and copies it into `gene_linear`, its logits times
/// `weight`.
pub(super) fn fit_expert(
    stream: &Stream,
    parameters: &Parameters<f32>,
    data: &TrainingData,
    tokens: &CollateConfig,
    rows: &[usize],
    weight: f32,
) -> Result<()> {
    let table = parameters.named(gene_linear::WEIGHT)?.parameter.value;
    let class_of = |row: usize| data.dataset.labels()[row].and_then(|class| data.head_classes[class as usize]);
    let model = fit(&Lesson { dataset: &data.dataset, tokens, rows, class_of: &class_of, genes: table.rows() })?;
    let (mut weights, mut intercepts) = model.coefficients(table.width());
    for value in weights.iter_mut().chain(&mut intercepts) {
        *value *= weight;
    }
    stream.upload(table, &weights)?;
    Ok(stream.upload(parameters.named(gene_linear::BIAS)?.parameter.value, &intercepts)?)
}
