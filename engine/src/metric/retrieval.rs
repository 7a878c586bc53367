//! Scores of rankings: where among the candidates does a query find the first that is relevant to it?

use std::collections::BTreeMap;
use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bootstrap::{Estimate, RESAMPLES, draws};
use super::error::{MetricError, Result, same_length};

/// The `k` of recall at k that are reported when nothing else is asked for.
pub const DEFAULT_K: [u64; 4] = [1, 5, 10, 20];

/// What one query found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// Place of the first relevant candidate, from 1.
    pub first: u64,
    /// Relevant candidates in all.
    pub relevant: u64,
}

/// A score with its interval, and what an order by chance would be expected to reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AgainstChance {
    /// Value and interval.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Expectation of the value for candidates in uniformly random order.
    pub chance: f64,
}

/// Recall at one `k`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RecallAt {
    /// Candidates that count.
    pub k: u64,
    /// Share of the queries with a relevant candidate among the first `k`.
    #[serde(flatten)]
    pub recall: AgainstChance,
}

/// Scores of one ranking task in one direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalReport {
    /// Queries.
    pub n: u64,
    /// Candidates that every query ranks.
    pub candidates: u64,
    /// Recall at each `k`, ascending.
    pub recall: Vec<RecallAt>,
    /// Mean over the queries of 1 / place of the first relevant candidate.
    pub mean_reciprocal_rank: AgainstChance,
    /// Median over the queries of the place of the first relevant candidate; of an even number of queries the mean of the middle two.
    pub median_rank: AgainstChance,
    /// Each score in words.
    pub definitions: BTreeMap<String, String>,
    /// Resamples (of the queries) behind the intervals.
    pub resamples: u32,
    /// Seed of the resamples.
    pub seed: u64,
}

/// The rank of every query among candidates of known class; a candidate is relevant to the queries of its class.
///
/// A candidate that is not relevant and scores **equal** to the best relevant one counts as before it: what scores everything alike ranks
/// last, not first.
///
/// # Shapes
/// `scores`: `[queries, candidates]`; `query_classes`: `[queries]`; `candidate_classes`: `[candidates]`.
/// # Errors
/// `Empty`, `LengthMismatch`, `BadValue` for a NaN, `NoRelevant` for a query without a relevant candidate.
pub fn ranks(scores: &[f32], query_classes: &[u32], candidate_classes: &[u32]) -> Result<Vec<Rank>> {
    let candidates = candidate_classes.len();
    if candidates == 0 || query_classes.is_empty() {
        return Err(MetricError::Empty { what: if candidates == 0 { "candidates" } else { "queries" } });
    }
    same_length("scores", query_classes.len() * candidates, scores.len())?;
    if let Some(position) = scores.iter().position(|score| score.is_nan()) {
        return Err(MetricError::BadValue { what: "scores", position, value: f32::NAN, expected: "numbers" });
    }
    let rank = |(query, scores): (usize, &[f32])| {
        let is_relevant = |class: u32| class == query_classes[query];
        let scored = || scores.iter().zip(candidate_classes);
        let best = scored().filter(|(_, class)| is_relevant(**class)).map(|(score, _)| *score).reduce(f32::max);
        let best = best.ok_or(MetricError::NoRelevant { query })?;
        let before = scored().filter(|(score, class)| !is_relevant(**class) && **score >= best).count();
        let relevant = scored().filter(|(_, class)| is_relevant(**class)).count();
        Ok(Rank { first: before as u64 + 1, relevant: relevant as u64 })
    };
    scores.par_chunks(candidates).enumerate().map(rank).collect()
}

