//! Cells into a retrieval index: a file that is searched by text without reading the cells again.

use std::path::Path;
use std::sync::Arc;

use scmmgpt_loader::dataset::CellDatasetBuilder;
use scmmgpt_loader::h5ad::{AnnData, CsrBlock};
use scmmgpt_loader::index::{IndexElement, IndexMetric, IndexSpec, IndexWriter};

use super::joint_space::embed_cells;
use crate::bundle::Bundle;
use crate::cells::ROWS_PER_BLOCK;
use crate::config::slot;
use crate::{LoaderError, Result};

/// Entry of an index that names the model whose space it is of.
pub(super) const MODEL: &str = "model_sha256";

/// What to index.
#[derive(Clone, Debug)]
pub struct BuildIndex<'a> {
    /// The cells.
    pub cells: &'a Path,
    /// The index to write.
    pub output: &'a Path,
    /// Where the expression stands, if not where it stood in training.
    pub layer: Option<&'a str>,
    /// Column of `obs` whose values are shown beside what is found.
    pub label_key: Option<&'a str>,
    /// Store numbers as bfloat16: half the size, relative error up to 2^-9.
    pub bf16: bool,
    /// Replace an existing output.
    pub overwrite: bool,
}

/// What became of the cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Indexed {
    /// Cells in the index.
    pub cells: usize,
    /// Cells without a single known gene, which are left out.
    pub empty: usize,
}

/// Writes the index of a file's cells, a block of rows at a time: memory does not grow with the file.
///
/// # Errors
/// `Incapable` for a model of cells alone; those of files and model. Nothing appears then.
pub fn build_index(bundle: &Bundle, task: &BuildIndex<'_>, progress: &mut (dyn FnMut(usize, usize) + Send)) -> Result<Indexed> {
    if !task.overwrite && task.output.exists() {
        return Err(LoaderError::OutputExists { path: task.output.into() }.into());
    }
    bundle.device().enter(|| build_inside(bundle, task, progress))
}

fn build_inside(bundle: &Bundle, task: &BuildIndex<'_>, progress: &mut (dyn FnMut(usize, usize) + Send)) -> Result<Indexed> {
    let joint = bundle.joint("index cells")?;
    let data = AnnData::open(task.cells)?;
    let slot = slot(task.layer.unwrap_or(&bundle.config.layer));
    let (genes, names) = (data.var_names(&slot)?, data.obs_names()?);
    let labels = task.label_key.map(|key| Ok::<_, crate::Error>(data.obs(key)?.labels())).transpose()?;
    let qformer = joint.model.config();
    let element = if task.bf16 { IndexElement::Bf16 } else { IndexElement::F32 };
    let (width, vectors_per_item) = (qformer.projection_dim, qformer.num_query_tokens);
    let spec = IndexSpec { width, vectors_per_item, element, metric: IndexMetric::InnerProduct };
    let metadata = [(MODEL, bundle.hash.clone()), ("cells", task.cells.display().to_string())];
    let mut writer = IndexWriter::create(task.output, spec, metadata.map(|(name, value)| (name.into(), value)).into())?;
    let mut indexed = Indexed::default();
    for block in data.matrix(&slot)?.blocks(ROWS_PER_BLOCK) {
        let block = block?;
        let first = block.start;
        let mut builder = CellDatasetBuilder::new(bundle.vocabulary.clone());
        let source = task.cells.display().to_string();
        builder.add_source(&source, &genes, std::iter::once(Ok(CsrBlock { start: 0, ..block })), None)?;
        let dataset = Arc::new(builder.build());
        dataset.check_mode(bundle.config.tokens.value_mode)?;
        let empty = dataset.empty_rows();
        let rows: Vec<usize> = (0..dataset.len()).filter(|row| empty.binary_search(row).is_err()).collect();
        let embedded = embed_cells(bundle, &dataset, &rows, &mut |done| progress(first + done, names.len()))?;
        for (&row, vectors) in rows.iter().zip(embedded.items()) {
            let label = labels.as_ref().and_then(|labels| labels[first + row].as_deref());
            writer.push(&names[first + row], label, vectors)?;
        }
        indexed.cells += rows.len();
        indexed.empty += empty.len();
    }
    writer.commit()?;
    Ok(indexed)
}
