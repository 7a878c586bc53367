//! Top-k on the CPU: tiles of the base are packed once and met by blocks of queries, which keep their best entries between tiles.

use rayon::prelude::*;

use super::list::{List, order};
use super::product::{Block, negate, pack, survivors};
use super::{Forward, Metric};
use crate::Result;
use crate::runtime::{Cpu, Element, Float, Real, Rows, Stream, with_buffer};

/// Groups of queries that one task takes: they share each panel while it is in the first-level cache.
const GROUPS: usize = 4;
/// Columns of a panel and of a group that are used at once: both fit the first-level cache.
const COLUMNS: usize = 256;
/// Packed elements of a tile, if one panel is not more: about a second-level cache; with few queries more, to feed many tasks.
const TILE: usize = 1 << 18;
const TILE_FEW: usize = 1 << 22;
/// Packed elements of the queries of one pass over the base, if one task's are not more.
const QUERIES: usize = 1 << 22;
/// Tasks of a tile that are worth cutting it for.
const TASKS: usize = 64;

/// How the base is cut, from the shapes alone. Segment `s` owns the same share of the panels of every tile and a list of its own for
/// every query; one segment when there are queries enough for all threads.
struct Cut {
    segments: usize,
    /// Panels of a segment in one tile.
    panels: usize,
}

