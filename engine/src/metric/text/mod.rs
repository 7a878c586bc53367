//! Descriptions against references, a pair a sample.
//!
//! [`scores`] is what `eval description` and a trainer's final table print; the metrics stand one a file.

pub mod bleu;
mod mention;
pub mod meteor;
mod porter;
pub mod rouge;
pub mod words;

pub use mention::TypeNames;
pub use porter::stem;
pub use words::words;

use super::bootstrap::Estimate;
use super::distance::{DIRECTIONS, MOST_POINTS, TwoSets};
use super::error::{MetricError, Result, in_range, same_length};
use super::scores::Score;
use bleu::{Counts, corpus_bleu};
use meteor::meteor;
use rouge::{rouge_l, rouge_n};
use words::levenshtein_ratio;

/// How texts become the tokens of BLEU and METEOR.
#[derive(Clone, Copy)]
pub struct Tokens<'a> {
    /// In words, for the definitions.
    pub name: &'a str,
    /// The tokens of a text.
    pub split: &'a (dyn Fn(&str) -> Vec<String> + Sync),
}

impl Default for Tokens<'_> {
    /// [`words()`].
    fn default() -> Self {
        Tokens { name: "lower-case runs of ASCII letters and digits", split: &words }
    }
}

impl std::fmt::Debug for Tokens<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

/// The cell type of each pair.
#[derive(Debug, Clone, Copy)]
pub struct Types<'a> {
    /// Names, `[types]`.
    pub names: &'a [String],
    /// The type of each pair, `[pairs]`.
    pub of: &'a [u32],
}

/// Vectors of texts.
#[derive(Debug, Clone, Copy)]
pub struct Embeddings<'a> {
    /// `[pairs, width]`.
    pub predicted: &'a [f32],
    /// `[pairs, width]`.
    pub reference: &'a [f32],
    /// Numbers of a vector.
    pub width: usize,
}

/// What to score with besides the texts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Tokens of BLEU and METEOR.
    pub tokens: Tokens<'a>,
    /// For the mention of types; without it they are left out.
    pub types: Option<Types<'a>>,
    /// For the distances between the sets of texts; without it they are left out.
    pub embeddings: Option<Embeddings<'a>>,
    /// Seed of resamples and directions.
    pub seed: u64,
}

const TYPE_MENTION: &str = "type mention";
const FIRST_TYPE: &str = "first type";
const METEOR: &str = "METEOR (exact, stem)";
const MMD: &str = "MMD^2 of embeddings";
const WASSERSTEIN: &str = "sliced Wasserstein of embeddings";

/// Every metric of predicted against reference texts, all from 0 to 1 but for the distances.
///
/// # Shapes
/// `predicted`, `reference`: `[pairs]`.
/// # Errors
/// `Empty` without pairs, `LengthMismatch`, `OutOfRange` for a type without a name.
pub fn scores(predicted: &[String], reference: &[String], options: &Options<'_>) -> Result<Vec<Score>> {
    if predicted.is_empty() {
        return Err(MetricError::Empty { what: "pairs of texts" });
    }
    same_length("reference texts", predicted.len(), reference.len())?;
    let (n, seed) = (predicted.len(), options.seed);
    let mut scores = Vec::new();
    let mut score = |metric: &str, estimate| scores.push(Score { metric: metric.into(), n: n as u64, estimate });
    let of_pairs = |value: &dyn Fn(usize) -> f64| Estimate::mean(&(0..n).map(value).collect::<Vec<_>>(), seed);

    let split = |texts: &[String]| texts.iter().map(|text| (options.tokens.split)(text)).collect::<Vec<_>>();
    let (ours, theirs) = (split(predicted), split(reference));
    let counts: Vec<Counts> = ours.iter().zip(&theirs).map(|(ours, theirs)| Counts::new(ours, theirs)).collect();
    for order in [2, 4] {
        let bleu = Estimate::of(n, seed, |drawn| corpus_bleu(drawn.map(|at| &counts[at]), order));
        score(&format!("BLEU-{order}"), bleu);
    }
    score(METEOR, of_pairs(&|at| meteor(&ours[at], &theirs[at])));

    let in_words = |texts: &[String]| texts.iter().map(|text| words(text)).collect::<Vec<_>>();
    let (ours, theirs) = (in_words(predicted), in_words(reference));
    score("ROUGE-1", of_pairs(&|at| rouge_n(&ours[at], &theirs[at], 1)));
    score("ROUGE-2", of_pairs(&|at| rouge_n(&ours[at], &theirs[at], 2)));
    score("ROUGE-L", of_pairs(&|at| rouge_l(&ours[at], &theirs[at])));
    score("Levenshtein ratio", of_pairs(&|at| levenshtein_ratio(&predicted[at], &reference[at])));

    if let Some(types) = options.types {
        same_length("types of pairs", n, types.of.len())?;
        in_range("types of pairs", types.of.iter().map(|kind| *kind as usize), types.names.len())?;
        let names = TypeNames::new(types.names);
        let named: Vec<Vec<usize>> = predicted.iter().map(|text| names.in_text(text)).collect();
        let is = |at: usize, kind: &usize| *kind == types.of[at] as usize;
        score(TYPE_MENTION, of_pairs(&|at| f64::from(named[at].iter().any(|kind| is(at, kind)))));
        score(FIRST_TYPE, of_pairs(&|at| f64::from(named[at].first().is_some_and(|kind| is(at, kind)))));
    }
    if let Some(Embeddings { predicted, reference, width }) = options.embeddings {
        same_length("embeddings", n * width, predicted.len())?;
        let sets = TwoSets::dense(predicted, reference, width, seed)?;
        score(MMD, sets.mmd());
        score(WASSERSTEIN, sets.sliced_wasserstein());
    }
    Ok(scores)
}

