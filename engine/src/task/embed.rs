//! Cells to embeddings: `obsm["X_scmmgpt"]`; texts to embeddings in the same space.

use std::path::{Path, PathBuf};

use scmmgpt_loader::dataset::SourceReport;
use scmmgpt_loader::h5ad::{Additions, DenseArray};
use serde::Serialize;

use super::annotate::{encode, read};
use super::joint_space::{self, embed_cells};
use super::{Provenance, write_result};
use crate::bundle::{Bundle, write_text};
use crate::{Error, LoaderError, Result};

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

/// Embeds the cells of a file; returns what was found in it, and the width of the embeddings.
///
/// A model of cells alone gives the cell encoder's embedding. A joint model gives the mean of the cell's queries in the space that it
/// shares with texts, of unit length: inner products with [`embed_texts`] are cosines.
///
/// # Errors
/// Those of files and model. Nothing is written then.
pub fn embed(bundle: &Bundle, task: &Embed<'_>, progress: &mut (dyn FnMut(usize, usize) + Send)) -> Result<(SourceReport, usize)> {
    bundle.device().enter(|| {
        let dataset = read(bundle, &[PathBuf::from(task.cells)], task.layer, None)?;
        let rows: Vec<usize> = (0..dataset.len()).collect();
        let total = rows.len();
        let mut progress = |done| progress(done, total);
        let (columns, values) = if bundle.config.text.is_some() {
            let embedded = embed_cells(bundle, &dataset, &rows, &mut progress)?;
            (embedded.width, embedded.means())
        } else {
            (bundle.config.model.hidden_size, encode(bundle, &dataset, &rows, &mut progress)?.embeddings)
        };
        let array = DenseArray { rows: total, columns, values };
        let additions = Additions { obsm: vec![(OBSM_KEY.into(), array)], ..Additions::default() };
        write_result(task.cells, task.output, additions, Provenance::new(bundle, task.command), task.overwrite)?;
        Ok((dataset.reports()[0].clone(), columns))
    })
}

/// A text and its vector.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextEmbedding {
    /// The text.
    pub text: String,
    /// `[projection_dim]`, of unit length.
    pub embedding: Vec<f32>,
}

/// Writes the embeddings of texts as JSON Lines, a [`TextEmbedding`] each; tells how many texts were cut.
///
/// # Errors
/// As [`embed_texts`]; `OutputExists` unless `overwrite`. Nothing is written then.
pub fn write_texts(bundle: &Bundle, texts: &[String], output: &Path, overwrite: bool) -> Result<usize> {
    if !overwrite && output.exists() {
        return Err(LoaderError::OutputExists { path: output.into() }.into());
    }
    let (embeddings, truncated) = embed_texts(bundle, texts)?;
    let line = |embedding: &TextEmbedding| {
        serde_json::to_string(embedding).map_err(|error| Error::Json { path: output.into(), reason: error.to_string() })
    };
    let lines = embeddings.iter().map(line).collect::<Result<Vec<_>>>()?;
    write_text(output, &(lines.join("\n") + "\n"))?;
    Ok(truncated)
}

/// Embeds texts; also tells how many were longer than the model reads, and were cut.
///
/// # Errors
/// `Incapable` for a model of cells alone; those of tokenizer (an empty text) and model.
pub fn embed_texts(bundle: &Bundle, texts: &[String]) -> Result<(Vec<TextEmbedding>, usize)> {
    let (embedded, truncated) = bundle.device().enter(|| joint_space::embed_texts(bundle, texts))?;
    let pair = |(text, vector): (&String, &[f32])| TextEmbedding { text: text.clone(), embedding: vector.to_vec() };
    Ok((texts.iter().zip(embedded.items()).map(pair).collect(), truncated))
}