impl Cut {
    fn new(queries: usize, base_rows: usize, width: usize, rows: usize, block: usize) -> Cut {
        let panel = (rows * width).max(1);
        let wanted = TASKS.div_ceil(queries.div_ceil(block).max(1));
        let segments = wanted.min(TILE_FEW / panel).min(base_rows.div_ceil(rows)).max(1);
        Cut { segments, panels: (TILE / panel).div_ceil(segments).max(1) }
    }
}

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, args: Forward<T>) -> Result<()> {
    let (queries, width, k) = (args.query.rows(), args.query.width(), args.k);
    if queries * k == 0 {
        return Ok(());
    }
    let access = stream.access();
    let (query, base) = (access.read_rows(args.query), access.read_rows(args.base));
    let (scores, indices) = (access.write(args.scores), access.write(args.indices));
    let block = Block::best();
    let task = GROUPS * block.queries;
    // As many queries as fit the buffer meet the base in one pass over it.
    let pass = (QUERIES / (task * width).max(1)).max(1) * task;
    for (index, (scores, indices)) in scores.chunks_mut(pass * k).zip(indices.chunks_mut(pass * k)).enumerate() {
        let query = query.tile(index * pass, pass.min(queries - index * pass), 0, width);
        search(cpu, &block, scores, indices, query, base, args.metric, k);
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the kernel's own, resolved")]
fn search<T: Float>(
    cpu: &Cpu,
    block: &Block<T::Acc>,
    scores: &mut [T::Acc],
    indices: &mut [u32],
    query: Rows<T>,
    base: Rows<T>,
    metric: Metric,
    k: usize,
) {
    let (queries, rows, width) = (query.rows(), base.rows(), base.width());
    let (panel, group, task) = (block.rows * width, block.queries * width, GROUPS * block.queries);
    let cut = Cut::new(queries, rows, width, block.rows, task);
    let tile_rows = cut.segments * cut.panels * block.rows;
    let mut lists: Vec<List<T::Acc>> = (0..cut.segments * queries).map(|_| List::new()).collect();
    buffers([queries.div_ceil(block.queries) * group, tile_rows * width], |[groups, packed]: [&mut [T::Acc]; 2]| {
        cpu.install(|| {
            let chunks = groups.par_chunks_mut(group.max(1)).enumerate();
            chunks.for_each(|(index, group)| pack(group, query, index * block.queries, block.queries));
            let groups = &*groups;
            for start in (0..rows).step_by(tile_rows) {
                let panels = (rows - start).min(tile_rows).div_ceil(block.rows);
                let chunks = packed[..panels * panel].par_chunks_mut(panel.max(1)).enumerate();
                chunks.for_each(|(index, panel)| pack(panel, base, start + index * block.rows, block.rows));
                let packed = &*packed;
                lists.par_chunks_mut(queries).enumerate().for_each(|(segment, lists)| {
                    let panels = panels.min(segment * cut.panels)..panels.min((segment + 1) * cut.panels);
                    let search = Search { block, panels, packed, start, rows, width, metric, k };
                    lists.par_chunks_mut(task).enumerate().for_each(|(index, lists)| {
                        let end = groups.len().min((index + 1) * GROUPS * group);
                        search.run(lists, &groups[index * GROUPS * group..end]);
                    });
                });
            }
            let results = scores.par_chunks_mut(k).zip(indices.par_chunks_mut(k)).enumerate();
            results.for_each(|(at, (scores, indices))| finish(scores, indices, lists.iter().skip(at).step_by(queries)));
        });
    });
}

/// Some panels of a tile that some queries are to meet.
struct Search<'a, A> {
    block: &'a Block<A>,
    panels: std::ops::Range<usize>,
    packed: &'a [A],
    /// Base row of the tile's first.
    start: usize,
    /// Base rows in all.
    rows: usize,
    width: usize,
    metric: Metric,
    k: usize,
}

impl<A: Real> Search<'_, A> {
    /// Offers every score of the panels with the packed queries to the queries' lists.
    fn run(&self, lists: &mut [List<A>], packed: &[A]) {
        let (rows, queries, width) = (self.block.rows, self.block.queries, self.width);
        let groups = lists.len().div_ceil(queries);
        buffers([groups * queries * rows, groups * queries], |[scores, thresholds]| {
            for (threshold, list) in thresholds.iter_mut().zip(&*lists) {
                *threshold = list.threshold();
            }
            for panel in self.panels.clone() {
                let start = self.start + panel * rows;
                self.score(scores, &self.packed[panel * rows * width..(panel + 1) * rows * width], packed);
                let groups = scores.chunks_exact(queries * rows).zip(thresholds.chunks_exact_mut(queries)).zip(lists.chunks_mut(queries));
                for ((scores, thresholds), lists) in groups {
                    let mut mask = survivors(scores, thresholds, rows);
                    while mask != 0 {
                        let at = mask.trailing_zeros() as usize;
                        mask &= mask - 1;
                        let Some(list) = lists.get_mut(at) else { break };
                        let scores = &scores[at * rows..at * rows + rows.min(self.rows - start)];
                        for (index, score) in scores.iter().enumerate() {
                            list.offer((*score, (start + index) as u32), self.k);
                        }
                        thresholds[at] = list.threshold();
                    }
                }
            }
        });
    }

    /// Scores of every group's queries with one panel: `scores[group][query][row]`.
    fn score(&self, scores: &mut [A], panel: &[A], packed: &[A]) {
        let (rows, queries, width) = (self.block.rows, self.block.queries, self.width);
        let squared = self.metric == Metric::Euclidean;
        scores.fill(A::ZERO);
        for column in (0..width).step_by(COLUMNS) {
            let end = width.min(column + COLUMNS);
            let panel = &panel[column * rows..end * rows];
            for (scores, group) in scores.chunks_exact_mut(queries * rows).zip(packed.chunks_exact(queries * width)) {
                (self.block.add)(panel, &group[column * queries..end * queries], scores, squared);
            }
        }
        if squared {
            negate(scores);
        }
    }
}

/// Two buffers at once.
fn buffers<A: Element, R>(sizes: [usize; 2], body: impl FnOnce([&mut [A]; 2]) -> R) -> R {
    with_buffer(sizes[0] + sizes[1], |all: &mut [A]| {
        let (first, second) = all.split_at_mut(sizes[0]);
        body([first, second])
    })
}

/// Merges one query's lists, whichever entries they hold beyond the best.
fn finish<'a, A: Real>(scores: &mut [A], indices: &mut [u32], lists: impl Iterator<Item = &'a List<A>>) {
    let mut entries: Vec<_> = lists.flat_map(|list| list.entries().iter().copied()).collect();
    if entries.len() > scores.len() {
        entries.select_nth_unstable_by(scores.len() - 1, order);
        entries.truncate(scores.len());
    }
    entries.sort_unstable_by(order);
    scores.fill(A::NEG_INFINITY);
    indices.fill(u32::MAX);
    for ((score, index), entry) in scores.iter_mut().zip(indices).zip(entries) {
        (*score, *index) = entry;
    }
}
