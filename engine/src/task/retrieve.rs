//! Texts to the cells of an index, and cells to texts.

use std::path::{Path, PathBuf};

use scmmgpt_loader::index::VectorIndex;
use serde::Serialize;

use super::index::MODEL;
use super::joint_space::embed_texts;
use super::{annotate, by_text};
use crate::bundle::Bundle;
use crate::retrieve::Searcher;
use crate::texts::LabelSource;
use crate::{Error, Result};

/// What was found for one query, the best first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// The text, or the name of the cell.
    pub query: String,
    /// Cells, or labels of texts.
    pub hits: Vec<FoundHit>,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FoundHit {
    /// Name of the cell, or the label.
    pub name: String,
    /// Label of the cell, where the index has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Product of the text and the nearest of the cell's vectors: their cosine, where there is no linear expert.
    pub similarity: f32,
    /// How likely it is that the text is the cell's, if exactly one of those offered is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
}

/// Results, and how many texts were longer than the model reads, and were cut.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retrieved {
    /// One entry a query.
    pub results: Vec<Found>,
    /// Texts that were cut.
    pub truncated: usize,
}

/// The `k` cells of an index that are nearest to each text.
///
/// # Errors
/// `Incapable` for a model of cells alone; `IndexModel` when the index is of another model; those of index, tokenizer and kernels.
pub fn cells_by_text(bundle: &Bundle, index: &Path, texts: &[String], k: usize) -> Result<Retrieved> {
    bundle.joint("find cells by text")?;
    let index = VectorIndex::open(index)?;
    let theirs = index.metadata().get(MODEL).map(String::as_str).unwrap_or_default();
    if theirs != bundle.hash {
        return Err(Error::IndexModel { index: index.path().into(), theirs: theirs.into(), ours: bundle.hash.clone() });
    }
    let search = || -> Result<_> {
        let (embedded, truncated) = embed_texts(bundle, texts)?;
        let found = Searcher::new(bundle.device(), &index)?.search(&embedded.values, 1, k, &mut |_, _| ())?;
        Ok((found, truncated))
    };
    let (found, truncated) = bundle.device().enter(search)?;
    let named = |(query, hits): (&String, Vec<crate::retrieve::Hit>)| -> Result<Found> {
        let hit = |hit: crate::retrieve::Hit| -> Result<FoundHit> {
            let (name, label) = index.item(hit.item)?;
            Ok(FoundHit { name, label: label.map(String::from), similarity: hit.score, probability: None })
        };
        Ok(Found { query: query.clone(), hits: hits.into_iter().map(hit).collect::<Result<_>>()? })
    };
    Ok(Retrieved { results: texts.iter().zip(found).map(named).collect::<Result<_>>()?, truncated })
}

/// The `k` likeliest texts for each cell of a file.
///
/// # Errors
/// `Incapable` for a model of cells alone; those of files, labels and model.
pub fn texts_by_cell(
    bundle: &Bundle,
    cells: &Path,
    layer: Option<&str>,
    labels: Option<&LabelSource>,
    k: usize,
    progress: &mut (dyn FnMut(usize, usize) + Send),
) -> Result<Retrieved> {
    let labels = by_text::labels(bundle, labels)?;
    let dataset = annotate::read(bundle, &[PathBuf::from(cells)], layer, None)?;
    let names = scmmgpt_loader::h5ad::AnnData::open(cells)?.obs_names()?;
    let rows: Vec<usize> = (0..dataset.len()).collect();
    let scored = bundle.device().enter(|| by_text::score(bundle, &dataset, &rows, labels, &mut |done| progress(done, rows.len())))?;
    let hits = |cell: usize| {
        let hit = |(label, probability): by_text::Ranked| FoundHit {
            name: scored.labels.names[label].clone(),
            label: None,
            similarity: scored.scores.similarity(cell)[label],
            probability: Some(probability),
        };
        scored.top(cell, k).into_iter().map(hit).collect()
    };
    let results = names.into_iter().enumerate().map(|(cell, query)| Found { query, hits: hits(cell) }).collect();
    Ok(Retrieved { results, truncated: scored.truncated })
}
