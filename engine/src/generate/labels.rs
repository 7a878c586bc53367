//! Constrained decoding: the model may write one of some given texts, and nothing else.

use scmmgpt_kernels::runtime::{Float, Real};

use super::answer::log_probabilities;
use super::generator::{Generator, Prompt};
use crate::model::language_model::LanguageModel;
use crate::{Error, Result};

/// Texts to choose from, as paths of a tree of tokens: what all begin with is read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelPaths {
    /// Tokens that every path begins with.
    common: Vec<u32>,
    /// `[labels]`: the further tokens, at least one.
    paths: Vec<Vec<u32>>,
}

impl LabelPaths {
    /// The paths of these texts. One that another begins with gets `eos` behind it, so that no path is a part of another.
    ///
    /// # Errors
    /// `Texts` for fewer than two texts, an empty one, or two that are equal.
    pub fn new(texts: &[Vec<u32>], eos: u32) -> Result<LabelPaths> {
        let refuse = |reason: String| Err(Error::Texts { reason });
        if texts.len() < 2 {
            return refuse(format!("{} to choose from: give at least two labels", texts.len()));
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by(|&left, &right| texts[left].cmp(&texts[right]));
        let mut paths = texts.to_vec();
        for pair in order.windows(2) {
            let (left, right) = (&texts[pair[0]], &texts[pair[1]]);
            if left.is_empty() {
                return refuse(format!("that of label {} has no token", pair[0] + 1));
            }
            if left == right {
                return refuse(format!("those of labels {} and {} are equal", pair[0] + 1, pair[1] + 1));
            }
            // In this order whatever begins with a text follows it at once.
            if right.starts_with(left) {
                paths[pair[0]].push(eos);
            }
        }
        let shortest = paths.iter().map(Vec::len).min().unwrap_or(0);
        let equal = |place: &usize| paths.iter().all(|path| path[*place] == paths[0][*place]);
        let shared = (0..shortest.saturating_sub(1)).take_while(equal).count();
        let common = paths[0][..shared].to_vec();
        Ok(LabelPaths { common, paths: paths.into_iter().map(|path| path[shared..].to_vec()).collect() })
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Tokens of the longest path.
    pub fn longest(&self) -> usize {
        self.common.len() + self.paths.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The probability of each text behind each prompt, if exactly one of them is written: `p_l = P(l) / sum_k P(k)`, `P` the product of
    /// the model's probabilities of a text's tokens. `[prompts, labels]`; each prompt's sum to 1.
    ///
    /// # Errors
    /// `Setting` when prompt and longest text do not fit the generator's memory; those of the model.
    pub fn probabilities<T: Float>(
        &self,
        model: &LanguageModel<T>,
        generator: &mut Generator<T>,
        prompts: &[Prompt<'_>],
    ) -> Result<Vec<f64>> {
        // So many sequences are read at a time that their logits stay small.
        let (batch, _) = generator.size();
        let longest = self.paths.iter().map(Vec::len).max().unwrap_or(1);
        let sequences = (LOGITS / (longest * model.vocab_size())).clamp(1, batch);
        let (labels_at_once, prompts_at_once) = (self.len().min(sequences), (sequences / self.len()).max(1));
        let mut probabilities = Vec::with_capacity(prompts.len() * self.len());
        for prompts in prompts.chunks(prompts_at_once) {
            let scores = self.log_probabilities(model, generator, prompts, labels_at_once)?;
            for scores in scores.chunks_exact(self.len()) {
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                // A model that gives no number gives no label a probability.
                let share = |score: &f64| if top.is_finite() { (score - top).exp() } else { 0.0 };
                let shares: Vec<f64> = scores.iter().map(share).collect();
                let sum = shares.iter().sum::<f64>().max(f64::MIN_POSITIVE);
                probabilities.extend(shares.into_iter().map(|share| share / sum));
            }
        }
        Ok(probabilities)
    }

    /// `ln P` of what is not common to all texts, `[prompts, labels]`.
    fn log_probabilities<T: Float>(
        &self,
        model: &LanguageModel<T>,
        generator: &mut Generator<T>,
        prompts: &[Prompt<'_>],
        labels_at_once: usize,
    ) -> Result<Vec<f64>> {
        let begun: Vec<Vec<u32>> = prompts.iter().map(|prompt| [prompt.tokens, &self.common].concat()).collect();
        let begun: Vec<Prompt<'_>> = begun.iter().zip(prompts).map(|(tokens, prompt)| Prompt { tokens, rows: prompt.rows }).collect();
        let row = |logits: &[T]| log_probabilities(&logits.iter().map(|logit| logit.to_acc().f64() as f32).collect::<Vec<_>>());
        generator.prefill(model, &begun)?;
        let logits = generator.logits()?;
        let lengths = generator.lengths().to_vec();
        let width = logits.len() / prompts.len();
        let mut scores = vec![0.0; prompts.len() * self.len()];
        for (prompt, logits) in logits.chunks_exact(width).enumerate() {
            let first = row(logits);
            for (label, path) in self.paths.iter().enumerate() {
                scores[prompt * self.len() + label] = first[path[0] as usize];
            }
        }
        let longer: Vec<usize> = (0..self.len()).filter(|&label| self.paths[label].len() > 1).collect();
        for labels in longer.chunks(labels_at_once) {
            let sequences: Vec<(usize, usize)> =
                (0..prompts.len()).flat_map(|prompt| labels.iter().map(move |&label| (prompt, label))).collect();
            generator.select(&sequences.iter().map(|(prompt, _)| *prompt).collect::<Vec<_>>())?;
            let read = |label: usize| &self.paths[label][..self.paths[label].len() - 1];
            let parts: Vec<Prompt<'_>> = sequences.iter().map(|(_, label)| Prompt::from(read(*label))).collect();
            generator.extend_all(model, &parts)?;
            let logits = generator.logits()?;
            let mut rows = logits.chunks_exact(width);
            for &(prompt, label) in &sequences {
                for (&token, logits) in self.paths[label][1..].iter().zip(&mut rows) {
                    scores[prompt * self.len() + label] += row(logits)[token as usize];
                }
            }
            // The prompts again, each once, for the next labels.
            let first: Vec<usize> = (0..prompts.len()).map(|prompt| prompt * labels.len()).collect();
            generator.select(&first)?;
            generator.truncate(&lengths);
        }
        Ok(scores)
    }
}

/// Logits that are held at a time.
const LOGITS: usize = 1 << 23;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_share_their_beginning_and_none_is_a_part_of_another() {
        let paths = LabelPaths::new(&[vec![5, 6, 7], vec![5, 6, 8, 9], vec![5, 6, 7, 1]], 2).unwrap();
        assert_eq!(paths, LabelPaths { common: vec![5, 6], paths: vec![vec![7, 2], vec![8, 9], vec![7, 1]] });
        assert_eq!((paths.len(), paths.longest()), (3, 4));
        let paths = LabelPaths::new(&[vec![5], vec![6, 5]], 2).unwrap();
        assert_eq!(paths, LabelPaths { common: vec![], paths: vec![vec![5], vec![6, 5]] });
        let chain = LabelPaths::new(&[vec![5, 5, 5], vec![5], vec![5, 5]], 2).unwrap();
        assert_eq!(chain.paths, [vec![5, 5], vec![2], vec![5, 2]]);
        for (texts, part) in [(vec![vec![1u32]], "at least two"), (vec![vec![1], vec![]], "no token"), (vec![vec![1], vec![1]], "equal")] {
            let error = LabelPaths::new(&texts, 2).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
