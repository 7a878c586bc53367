//! The linear expert's weights: those of the logistic regression on the training cells.

use scmmgpt_kernels::runtime::Stream;
use scmmgpt_loader::batch::{CollateConfig, Collator, Objective, SampleKey};

use super::data::TrainingData;
use crate::Result;
use crate::baseline::{LogisticOptions, SparseRows, fit_logistic_regression};
use crate::model::gene_linear;
use crate::weights::Parameters;

/// Cells that are collated at a time.
const CELLS: usize = 256;

/// Fits the multinomial logistic regression on the values that the model reads, and copies it into `gene_linear`.
pub(super) fn fit_expert(stream: &Stream, parameters: &Parameters<f32>, data: &TrainingData, tokens: &CollateConfig) -> Result<()> {
    let dataset = &data.dataset;
    let plain = CollateConfig { objective: Objective::None, max_seq_len: usize::MAX / 2, ..tokens.clone() };
    let collator = Collator::new(dataset.vocab(), plain)?;
    let key = SampleKey { seed: 0, epoch: 0, training: false };
    let (mut indptr, mut indices, mut values, mut labels) = (vec![0], Vec::new(), Vec::new(), Vec::new());
    let labelled = |row: &usize| dataset.labels()[*row].and_then(|class| data.head_classes[class as usize]);
    let rows: Vec<usize> = data.split.train.iter().copied().filter(|row| labelled(row).is_some()).collect();
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
    let model = fit_logistic_regression(matrix, &labels, &all, LogisticOptions::default())?;
    let (weights, intercepts) = model.coefficients(classes);
    stream.upload(table, &weights)?;
    Ok(stream.upload(parameters.named(gene_linear::BIAS)?.parameter.value, &intercepts)?)
}
