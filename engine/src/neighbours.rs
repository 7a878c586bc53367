//! Real cells beside which a cell is made from text: training cells by their place in stage 1's space, each with the vector that it is a
//! neighbour by.
//!
//! Two files of a model folder: `neighbors.index`, a retrieval index of the cells, and `neighbors.safetensors`, the means of their
//! queries, in the same order. Validation and test cells are in neither.
//!
//! # Source
//! Ours: MODEL.md section 11 a.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use scmmgpt_loader::checkpoint::{self, Checkpoint};
use scmmgpt_loader::index::{IndexElement, IndexMetric, IndexSpec, IndexWriter, VectorIndex};

use crate::model::cell_language::Neighbours;
use crate::retrieve::{Hit, Searcher};
use crate::{Error, Result};

const INDEX: &str = "neighbors.index";
const POOLED: &str = "neighbors.safetensors";
const TENSOR: &str = "pooled";

/// The cells, and the vectors that they are neighbours by.
#[derive(Debug)]
pub struct NeighbourIndex {
    /// Where each cell lies in stage 1's space, its name and its label.
    pub index: VectorIndex,
    /// `[cells, width]`: the mean of each cell's queries.
    pooled: Vec<f32>,
    width: usize,
}

/// A cell of the index, as it is written.
pub(crate) struct Neighbour<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its label.
    pub(crate) label: Option<&'a str>,
    /// `[queries, projection_dim]`: its place.
    pub(crate) vectors: &'a [f32],
}

