//! The choice on the CPU: rows over threads.

use rayon::prelude::*;

use super::{Choose, UNIT};
use crate::runtime::math::exp_f32;
use crate::runtime::{Cpu, Float, Real, Stream};
use crate::vectorize;

pub(super) fn choose<T: Float>(stream: &Stream, cpu: &Cpu, args: Choose<T>) {
    let access = stream.access();
    let (logits, random) = (access.read_rows(args.logits), access.read_rows(args.random));
    let [hidden, barred] = [args.hidden, args.barred].map(|list| list.map_or(&[][..], |list| access.read(list)));
    let seen = args.seen.map(|seen| access.read_rows(seen));
    let (tokens, log_probabilities) = (access.write(args.tokens), access.write(args.log_probabilities));
    cpu.install(|| {
        tokens.par_iter_mut().zip(log_probabilities.par_iter_mut()).enumerate().for_each(|(row, (token, log_probability))| {
            let mut scores: Vec<f32> = logits.row(row).iter().map(|logit| logit.to_acc().f64() as f32).collect();
            hide(&mut scores, hidden);
            let whole = Weights::new(&scores, largest(&scores), 1.0);
            let mut changed = scores.clone();
            hide(&mut changed, barred);
            if let Some(seen) = &seen {
                penalise(&mut changed, seen.row(row), args.repetition_penalty);
            }
            let [low, high] = [0, 1].map(|half| u64::from(random.row(row)[half]));
            let chosen = pick(&changed, &args, high << 32 | low);
            *token = chosen.unwrap_or(0);
            *log_probability = T::Acc::of(chosen.map_or(f64::NEG_INFINITY, |token| whole.log_probability(scores[token as usize])));
        });
    });
}

/// Makes tokens impossible.
fn hide(scores: &mut [f32], tokens: &[u32]) {
    for &token in tokens {
        if let Some(score) = scores.get_mut(token as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Lowers the scores of tokens that have been seen, each once.
fn penalise(scores: &mut [f32], seen: &[u32], penalty: f32) {
    let inverse = 1.0 / penalty;
    let mut seen: Vec<u32> = seen.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        if let Some(score) = scores.get_mut(token as usize) {
            *score *= if *score > 0.0 { inverse } else { penalty };
        }
    }
}

/// The largest score; NaN is none.
fn largest(scores: &[f32]) -> f32 {
    scores.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Weights of a row's tokens.
struct Weights {
    top: f32,
    of: Vec<u64>,
    total: u64,
}

impl Weights {
    fn new(scores: &[f32], top: f32, sharpness: f32) -> Weights {
        let mut weights = vec![0; scores.len()];
        if top > f32::NEG_INFINITY {
            weigh(scores, top, sharpness, &mut weights);
        }
        Weights { top, total: weights.iter().sum(), of: weights }
    }

    fn log_probability(&self, score: f32) -> f64 {
        if !self.top.is_finite() {
            return f64::NEG_INFINITY;
        }
        f64::from(score - self.top) - (self.total as f64 / UNIT as f64).ln()
    }
}

vectorize! {
    fn weigh(scores: &[f32], top: f32, sharpness: f32, weights: &mut [u64]) {
        for (weight, &score) in weights.iter_mut().zip(scores) {
            let gap = if score == top { 0.0 } else { (score - top) * sharpness };
            *weight = (exp_f32(gap) * UNIT as f32) as u64;
        }
    }
}

/// Bits of a number that ascend as the numbers do; 0 and -0 are one number.
fn key(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// None where no token has a probability.
fn pick<T: Float>(scores: &[f32], args: &Choose<T>, random: u64) -> Option<u32> {
    let (top, sharpness) = (largest(scores), args.sharpness());
    if top == f32::NEG_INFINITY {
        return None;
    }
    if sharpness == 0.0 {
        return scores.iter().position(|&score| score == top).map(|token| token as u32);
    }
    let weights = Weights::new(scores, top, sharpness);
    let least = args.least();
    let allowed: Vec<Token> = (0..).zip(scores).zip(&weights.of).filter(|(_, weight)| **weight >= least).map(Token::new).collect();
    // The smallest key that is left, and how many of the tokens that have it.
    let (mut bound, mut equals) = (0, 0);
    if (1..=allowed.len()).contains(&args.top_k) {
        let (key, above) = threshold(allowed.clone(), args.top_k as u64, |_| 1);
        (bound, equals) = (key, args.top_k as u64 - above);
    }
    let weight_at = |bound| allowed.iter().find(|token| token.key == bound).map_or(0, |token| token.weight);
    let mut above: u64 = allowed.iter().filter(|token| token.key > bound).map(|token| token.weight).sum();
    let mut weight = weight_at(bound);
    let mut mass = above + equals * weight;
    if args.top_p < 1.0 {
        let needed = ((args.top_p * mass as f64).ceil() as u64).clamp(1, mass);
        if needed <= above {
            (bound, above) = threshold(allowed.iter().filter(|token| token.key > bound).copied().collect(), needed, |token| token.weight);
            weight = weight_at(bound);
        }
        mass = above + (needed - above).div_ceil(weight) * weight;
    }
    let mut target = ((u128::from(random) * u128::from(mass)) >> 64) as u64;
    if target >= above {
        let place = ((target - above) / weight) as usize;
        return allowed.iter().filter(|token| token.key == bound).nth(place).map(|token| token.id);
    }
    let chosen = allowed.iter().filter(|token| token.key > bound).find(|token| match target.checked_sub(token.weight) {
        Some(rest) => {
            target = rest;
            false
        }
        None => true,
    });
    chosen.map(|token| token.id)
}

#[derive(Clone, Copy)]
struct Token {
    id: u32,
    key: u32,
    weight: u64,
}

impl Token {
    fn new(((id, score), weight): ((u32, &f32), &u64)) -> Token {
        Token { id, key: key(*score), weight: *weight }
    }
}

/// The largest key for which the tokens at it and above measure `needed` or more together, and what those above it measure. All together
/// measure as much.
fn threshold(mut tokens: Vec<Token>, needed: u64, measure: impl Fn(&Token) -> u64) -> (u32, u64) {
    let (mut bound, mut above) = (0, 0);
    for shift in [24, 16, 8, 0] {
        let mut sums = [0u64; 256];
        let digit = |token: &Token| (token.key >> shift & 0xff) as usize;
        tokens.iter().for_each(|token| sums[digit(token)] += measure(token));
        let mut last = 255;
        while last > 0 && above + sums[last] < needed {
            above += sums[last];
            last -= 1;
        }
        bound |= (last as u32) << shift;
        tokens.retain(|token| digit(token) == last);
    }
    (bound, above)
}
