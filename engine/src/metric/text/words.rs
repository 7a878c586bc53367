//! Texts as words.

/// The words of a text: lower-case runs of ASCII letters and digits, everything else separates.
///
/// # Source
/// rouge_score `tokenize.py`, without stemmer.
pub fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Length of the longest common subsequence.
pub(super) fn longest_common_subsequence<T: PartialEq>(first: &[T], second: &[T]) -> usize {
    let mut lengths = vec![0; second.len() + 1];
    for a in first {
        let mut diagonal = 0;
        for (at, b) in second.iter().enumerate() {
            let above = lengths[at + 1];
            lengths[at + 1] = if a == b { diagonal + 1 } else { above.max(lengths[at]) };
            diagonal = above;
        }
    }
    lengths[second.len()]
}

/// Similarity of two strings by insertions and deletions of characters, 0 to 1: `2 lcs / (|a| + |b|)`, 1 for two empty ones.
///
/// # Source
/// `Levenshtein.ratio` of the Python package.
pub fn levenshtein_ratio(first: &str, second: &str) -> f64 {
    let (first, second): (Vec<char>, Vec<char>) = (first.chars().collect(), second.chars().collect());
    let total = first.len() + second.len();
    if total == 0 { 1.0 } else { 2.0 * longest_common_subsequence(&first, &second) as f64 / total as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_ratios_by_hand() {
        assert_eq!(
            words("CD14-positive, monocyte (CL:0001054). Naïve\tT  "),
            ["cd14", "positive", "monocyte", "cl", "0001054", "na", "ve", "t"]
        );
        assert_eq!(longest_common_subsequence(&[1, 2, 3, 4, 1], &[3, 4, 1, 2, 1, 3]), 3);
        assert_eq!(levenshtein_ratio("", ""), 1.0);
        assert_eq!(levenshtein_ratio("", "ab"), 0.0);
        // kitten, sitting: ittn of 6 + 7.
        assert_eq!(levenshtein_ratio("kitten", "sitting"), 8.0 / 13.0);
        assert_eq!(levenshtein_ratio("β-cell", "β cell"), 10.0 / 12.0);
    }
}
