//! The nearest items of an index, exactly, whatever its size.

mod merge;

use rayon::prelude::*;
use scmmgpt_kernels::runtime::{Arena, Class, Device, Plan, Stream, Tensor};
use scmmgpt_kernels::topk::{self, Metric};
use scmmgpt_loader::index::{IndexMetric, VectorIndex};

use crate::{Error, Result};

/// Bytes of the part of the index that is searched at once, about.
const TILE_BYTES: usize = 64 << 20;
/// Bytes of the queries that meet the index in one pass, with their results, about.
const QUERY_BYTES: usize = 64 << 20;

/// An item that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Place of the item in the index.
    pub item: usize,
    /// Its score: the index's metric between the best pair of a vector of the query and one of the item.
    pub score: f32,
}

/// Searches in an index, tile by tile, in constant memory.
///
/// The score of two vectors is [`topk::forward`]'s, so its bits depend on the two alone; hits come in the total order: larger score
/// first, NaN after every number, smaller place first. Results are those of scoring everything and sorting, at any number of threads and
/// for any company of other queries. An index of one tile stays in memory between searches.
#[derive(Debug)]
pub struct Searcher<'a> {
    index: &'a VectorIndex,
    stream: Stream,
    /// Blocks of the index that are searched at once.
    tile_blocks: usize,
    base: Tensor<f32>,
    _base: Arena,
    /// What `base` holds.
    loaded: Option<Tile>,
}

/// Some blocks of the index.
#[derive(Clone, Copy, Debug)]
struct Tile {
    number: usize,
    first_item: usize,
    vectors: usize,
}

