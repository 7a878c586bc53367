//! What of a language model is trained.

use serde::{Deserialize, Serialize};

use super::{domain, positive, share};
use crate::{Error, Result};

/// The projections that an adapter can sit on, under Hugging Face's names.
pub const PROJECTIONS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Which weights of the language model learn. Rows of new tokens learn in every mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TuningMode {
    /// None.
    Freeze,
    /// Low-rank matrices beside some projections.
    #[default]
    Lora,
    /// All.
    Full,
}

/// Low-rank adapters, in the words of PEFT's `LoraConfig`: `y = W x + lora_alpha / r * B (A (dropout(x)))`.
///
/// # Source
/// Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rows of A, columns of B.
    pub r: usize,
    /// Numerator of the factor in front of the adapter.
    pub lora_alpha: f64,
    /// Dropout of the adapters' input. Adapters of one packed product (queries, keys and values; gate and up) see the same zeros.
    pub lora_dropout: f32,
    /// Projections with an adapter, of [`PROJECTIONS`].
    pub target_modules: Vec<String>,
}

impl Default for LoraConfig {
    /// The reference's: rank 8 on queries and values.
    fn default() -> Self {
        LoraConfig { r: 8, lora_alpha: 32.0, lora_dropout: 0.1, target_modules: ["q_proj", "v_proj"].map(String::from).into() }
    }
}

impl LoraConfig {
    /// What stands in front of `B A`.
    pub fn scaling(&self) -> f64 {
        self.lora_alpha / self.r.max(1) as f64
    }

    /// Checks every field against its domain; `section` names it in errors.
    ///
    /// # Errors
    /// `Setting`, naming the first that is outside.
    pub fn check(&self, section: &str) -> Result<()> {
        positive(&format!("{section}.r"), self.r)?;
        let alpha = self.lora_alpha;
        domain(&format!("{section}.lora_alpha"), alpha, alpha.is_finite() && alpha != 0.0, "a number other than 0")?;
        share(&format!("{section}.lora_dropout"), self.lora_dropout.into())?;
        let modules = &self.target_modules;
        let known = !modules.is_empty() && modules.iter().all(|module| PROJECTIONS.contains(&module.as_str()));
        domain(&format!("{section}.target_modules"), format!("{modules:?}"), known, &format!("some of {}", PROJECTIONS.join(", ")))
    }
}

/// How a language model is adapted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// Which weights learn.
    pub mode: TuningMode,
    /// Adapters of the mode `lora`.
    pub lora: LoraConfig,
    /// Rows behind the vocabulary of the base model.
    pub new_tokens: usize,
    /// In training, keep only what the layers read, and run each layer again in backward: less memory, a third more work, the same bits.
    pub gradient_checkpointing: bool,
    /// Projections with a byte a weight and a scale for every output, where they are frozen: a quarter of the memory; what they multiply
    /// stays as it is.
    pub load_in_8bit: bool,
    /// The product back to the vocabulary in int8, too: in copies for inference alone.
    #[serde(skip)]
    pub int8_head: bool,
}

impl Tuning {
    /// A base model as it is: nothing is new, and all of it learns where anything does.
    pub fn full() -> Self {
        Tuning { mode: TuningMode::Full, ..Tuning::default() }
    }

    /// Whether the base model's weights learn.
    pub fn trains_base(&self) -> bool {
        self.mode == TuningMode::Full
    }

    /// The adapters, where there are any.
    pub fn adapters(&self) -> Option<&LoraConfig> {
        (self.mode == TuningMode::Lora).then_some(&self.lora)
    }

    /// Checks every field against its domain; `section` names it in errors.
    ///
    /// # Errors
    /// `Setting`, naming the first that is outside.
    pub fn check(&self, section: &str) -> Result<()> {
        if self.load_in_8bit && self.trains_base() {
            let (key, expected) = (format!("{section}.load_in_8bit"), "false with mode = \"full\": what learns is not in int8".into());
            return Err(Error::Setting { key, value: "true".into(), expected });
        }
        self.adapters().map_or(Ok(()), |lora| lora.check(&format!("{section}.lora")))
    }
}
