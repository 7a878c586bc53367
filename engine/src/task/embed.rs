//! Cells to embeddings: `obsm["X_scmmgpt"]`.

use std::path::{Path, PathBuf};

use scmmgpt_loader::dataset::SourceReport;
use scmmgpt_loader::h5ad::{Additions, DenseArray};

use super::annotate::{encode, read};
use super::{Provenance, write_result};
use crate::Result;
use crate::bundle::Bundle;

/// What to embed.
#[derive(Clone, Debug)]
pub struct Embed<'a> {
    /// The cells.
    pub cells: &'a Path,
    /// Where to write them with their embeddings.
    pub output: &'a Path,
    /// Where the expression stands, if not where it stood in training.
    pub layer: Option<&'a str>,
    /// Replace an existing output.
    pub overwrite: bool,
    /// The command line, for the record.
    pub command: &'a str,
}

/// Key of the embeddings in `obsm`.
pub const OBSM_KEY: &str = "X_scmmgpt";

/// Embeds the cells of a file; returns what was found in it.
///
/// # Errors
/// Those of files and model. Nothing is written then.
pub fn embed(bundle: &Bundle, task: &Embed<'_>, progress: &mut (dyn FnMut(usize, usize) + Send)) -> Result<SourceReport> {
    bundle.device().enter(|| {
        let dataset = read(bundle, &[PathBuf::from(task.cells)], task.layer, None)?;
        let rows: Vec<usize> = (0..dataset.len()).collect();
        let total = rows.len();
        let predictions = encode(bundle, &dataset, &rows, &mut |done| progress(done, total))?;
        let array = DenseArray { rows: total, columns: bundle.config.model.hidden_size, values: predictions.embeddings };
        let additions = Additions { obsm: vec![(OBSM_KEY.into(), array)], ..Additions::default() };
        write_result(task.cells, task.output, additions, Provenance::new(bundle, task.command), task.overwrite)?;
        Ok(dataset.reports()[0].clone())
    })
}
