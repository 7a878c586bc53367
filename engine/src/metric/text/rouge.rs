//! ROUGE F1 of one pair of texts.

use super::bleu::shared;
use super::words::longest_common_subsequence;

/// F1 of shared n-grams, 0 to 1; 0 where either has none.
///
/// # Source
/// Lin 2004; rouge_score 0.1.2 `rouge1`, `rouge2` (`fmeasure`).
pub fn rouge_n(predicted: &[String], reference: &[String], order: usize) -> f64 {
    let grams = |words: &[String]| (words.len() + 1).saturating_sub(order);
    f1(shared(predicted, reference, order) as usize, grams(predicted), grams(reference))
}

/// F1 of the longest common subsequence of words, 0 to 1.
///
/// # Source
/// Lin 2004; rouge_score 0.1.2 `rougeL` (`fmeasure`).
pub fn rouge_l(predicted: &[String], reference: &[String]) -> f64 {
    f1(longest_common_subsequence(predicted, reference), predicted.len(), reference.len())
}

fn f1(matches: usize, predicted: usize, reference: usize) -> f64 {
    if matches == 0 {
        return 0.0;
    }
    let (precision, recall) = (matches as f64 / predicted as f64, matches as f64 / reference as f64);
    2.0 * precision * recall / (precision + recall)
}