impl RetrievalReport {
    /// Scores the ranks that queries had among `candidates` candidates.
    ///
    /// # Shapes
    /// `ranks`: `[queries]`.
    /// # Errors
    /// `Empty` without queries or `k`; `Option` for a `k` of 0; `NoRelevant` and `OutOfRange` for a rank that cannot be.
    pub fn new(ranks: &[Rank], candidates: u64, ks: &[u64], seed: u64) -> Result<RetrievalReport> {
        if ranks.is_empty() || ks.is_empty() {
            return Err(MetricError::Empty { what: if ranks.is_empty() { "queries" } else { "k" } });
        }
        if ks.contains(&0) {
            return Err(MetricError::Option { option: "k", expected: "1 or more", got: 0.0 });
        }
        for (position, rank) in ranks.iter().enumerate() {
            if rank.relevant == 0 {
                return Err(MetricError::NoRelevant { query: position });
            }
            // Behind the first relevant candidate are all the others.
            let last = candidates.saturating_add(1).saturating_sub(rank.relevant);
            if rank.first == 0 || rank.first > last {
                return Err(MetricError::OutOfRange { what: "ranks", position, index: rank.first as usize, limit: last as usize + 1 });
            }
        }
        let mut ks = ks.to_vec();
        ks.sort_unstable();
        ks.dedup();

        let observed = scores(&mut ranks.iter().map(|rank| rank.first).collect::<Vec<_>>(), &ks);
        let resampled: Vec<Vec<f64>> = (0..RESAMPLES)
            .into_par_iter()
            .map_init(Vec::new, |sample, resample| {
                sample.clear();
                sample.extend(draws(seed, resample, ranks.len()).map(|query| ranks[query].first));
                scores(sample, &ks)
            })
            .collect();
        let chance = at_chance(ranks, candidates, &ks);
        let score = |at: usize| AgainstChance {
            estimate: Estimate::new(observed[at], resampled.iter().map(|scores| scores[at]).collect()),
            chance: chance[at],
        };
        Ok(RetrievalReport {
            n: ranks.len() as u64,
            candidates,
            recall: ks.iter().enumerate().map(|(at, &k)| RecallAt { k, recall: score(at) }).collect(),
            mean_reciprocal_rank: score(ks.len()),
            median_rank: score(ks.len() + 1),
            definitions: definitions(),
            resamples: RESAMPLES,
            seed,
        })
    }
}

fn definitions() -> BTreeMap<String, String> {
    let definitions = [
        (
            "rank",
            "place of the first relevant candidate, from 1; a candidate that is not relevant and has an equal score counts as before it",
        ),
        ("recall", "share of the queries whose rank is at most k (hit rate, also called top-k accuracy)"),
        ("mean_reciprocal_rank", "mean over the queries of 1 / rank"),
        ("median_rank", "median over the queries of the rank; of an even number the mean of the middle two"),
        ("chance", "expectation for uniformly random orders; of the median rank, the least rank that half of the queries would reach"),
        ("low, high", "95 % percentile interval over bootstrap resamples of the queries"),
    ];
    definitions.map(|(name, text)| (name.to_owned(), text.to_owned())).into()
}

/// Recall at every `k`, mean reciprocal rank, median rank. Reorders the ranks.
fn scores(ranks: &mut [u64], ks: &[u64]) -> Vec<f64> {
    let n = ranks.len() as f64;
    let within = |k: &u64| ranks.iter().filter(|rank| *rank <= k).count() as f64 / n;
    let mut scores: Vec<f64> = ks.iter().map(within).collect();
    scores.push(ranks.iter().map(|&rank| 1.0 / rank as f64).sum::<f64>() / n);
    let middle = ranks.len() / 2;
    let (below, upper, _) = ranks.select_nth_unstable(middle);
    let lower = if n % 2.0 == 0.0 { below.iter().max().copied().unwrap_or(*upper) } else { *upper };
    scores.push((lower as f64 + *upper as f64) / 2.0);
    scores
}

