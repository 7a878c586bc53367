//! The linear expert's weights: those of the logistic regression on the training cells.

use scmmgpt_kernels::runtime::Stream;
use scmmgpt_loader::batch::{CollateConfig, Collator, Objective, SampleKey};

use super::data::TrainingData;
use crate::Result;
use crate::baseline::{LogisticOptions, SparseRows, fit_logistic_regression};
use crate::model::gene_linear;
use crate::weights::Parameters;

/// The expert's fit: half-way between raw values and z-scores, and half-way between equal cells and equal classes.
const OPTIONS: LogisticOptions =
    LogisticOptions { inverse_penalty: 1.0, tolerance: 1e-4, max_iterations: 1000, scale_exponent: 0.5, class_weight_exponent: 0.5 };

/// Cells that are collated at a time.
const CELLS: usize = 256;

/// Fits the multinomial logistic regression on the values that the model reads of the labelled cells among `rows`, and copies it into
/// `gene_linear`, its logits times `weight`.
pub(super) fn fit_expert(
    stream: &Stream,
    parameters: &Parameters<f32>,
    data: &TrainingData,
    tokens: &CollateConfig,
    rows: &[usize],
    weight: f32,
) -> Result<()> {
    let dataset = &data.dataset;
    let plain = CollateConfig { objective: Objective::None, max_seq_len: usize::MAX / 2, ..tokens.clone() };
    let collator = Collator::new(dataset.vocab(), plain)?;
    let key = SampleKey { seed: 0, epoch: 0, training: false };
    let (mut indptr, mut indices, mut values, mut labels) = (vec![0], Vec::new(), Vec::new(), Vec::new());
    let labelled = |row: &usize| dataset.labels()[*row].and_then(|class| data.head_classes[class as usize]);
    let rows: Vec<usize> = rows.iter().copied().filter(|row| labelled(row).is_some()).collect();
    for chunk in rows.chunks(CELLS) {
        let batch = collator.collate(dataset, chunk, key)?;
        for (cell, row) in chunk.iter().enumerate() {
            // The first token is <cls>.
            let genes = cell * batch.seq_len + 1..cell * batch.seq_len + batch.lengths[cell] as usize;
            indices.extend_from_slice(&batch.gene_ids[genes.clone()]);
            values.extend_from_slice(&batch.values[genes]);
            indptr.push(indices.len());
            labels.push(labelled(row).unwrap_or_default());
        }
    }
    let table = parameters.named(gene_linear::WEIGHT)?.parameter.value;
    let (columns, classes) = (table.rows(), table.width());
    let matrix = SparseRows { indptr: &indptr, indices: &indices, values: &values, columns };
    let all: Vec<usize> = (0..rows.len()).collect();
    let model = fit_logistic_regression(matrix, &labels, &all, OPTIONS)?;
    let (mut weights, mut intercepts) = model.coefficients(classes);
    for value in weights.iter_mut().chain(&mut intercepts) {
        *value *= weight;
    }
    stream.upload(table, &weights)?;
    Ok(stream.upload(parameters.named(gene_linear::BIAS)?.parameter.value, &intercepts)?)
}
