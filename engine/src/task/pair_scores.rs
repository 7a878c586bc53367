//! Cells beside texts: similarity in the joint space, matching score, and the probabilities that the two give together.

use scmmgpt_loader::text::TextBatch;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::model::cell_text::{CellText, Workspace};
use crate::predict::{Request, in_batches, place_rows};

/// Matching probabilities are kept this far from 0 and 1.
const SURE: f64 = 1e-6;

/// How similarity and matching score become one probability a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mixing {
    /// Weight of the similarity; the matching score has the rest.
    pub similarity: f64,
    /// Similarities are divided by this before the softmax.
    pub temperature: f64,
}

/// Every cell beside every text.
#[derive(Clone, Debug, Default)]
pub(crate) struct PairScores {
    texts: usize,
    /// `[cells, texts]`: product of the text and the nearest of the cell's vectors.
    similarity: Vec<f32>,
    /// `[cells, texts]`: probability that the two belong together; empty when it was not asked for.
    matching: Vec<f32>,
}

impl PairScores {
    /// Runs cells and texts through the model; the order of the cells is that of the request's rows.
    ///
    /// # Errors
    /// Those of the kernels.
    pub(crate) fn compute(
        model: &CellText<f32>,
        workspace: &mut Workspace<f32>,
        request: &Request<'_>,
        texts: &TextBatch,
        matching: bool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<PairScores> {
        let mut scores = PairScores { texts: texts.batch, ..PairScores::default() };
        let embedded = workspace.embed_texts(model, texts)?;
        let width = embedded.len() / texts.batch;
        let rows = request.rows.len();
        in_batches(request, progress, &mut |cells, _, places| {
            let queries = workspace.embed_cells(model, cells)?;
            let similarity: Vec<f32> =
                queries.chunks_exact(queries.len() / cells.batch).flat_map(|cell| similarities(cell, &embedded, width)).collect();
            place_rows(&mut scores.similarity, &similarity, places, rows);
            if matching {
                place_rows(&mut scores.matching, &workspace.match_scores(model, cells, texts)?, places, rows);
            }
            Ok(())
        })?;
        Ok(scores)
    }

    /// The same with the matching scores of others, whose cells and texts are the same.
    pub(crate) fn matched_as(self, others: &PairScores) -> PairScores {
        PairScores { matching: others.matching.clone(), ..self }
    }

    /// Scores from elsewhere, `[cells, texts]` each.
    #[cfg(test)]
    pub(crate) fn of_values(texts: usize, similarity: Vec<f32>, matching: Vec<f32>) -> PairScores {
        PairScores { texts, similarity, matching }
    }

    /// The same for some of the cells.
    pub(crate) fn of(&self, cells: &[usize]) -> PairScores {
        let rows = |values: &[f32]| -> Vec<f32> {
            let row = |&cell: &usize| values.get(cell * self.texts..(cell + 1) * self.texts).unwrap_or_default();
            cells.iter().flat_map(row).copied().collect()
        };
        PairScores { texts: self.texts, similarity: rows(&self.similarity), matching: rows(&self.matching) }
    }

    /// Number of cells.
    pub(crate) fn cells(&self) -> usize {
        self.similarity.len() / self.texts.max(1)
    }

    /// Whether there are matching scores.
    pub(crate) fn are_matched(&self) -> bool {
        !self.matching.is_empty()
    }

    /// `[texts]`: product of each text and the nearest of the cell's vectors.
    pub(crate) fn similarity(&self, cell: usize) -> &[f32] {
        &self.similarity[cell * self.texts..][..self.texts]
    }

    /// `[texts]`: how likely it is that each text is the cell's, if exactly one is.
    ///
    /// `w * softmax(similarity / temperature) + (1 - w) * odds / sum(odds)`, with the odds `p / (1 - p)` of the matching probability:
    /// of independent guesses of which exactly one is right, each is right in proportion to its odds. Without matching scores `w` is 1.
    pub(crate) fn probabilities(&self, cell: usize, mixing: Mixing) -> Vec<f64> {
        let near = crate::predict::probabilities(self.similarity(cell), mixing.temperature);
        let Some(matching) = self.matching.get(cell * self.texts..(cell + 1) * self.texts) else { return near };
        let odds = matching.iter().map(|&probability| {
            let probability = f64::from(probability).clamp(SURE, 1.0 - SURE);
            probability / (1.0 - probability)
        });
        let odds: Vec<f64> = odds.collect();
        let sum: f64 = odds.iter().sum();
        near.iter().zip(&odds).map(|(near, odds)| mixing.similarity * near + (1.0 - mixing.similarity) * odds / sum).collect()
    }
}

/// Similarity of a cell, `[queries, width]`, with each text, `[texts, width]`.
fn similarities<'a>(cell: &'a [f32], texts: &'a [f32], width: usize) -> impl Iterator<Item = f32> + 'a {
    let product = |left: &[f32], right: &[f32]| -> f32 { left.iter().zip(right).map(|(left, right)| left * right).sum() };
    texts.chunks_exact(width).map(move |text| cell.chunks_exact(width).map(|query| product(query, text)).fold(f32::NEG_INFINITY, f32::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_mix() {
        let scores = PairScores { texts: 3, similarity: vec![0.5, 0.1, -0.2, 0.0, 0.0, 0.0], matching: vec![0.2, 0.8, 0.5, 0.0, 0.0, 1.0] };
        assert_eq!(scores.cells(), 2);
        for similarity in [0.0, 0.3, 1.0] {
            let mixing = Mixing { similarity, temperature: 0.1 };
            for cell in 0..2 {
                assert!((scores.probabilities(cell, mixing).iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
        // Odds 1/4, 4, 1 of 21/4.
        let matched = scores.probabilities(0, Mixing { similarity: 0.0, temperature: 0.1 });
        assert!((matched[1] - 16.0 / 21.0).abs() < 1e-6, "{matched:?}");
        let near = scores.probabilities(0, Mixing { similarity: 1.0, temperature: 0.1 });
        assert!((near[0] / near[1] - 4f64.exp()).abs() < 1e-4 * 4f64.exp(), "{near:?}");
        let alone = PairScores { matching: Vec::new(), ..scores };
        assert_eq!(alone.probabilities(0, Mixing { similarity: 0.0, temperature: 0.1 }), near);
    }

    #[test]
    fn the_nearest_query_counts() {
        let cell = [1.0, 0.0, 0.0, 1.0];
        let texts = [0.6, 0.8, -1.0, 0.0];
        assert_eq!(similarities(&cell, &texts, 2).collect::<Vec<_>>(), [0.8, 0.0]);
    }
}