/// What random orders would be expected to reach, in the order of [`scores`].
///
/// With `r` relevant ones among `n`, `P(rank > j) = prod_{i < j} (n - r - i) / (n - i)`.
fn at_chance(ranks: &[Rank], candidates: u64, ks: &[u64]) -> Vec<f64> {
    let mut counts: BTreeMap<u64, f64> = BTreeMap::new();
    ranks.iter().for_each(|rank| *counts.entry(rank.relevant).or_default() += 1.0 / ranks.len() as f64);
    // Relevant candidates, share of the queries, P(rank > j).
    let mut beyond: Vec<(f64, f64, f64)> = counts.into_iter().map(|(relevant, share)| (relevant as f64, share, 1.0)).collect();
    let mut recall = vec![1.0; ks.len()];
    let (mut reciprocal, mut median) = (0.0, None);
    for place in 1..=candidates {
        let left = (candidates - place + 1) as f64;
        for (relevant, share, beyond) in &mut beyond {
            let here = (*beyond * *relevant / left).min(*beyond);
            reciprocal += *share * here / place as f64;
            *beyond -= here;
        }
        let reached = 1.0 - beyond.iter().map(|(_, share, beyond)| share * beyond).sum::<f64>();
        if let Ok(at) = ks.binary_search(&place) {
            recall[at] = reached;
        }
        if median.is_none() && reached >= 0.5 - 1e-12 {
            median = Some(place as f64);
        }
    }
    recall.extend([reciprocal, median.unwrap_or(candidates as f64)]);
    recall
}

