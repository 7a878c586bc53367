//! METEOR of one pair of texts, without synonyms.

use std::collections::HashMap;

use super::porter::stem;

const ALPHA: f64 = 0.9;
const BETA: i32 = 3;
const GAMMA: f64 = 0.5;

/// METEOR of lower-cased words, 0 to 1: equal words are paired first, then, of the rest, words of equal Porter stem. There is no stage
/// for synonyms, which needs WordNet: this is nltk's value with a WordNet that knows no word.
///
/// With `m` pairs in `c` chunks of adjacent ones, `P = m / |predicted|` and `R = m / |reference|`:
/// `(1 - 0.5 (c / m)^3) P R / (0.9 P + 0.1 R)`.
///
/// # Source
/// Lavie & Agarwal 2007; nltk 3.10 `single_meteor_score`.
pub fn meteor(predicted: &[String], reference: &[String]) -> f64 {
    let lower = |words: &[String]| words.iter().map(|word| word.to_lowercase()).enumerate().collect::<Vec<_>>();
    let (mut ours, mut theirs) = (lower(predicted), lower(reference));
    let mut pairs = pair(&mut ours, &mut theirs);
    for (_, word) in ours.iter_mut().chain(&mut theirs) {
        *word = stem(word);
    }
    pairs.extend(pair(&mut ours, &mut theirs));
    if pairs.is_empty() {
        return 0.0;
    }
    pairs.sort_unstable();
    let adjacent = |two: &[(usize, usize)]| two[1].0 == two[0].0 + 1 && two[1].1 == two[0].1 + 1;
    let chunks = 1 + pairs.windows(2).filter(|two| !adjacent(two)).count();
    let matches = pairs.len() as f64;
    let (precision, recall) = (matches / predicted.len() as f64, matches / reference.len() as f64);
    let mean = precision * recall / (ALPHA * precision + (1.0 - ALPHA) * recall);
    (1.0 - GAMMA * (chunks as f64 / matches).powi(BETA)) * mean
}

/// Pairs equal words, from the last to the first, each with the last equal one that is left; takes them out of both lists.
fn pair(ours: &mut Vec<(usize, String)>, theirs: &mut Vec<(usize, String)>) -> Vec<(usize, usize)> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, word) in theirs.iter() {
        places.entry(word).or_default().push(*place);
    }
    let last = |(ours, word): &(usize, String)| Some((*ours, places.get_mut(word.as_str())?.pop()?));
    let pairs: Vec<(usize, usize)> = ours.iter().rev().filter_map(last).collect();
    ours.retain(|(place, _)| pairs.iter().all(|pair| pair.0 != *place));
    theirs.retain(|(place, _)| pairs.iter().all(|pair| pair.1 != *place));
    pairs
}
