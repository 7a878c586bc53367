//! The search against scoring everything and sorting.

use std::collections::BTreeMap;
use std::path::Path;

use scmmgpt_loader::index::{IndexElement, IndexSpec, IndexWriter};

use super::*;

const SPEC: IndexSpec = IndexSpec { width: 19, vectors_per_item: 1, element: IndexElement::F32, metric: IndexMetric::InnerProduct };

/// Eighths, which bf16 holds too: many scores are equal.
fn values(seed: u32, count: usize) -> Vec<f32> {
    let hash = |index: u32| (index ^ seed).wrapping_mul(0x9E37_79B1).rotate_left(15).wrapping_mul(0x85EB_CA6B) >> 28;
    (0..count as u32).map(|index| hash(index) as f32 / 8.0 - 1.0).collect()
}

fn build(path: &Path, spec: IndexSpec, vectors: &[f32]) {
    let mut writer = IndexWriter::create(path, spec, BTreeMap::new()).unwrap();
    for (item, vectors) in vectors.chunks(spec.width * spec.vectors_per_item).enumerate() {
        writer.push(&item.to_string(), None, vectors).unwrap();
    }
    writer.commit().unwrap();
}

fn brute_force(spec: IndexSpec, base: &[f32], query: &[f32], k: usize) -> Vec<(usize, u32)> {
    let score = |left: &[f32], right: &[f32]| match spec.metric {
        IndexMetric::InnerProduct => left.iter().zip(right).fold(0.0f32, |sum, (l, r)| l.mul_add(*r, sum)),
        IndexMetric::Euclidean => 0.0 - left.iter().zip(right).fold(0.0f32, |sum, (l, r)| (l - r).mul_add(l - r, sum)),
    };
    let best = |item: &[f32]| {
        let pairs = item.chunks(spec.width).flat_map(|right| query.chunks(spec.width).map(move |left| score(left, right)));
        pairs.reduce(f32::max).unwrap()
    };
    let mut all: Vec<(f32, usize)> = base.chunks(spec.width * spec.vectors_per_item).map(best).zip(0..).collect();
    all.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1)));
    all.into_iter().take(k).map(|(score, item)| (item, score.to_bits())).collect()
}

#[test]
fn equals_brute_force_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.index");
    // Items, vectors an item, vectors a query, element, metric.
    let cases = [
        (150_000, 1, 1, IndexElement::F32, IndexMetric::InnerProduct),
        (150_000, 1, 1, IndexElement::F32, IndexMetric::Euclidean),
        (250_000, 1, 3, IndexElement::Bf16, IndexMetric::InnerProduct),
        (40_000, 4, 2, IndexElement::F32, IndexMetric::InnerProduct),
        (7, 2, 1, IndexElement::F32, IndexMetric::Euclidean),
    ];
    for (items, vectors_per_item, vectors_per_query, element, metric) in cases {
        let spec = IndexSpec { vectors_per_item, element, metric, ..SPEC };
        let base = values(1, items * vectors_per_item * spec.width);
        build(&file, spec, &base);
        let index = VectorIndex::open(&file).unwrap();
        let width = vectors_per_query * spec.width;
        let queries = values(77, 5 * width);
        for k in [1, 12] {
            for (threads, tile_bytes) in [(1, TILE_BYTES), (3, 9 << 20), (2, 1)] {
                let device = Device::cpu(threads).unwrap();
                let mut searcher = Searcher::with_tile(&device, &index, tile_bytes).unwrap();
                let mut steps = Vec::new();
                let found = searcher.search(&queries, vectors_per_query, k, &mut |done, all| steps.push((done, all))).unwrap();
                assert_eq!(steps.last().map(|(done, all)| done == all), Some(true));
                assert!(items < 1000 || tile_bytes == TILE_BYTES || steps.len() > 1, "the index has several tiles");
                for (query, hits) in found.iter().enumerate() {
                    let expected = brute_force(spec, &base, &queries[query * width..(query + 1) * width], k);
                    let hits: Vec<_> = hits.iter().map(|hit| (hit.item, hit.score.to_bits())).collect();
                    assert_eq!(hits, expected, "{items} items, k {k}, {threads} threads, tiles of {tile_bytes}, query {query}");
                }
                let alone = searcher.search(&queries[width..2 * width], vectors_per_query, k, &mut |_, _| ()).unwrap();
                assert_eq!(alone[0], found[1], "company does not matter");
            }
        }
    }
}

#[test]
fn an_item_is_nearest_to_itself_and_a_missing_query_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.index");
    let base = values(3, 100 * 19);
    build(&file, IndexSpec { metric: IndexMetric::Euclidean, ..SPEC }, &base);
    let index = VectorIndex::open(&file).unwrap();
    let device = Device::cpu(2).unwrap();
    let mut searcher = Searcher::new(&device, &index).unwrap();
    let mut search = |queries: &[f32], group, k| searcher.search(queries, group, k, &mut |_, _| ());
    assert_eq!(search(&base[40 * 19..41 * 19], 1, 1).unwrap(), [vec![Hit { item: 40, score: 0.0 }]]);
    assert_eq!(search(&base[..19], 1, 1000).unwrap()[0].len(), 100);
    assert!(search(&[], 1, 1).unwrap().is_empty());
    let mut bad = base[..19].to_vec();
    bad[4] = f32::NAN;
    for (queries, group, k) in [(&base[..18], 1, 1), (&base[..19], 2, 1), (&base[..19], 0, 1), (&base[..19], 1, 0), (&bad, 1, 1)] {
        assert!(matches!(search(queries, group, k), Err(Error::Query { .. })));
    }
}
