//! The best of several lists.

use std::cmp::Ordering;

use super::Hit;

/// The total order of hits, best first: larger score, NaN after every number, smaller place.
fn order(left: &Hit, right: &Hit) -> Ordering {
    let by_score = right.score.partial_cmp(&left.score).unwrap_or_else(|| left.score.is_nan().cmp(&right.score.is_nan()));
    by_score.then(left.item.cmp(&right.item))
}

/// Leaves the first `k` items in order, each with its best score.
pub(super) fn cut(hits: &mut Vec<Hit>, k: usize) {
    // First by item, the best score of each in front; what follows it is dropped.
    hits.sort_unstable_by(|left, right| left.item.cmp(&right.item).then(order(left, right)));
    hits.dedup_by_key(|hit| hit.item);
    hits.sort_unstable_by(order);
    hits.truncate(k);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_stand_once_and_in_order() {
        let hit = |(item, score)| Hit { item, score };
        let mut hits: Vec<Hit> =
            [(3, 1.0), (1, f32::NAN), (2, 1.0), (3, 2.0), (7, f32::NEG_INFINITY), (2, f32::NAN), (0, 2.0)].map(hit).into();
        cut(&mut hits, 9);
        let order: Vec<usize> = hits.iter().map(|hit| hit.item).collect();
        assert_eq!(order, [0, 3, 2, 7, 1]);
        assert_eq!((hits[1].score, hits[2].score), (2.0, 1.0));
        cut(&mut hits, 2);
        assert_eq!(hits, [hit((0, 2.0)), hit((3, 2.0))]);
    }
}
