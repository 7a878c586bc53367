//! How the next token is chosen from its logits: the most probable, or drawn from a distribution that is sharpened and cut.

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
}

#[cfg(test)]
mod tests {
    use super::*;

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
