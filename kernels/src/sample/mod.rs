//! The next token of each row of logits: the most probable one, or one drawn from a distribution that is sharpened and cut.
//!
//! With `top` a row's largest logit and `t` the temperature, a token's weight is `w = floor(2^40 exp((x - top) / t))`. Everything behind it is
//! done in whole numbers, so that neither the order of a sum nor the device changes what is chosen: equal logits give the same token.
//! What is less than 2^-40 times as probable as the best token is never drawn. NaN is never chosen, unless nothing else is there.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cuda;
mod emit;

use crate::error::expect_shape;
use crate::runtime::{Float, Stream, Target, Tensor};
use crate::{Error, Result};

/// Weight of the most probable token.
const UNIT: u64 = 1 << 40;

/// An entry of [`Choose::seen`] that names no token.
pub const NOTHING: u32 = u32::MAX;

/// Arguments of [`choose`].
#[derive(Clone, Copy, Debug)]
pub struct Choose<T: Float> {
    /// `[rows]`, written.
    pub tokens: Tensor<u32>,
    /// `[rows]`, written: natural logarithm of each token's probability as the model has it, the hidden tokens left out; before barring,
    /// penalty and temperature.
    pub log_probabilities: Tensor<T::Acc>,
    /// `[rows, classes]`.
    pub logits: Tensor<T>,
    /// Tokens that have no probability at all. Those beyond the classes are ignored, here and below.
    pub hidden: Option<Tensor<u32>>,
    /// Tokens that have one and may not be chosen now.
    pub barred: Option<Tensor<u32>>,
    /// `[rows, places]`: tokens that have occurred; [`NOTHING`] fills up.
    pub seen: Option<Tensor<u32>>,
    /// Positive logits of tokens that have occurred are divided by this, negative ones multiplied.
    pub repetition_penalty: f32,
    /// `[rows, 2]`: a random number of 64 bits a row, its lower half first; not read at temperature 0.
    pub random: Tensor<u32>,
    /// Logits are divided by this; 0: the most probable token, of equals the smallest.
    pub temperature: f64,
    /// Only so many of the most probable tokens; 0: all.
    pub top_k: usize,
    /// Only tokens with at least this share of the most probable one's probability.
    pub min_p: f64,
    /// Of what is left, only the most probable tokens that together reach this share of it.
    pub top_p: f64,
}

impl<T: Float> Choose<T> {
    /// What differences of logits are multiplied by; 0 takes the most probable token.
    fn sharpness(&self) -> f32 {
        if self.temperature == 0.0 { 0.0 } else { ((1.0 / self.temperature) as f32).max(f32::MIN_POSITIVE) }
    }

    /// The smallest weight that `min_p` allows.
    fn least(&self) -> u64 {
        ((self.min_p * UNIT as f64).ceil() as u64).max(1)
    }
}

/// Every emitted PTX text of this kernel: entry and module.
pub fn texts() -> Vec<(String, String)> {
    [4, 2].map(emit::text).into_iter().map(|text| (text.entry, text.ptx)).collect()
}

/// Chooses a token in each row, and says how probable it was.
///
/// Cuts follow each other as penalty, `min_p`, `top_k`, `top_p`; each keeps a best part of the tokens, of equal logits the smaller tokens.
/// The random number's share of the weight that is left picks among the tokens above the smallest logit that is left, in their order,
/// then among those that have it. A row without any number gives token 0 and the probability 0.
///
/// # Shapes
/// See [`Choose`].
/// # Errors
/// `Shape` when a length differs; `Argument` for a row without classes, a negative temperature or penalty, `min_p` outside 0 to 1, `top_p`
/// outside (0, 1].
/// # Source
/// Holtzman et al. 2020 (top-p); Keskar et al. 2019, section 4.1 (penalty); min-p as in Nguyen et al. 2024, eq. 1; weights in whole numbers:
/// ours.
pub fn choose<T: Float>(stream: &Stream, args: Choose<T>) -> Result<()> {
    const OP: &str = "sample::choose";
    let (rows, classes) = (args.logits.rows(), args.logits.width());
    let numbers = [
        ("classes", classes as f64, classes > 0, "at least one"),
        ("temperature", args.temperature, args.temperature >= 0.0 && args.temperature.is_finite(), "0 or more"),
        ("repetition_penalty", args.repetition_penalty.into(), args.repetition_penalty > 0.0, "above 0"),
        ("min_p", args.min_p, (0.0..=1.0).contains(&args.min_p), "0 to 1"),
        ("top_p", args.top_p, args.top_p > 0.0 && args.top_p <= 1.0, "above 0, at most 1"),
    ];
    for (argument, value, holds, expected) in numbers {
        if !holds {
            return Err(Error::Argument { op: OP, argument, value, expected });
        }
    }
    expect_shape(OP, "tokens", &[rows], &[args.tokens.len()])?;
    expect_shape(OP, "log_probabilities", &[rows], &[args.log_probabilities.len()])?;
    expect_shape(OP, "random", &[rows, 2], &[args.random.rows(), args.random.width()])?;
    args.seen.map_or(Ok(()), |seen| expect_shape(OP, "seen", &[rows], &[seen.rows()]))?;
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::choose(stream, cpu, args);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::choose(cuda, OP, args),
    }
}

#[cfg(test)]
mod tests;
