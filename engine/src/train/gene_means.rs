//! Where the biases of the expression decoder's genes start: at what the genes are in training cells.

use scmmgpt_loader::dataset::CellDataset;

use crate::Result;
use crate::config::ExpressionHead;

/// Counts that every gene is taken to have had beside its own, so that one without any has a logarithm.
const PRIOR: f64 = 0.5;

/// `[genes of the vocabulary]`, over the cells `rows` of the sources that measured a gene, with cells brought to `target_sum`: of
/// distributions ln of `(counts + 0.5) / sizes`, a cell's size being its total by `target_sum`; else the mean of log1p. 0 for a gene
/// that no source measured.
///
/// # Errors
/// `Row` when a row is not in the dataset.
pub(super) fn gene_means(dataset: &CellDataset, rows: &[usize], head: ExpressionHead, target_sum: f64) -> Result<Vec<f32>> {
    let genes = dataset.vocab().len();
    let mut sums = vec![0.0_f64; genes];
    // What each source's cells weigh together.
    let mut weights = vec![0.0_f64; dataset.reports().len()];
    for &row in rows {
        let cell = dataset.cell(row)?;
        let size = cell.total.max(1.0) / target_sum;
        weights[cell.source] += if head == ExpressionHead::Zinb { size } else { 1.0 };
        for (&gene, &value) in cell.genes.iter().zip(cell.values) {
            let value = f64::from(value);
            sums[gene as usize] += if head == ExpressionHead::Zinb { value } else { (value / size).ln_1p() };
        }
    }
    let mut weight = vec![0.0_f64; genes];
    for (source, &of_source) in weights.iter().enumerate() {
        dataset.panel(source).iter().for_each(|&gene| weight[gene as usize] += of_source);
    }
    let mean = |(sum, weight): (f64, f64)| match head {
        _ if weight == 0.0 => 0.0,
        ExpressionHead::Zinb => ((sum + PRIOR) / weight).ln(),
        ExpressionHead::Mse => sum / weight,
    };
    Ok(sums.into_iter().zip(weight).map(|of_gene| mean(of_gene) as f32).collect())
}
