//! AdamW over many tensors in one pass. Training only: an optimizer has no backward.
//!
//! With `g = gradient_scale * gradient`, `lr = learning_rate * learning_rate_scale` and step `t` from 1:
//! `w -= lr * weight_decay * w`; `m += (1 - beta1) * (g - m)`; `v = beta2 * v + (1 - beta2) * g^2`;
//! `w -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)`.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cuda;
mod factors;

use crate::error::expect_shape;
use crate::runtime::{Float, Stream, Target, Tensor};
use crate::{Error, Result};

/// One trainable tensor and its state; all tensors have the same number of elements.
#[derive(Clone, Copy, Debug)]
pub struct Group<T: Float> {
    /// `[n]`, updated; with a master it becomes the rounded master.
    pub weight: Tensor<T>,
    /// `[n]`, updated: the weight in the accumulation type, when `T` is narrower and small updates would be rounded away.
    pub master: Option<Tensor<T::Acc>>,
    /// `[n]`, read.
    pub gradient: Tensor<T::Acc>,
    /// `[n]`, updated: running mean of the gradient; zeros before the first step.
    pub first_moment: Tensor<T::Acc>,
    /// `[n]`, updated: running mean of the squared gradient; zeros before the first step.
    pub second_moment: Tensor<T::Acc>,
    /// Factor of this tensor's learning rate.
    pub learning_rate_scale: f64,
    /// Decoupled: times the learning rate, not part of the gradient.
    pub weight_decay: f64,
}

/// What all tensors of one optimizer step share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// As scheduled for this step.
    pub learning_rate: f64,
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the square root.
    pub eps: f64,
    /// Number of this step, from 1, for the bias corrections.
    pub step: u64,
    /// Factor of every gradient: clipping and the mean over accumulated batches.
    pub gradient_scale: f64,
}