impl fmt::Display for RetrievalReport {
    /// One score a line, with its interval and its value at chance.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} queries, {} candidates", self.n, self.candidates)?;
        let recall = self.recall.iter().map(|recall| (format!("recall at {}", recall.k), recall.recall));
        let others = [("mean reciprocal rank", self.mean_reciprocal_rank), ("median rank", self.median_rank)];
        for (name, AgainstChance { estimate, chance }) in recall.chain(others.map(|(name, score)| (name.to_owned(), score))) {
            writeln!(f, "{name:<22}{estimate}  (chance {chance:.3})")?;
        }
        writeln!(f, "[..] 95 % interval over {} bootstrap resamples of the queries", self.resamples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank((first, relevant): (u64, u64)) -> Rank {
        Rank { first, relevant }
    }

    #[test]
    fn ranks_by_hand() {
        // Two queries of class 0, one of class 1; candidates of classes 0, 1, 1, 2.
        let scores = [0.9, 0.8, 0.7, 0.6, 0.1, 0.5, 0.1, 0.1, 0.3, 0.2, 0.4, 0.4];
        let found = ranks(&scores, &[0, 0, 1], &[0, 1, 1, 2]).unwrap();
        // Second: one better, two equal and irrelevant. Third: its best equals the irrelevant last.
        assert_eq!(found, [(1, 1), (4, 1), (2, 2)].map(rank));
        assert_eq!(ranks(&[1.0; 6], &[5, 7], &[5, 7, 5]).unwrap(), [(2, 2), (3, 1)].map(rank));
    }

    #[test]
    fn scores_by_hand() {
        let ranks = [(1, 1), (2, 1), (4, 1), (10, 1)].map(rank);
        let report = RetrievalReport::new(&ranks, 10, &[5, 1, 5, 20], 3).unwrap();
        let recall: Vec<_> = report.recall.iter().map(|recall| (recall.k, recall.recall.estimate.value, recall.recall.chance)).collect();
        let close = |left: f64, right: f64| (left - right).abs() < 1e-12;
        assert_eq!(recall.iter().map(|recall| (recall.0, recall.1)).collect::<Vec<_>>(), [(1, 0.25), (5, 0.75), (20, 1.0)]);
        assert!(close(recall[0].2, 0.1) && close(recall[1].2, 0.5) && close(recall[2].2, 1.0), "{recall:?}");
        assert!(close(report.mean_reciprocal_rank.estimate.value, (1.0 + 0.5 + 0.25 + 0.1) / 4.0));
        // The tenth harmonic number over 10.
        assert!(close(report.mean_reciprocal_rank.chance, 0.292_896_825_396_825_4));
        assert_eq!((report.median_rank.estimate.value, report.median_rank.chance), (3.0, 5.0));
        assert_eq!(RetrievalReport::new(&ranks[..3], 10, &[1], 3).unwrap().median_rank.estimate.value, 2.0);
    }

    #[test]
    fn chance_with_several_relevant() {
        // 2 of 5: P(rank = 1, 2, 3, 4) = 4, 3, 2, 1 tenths. 5 of 5: always 1.
        let report = RetrievalReport::new(&[(2, 2)].map(rank), 5, &[1, 2, 4], 0).unwrap();
        let chance: Vec<f64> = report.recall.iter().map(|recall| recall.recall.chance).collect();
        for (found, expected) in chance.iter().zip([0.4, 0.7, 1.0]) {
            assert!((found - expected).abs() < 1e-12, "{chance:?}");
        }
        let expected = 0.4 + 0.3 / 2.0 + 0.2 / 3.0 + 0.1 / 4.0;
        assert!((report.mean_reciprocal_rank.chance - expected).abs() < 1e-12);
        assert_eq!(report.median_rank.chance, 2.0);
        let mixed = RetrievalReport::new(&[(2, 2), (1, 5)].map(rank), 5, &[1], 0).unwrap();
        assert!((mixed.recall[0].recall.chance - 0.7).abs() < 1e-12);
        assert_eq!(mixed.median_rank.chance, 1.0);
    }

    #[test]
    fn intervals_hold_the_value_and_come_from_the_seed() {
        let ranks: Vec<Rank> = (0..300).map(|query| rank((query % 10 + 1, 1))).collect();
        let report = RetrievalReport::new(&ranks, 10, &DEFAULT_K, 7).unwrap();
        // 1.96 sqrt(.5 * .5 / 300) = 0.0566
        let half = report.recall[1].recall.estimate;
        assert!(half.value == 0.5 && (half.low - 0.443).abs() < 0.02 && (half.high - 0.557).abs() < 0.02, "{half}");
        assert_eq!(report, RetrievalReport::new(&ranks, 10, &DEFAULT_K, 7).unwrap());
        assert_ne!(report, RetrievalReport::new(&ranks, 10, &DEFAULT_K, 8).unwrap());
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.contains(r#"{"k":1,"value":0.1,"#) && text.contains(r#""median_rank":"median over"#), "{text}");
        assert_eq!(serde_json::from_str::<RetrievalReport>(&text).unwrap(), report);
        assert!(report.to_string().contains("recall at 5           0.500 ["), "{report}");
    }

    #[test]
    fn what_cannot_be_scored_is_refused() {
        assert_eq!(ranks(&[], &[], &[1]).unwrap_err(), MetricError::Empty { what: "queries" });
        assert_eq!(ranks(&[], &[1], &[]).unwrap_err(), MetricError::Empty { what: "candidates" });
        assert!(matches!(ranks(&[1.0], &[1], &[1, 2]), Err(MetricError::LengthMismatch { expected: 2, got: 1, .. })));
        assert!(matches!(ranks(&[1.0, f32::NAN], &[1], &[1, 2]), Err(MetricError::BadValue { position: 1, .. })));
        assert_eq!(ranks(&[1.0, 2.0], &[3], &[1, 2]).unwrap_err(), MetricError::NoRelevant { query: 0 });
        let report = |first, relevant, ks: &[u64]| RetrievalReport::new(&[Rank { first, relevant }], 10, ks, 0);
        assert!(matches!(report(0, 1, &[1]), Err(MetricError::OutOfRange { .. })));
        assert!(matches!(report(10, 2, &[1]), Err(MetricError::OutOfRange { index: 10, limit: 10, .. })));
        assert!(matches!(report(1, 11, &[1]), Err(MetricError::OutOfRange { .. })));
        assert!(matches!(report(1, 0, &[1]), Err(MetricError::NoRelevant { query: 0 })));
        assert!(matches!(report(1, 1, &[]), Err(MetricError::Empty { what: "k" })));
        assert!(matches!(report(1, 1, &[0]), Err(MetricError::Option { .. })));
        assert_eq!(RetrievalReport::new(&[], 10, &[1], 0).unwrap_err(), MetricError::Empty { what: "queries" });
    }
}