impl<'a> Searcher<'a> {
    /// Plans the search.
    ///
    /// # Errors
    /// Those of the index; `Kernel` when memory does not suffice.
    pub fn new(device: &Device, index: &'a VectorIndex) -> Result<Searcher<'a>> {
        Searcher::with_tile(device, index, TILE_BYTES)
    }

    fn with_tile(device: &Device, index: &'a VectorIndex, bytes: usize) -> Result<Searcher<'a>> {
        let spec = index.spec();
        let block_vectors = index.block(0)?.len() * spec.vectors_per_item;
        let block_bytes = block_vectors * spec.width * size_of::<f32>();
        let tile_blocks = (bytes / block_bytes.max(1)).clamp(1, index.blocks());
        let rows = (tile_blocks * block_vectors).min(index.len() * spec.vectors_per_item);
        let mut plan = Plan::new(Class::Activations);
        let base = plan.tensor("base", [rows, spec.width]);
        Ok(Searcher { index, stream: Stream::new(device, 0)?, tile_blocks, base, _base: Arena::allocate(device, plan)?, loaded: None })
    }

    /// The `k` best items for every query, fewer where the index has fewer; `progress` gets tiles done and in all.
    ///
    /// # Shapes
    /// `queries`: `[queries, vectors_per_query, width]`.
    /// # Errors
    /// `Query` when the length or a value does not fit, or `k` is 0; those of the index and the kernel.
    pub fn search(
        &mut self,
        queries: &[f32],
        vectors_per_query: usize,
        k: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Vec<Hit>>> {
        let spec = self.index.spec();
        let width = spec.width * vectors_per_query;
        if width == 0 || !queries.len().is_multiple_of(width) {
            let expected = format!("a multiple of {vectors_per_query} x {} numbers, at least one vector a query", spec.width);
            return Err(Error::Query { found: format!("{} numbers", queries.len()), expected });
        }
        if let Some(at) = queries.iter().position(|value| !value.is_finite()) {
            let found = format!("{} in query {}", queries[at], at / width);
            return Err(Error::Query { found, expected: "finite numbers".into() });
        }
        if k == 0 {
            return Err(Error::Query { found: "k = 0".into(), expected: "k of 1 or more".into() });
        }
        // Each of the better items can come up once for every vector that it has.
        let depth = (k.min(self.index.len()) - 1).saturating_mul(spec.vectors_per_item).saturating_add(1).min(self.base.rows());
        let query_bytes = vectors_per_query * (spec.width * size_of::<f32>() + depth * (size_of::<f32>() + size_of::<u32>()));
        let pass = (QUERY_BYTES / query_bytes).max(1) * width;
        let (passes, tiles) = (queries.len().div_ceil(pass), self.index.blocks().div_ceil(self.tile_blocks));
        let mut hits = Vec::with_capacity(queries.len() / width);
        for (at, queries) in queries.chunks(pass).enumerate() {
            let mut done = |tile| progress(at * tiles + tile, passes * tiles);
            hits.extend(self.pass(queries, vectors_per_query, k, depth, &mut done)?);
        }
        Ok(hits)
    }

    /// One pass over the index; the vectors' `depth` best are enough for the queries' `k`.
    fn pass(
        &mut self,
        queries: &[f32],
        vectors_per_query: usize,
        k: usize,
        depth: usize,
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<Hit>>> {
        let spec = self.index.spec();
        let query_vectors = queries.len() / spec.width;
        let mut plan = Plan::new(Class::Activations);
        let query = plan.tensor("query", [query_vectors, spec.width]);
        let (scores, indices) = (plan.tensor("scores", [query_vectors, depth]), plan.tensor("indices", [query_vectors, depth]));
        plan.scratch(topk::scratch(query_vectors, self.base.rows(), depth));
        self.stream.provide_scratch(plan.scratch_bytes())?;
        let _arena = Arena::allocate(self.stream.device(), plan)?;
        self.stream.upload(query, queries)?;
        let metric = match spec.metric {
            IndexMetric::InnerProduct => Metric::InnerProduct,
            IndexMetric::Euclidean => Metric::Euclidean,
        };
        let mut best: Vec<Vec<Hit>> = vec![Vec::new(); query_vectors / vectors_per_query];
        for tile in 0..self.index.blocks().div_ceil(self.tile_blocks) {
            let Tile { first_item, vectors, .. } = self.load(tile)?;
            let base = self.base.row_range(0, vectors);
            topk::forward(&self.stream, topk::Forward { scores, indices, query, base, metric, k: depth })?;
            let (scores, indices) = (self.stream.fetch(scores)?, self.stream.fetch(indices)?);
            let found = scores.par_chunks(vectors_per_query * depth).zip(indices.par_chunks(vectors_per_query * depth));
            self.stream.device().enter(|| {
                best.par_iter_mut().zip(found).for_each(|(best, (scores, indices))| {
                    let present = scores.iter().zip(indices).filter(|(_, index)| (**index as usize) < vectors);
                    let hit = |(&score, &index): (&f32, &u32)| Hit { item: first_item + index as usize / spec.vectors_per_item, score };
                    best.extend(present.map(hit));
                    merge::cut(best, k);
                });
            });
            done(tile + 1);
        }
        Ok(best)
    }

    /// Puts a tile into `base`, if it is not there.
    fn load(&mut self, number: usize) -> Result<Tile> {
        if let Some(tile) = self.loaded.filter(|tile| tile.number == number) {
            return Ok(tile);
        }
        let spec = self.index.spec();
        let blocks = number * self.tile_blocks..self.index.blocks().min((number + 1) * self.tile_blocks);
        let first_item = self.index.block(blocks.start)?.first();
        let copy = |number| -> Result<usize> {
            let block = self.index.block(number)?;
            let (start, vectors) = ((block.first() - first_item) * spec.vectors_per_item, block.len() * spec.vectors_per_item);
            self.stream.upload(self.base.row_range(start, vectors), &block.vectors())?;
            Ok(vectors)
        };
        // A copy that breaks off leaves no tile.
        self.loaded = None;
        let vectors = self.stream.device().enter(|| blocks.into_par_iter().map(copy).sum::<Result<usize>>())?;
        Ok(*self.loaded.insert(Tile { number, first_item, vectors }))
    }
}

#[cfg(test)]
mod tests;