/// Updates every tensor, in parallel over fixed chunks of all of them. NaN in a gradient reaches weight and moments: look first
/// ([`crate::reduce::squared_norm`]).
///
/// # Shapes
/// The tensors of a group have equally many elements, contiguous.
/// # Errors
/// `Shape` when a length differs, `Argument` when `step` is 0 or a decay is not in [0, 1).
/// # Source
/// Loshchilov & Hutter 2019, algorithm 2; order of operations of `torch.optim.AdamW`.
pub fn step<T: Float>(stream: &Stream, groups: &[Group<T>], step: Step) -> Result<()> {
    const OP: &str = "adamw::step";
    for (argument, value) in [("beta1", step.beta1), ("beta2", step.beta2)] {
        if !(0.0..1.0).contains(&value) {
            return Err(Error::Argument { op: OP, argument, value, expected: "a decay in [0, 1)" });
        }
    }
    if step.step == 0 {
        return Err(Error::Argument { op: OP, argument: "step", value: 0.0, expected: "a step number from 1" });
    }
    for group in groups {
        let n = group.weight.len();
        expect_shape(OP, "gradient", &[n], &[group.gradient.len()])?;
        expect_shape(OP, "first_moment", &[n], &[group.first_moment.len()])?;
        expect_shape(OP, "second_moment", &[n], &[group.second_moment.len()])?;
        group.master.map_or(Ok(()), |master| expect_shape(OP, "master", &[n], &[master.len()]))?;
    }
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::step(stream, cpu, groups, step);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::step(cuda, OP, groups, step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Arena, Class, Device, Plan, bf16};

    const GRADIENTS: [[f64; 3]; 3] = [[0.5, -1.0, 0.0], [0.25, 2.0, 1e-3], [-1.0, 0.125, 3.0]];
    const STEP: Step = Step { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, step: 1, gradient_scale: 0.5 };

    fn group<T: Float>(plan: &mut Plan, master: bool) -> Group<T> {
        Group {
            weight: plan.tensor("weight", [3]),
            master: master.then(|| plan.tensor("master", [3])),
            gradient: plan.tensor("gradient", [3]),
            first_moment: plan.tensor("first_moment", [3]),
            second_moment: plan.tensor("second_moment", [3]),
            learning_rate_scale: 1.0,
            weight_decay: 0.05,
        }
    }

    /// Three steps of `torch.optim.AdamW` (torch 2.14, f64), lr 0.1, betas 0.9 and 0.99, weight decay 0.05; gradients given twice as
    /// large and halved by the scale.
    #[test]
    fn values_of_torch() {
        let expected = [
            [0.895_000_002, -1.890_000_001, 0.497_5],
            [0.797_180_204_177_767_2, -1.917_110_772_097_605_5, 0.420_767_568_513_299_55],
            [0.813_776_739_625_328_4, -1.939_377_277_101_174_4, 0.355_050_641_324_487_94],
        ];
        let device = Device::cpu(2).unwrap();
        let mut plan = Plan::new(Class::Optimizer);
        let (group, narrow) = (group::<f64>(&mut plan, false), group::<bf16>(&mut plan, true));
        let _arena = Arena::allocate(&device, plan).unwrap();
        let stream = Stream::new(&device, 0).unwrap();
        stream.upload(group.weight, &[1.0, -2.0, 0.5]).unwrap();
        stream.upload(narrow.master.unwrap(), &[1.0, -2.0, 0.5]).unwrap();
        for (index, (gradient, expected)) in GRADIENTS.iter().zip(expected).enumerate() {
            let at = Step { step: index as u64 + 1, ..STEP };
            stream.upload(group.gradient, &gradient.map(|value| 2.0 * value)).unwrap();
            stream.upload(narrow.gradient, &gradient.map(|value| 2.0 * value as f32)).unwrap();
            step(&stream, &[group], at).unwrap();
            step(&stream, &[narrow], at).unwrap();
            let (wide, master) = (stream.fetch(group.weight).unwrap(), stream.fetch(narrow.master.unwrap()).unwrap());
            for (((wide, master), weight), expected) in wide.iter().zip(&master).zip(stream.fetch(narrow.weight).unwrap()).zip(expected) {
                assert!((wide - expected).abs() < 1e-15, "step {index}: {wide} {expected}");
                assert!((f64::from(*master) - expected).abs() < 5e-7, "step {index}: {master} {expected}");
                assert_eq!(weight, <bf16 as Float>::from_acc(*master));
            }
        }
        let moments = (stream.fetch(group.first_moment).unwrap(), stream.fetch(group.second_moment).unwrap());
        let first = [-0.037_000_000_000_000_005, 0.111_499_999_999_999_99, 0.300_089_999_999_999_9];
        let second = [0.013_069_000_000_000_011, 0.049_557_250_000_000_04, 0.090_000_009_900_000_08];
        assert!(moments.0.iter().zip(first).all(|(got, expected)| (got - expected).abs() < 1e-16), "{moments:?}");
        assert!(moments.1.iter().zip(second).all(|(got, expected): (&f64, f64)| (got - expected).abs() < 1e-16), "{moments:?}");
    }

    #[test]
    fn refuses_what_cannot_be() {
        let device = Device::cpu(1).unwrap();
        let mut plan = Plan::new(Class::Optimizer);
        let group = group::<f32>(&mut plan, false);
        let short = Group { gradient: plan.tensor("short", [2]), ..group };
        let _arena = Arena::allocate(&device, plan).unwrap();
        let stream = Stream::new(&device, 0).unwrap();
        assert!(matches!(step(&stream, &[group], Step { step: 0, ..STEP }), Err(Error::Argument { argument: "step", .. })));
        assert!(matches!(step(&stream, &[group], Step { beta2: 1.0, ..STEP }), Err(Error::Argument { argument: "beta2", .. })));
        assert!(matches!(step(&stream, &[group, short], STEP), Err(Error::Shape { tensor: "gradient", .. })));
    }
}
