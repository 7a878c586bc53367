//! Against a sorted list of all scores, and the same bits whatever else is asked at the same time.

use super::*;
use crate::runtime::philox::{philox4x32, uniform};
use crate::runtime::{Arena, Class, Device, Plan};

struct Search {
    queries: Vec<f32>,
    base: Vec<f32>,
    width: usize,
}

impl Search {
    fn new(queries: usize, rows: usize, width: usize) -> Search {
        let values = |count: usize, key: u32| -> Vec<f32> {
            (0..count).map(|index| uniform(philox4x32([index as u32, 0, 0, 0], [key, 0])[0]) * 2.0 - 1.0).collect()
        };
        Search { queries: values(queries * width, 1), base: values(rows * width, 2), width }
    }

    fn run(&self, first: usize, queries: usize, metric: Metric, k: usize, threads: usize) -> Vec<(u32, u32)> {
        let device = Device::cpu(threads).unwrap();
        let mut plan = Plan::new(Class::Activations);
        let (query, base) = (plan.tensor("query", [queries, self.width]), plan.tensor("base", [self.base.len() / self.width, self.width]));
        let (scores, indices) = (plan.tensor("scores", [queries, k]), plan.tensor("indices", [queries, k]));
        let _arena = Arena::allocate(&device, plan).unwrap();
        let stream = Stream::new(&device, 0).unwrap();
        stream.upload(query, &self.queries[first * self.width..(first + queries) * self.width]).unwrap();
        stream.upload(base, &self.base).unwrap();
        forward(&stream, Forward { scores, indices, query, base, metric, k }).unwrap();
        stream.fetch(scores).unwrap().iter().map(|score: &f32| score.to_bits()).zip(stream.fetch(indices).unwrap()).collect()
    }

    fn sorted(&self, query: usize, metric: Metric, k: usize) -> Vec<(u32, u32)> {
        let query = &self.queries[query * self.width..(query + 1) * self.width];
        let score = |row: &[f32]| match metric {
            Metric::InnerProduct => query.iter().zip(row).fold(0.0f32, |sum, (q, b)| q.mul_add(*b, sum)),
            Metric::Euclidean => 0.0 - query.iter().zip(row).fold(0.0f32, |sum, (q, b)| (q - b).mul_add(q - b, sum)),
        };
        let mut entries: Vec<(f32, u32)> = self.base.chunks(self.width).map(score).zip(0..).collect();
        entries.sort_by(list::order);
        entries.resize(k.max(entries.len()), (f32::NEG_INFINITY, u32::MAX));
        entries.iter().take(k).map(|(score, index)| (score.to_bits(), *index)).collect()
    }
}

#[test]
fn equals_a_sort_of_all_scores_bit_for_bit() {
    let mut search = Search::new(61, 5003, 19);
    for row in [7, 8, 2900] {
        search.base.copy_within(40 * 19..41 * 19, row * 19);
    }
    for metric in [Metric::InnerProduct, Metric::Euclidean] {
        for k in [1, 10, 100] {
            let together = search.run(0, 61, metric, k, 3);
            for query in [0, 30, 60] {
                let expected = search.sorted(query, metric, k);
                assert_eq!(together[query * k..(query + 1) * k], expected, "{metric:?} k {k} query {query}");
                assert_eq!(search.run(query, 1, metric, k, 1), expected, "alone: {metric:?} k {k} query {query}");
            }
        }
    }
}

#[test]
fn nan_comes_after_numbers_and_before_nothing() {
    let mut search = Search::new(2, 300, 3);
    for row in 0..297 {
        search.base[row * 3] = f32::NAN;
    }
    search.base[299 * 3] = f32::NEG_INFINITY;
    for k in [2, 5, 310] {
        let found = search.run(0, 2, Metric::Euclidean, k, 2);
        for query in 0..2 {
            let expected = search.sorted(query, Metric::Euclidean, k);
            let got = &found[query * k..(query + 1) * k];
            assert!(got.iter().map(|entry| entry.1).eq(expected.iter().map(|entry| entry.1)), "{got:?}");
            assert!(got.iter().skip(3).take(297).all(|entry| f32::from_bits(entry.0).is_nan()));
        }
    }
}

#[test]
fn a_row_is_at_distance_zero_from_itself() {
    let mut search = Search::new(1, 100, 513);
    search.queries.copy_from_slice(&search.base[77 * 513..78 * 513]);
    assert_eq!(search.run(0, 1, Metric::Euclidean, 1, 1), [(0.0f32.to_bits(), 77)]);
}
