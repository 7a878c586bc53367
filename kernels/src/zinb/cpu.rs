//! The likelihood on the CPU: fixed chunks of entries over threads, sums finished in order in f64.

use rayon::prelude::*;

use super::density::Entry;
use super::{Backward, Forward, genes};
use crate::Result;
use crate::runtime::{Access, Cpu, Float, Real, Stream, Tensor};

/// Entries of one task and one partial sum.
const CHUNK: usize = 1 << 10;

/// What the entries are made of.
struct Entries<'a, T: Float> {
    log_mean: &'a [T],
    zero_logit: &'a [T],
    log_theta: &'a [T],
    log_size: &'a [T::Acc],
    count: &'a [T::Acc],
    weight: &'a [T::Acc],
    genes: usize,
}

impl<'a, T: Float> Entries<'a, T> {
    fn new(access: &'a Access, [log_mean, zero_logit, log_theta]: [Tensor<T>; 3], [log_size, count, weight]: [Tensor<T::Acc>; 3]) -> Self {
        Entries {
            log_mean: access.read(log_mean),
            zero_logit: access.read(zero_logit),
            log_theta: access.read(log_theta),
            log_size: access.read(log_size),
            count: access.read(count),
            weight: access.read(weight),
            genes: genes(log_mean, log_size).max(1),
        }
    }

    /// The entry at a place; none where it weighs nothing.
    fn get(&self, at: usize) -> Option<(Entry<T::Acc>, T::Acc)> {
        let weight = self.weight[at];
        if weight == T::Acc::ZERO {
            return None;
        }
        let theta = if self.log_theta.len() == self.log_mean.len() { at } else { at % self.genes };
        let m = self.log_mean[at].to_acc() + self.log_size[at / self.genes];
        Some((Entry::new(m, self.zero_logit[at].to_acc(), self.log_theta[theta].to_acc(), self.count[at]), weight))
    }
}

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, args: Forward<T>) -> Result<()> {
    let access = stream.access();
    let entries = Entries::new(&access, [args.log_mean, args.zero_logit, args.log_theta], [args.log_size, args.count, args.weight]);
    let partial: Vec<(f64, f64)> = cpu.install(|| {
        let chunks = (0..args.count.len()).into_par_iter().step_by(CHUNK);
        let sums = chunks.map(|start| {
            let chunk = (start..entries.count.len().min(start + CHUNK)).filter_map(|at| entries.get(at));
            chunk.fold((0.0, 0.0), |sum, (entry, weight)| (sum.0 + (weight * entry.loss()).f64(), sum.1 + weight.f64()))
        });
        sums.collect()
    });
    let (loss, weight) = partial.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    access.write(args.loss)[0] = T::Acc::of(if weight == 0.0 { 0.0 } else { loss / weight });
    access.write(args.weight_sum)[0] = T::Acc::of(weight);
    Ok(())
}

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, op: &'static str, args: Backward<T>) -> Result<()> {
    let access = stream.access();
    let entries = Entries::new(&access, [args.log_mean, args.zero_logit, args.log_theta], [args.log_size, args.count, args.weight]);
    let (dlog_mean, dzero_logit, dlog_theta) =
        (access.write(args.dlog_mean), access.write(args.dzero_logit), access.write(args.dlog_theta));
    let weight_sum = access.read(args.weight_sum)[0];
    let scale = if weight_sum == T::Acc::ZERO { T::Acc::ZERO } else { -access.read(args.dloss)[0] / weight_sum };
    stream.with_scratch(op, dlog_mean.len(), |by_entry: &mut [T::Acc]| {
        cpu.install(|| {
            let chunks = dlog_mean.par_chunks_mut(CHUNK).zip(dzero_logit.par_chunks_mut(CHUNK)).zip(by_entry.par_chunks_mut(CHUNK));
            chunks.enumerate().for_each(|(chunk, ((dlog_mean, dzero_logit), dlog_theta))| {
                let places = dlog_mean.iter_mut().zip(dzero_logit).zip(dlog_theta).enumerate();
                for (at, ((dlog_mean, dzero_logit), dlog_theta)) in places {
                    let derivatives = entries
                        .get(chunk * CHUNK + at)
                        .map_or([T::Acc::ZERO; 3], |(entry, weight)| entry.derivatives().map(|derivative| scale * weight * derivative));
                    *dlog_mean = T::from_acc(derivatives[0]);
                    *dzero_logit = T::from_acc(derivatives[1]);
                    *dlog_theta = derivatives[2];
                }
            });
            let stride = dlog_theta.len().max(1);
            dlog_theta.par_iter_mut().enumerate().for_each(|(gene, dlog_theta)| {
                let cells = by_entry[gene..].iter().step_by(stride);
                *dlog_theta = T::from_acc(cells.fold(T::Acc::ZERO, |sum, value| sum + *value));
            });
        });
    })
}
