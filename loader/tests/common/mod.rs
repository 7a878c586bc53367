//! Small hand-made inputs.

use std::sync::Arc;

use scmmgpt_loader::h5ad::CsrBlock;
use scmmgpt_loader::vocab::GeneVocab;

/// A vocabulary of exactly these genes.
pub(crate) fn vocab(genes: &[&str]) -> Arc<GeneVocab> {
    Arc::new(GeneVocab::from_genes(genes).unwrap())
}

/// Owned names.
pub(crate) fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

/// A block of rows given as (column, value) pairs.
pub(crate) fn block(start: usize, n_vars: usize, rows: &[&[(u32, f32)]]) -> CsrBlock {
    let mut indptr = vec![0];
    let (mut indices, mut values) = (Vec::new(), Vec::new());
    for row in rows {
        indices.extend(row.iter().map(|&(column, _)| column));
        values.extend(row.iter().map(|&(_, value)| value));
        indptr.push(indices.len());
    }
    CsrBlock { start, n_vars, indptr, indices, values }
}