impl NeighbourIndex {
    /// Writes both files into an existing folder: `cells`, each with `queries` vectors of `projection_dim` numbers, and their `pooled`
    /// queries, `[cells, width]`; `space` is the hash of stage 1's weights.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn write<'a>(
        folder: &Path,
        [queries, projection_dim]: [usize; 2],
        cells: impl Iterator<Item = Neighbour<'a>>,
        (pooled, width): (&[f32], usize),
        space: &str,
    ) -> Result<()> {
        let spec =
            IndexSpec { width: projection_dim, vectors_per_item: queries, element: IndexElement::F32, metric: IndexMetric::InnerProduct };
        let metadata = BTreeMap::from([("model_sha256".to_string(), space.to_string())]);
        let mut writer = IndexWriter::create(folder.join(INDEX), spec, metadata)?;
        for Neighbour { name, label, vectors } in cells {
            writer.push(name, label, vectors)?;
        }
        writer.commit()?;
        let shape = [pooled.len() / width.max(1), width];
        let tensors = [(TENSOR, Dtype::F32, &shape[..], bytemuck::cast_slice(pooled))];
        Ok(checkpoint::write(folder.join(POOLED), tensors, &BTreeMap::new())?)
    }

    /// Opens both files of a folder.
    ///
    /// # Errors
    /// Those of the files; `ModelFolder` when they do not belong together.
    pub(crate) fn open(folder: &Path) -> Result<NeighbourIndex> {
        let (index, file) = (VectorIndex::open(folder.join(INDEX))?, Checkpoint::open(folder.join(POOLED))?);
        let pooled = file.to_f32(TENSOR)?;
        let width = pooled.len() / index.len().max(1);
        if pooled.is_empty() || pooled.len() != width * index.len() {
            let reason = format!("{POOLED} holds {} numbers for the {} cells of {INDEX}", pooled.len(), index.len());
            return Err(Error::ModelFolder { folder: folder.into(), reason });
        }
        Ok(NeighbourIndex { index, pooled, width })
    }

    /// The `k` cells nearest to each text, `texts` as stage 1 embeds them, without those that `barred` names for a text; at most
    /// `most_barred` cells are barred from one.
    ///
    /// # Errors
    /// Those of the search.
    pub fn nearest(
        &self,
        searcher: &mut Searcher<'_>,
        texts: &[f32],
        k: usize,
        most_barred: usize,
        barred: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Vec<Vec<Hit>>> {
        let found = searcher.search(texts, 1, k + most_barred, &mut |_, _| ())?;
        let allowed = |(text, hits): (usize, Vec<Hit>)| hits.into_iter().filter(|hit| !barred(text, hit.item)).take(k).collect();
        Ok(found.into_iter().enumerate().map(allowed).collect())
    }

    /// What the expression decoder reads of the cells that were found: `k` a text, fewer where there are fewer. The bias of a neighbour is
    /// `log softmax(similarity / temperature)` over those of its text.
    pub fn neighbours(&self, found: &[Vec<Hit>], k: usize, temperature: f64) -> Neighbours {
        let mut neighbours = Neighbours { count: k, ..Neighbours::default() };
        for hits in found {
            let scaled: Vec<f64> = hits.iter().map(|hit| f64::from(hit.score) / temperature).collect();
            let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let logsumexp = largest + scaled.iter().map(|value| (value - largest).exp()).sum::<f64>().ln();
            for place in 0..k {
                // Behind those that there are, something finite.
                let item = hits.get(place).map(|hit| hit.item);
                let row = item.map(|item| &self.pooled[item * self.width..(item + 1) * self.width]);
                neighbours.pooled.extend(row.map_or(vec![0.0; self.width], <[f32]>::to_vec));
                neighbours.bias.push(scaled.get(place).map_or(0.0, |value| (value - logsumexp) as f32));
            }
            neighbours.counts.push(hits.len().min(k) as u32);
        }
        neighbours
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scmmgpt_kernels::runtime::Device;

    /// Six cells on a circle, two vectors each.
    fn index(folder: &Path) -> NeighbourIndex {
        let angle = |cell: usize| (cell as f32).mul_add(0.5, 0.1);
        let vectors: Vec<[f32; 4]> = (0..6).map(|cell| [angle(cell).cos(), angle(cell).sin(), -1.0, 0.0]).collect();
        let names: Vec<String> = (0..6).map(|cell| format!("cell {cell}")).collect();
        let cells = names.iter().zip(&vectors).map(|(name, vectors)| Neighbour { name, label: None, vectors });
        let pooled: Vec<f32> = (0..18).map(|value| value as f32).collect();
        NeighbourIndex::write(folder, [2, 2], cells, (&pooled, 3), "abc").unwrap();
        NeighbourIndex::open(folder).unwrap()
    }

    #[test]
    fn nearest_cells_without_those_that_are_barred() {
        let folder = tempfile::tempdir().unwrap();
        let index = index(folder.path());
        let device = Device::cpu(1).unwrap();
        let mut searcher = Searcher::new(&device, &index.index).unwrap();
        let text = [0.6f32.cos(), 0.6f32.sin()];
        let mut places = |k: usize, most: usize, barred: &dyn Fn(usize, usize) -> bool| -> Vec<usize> {
            let found = index.nearest(&mut searcher, &text, k, most, barred).unwrap();
            found[0].iter().map(|hit| hit.item).collect()
        };
        assert_eq!(places(3, 0, &|_, _| false), [1, 0, 2]);
        assert_eq!(places(3, 1, &|_, item| item == 1), [0, 2, 3]);
        assert_eq!(places(2, 3, &|_, item| item < 3), [3, 4]);
        assert_eq!(places(9, 0, &|_, _| false).len(), 6);
        assert_eq!(index.index.item(4).unwrap().0, "cell 4");
    }

    #[test]
    fn neighbours_weigh_a_softmax_of_their_similarities() {
        let folder = tempfile::tempdir().unwrap();
        let index = index(folder.path());
        let found = vec![vec![Hit { item: 2, score: 0.5 }, Hit { item: 0, score: 0.25 }], Vec::new()];
        let neighbours = index.neighbours(&found, 3, 0.25);
        assert_eq!(neighbours.counts, [2, 0]);
        assert_eq!(neighbours.pooled[..9], [6.0, 7.0, 8.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0]);
        let weight = |at: usize| f64::from(neighbours.bias[at]).exp();
        assert!((weight(0) + weight(1) - 1.0).abs() < 1e-6 && (weight(0) / weight(1) - 1f64.exp()).abs() < 1e-5);
        assert!(neighbours.bias.iter().all(|bias| bias.is_finite()) && neighbours.pooled.len() == 18);
    }
}
