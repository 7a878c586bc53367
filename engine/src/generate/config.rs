//! How answers are written.

use serde::{Deserialize, Serialize};

use super::sampler::SamplerConfig;
use crate::{Error, Result};

/// How answers are written, under Hugging Face's names. The defaults are the authors': five beams, 8 to 256 tokens.
///
/// # Source
/// MODEL.md §4.7; scMMGPT `blip2_llama.py`, lines 495-706.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationConfig {
    /// Most tokens of an answer, its end included.
    pub max_new_tokens: usize,
    /// Tokens before an answer may end.
    pub min_length: usize,
    /// Answers that are followed at a time, of which the best is kept; 1: the most probable token again and again.
    pub num_beams: usize,
    /// Draw tokens from their distribution instead; needs one beam.
    pub do_sample: bool,
    /// Sampling: logits are divided by this.
    pub temperature: f64,
    /// Sampling: only so many of the most probable tokens; 0: all.
    pub top_k: usize,
    /// Sampling: only the most probable tokens that together reach this probability; 1: all.
    pub top_p: f64,
    /// Sampling: only tokens with at least this share of the most probable one's probability; 0: all.
    pub min_p: f64,
    /// Positive scores of tokens that have occurred are divided by this, negative ones multiplied; 1: no penalty.
    pub repetition_penalty: f64,
    /// An answer's score is its log-probability divided by its length to this power: above 0 favours long answers.
    pub length_penalty: f64,
    /// Sampling: what the random numbers depend on, besides the prompt's number and the token's place.
    pub seed: u64,
    /// Texts that end an answer in front of them.
    pub stop: Vec<String>,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        GenerationConfig {
            max_new_tokens: 256,
            min_length: 8,
            num_beams: 5,
            do_sample: false,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            length_penalty: 1.0,
            seed: 0,
            stop: Vec::new(),
        }
    }
}

impl GenerationConfig {
    /// The most probable token again and again, at most `max_new_tokens`.
    pub fn greedy(max_new_tokens: usize) -> Self {
        GenerationConfig { max_new_tokens, min_length: 0, num_beams: 1, ..GenerationConfig::default() }
    }

    /// Checks every field against its domain.
    ///
    /// # Errors
    /// `Setting`, naming the first that is outside (NaN is outside everywhere).
    pub fn check(&self) -> Result<()> {
        let refuse = |key: &str, value: String, expected: &str| {
            Err(Error::Setting { key: format!("generate.{key}"), value, expected: expected.into() })
        };
        if self.max_new_tokens == 0 {
            return refuse("max_new_tokens", "0".into(), "at least 1");
        }
        if self.min_length >= self.max_new_tokens {
            return refuse("min_length", self.min_length.to_string(), "less than max_new_tokens");
        }
        if !(1..=MOST_BEAMS).contains(&self.num_beams) {
            return refuse("num_beams", self.num_beams.to_string(), "1 to 1024");
        }
        if self.do_sample && self.num_beams > 1 {
            return refuse(
                "num_beams",
                self.num_beams.to_string(),
                "1 with do_sample: beams follow what is most probable, not what is drawn",
            );
        }
        if self.do_sample && self.temperature == 0.0 {
            return refuse("temperature", "0".into(), "above 0 with do_sample; without it the most probable token is taken");
        }
        if !self.length_penalty.is_finite() {
            return refuse("length_penalty", self.length_penalty.to_string(), "a number; 1 is the mean log-probability, 0 the sum");
        }
        if self.stop.iter().any(String::is_empty) {
            return refuse("stop", format!("{:?}", self.stop), "texts that are not empty");
        }
        self.sampling().check()
    }

    /// How one token is chosen.
    pub fn sampler(&self) -> SamplerConfig {
        let sampling = self.sampling();
        SamplerConfig { temperature: if self.do_sample { sampling.temperature } else { 0.0 }, ..sampling }
    }

    fn sampling(&self) -> SamplerConfig {
        let GenerationConfig { temperature, top_k, top_p, min_p, repetition_penalty, .. } = *self;
        SamplerConfig { temperature, top_k, top_p, min_p, repetition_penalty }
    }

    /// The score of an answer by its log-probability and its number of tokens, the end included.
    pub(super) fn score(&self, log_probability: f64, length: usize) -> f64 {
        log_probability / (length.max(1) as f64).powf(self.length_penalty)
    }
}

/// A bound on memory: each beam has a cache of its own.
const MOST_BEAMS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_values_are_refused_by_name() {
        let refused = |key: &str, change: &dyn Fn(&mut GenerationConfig)| {
            let mut config = GenerationConfig::default();
            change(&mut config);
            match config.check() {
                Err(Error::Setting { key: named, .. }) => assert_eq!(named, format!("generate.{key}"), "{config:?}"),
                other => panic!("{config:?}: {other:?}"),
            }
        };
        for value in [f64::NAN, -1.0, f64::INFINITY] {
            refused("temperature", &|config| config.temperature = value);
            refused("top_p", &|config| config.top_p = value);
            refused("min_p", &|config| config.min_p = value);
            refused("repetition_penalty", &|config| config.repetition_penalty = value);
        }
        refused("length_penalty", &|config| config.length_penalty = f64::NAN);
        refused("max_new_tokens", &|config| config.max_new_tokens = 0);
        refused("min_length", &|config| config.min_length = 256);
        refused("num_beams", &|config| config.num_beams = 0);
        refused("num_beams", &|config| config.do_sample = true);
        refused("temperature", &|config| (config.do_sample, config.num_beams, config.temperature) = (true, 1, 0.0));
        refused("stop", &|config| config.stop = vec![".".into(), String::new()]);
        GenerationConfig::default().check().unwrap();
        GenerationConfig::greedy(1).check().unwrap();
    }
}
