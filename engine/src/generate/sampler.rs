//! The next token from its logits: greedy, or drawn from a distribution that is sharpened and cut.

use scmmgpt_kernels::runtime::philox::{Site, uniform};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How a token is chosen. The defaults choose the most probable one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerConfig {
    /// Logits are divided by this; 0: always the most probable token.
    pub temperature: f64,
    /// Only so many of the most probable tokens; 0: all.
    pub top_k: usize,
    /// Only the most probable tokens that together reach this probability; 1: all.
    pub top_p: f64,
    /// Only tokens with at least this share of the most probable one's probability; 0: all.
    pub min_p: f64,
    /// Positive logits of tokens that have occurred are divided by this, negative ones multiplied; 1: no penalty.
    pub repetition_penalty: f64,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        SamplerConfig { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

impl SamplerConfig {
    /// Checks every field against its domain.
    ///
    /// # Errors
    /// `Setting`, naming the first that is outside (NaN is outside everywhere).
    pub fn check(&self) -> Result<()> {
        let refuse = |key: &str, value: f64, expected: &str| {
            Err(Error::Setting { key: key.into(), value: value.to_string(), expected: expected.into() })
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return refuse("generate.temperature", self.temperature, "0 (always the most probable token) or more");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("generate.top_p", self.top_p, "above 0, at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse("generate.min_p", self.min_p, "0 to 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return refuse("generate.repetition_penalty", self.repetition_penalty, "above 0; 1 is no penalty");
        }
        Ok(())
    }

    /// The token that follows `history`. The random number depends on the seed, the sequence's number and the token's place alone, so
    /// that a batch gives what each of its sequences gives alone.
    ///
    /// Order: penalty, temperature, `top_k`, `min_p`, `top_p`; equal logits go by the smaller token. A NaN is never chosen.
    ///
    /// # Source
    /// Holtzman et al. 2020 (top-p); Keskar et al. 2019, section 4.1 (penalty); min-p as in Nguyen et al. 2024, eq. 1.
    pub fn choose(&self, logits: &[f32], history: &[u32], seed: u64, sequence: u64) -> u32 {
        let mut scores: Vec<f64> = logits.iter().map(|&logit| if logit.is_nan() { f64::NEG_INFINITY } else { f64::from(logit) }).collect();
        if self.repetition_penalty != 1.0 {
            penalise(&mut scores, history.iter().copied(), self.repetition_penalty);
        }
        let first = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
        let mut tokens: Vec<u32> = (0..scores.len() as u32).collect();
        let Some(&best) = tokens.iter().min_by(|a, b| first(a, b)) else { return 0 };
        if self.temperature == 0.0 {
            return best;
        }
        if self.top_k > 0 && self.top_k < tokens.len() {
            tokens.select_nth_unstable_by(self.top_k - 1, first);
            tokens.truncate(self.top_k);
        }
        tokens.sort_unstable_by(first);
        let top = scores[best as usize];
        // Shares of the most probable token's probability.
        let shares: Vec<f64> = tokens.iter().map(|&token| ((scores[token as usize] - top) / self.temperature).exp()).collect();
        let kept = shares.iter().take_while(|share| **share >= self.min_p).count().max(1);
        let total: f64 = shares[..kept].iter().sum();
        let mut mass = 0.0;
        let nucleus = shares[..kept].iter().position(|share| {
            mass += share;
            mass >= self.top_p * total
        });
        let kept = nucleus.map_or(kept, |last| last + 1);
        let mass: f64 = shares[..kept].iter().sum();
        let words = Site { seed, step: sequence, site: history.len() as u32 }.words(0);
        let target = f64::from(uniform(words[0])) * mass;
        let mut sum = 0.0;
        let chosen = shares[..kept].iter().position(|share| {
            sum += share;
            sum > target
        });
        tokens[chosen.unwrap_or(kept - 1)]
    }
}

/// Lowers the scores of tokens that have been seen, each once: positive ones are divided by `penalty`, negative ones multiplied.
pub(super) fn penalise(scores: &mut [f64], seen: impl Iterator<Item = u32>, penalty: f64) {
    let seen: std::collections::BTreeSet<u32> = seen.collect();
    for token in seen {
        if let Some(score) = scores.get_mut(token as usize) {
            *score = if *score > 0.0 { *score / penalty } else { *score * penalty };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, f32::NAN, 2.0, 3.0];

    fn frequencies(sampler: &SamplerConfig, draws: u64) -> Vec<f64> {
        let mut counts = vec![0.0; LOGITS.len()];
        for sequence in 0..draws {
            counts[sampler.choose(&LOGITS, &[], 7, sequence) as usize] += 1.0 / draws as f64;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_never_nan() {
        assert_eq!(SamplerConfig::default().choose(&LOGITS, &[], 0, 0), 1);
        let penalised = SamplerConfig { repetition_penalty: 2.0, ..SamplerConfig::default() };
        assert_eq!(penalised.choose(&LOGITS, &[1, 1], 0, 0), 4);
        assert_eq!(penalised.choose(&[-1.0, -1.5], &[0], 0, 0), 1, "a penalty lowers negative logits too");
    }

    #[test]
    fn draws_follow_the_distribution_that_is_left() {
        let sampler = SamplerConfig { temperature: 2.0, ..SamplerConfig::default() };
        let weights = [1.0f64, 3.0, f64::NEG_INFINITY, 2.0, 3.0].map(|logit| (logit / 2.0).exp());
        let total: f64 = weights.iter().sum();
        for (token, (got, weight)) in frequencies(&sampler, 20_000).iter().zip(weights).enumerate() {
            assert!((got - weight / total).abs() < 0.015, "token {token}: {got}, expected {}", weight / total);
        }
        let two = SamplerConfig { top_k: 2, ..sampler.clone() };
        assert!(frequencies(&two, 500).iter().enumerate().all(|(token, share)| [1, 4].contains(&token) == (*share > 0.0)));
        let nucleus = SamplerConfig { top_p: 0.6, ..sampler.clone() };
        assert!(frequencies(&nucleus, 500).iter().enumerate().all(|(token, share)| [1, 4].contains(&token) == (*share > 0.0)));
        let least = SamplerConfig { min_p: 0.5, ..sampler };
        assert!(frequencies(&least, 500).iter().enumerate().all(|(token, share)| [1, 3, 4].contains(&token) == (*share > 0.0)));
    }

    #[test]
    fn impossible_values_are_refused() {
        let refused = |change: &dyn Fn(&mut SamplerConfig)| {
            let mut sampler = SamplerConfig::default();
            change(&mut sampler);
            assert!(matches!(sampler.check(), Err(Error::Setting { .. })), "{sampler:?}");
        };
        for value in [f64::NAN, -1.0, f64::INFINITY] {
            refused(&|sampler| sampler.temperature = value);
            refused(&|sampler| sampler.repetition_penalty = value);
            refused(&|sampler| sampler.top_p = value);
            refused(&|sampler| sampler.min_p = value);
        }
        refused(&|sampler| sampler.top_p = 0.0);
        SamplerConfig::default().check().unwrap();
    }
}
