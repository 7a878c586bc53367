//! Cross-entropy on the CPU: rows over threads, a row stays in cache between the passes over it.

use rayon::prelude::*;

use super::{Backward, Forward, IGNORE};
use crate::runtime::math::{LANES, tree};
use crate::runtime::{Cpu, Float, Real, Stream};
use crate::{Error, Result, vectorize};

/// Rows of one task and of one partial sum of the loss: about 16 Ki logits, whatever the number of threads.
fn chunk(classes: usize) -> usize {
    (1usize << 14).div_ceil(classes.max(1)).min(256)
}

fn check_targets(op: &'static str, targets: &[u32], classes: usize) -> Result<()> {
    let outside = |target: &u32| *target != IGNORE && *target as usize >= classes;
    match targets.iter().position(outside) {
        Some(position) => Err(Error::Index { op, tensor: "targets", position, index: targets[position].into(), bound: classes }),
        None => Ok(()),
    }
}

/// What the rows of one call share: weights and the smoothing's two shares.
struct Weights<'a, A> {
    classes: Option<&'a [A]>,
    /// Sum over all classes.
    total: A,
    /// 1 - smoothing.
    sharp: A,
    /// Smoothing / classes.
    spread: A,
}

impl<'a, A: Real> Weights<'a, A> {
    fn new(class_weight: Option<&'a [A]>, classes: usize, smoothing: f64) -> Self {
        let total = class_weight.map_or(classes as f64, |weight| weight.iter().map(|weight| weight.f64()).sum());
        let spread = if classes == 0 { 0.0 } else { smoothing / classes as f64 };
        Weights { classes: class_weight, total: A::of(total), sharp: A::of(1.0 - smoothing), spread: A::of(spread) }
    }

    fn of(&self, class: usize) -> A {
        self.classes.map_or(A::ONE, |weight| weight[class])
    }
}

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, op: &'static str, args: Forward<T>) -> Result<()> {
    let access = stream.access();
    let (logits, targets) = (access.read_rows(args.logits), access.read(args.targets));
    check_targets(op, targets, logits.width())?;
    let weights = Weights::new(args.class_weight.map(|weight| access.read(weight)), logits.width(), args.label_smoothing);
    let (logsumexp, chunk) = (access.write(args.logsumexp), chunk(logits.width()));
    let partial: Vec<(f64, f64)> = cpu.install(|| {
        let bands = logsumexp.par_chunks_mut(chunk).zip(targets.par_chunks(chunk)).enumerate();
        let sums = bands.map(|(band, (logsumexp, targets))| {
            let (mut loss, mut weight) = (0.0, 0.0);
            for (row, (logsumexp, target)) in logsumexp.iter_mut().zip(targets).enumerate() {
                *logsumexp = T::Acc::ZERO;
                if *target != IGNORE {
                    let (logits, target) = (logits.row(band * chunk + row), *target as usize);
                    *logsumexp = log_sum_exp::<T>(logits);
                    loss += row_loss(&weights, logits, target, *logsumexp).f64();
                    weight += weights.of(target).f64();
                }
            }
            (loss, weight)
        });
        sums.collect()
    });
    let (loss, weight) = partial.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    access.write(args.loss)[0] = T::Acc::of(if weight == 0.0 { 0.0 } else { loss / weight });
    access.write(args.weight_sum)[0] = T::Acc::of(weight);
    Ok(())
}

fn row_loss<T: Float>(weights: &Weights<T::Acc>, logits: &[T], target: usize, logsumexp: T::Acc) -> T::Acc {
    let sharp = weights.sharp * weights.of(target) * (logsumexp - logits[target].to_acc());
    if weights.spread == T::Acc::ZERO {
        return sharp;
    }
    sharp
        + weights.spread
            * match weights.classes {
                Some(weight) => weighted_distance::<T>(logits, weight, logsumexp),
                None => distance::<T>(logits, logsumexp),
            }
}

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, op: &'static str, args: Backward<T>) -> Result<()> {
    let access = stream.access();
    let (logits, targets) = (access.read_rows(args.logits), access.read(args.targets));
    check_targets(op, targets, logits.width())?;
    let weights = Weights::new(args.class_weight.map(|weight| access.read(weight)), logits.width(), args.label_smoothing);
    let (logsumexp, weight_sum) = (access.read(args.logsumexp), access.read(args.weight_sum)[0]);
    let scale = if weight_sum == T::Acc::ZERO { None } else { Some(access.read(args.dloss)[0] / weight_sum) };
    let chunk = chunk(logits.width());
    let bands = access.write_rows(args.dlogits).into_tiles(chunk, logits.width().max(1));
    cpu.install(|| {
        bands.into_par_iter().enumerate().for_each(|(band, mut dlogits)| {
            for row in 0..dlogits.rows() {
                let (dlogits, at) = (dlogits.row_mut(row), band * chunk + row);
                match scale {
                    Some(scale) if targets[at] != IGNORE => {
                        row_gradient(&weights, dlogits, logits.row(at), targets[at] as usize, logsumexp[at], scale);
                    }
                    _ => dlogits.fill(T::default()),
                }
            }
        });
    });
    Ok(())
}

