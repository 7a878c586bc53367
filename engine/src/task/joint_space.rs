//! Cells and texts as vectors of the space that a joint model compares them in.

use std::sync::Arc;

use scmmgpt_loader::batch::NO_LABEL;
use scmmgpt_loader::dataset::CellDataset;

use crate::Result;
use crate::bundle::Bundle;
use crate::predict::{Request, in_batches, place_rows};

/// Vectors of unit length; those of cells are longer or shorter by what the linear expert adds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Embedded {
    /// Numbers of a vector.
    pub(crate) width: usize,
    /// Vectors of an item.
    pub(crate) vectors: usize,
    /// `[items, vectors, width]`.
    pub(crate) values: Vec<f32>,
}

impl Embedded {
    /// Item by item, `[vectors, width]`.
    pub(crate) fn items(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact((self.vectors * self.width).max(1))
    }

    /// One vector an item, `[items, width]`: the mean of its vectors, brought back to unit length.
    pub(crate) fn means(&self) -> Vec<f32> {
        let mean = |item: &[f32]| {
            let sums: Vec<f32> = (0..self.width).map(|column| item.iter().skip(column).step_by(self.width).sum()).collect();
            let norm = sums.iter().map(|sum| sum * sum).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            sums.into_iter().map(move |sum| sum / norm)
        };
        self.items().flat_map(mean).collect()
    }
}

/// The cells of these rows, with as many vectors each as the model has queries.
///
/// # Errors
/// `Incapable` for a model of cells alone; those of the kernels.
pub(crate) fn embed_cells(
    bundle: &Bundle,
    dataset: &Arc<CellDataset>,
    rows: &[usize],
    progress: &mut dyn FnMut(usize),
) -> Result<Embedded> {
    let joint = bundle.joint("embed beside texts")?;
    let mut workspace = joint.workspace(bundle.device())?;
    let (collator, batch_size) = (bundle.collator()?, bundle.config.batch_size);
    let request = Request { dataset, collator: &collator, rows, batch_size, relabel: &|_| NO_LABEL };
    let mut values = Vec::new();
    in_batches(&request, progress, &mut |cells, _, places| {
        place_rows(&mut values, &workspace.embed_cells(joint.model, cells)?, places, rows.len());
        Ok(())
    })?;
    let qformer = joint.model.config();
    Ok(Embedded { width: qformer.projection_dim, vectors: qformer.num_query_tokens, values })
}

/// Texts that are embedded at a time.
const TEXTS: usize = 32;

/// Texts with one vector each; and how many were longer than the model reads, and were cut.
///
/// # Errors
/// `Incapable` for a model of cells alone; those of tokenizer and kernels.
pub(crate) fn embed_texts(bundle: &Bundle, texts: &[String]) -> Result<(Embedded, usize)> {
    let joint = bundle.joint("embed texts")?;
    let mut workspace = joint.workspace(bundle.device())?;
    let mut embedded = Embedded { width: joint.model.config().projection_dim, vectors: 1, values: Vec::new() };
    let mut truncated = 0;
    for texts in texts.chunks(TEXTS) {
        let batch = joint.texts.batch(texts)?;
        truncated += batch.truncated;
        embedded.values.extend(workspace.embed_texts(joint.model, &batch)?);
    }
    Ok((embedded, truncated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_have_unit_length() {
        let embedded = Embedded { width: 2, vectors: 2, values: vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.0, -1.0, 0.0] };
        let half = 0.5f32.sqrt();
        let means = embedded.means();
        assert!((means[0] - half).abs() < 1e-6 && (means[1] - half).abs() < 1e-6, "{means:?}");
        assert_eq!(means[2..], [-1.0, 0.0]);
    }
}
