//! Negative log-likelihood of counts under a zero-inflated negative binomial distribution.
//!
//! An entry is a gene of a cell. With `m = log_mean + log_size[cell]`, `mu = exp(m)`, `theta = exp(log_theta)` and `pi = sigmoid(zero_logit)`:
//!
//! ```text
//! NB(y) = Gamma(y + theta) / (Gamma(theta) y!) (theta / (theta + mu))^theta (mu / (theta + mu))^y
//! P(0)  = pi + (1 - pi) NB(0)      P(y > 0) = (1 - pi) NB(y)      mean of y: (1 - pi) mu
//! loss  = sum weight (-ln P(count)) / sum weight
//! ```
//!
//! Gamma functions enter as what Stirling's formula leaves ([`gamma`]), so that nothing large cancels: f32 keeps its digits for large
//! counts and for a large theta, where the distribution is Poisson's.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cuda;
mod density;
pub mod gamma;

use crate::Result;
use crate::error::expect_shape;
use crate::runtime::{Float, Stream, Target, Tensor};

/// `log_theta` above this counts as this: the distribution is Poisson's to the last bit.
const LARGEST_LOG_THETA: f64 = 40.0;
/// `mu` is taken of an `m` within this magnitude, so that it stays a normal number; what is beyond enters by its logarithm.
const LARGEST_LOG_MEAN: f64 = 80.0;

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[1]`, written, in nats.
    pub loss: Tensor<T::Acc>,
    /// `[1]`, written: the loss's denominator.
    pub weight_sum: Tensor<T::Acc>,
    /// `[cells, genes]`: ln of the mean of the negative binomial part, for a cell of size 1.
    pub log_mean: Tensor<T>,
    /// `[cells, genes]`: logit of the probability of a zero that is no count.
    pub zero_logit: Tensor<T>,
    /// `[genes]`, shared by the cells, or `[cells, genes]`: ln of the inverse dispersion.
    pub log_theta: Tensor<T>,
    /// `[cells]`: ln of the size factor, for example of a cell's total count / 10,000.
    pub log_size: Tensor<T::Acc>,
    /// `[cells, genes]`: raw counts.
    pub count: Tensor<T::Acc>,
    /// `[cells, genes]`: what an entry weighs; 0: it has neither loss nor gradient, whatever it holds.
    pub weight: Tensor<T::Acc>,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// `[cells, genes]`, overwritten.
    pub dlog_mean: Tensor<T>,
    /// `[cells, genes]`, overwritten.
    pub dzero_logit: Tensor<T>,
    /// Shaped like `log_theta`, overwritten; where that is shared, the sum over the cells in their order.
    pub dlog_theta: Tensor<T>,
    /// `[1]`.
    pub dloss: Tensor<T::Acc>,
    /// As in forward.
    pub log_mean: Tensor<T>,
    /// As in forward.
    pub zero_logit: Tensor<T>,
    /// As in forward.
    pub log_theta: Tensor<T>,
    /// As in forward.
    pub log_size: Tensor<T::Acc>,
    /// As in forward.
    pub count: Tensor<T::Acc>,
    /// As in forward.
    pub weight: Tensor<T::Acc>,
    /// `[1]`, from forward.
    pub weight_sum: Tensor<T::Acc>,
}

/// Bytes of scratch that [`forward`] and [`backward`] need: two sums a cell, or a number an entry.
pub fn scratch<T: Float>(cells: usize, genes: usize) -> usize {
    (cells * 2 * size_of::<f64>()).max(cells * genes * size_of::<T::Acc>())
}

/// The loss and its denominator; both 0 when nothing weighs. An entry that weighs something and holds NaN or a negative count makes the
/// loss NaN.
///
/// # Shapes
/// `log_mean`, `zero_logit`, `count`, `weight`: `[cells, genes]`; `log_theta`: `[genes]` or `[cells, genes]`; `log_size`: `[cells]`;
/// `loss`, `weight_sum`: `[1]`. Scratch: [`scratch`].
/// # Errors
/// `Shape` when a length differs, `Scratch` when the stream has too little.
/// # Source
/// The likelihood of scVI (Lopez et al. 2018, `log_zinb_positive` of scvi-tools); saddle-point form of Loader 2000, "Fast and accurate
/// computation of binomial probabilities".
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "zinb::forward";
    let Forward { loss, weight_sum, log_mean, zero_logit, log_theta, log_size, count, weight } = args;
    expect_shape(OP, "loss", &[1], &loss.shape())?;
    check(OP, [log_mean, zero_logit, log_theta], log_size, [count, weight], weight_sum)?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::forward(stream, cpu, args),
        Target::Cuda(cuda) => cuda::forward(cuda, OP, args),
    }
}

/// With `k = -dloss weight / weight_sum` and, for `y > 0`, `p = theta / (theta + mu)`:
/// `dlog_mean = k p (y - mu)`, `dzero_logit = -k pi`,
/// `dlog_theta = k theta (psi(y + theta) - psi(theta) + ln p + (mu - y) / (theta + mu))`. At `y = 0` the first and the last are times
/// `1 - g`, and the second is `k (g - pi)`, where `g = sigmoid(zero_logit - ln NB(0))`. 0 when nothing weighs.
///
/// # Shapes
/// As in [`forward`]. Scratch: [`scratch`].
/// # Errors
/// `Shape` when a length differs, `Scratch` when the stream has too little.
/// # Source
/// Derivative of [`forward`].
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "zinb::backward";
    let Backward { dlog_mean, dzero_logit, dlog_theta, dloss, log_mean, zero_logit, log_theta, log_size, count, weight, weight_sum } = args;
    expect_shape(OP, "dloss", &[1], &dloss.shape())?;
    check(OP, [log_mean, zero_logit, log_theta], log_size, [count, weight], weight_sum)?;
    expect_shape(OP, "dlog_mean", &[log_mean.len()], &[dlog_mean.len()])?;
    expect_shape(OP, "dzero_logit", &[log_mean.len()], &[dzero_logit.len()])?;
    expect_shape(OP, "dlog_theta", &[log_theta.len()], &[dlog_theta.len()])?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::backward(stream, cpu, OP, args),
        Target::Cuda(cuda) => cuda::backward(cuda, OP, args),
    }
}

/// Genes of a cell.
fn genes<T: Float>(log_mean: Tensor<T>, log_size: Tensor<T::Acc>) -> usize {
    log_mean.len() / log_size.len().max(1)
}

fn check<T: Float>(
    op: &'static str,
    [log_mean, zero_logit, log_theta]: [Tensor<T>; 3],
    log_size: Tensor<T::Acc>,
    [count, weight]: [Tensor<T::Acc>; 2],
    weight_sum: Tensor<T::Acc>,
) -> Result<()> {
    let (cells, genes) = (log_size.len(), genes(log_mean, log_size));
    let entries = [cells * genes];
    expect_shape(op, "log_mean", &entries, &[log_mean.len()])?;
    expect_shape(op, "zero_logit", &entries, &[zero_logit.len()])?;
    let theta = if log_theta.len() == genes { genes } else { cells * genes };
    expect_shape(op, "log_theta", &[theta], &[log_theta.len()])?;
    expect_shape(op, "count", &entries, &[count.len()])?;
    expect_shape(op, "weight", &entries, &[weight.len()])?;
    expect_shape(op, "weight_sum", &[1], &weight_sum.shape())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::runtime::{Arena, Class, Device, Plan};

    #[test]
    fn what_weighs_nothing_is_not_looked_at_and_lengths_are_checked() {
        let device = Device::cpu(1).unwrap();
        let mut plan = Plan::new(Class::Activations);
        let [log_mean, zero_logit, dlog_mean, dzero_logit, count, weight]: [Tensor<f32>; 6] =
            std::array::from_fn(|at| plan.tensor(&format!("entries{at}"), [2, 3]));
        let [log_theta, dlog_theta] = ["log_theta", "dlog_theta"].map(|name| plan.tensor::<f32>(name, [3]));
        let log_size = plan.tensor("log_size", [2]);
        let [loss, dloss, weight_sum] = ["loss", "dloss", "weight_sum"].map(|name| plan.tensor::<f32>(name, [1]));
        let _arena = Arena::allocate(&device, plan).unwrap();
        let stream = Stream::new(&device, scratch::<f32>(2, 3)).unwrap();
        let forward_args = Forward { loss, weight_sum, log_mean, zero_logit, log_theta, log_size, count, weight };
        let backward_args =
            Backward { dlog_mean, dzero_logit, dlog_theta, dloss, log_mean, zero_logit, log_theta, log_size, count, weight, weight_sum };
        stream.upload(dloss, &[1.0]).unwrap();
        stream.upload(weight, &[1.0, 0.0, 2.0, 1.0, 0.0, 0.5]).unwrap();
        stream.upload(count, &[0.0, f32::NAN, 3.0, 1.0, -7.0, 0.0]).unwrap();
        stream.upload(log_mean, &[0.5, f32::INFINITY, 0.1, 0.2, f32::NAN, -1.0]).unwrap();
        forward(&stream, forward_args).unwrap();
        backward(&stream, backward_args).unwrap();
        assert_eq!(stream.fetch(weight_sum).unwrap(), [4.5]);
        assert!(stream.fetch(loss).unwrap()[0].is_finite());
        let (means, thetas) = (stream.fetch(dlog_mean).unwrap(), stream.fetch(dlog_theta).unwrap());
        assert!([1, 4].iter().all(|at| means[*at] == 0.0) && [0, 2, 3, 5].iter().all(|at| means[*at] != 0.0), "{means:?}");
        assert!(thetas[1] == 0.0 && thetas[0].is_finite() && thetas[0] != 0.0, "{thetas:?}");

        let short = Forward { count: count.row_range(0, 1), ..forward_args };
        assert!(matches!(forward(&stream, short), Err(Error::Shape { tensor: "count", .. })));
        let little = Stream::new(&device, 8).unwrap();
        assert!(matches!(backward(&little, backward_args), Err(Error::Scratch { .. })));
    }
}
