//! AdamW on the CPU: one parallel pass over the chunks of all tensors.

use rayon::prelude::*;

use super::factors::Factors;
use super::{Group, Step};
use crate::runtime::{Cpu, Float, Real, Stream};
use crate::vectorize;

/// Elements of one task.
const CHUNK: usize = 1 << 14;

/// One task: the same range of a tensor and its state.
struct Chunk<'a, T: Float> {
    weight: &'a mut [T],
    master: Option<&'a mut [T::Acc]>,
    gradient: &'a [T::Acc],
    first: &'a mut [T::Acc],
    second: &'a mut [T::Acc],
    factors: Factors<T::Acc>,
}

pub(super) fn step<T: Float>(stream: &Stream, cpu: &Cpu, groups: &[Group<T>], step: Step) {
    let access = stream.access();
    let mut chunks = Vec::new();
    for group in groups {
        let factors = Factors::new(step, group.learning_rate_scale, group.weight_decay);
        let mut masters = group.master.map(|master| access.write(master).chunks_mut(CHUNK));
        let pieces = access.write(group.weight).chunks_mut(CHUNK).zip(access.read(group.gradient).chunks(CHUNK));
        let moments = access.write(group.first_moment).chunks_mut(CHUNK).zip(access.write(group.second_moment).chunks_mut(CHUNK));
        for ((weight, gradient), (first, second)) in pieces.zip(moments) {
            let master = masters.as_mut().and_then(Iterator::next);
            chunks.push(Chunk { weight, master, gradient, first, second, factors });
        }
    }
    cpu.install(|| {
        chunks.into_par_iter().for_each(|chunk| {
            let Chunk { weight, master, gradient, first, second, factors } = chunk;
            match master {
                Some(master) => {
                    update::<T::Acc>(master, gradient, first, second, factors);
                    round::<T>(weight, master);
                }
                None => update::<T>(weight, gradient, first, second, factors),
            }
        });
    });
}

vectorize! {
    fn update<T: Float>(weight: &mut [T], gradient: &[T::Acc], first: &mut [T::Acc], second: &mut [T::Acc], factors: Factors<T::Acc>) {
        for (((weight, gradient), first), second) in weight.iter_mut().zip(gradient).zip(first).zip(second) {
            let g = *gradient * factors.gradient_scale;
            let m = *first + factors.first * (g - *first);
            let v = *second * factors.beta2 + factors.second * g * g;
            let denominator = v.sqrt() * factors.correction + factors.eps;
            *weight = T::from_acc(weight.to_acc() * factors.keep - factors.size * m / denominator);
            *first = m;
            *second = v;
        }
    }

    fn round<T: Float>(weight: &mut [T], master: &[T::Acc]) {
        for (weight, master) in weight.iter_mut().zip(master) {
            *weight = T::from_acc(*master);
        }
    }
}