fn row_gradient<T: Float>(weights: &Weights<T::Acc>, dlogits: &mut [T], logits: &[T], target: usize, logsumexp: T::Acc, scale: T::Acc) {
    let sharp = scale * weights.sharp * weights.of(target);
    let spread = scale * weights.spread;
    let slope = sharp + spread * weights.total;
    match weights.classes {
        Some(weight) => weighted_gradient::<T>(dlogits, logits, weight, logsumexp, slope, spread),
        None => gradient::<T>(dlogits, logits, logsumexp, slope, spread),
    }
    // The target's own entry once more, so that it is rounded once.
    let probability = (logits[target].to_acc() - logsumexp).exp();
    dlogits[target] = T::from_acc(slope * probability - sharp - spread * weights.of(target));
}

vectorize! {
    /// `ln sum exp`, with the largest logit taken out. That maximum passes over NaN, the sum does not.
    fn log_sum_exp<T: Float>(logits: &[T]) -> T::Acc {
        let (blocks, rest) = logits.as_chunks::<LANES>();
        let mut largest = [T::Acc::NEG_INFINITY; LANES];
        for block in blocks {
            for (largest, logit) in largest.iter_mut().zip(block) {
                let logit = logit.to_acc();
                *largest = if logit > *largest { logit } else { *largest };
            }
        }
        let all = largest.into_iter().chain(rest.iter().map(|logit| logit.to_acc()));
        let largest = all.fold(T::Acc::NEG_INFINITY, |largest, logit| if logit > largest { logit } else { largest });
        let mut sums = [T::Acc::ZERO; LANES];
        for block in blocks {
            for (sum, logit) in sums.iter_mut().zip(block) {
                *sum += (logit.to_acc() - largest).exp();
            }
        }
        for (sum, logit) in sums.iter_mut().zip(rest) {
            *sum += (logit.to_acc() - largest).exp();
        }
        largest + tree(sums).ln()
    }

    /// `sum_c (logsumexp - logits[c])`.
    fn distance<T: Float>(logits: &[T], logsumexp: T::Acc) -> T::Acc {
        let (blocks, rest) = logits.as_chunks::<LANES>();
        let mut sums = [T::Acc::ZERO; LANES];
        for block in blocks {
            for (sum, logit) in sums.iter_mut().zip(block) {
                *sum += logsumexp - logit.to_acc();
            }
        }
        for (sum, logit) in sums.iter_mut().zip(rest) {
            *sum += logsumexp - logit.to_acc();
        }
        tree(sums)
    }

    /// `sum_c weight[c] * (logsumexp - logits[c])`.
    fn weighted_distance<T: Float>(logits: &[T], weight: &[T::Acc], logsumexp: T::Acc) -> T::Acc {
        let ((blocks, rest), (weights, weights_rest)) = (logits.as_chunks::<LANES>(), weight.as_chunks::<LANES>());
        let mut sums = [T::Acc::ZERO; LANES];
        for (block, weights) in blocks.iter().zip(weights) {
            for ((sum, logit), weight) in sums.iter_mut().zip(block).zip(weights) {
                *sum += *weight * (logsumexp - logit.to_acc());
            }
        }
        for ((sum, logit), weight) in sums.iter_mut().zip(rest).zip(weights_rest) {
            *sum += *weight * (logsumexp - logit.to_acc());
        }
        tree(sums)
    }

    fn gradient<T: Float>(dlogits: &mut [T], logits: &[T], logsumexp: T::Acc, slope: T::Acc, spread: T::Acc) {
        for (dlogit, logit) in dlogits.iter_mut().zip(logits) {
            *dlogit = T::from_acc(slope * (logit.to_acc() - logsumexp).exp() - spread);
        }
    }

    fn weighted_gradient<T: Float>(dlogits: &mut [T], logits: &[T], weight: &[T::Acc], logsumexp: T::Acc, slope: T::Acc, spread: T::Acc) {
        for ((dlogit, logit), weight) in dlogits.iter_mut().zip(logits).zip(weight) {
            *dlogit = T::from_acc(slope * (logit.to_acc() - logsumexp).exp() - spread * *weight);
        }
    }
}
