//! Softmax cross-entropy with class indices, averaged over the rows that count.
//!
//! With `w` the class weights (1 without), `t` the targets, `s` the label smoothing, `C` the number of classes and
//! `p = softmax(logits)`, over the rows whose target is not [`IGNORE`]:
//! `loss = sum_i ((1 - s) * w[t_i] * -ln p[i, t_i] + s / C * sum_c w[c] * -ln p[i, c]) / sum_i w[t_i]`.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cuda;

use crate::error::expect_shape;
use crate::runtime::{Float, Stream, Target, Tensor};
use crate::{Error, Result};

/// A target without a class: its row has no loss and no gradient, whatever its logits are (Hugging Face's -100).
pub const IGNORE: u32 = u32::MAX;

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[1]`, written, in nats; 0 when no row counts.
    pub loss: Tensor<T::Acc>,
    /// `[rows]`, written: `ln sum_c exp(logits[i, c])`; 0 in ignored rows.
    pub logsumexp: Tensor<T::Acc>,
    /// `[1]`, written: sum of the weights of the targets that count, the loss's denominator.
    pub weight_sum: Tensor<T::Acc>,
    /// `[rows, classes]`.
    pub logits: Tensor<T>,
    /// `[rows]`: a class, or [`IGNORE`].
    pub targets: Tensor<u32>,
    /// `[classes]`; none: every class weighs 1.
    pub class_weight: Option<Tensor<T::Acc>>,
    /// Share of the target's probability that is spread over all classes, in [0, 1].
    pub label_smoothing: f64,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// `[rows, classes]`, overwritten; 0 in ignored rows.
    pub dlogits: Tensor<T>,
    /// `[1]`.
    pub dloss: Tensor<T::Acc>,
    /// `[rows, classes]`, as in forward.
    pub logits: Tensor<T>,
    /// `[rows]`, as in forward.
    pub targets: Tensor<u32>,
    /// `[rows]`, from forward.
    pub logsumexp: Tensor<T::Acc>,
    /// `[1]`, from forward.
    pub weight_sum: Tensor<T::Acc>,
    /// `[classes]`, as in forward.
    pub class_weight: Option<Tensor<T::Acc>>,
    /// As in forward.
    pub label_smoothing: f64,
}

/// Bytes of scratch that [`forward`] needs on CUDA devices: a loss a row.
pub fn scratch(rows: usize) -> usize {
    rows * size_of::<f32>()
}

/// The loss, and what [`backward`] needs of it. In a row that counts, NaN, `+inf` or nothing but `-inf` makes the loss NaN; a class
/// at `-inf` has probability 0 (with smoothing its share of the loss is infinite). No weight at all (nothing counts) gives 0.
///
/// # Shapes
/// `logits`: `[rows, classes]`; `targets`, `logsumexp`: `[rows]`; `class_weight`: `[classes]`; `loss`, `weight_sum`: `[1]`.
/// Scratch: [`scratch`].
/// # Errors
/// `Shape` when a length differs, `Argument` when the smoothing is not in [0, 1], `Scratch` when the stream has too little, `Index` when a
/// target is no class (a CUDA device makes the loss NaN instead).
/// # Source
/// `torch.nn.functional.cross_entropy` with `reduction="mean"`; smoothing of Szegedy et al. 2016, section 7.
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "cross_entropy::forward";
    let Forward { loss, logsumexp, weight_sum, logits, targets, class_weight, label_smoothing } = args;
    check(OP, logits, targets, logsumexp, weight_sum, class_weight, label_smoothing)?;
    expect_shape(OP, "loss", &[1], &loss.shape())?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::forward(stream, cpu, OP, args),
        Target::Cuda(cuda) => cuda::forward(cuda, OP, args),
    }
}

/// In rows that count, with `W = sum_c w[c]`:
/// `dlogits[i, c] = dloss / weight_sum * ((1 - s) * w[t_i] * (p[i, c] - [c = t_i]) + s / C * (W * p[i, c] - w[c]))`.
///
/// # Shapes
/// As in [`forward`]; `dlogits`: `[rows, classes]`; `dloss`: `[1]`.
/// # Errors
/// As [`forward`].
/// # Source
/// Derivative of [`forward`].
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "cross_entropy::backward";
    let Backward { dlogits, dloss, logits, targets, logsumexp, weight_sum, class_weight, label_smoothing } = args;
    check(OP, logits, targets, logsumexp, weight_sum, class_weight, label_smoothing)?;
    expect_shape(OP, "dlogits", &[logits.rows(), logits.width()], &[dlogits.rows(), dlogits.width()])?;
    expect_shape(OP, "dloss", &[1], &dloss.shape())?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::backward(stream, cpu, OP, args),
        Target::Cuda(cuda) => cuda::backward(cuda, OP, args),
    }
}

fn check<T: Float>(
    op: &'static str,
    logits: Tensor<T>,
    targets: Tensor<u32>,
    logsumexp: Tensor<T::Acc>,
    weight_sum: Tensor<T::Acc>,
    class_weight: Option<Tensor<T::Acc>>,
    label_smoothing: f64,
) -> Result<()> {
    let (rows, classes) = (logits.rows(), logits.width());
    expect_shape(op, "targets", &[rows], &[targets.len()])?;
    expect_shape(op, "logsumexp", &[rows], &[logsumexp.len()])?;
    expect_shape(op, "weight_sum", &[1], &weight_sum.shape())?;
    class_weight.map_or(Ok(()), |weight| expect_shape(op, "class_weight", &[classes], &weight.shape()))?;
    if !(0.0..=1.0).contains(&label_smoothing) {
        return Err(Error::Argument { op, argument: "label_smoothing", value: label_smoothing, expected: "a share in [0, 1]" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Arena, Class, Device, Plan};

    /// `torch.nn.functional.cross_entropy` (torch 2.14, f64): loss and the gradient of the first row.
    #[test]
    fn values_of_torch() {
        let device = Device::cpu(2).unwrap();
        let mut plan = Plan::new(Class::Activations);
        let (logits, dlogits) = (plan.tensor::<f64>("logits", [4, 3]), plan.tensor("dlogits", [4, 3]));
        let (targets, logsumexp, weight) = (plan.tensor::<u32>("targets", [4]), plan.tensor("logsumexp", [4]), plan.tensor("weight", [3]));
        let (loss, dloss, weight_sum) = (plan.tensor("loss", [1]), plan.tensor("dloss", [1]), plan.tensor("weight_sum", [1]));
        let _arena = Arena::allocate(&device, plan).unwrap();
        let stream = Stream::new(&device, 0).unwrap();
        stream.upload(logits, &[0.5, -1.25, 2.0, 1.0, 0.0, -3.0, 0.25, 0.75, -0.5, f64::NAN, 9.0, 9.0]).unwrap();
        stream.upload(targets, &[2, 0, 1, IGNORE]).unwrap();
        stream.upload(weight, &[0.5, 1.5, 2.0]).unwrap();
        stream.upload(dloss, &[1.0]).unwrap();
        let cases = [
            (None, 0.0, 0.399_122_075_593_995_93, [0.058_940_060_702_481_43, 0.010_242_246_775_478_81, -0.069_182_307_477_960_24]),
            (Some(weight), 0.0, 0.396_449_422_614_131_85, [0.088_410_091_053_722_15, 0.015_363_370_163_218_216, -0.103_773_461_216_940_37]),
            (None, 0.1, 0.526_899_853_371_773_7, [0.047_828_949_591_370_316, -0.000_868_864_335_632_301_4, -0.046_960_085_255_738_04]),
            (Some(weight), 0.2, 0.694_900_619_876_771_3, [0.074_182_751_650_140_67, -0.010_660_854_514_329_667, -0.063_521_897_135_811_02]),
        ];
        for (class_weight, label_smoothing, expected, gradient) in cases {
            forward(&stream, Forward { loss, logsumexp, weight_sum, logits, targets, class_weight, label_smoothing }).unwrap();
            let args = Backward { dlogits, dloss, logits, targets, logsumexp, weight_sum, class_weight, label_smoothing };
            backward(&stream, args).unwrap();
            assert!((stream.fetch(loss).unwrap()[0] - expected).abs() < 1e-14);
            let got = stream.fetch(dlogits).unwrap();
            assert!(got.iter().zip(gradient).all(|(got, expected)| (got - expected).abs() < 1e-14), "{got:?}");
            assert_eq!(got[9..], [0.0; 3], "an ignored row has no gradient, NaN or not");
        }
    }

    #[test]
    fn refuses_a_target_without_class() {
        let device = Device::cpu(1).unwrap();
        let mut plan = Plan::new(Class::Activations);
        let (logits, targets) = (plan.tensor::<f32>("logits", [2, 3]), plan.tensor::<u32>("targets", [2]));
        let (loss, logsumexp, weight_sum) = (plan.tensor("loss", [1]), plan.tensor("logsumexp", [2]), plan.tensor("weight_sum", [1]));
        let _arena = Arena::allocate(&device, plan).unwrap();
        let stream = Stream::new(&device, 0).unwrap();
        let args = Forward { loss, logsumexp, weight_sum, logits, targets, class_weight: None, label_smoothing: 0.0 };
        stream.upload(targets, &[2, 3]).unwrap();
        assert!(matches!(forward(&stream, args), Err(Error::Index { position: 1, index: 3, bound: 3, .. })));
        assert!(matches!(forward(&stream, Forward { label_smoothing: 1.5, ..args }), Err(Error::Argument { .. })));
        stream.upload(targets, &[2, 0]).unwrap();
        stream.upload(logits, &[0.0, 1.0, 2.0, f32::NAN, 0.0, 1.0]).unwrap();
        forward(&stream, args).unwrap();
        assert!(stream.fetch(loss).unwrap()[0].is_nan());
    }
}
