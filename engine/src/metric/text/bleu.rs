//! BLEU of a corpus with one reference a text.

use std::collections::HashMap;

/// Longest n-grams.
pub const ORDERS: usize = 4;

/// What one pair of texts adds to the corpus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Clipped matches of n-grams, by length.
    matches: [u64; ORDERS],
    /// n-grams of the prediction, at least 1, by length.
    total: [u64; ORDERS],
    predicted: u64,
    reference: u64,
}

impl Counts {
    /// Counts the n-grams of one pair.
    pub fn new(predicted: &[String], reference: &[String]) -> Counts {
        let mut counts = Counts { predicted: predicted.len() as u64, reference: reference.len() as u64, ..Counts::default() };
        for order in 1..=ORDERS {
            counts.matches[order - 1] = shared(predicted, reference, order);
            counts.total[order - 1] = (predicted.len() + 1).saturating_sub(order).max(1) as u64;
        }
        counts
    }

    fn add(&mut self, other: &Counts) {
        for at in 0..ORDERS {
            self.matches[at] += other.matches[at];
            self.total[at] += other.total[at];
        }
        self.predicted += other.predicted;
        self.reference += other.reference;
    }
}

/// n-grams that both have, each as often as the text that has it less often.
pub(super) fn shared(first: &[String], second: &[String], order: usize) -> u64 {
    let mut left: HashMap<&[String], u64> = HashMap::new();
    second.windows(order).for_each(|gram| *left.entry(gram).or_default() += 1);
    let mut shared = 0;
    for gram in first.windows(order) {
        if let Some(count) = left.get_mut(gram).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    shared
}

/// Corpus BLEU up to n-grams of `order` words with equal weights, 0 to 1, without smoothing: a length of which nothing matches counts as
/// the least positive f64, and no matching word at all gives 0.
///
/// # Source
/// Papineni et al. 2002; nltk 3.10 `corpus_bleu` with one reference a text, `weights = (1/order, ..)`.
pub fn corpus_bleu<'a>(pairs: impl Iterator<Item = &'a Counts>, order: usize) -> f64 {
    let mut sum = Counts::default();
    pairs.for_each(|pair| sum.add(pair));
    if sum.matches[0] == 0 {
        return 0.0;
    }
    let precision = |at: usize| sum.matches[at] as f64 / sum.total[at] as f64;
    let logs = (0..order).map(|at| if sum.matches[at] == 0 { f64::MIN_POSITIVE } else { precision(at) }.ln() / order as f64);
    let short = if sum.predicted > sum.reference { 0.0 } else { 1.0 - sum.reference as f64 / sum.predicted as f64 };
    (short + logs.sum::<f64>()).exp()
}
