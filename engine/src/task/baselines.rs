//! The baselines on a dataset's cells, for the tables that put a model beside them.

use scmmgpt_loader::dataset::CellDataset;
use scmmgpt_loader::expression::{log1p, normalize_total};
use scmmgpt_loader::scale::InputScale;

use crate::Result;
use crate::baseline::{self, KnnOptions, LogisticOptions, SparseMatrix, Split};

/// Takes the name of a method, its answers and their probabilities.
pub(crate) type Report<'a> = dyn FnMut(&str, &[Option<u32>], &[f32]) -> Result<()> + 'a;

/// Reports on what the baselines answer; `labels` has one entry for each cell of the dataset.
pub(crate) fn baselines(dataset: &CellDataset, labels: &[u32], split: Split<'_>, report: &mut Report<'_>) -> Result<()> {
    let matrix = expression(dataset)?;
    let regression = baseline::logistic_regression(matrix.rows(), labels, split, LogisticOptions::default())?;
    report("logistic regression", &regression.answers(), &regression.probabilities)?;
    let neighbours = baseline::knn_on_pca(matrix.rows(), labels, split, KnnOptions::default())?;
    report("k-NN on PCA", &neighbours.answers(), &neighbours.probabilities)?;
    let majority = baseline::majority(matrix.rows(), labels, split)?;
    report("majority", &majority.answers(), &majority.probabilities)
}

/// Log1p-CP10k values of a dataset as sparse rows over its vocabulary.
pub(crate) fn expression(dataset: &CellDataset) -> Result<SparseMatrix> {
    let mut matrix = SparseMatrix::new(dataset.vocab().len());
    for row in 0..dataset.len() {
        let cell = dataset.cell(row)?;
        let mut values = cell.values.to_vec();
        if dataset.reports()[cell.source].scale != InputScale::Log1p {
            normalize_total(&mut values, cell.total, 1e4);
            log1p(&mut values);
        }
        matrix.push(cell.genes.iter().copied().zip(values));
    }
    Ok(matrix)
}