/// What [`scores`] prints, in words.
pub fn definitions(tokens: Tokens<'_>) -> Vec<(String, String)> {
    let bleu = |order: usize| {
        format!(
            "corpus BLEU of n-grams up to {order}, equal weights, no smoothing, one reference a text; tokens: {}; as nltk corpus_bleu; the \
             authors of scMMGPT print 100 times this",
            tokens.name
        )
    };
    let rouge = "of lower-case runs of ASCII letters and digits, mean over the pairs; as rouge_score without stemmer";
    let distances =
        format!("at most {MOST_POINTS} texts a set, drawn by the seed; interval: resampled values moved to the mean of the value");
    let definitions = [
        ("BLEU-2", bleu(2)),
        ("BLEU-4", bleu(4)),
        (
            METEOR,
            format!(
                "mean METEOR (alpha 0.9, beta 3, gamma 0.5) with the stages of equal words and of equal Porter stems, without the one of \
                 WordNet synonyms; tokens: {}; as nltk single_meteor_score with a WordNet that knows no word",
                tokens.name
            ),
        ),
        ("ROUGE-1", format!("F1 of words, {rouge}")),
        ("ROUGE-2", format!("F1 of pairs of words, {rouge}")),
        ("ROUGE-L", format!("F1 of the longest common subsequence, {rouge}")),
        ("Levenshtein ratio", "mean of 2 lcs / (|a| + |b|) over characters; as Levenshtein.ratio".into()),
        (
            TYPE_MENTION,
            "share of the predictions that contain the name of the cell's type as whole words, not inside a longer type's name".into(),
        ),
        (FIRST_TYPE, "share of the predictions of which the first type named, the longest where several begin, is the cell's".into()),
        (
            MMD,
            format!(
                "squared maximum mean discrepancy between the sets of sentence embeddings, RBF kernel exp(-d^2 / 2s^2) with s the median \
                 distance of both sets together, biased (0 for equal sets); {distances}"
            ),
        ),
        (
            WASSERSTEIN,
            format!("2-Wasserstein distance between the sets of sentence embeddings over {DIRECTIONS} random directions; {distances}"),
        ),
    ];
    definitions.map(|(name, text)| (name.to_owned(), text)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn value(scores: &[Score], metric: &str) -> f64 {
        scores.iter().find(|score| score.metric == metric).unwrap().estimate.value
    }

    #[test]
    fn perfect_texts_are_perfect_and_every_score_is_defined() {
        let texts = owned(&["cell type: B cell. A lymphocyte of B lineage.", "cell type: monocyte. Myeloid mononuclear leukocyte."]);
        let names = owned(&["B cell", "monocyte"]);
        let vectors = [1.0, 0.0, 0.0, 1.0];
        let options = Options {
            types: Some(Types { names: &names, of: &[0, 1] }),
            embeddings: Some(Embeddings { predicted: &vectors, reference: &vectors, width: 2 }),
            ..Options::default()
        };
        let scores = scores(&texts, &texts, &options).unwrap();
        let definitions = definitions(options.tokens);
        assert_eq!(scores.len(), definitions.len());
        for score in &scores {
            assert!(definitions.iter().any(|(name, _)| *name == score.metric), "{} is not defined", score.metric);
            let perfect = if score.metric.contains("embeddings") { 0.0 } else { 1.0 };
            // METEOR takes off half of a chunk in m pairs, cubed.
            assert!((score.estimate.value - perfect).abs() < 1e-2, "{score:?}");
        }
    }

    #[test]
    fn swapped_types_are_seen() {
        let (predicted, reference) = (owned(&["a B cell, no monocyte", "a B cell"]), owned(&["a B cell", "a monocyte"]));
        let names = owned(&["B cell", "monocyte"]);
        let options = |of| Options { types: Some(Types { names: &names, of }), ..Options::default() };
        let found = scores(&predicted, &reference, &options(&[1, 1])).unwrap();
        assert_eq!((value(&found, TYPE_MENTION), value(&found, FIRST_TYPE)), (0.5, 0.0));
        assert!(scores(&predicted, &reference, &options(&[1, 2])).is_err());
        assert!(scores(&predicted, &reference, &options(&[1])).is_err());
        assert!(scores(&predicted, &reference[..1], &Options::default()).is_err());
        assert!(scores(&[], &[], &Options::default()).is_err());
    }
}
