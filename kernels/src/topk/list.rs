//! The best entries seen so far: a threshold to pass, a buffer that is cut back to `k` when it is full.

use std::cmp::Ordering;

use crate::runtime::Real;

/// A score and the base row it belongs to.
pub(super) type Entry<A> = (A, u32);

/// The total order of results, best first: larger score, NaN after every number, smaller index.
pub(super) fn order<A: Real>(left: &Entry<A>, right: &Entry<A>) -> Ordering {
    let nan = |entry: &Entry<A>| entry.0.partial_cmp(&entry.0).is_none();
    let by_score = right.0.partial_cmp(&left.0).unwrap_or_else(|| nan(left).cmp(&nan(right)));
    by_score.then(left.1.cmp(&right.1))
}

/// Keeps the first `k` entries of [`order`] among all that are offered, in ascending order of index.
///
/// Cutting back rarely makes an entry cost a constant on average, whatever `k`.
pub(super) struct List<A> {
    entries: Vec<Entry<A>>,
    /// The `k`-th score at the last cut: no later entry at or below it can be among the first `k`, since its index is larger. NaN while
    /// everything may be.
    threshold: A,
}

impl<A: Real> List<A> {
    pub(super) fn new() -> Self {
        List { entries: Vec::new(), threshold: A::of(f64::NAN) }
    }

    /// See the field.
    pub(super) fn threshold(&self) -> A {
        self.threshold
    }

    /// Offers an entry whose index is larger than that of every entry before. `k` is at least 1.
    pub(super) fn offer(&mut self, entry: Entry<A>, k: usize) {
        // A NaN threshold takes all; a NaN score is behind every threshold that is a number.
        if matches!(entry.0.partial_cmp(&self.threshold), Some(Ordering::Greater)) || self.threshold.partial_cmp(&A::ZERO).is_none() {
            self.entries.push(entry);
            if self.entries.len() >= 2 * k + 64 {
                self.entries.select_nth_unstable_by(k - 1, order);
                self.entries.truncate(k);
                self.threshold = self.entries[k - 1].0;
            }
        }
    }

    /// What is left, in no order: at least the first `k`.
    pub(super) fn entries(&self) -> &[Entry<A>] {
        &self.entries
    }
}
