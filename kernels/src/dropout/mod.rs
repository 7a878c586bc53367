//! Dropout: elements are set to 0 with probability `p`, the others divided by `1 - p`; optionally added to a residual.
//!
//! The mask is never stored. Element `row * width + column` of a site is decided by the 16-bit slice of that index in the site's
//! random stream (Philox call `index / 8`, slice `index % 8`, lower halves first), so that backward draws the same mask again, on
//! any device and with any number of threads. The probability is met to 2^-17.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cuda;
mod mask;

pub(crate) use mask::Mask;

use crate::Result;
use crate::error::expect_shape;
use crate::runtime::philox::Site;
use crate::runtime::{Float, Stream, Target, Tensor};

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[rows, width]`, written.
    pub y: Tensor<T>,
    /// `[rows, width]`.
    pub x: Tensor<T>,
    /// `[rows, width]`, added after the mask.
    pub residual: Option<Tensor<T>>,
    /// Share of elements that are dropped, in `[0, 1)`.
    pub probability: f32,
    /// Whose random numbers.
    pub site: Site,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// `[rows, width]`, overwritten.
    pub dx: Tensor<T>,
    /// `[rows, width]`.
    pub dy: Tensor<T>,
    /// As in forward.
    pub probability: f32,
    /// As in forward.
    pub site: Site,
}

/// `y = mask * x / (1 - p) + residual`; with `p = 0` a copy.
///
/// # Shapes
/// `x`, `y`, `residual`: `[rows, width]`.
/// # Errors
/// `Shape` when they differ, `Argument` when the probability is not in `[0, 1)`.
/// # Source
/// Srivastava et al. 2014, "Dropout", in the inverted form.
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "dropout::forward";
    let shape = [args.x.rows(), args.x.width()];
    expect_shape(OP, "y", &shape, &[args.y.rows(), args.y.width()])?;
    args.residual.map_or(Ok(()), |residual| expect_shape(OP, "residual", &shape, &[residual.rows(), residual.width()]))?;
    let mask = Mask::new(OP, args.probability, args.site)?;
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::apply(stream, cpu, args.y, args.x, args.residual, mask);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::apply(cuda, OP, args.y, args.x, args.residual, mask),
    }
}

/// `dx = mask * dy / (1 - p)` with the mask of forward. The gradient of the residual is `dy` itself.
///
/// # Shapes
/// `dy`, `dx`: `[rows, width]`.
/// # Errors
/// `Shape` when they differ, `Argument` when the probability is not in `[0, 1)`.
/// # Source
/// Derivative of [`forward`].
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "dropout::backward";
    expect_shape(OP, "dx", &[args.dy.rows(), args.dy.width()], &[args.dx.rows(), args.dx.width()])?;
    let mask = Mask::new(OP, args.probability, args.site)?;
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::apply(stream, cpu, args.dx, args.dy, None, mask);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::apply(cuda, OP, args.dx, args.dy, None, mask),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Arena, Class, Device, Plan};

    const SITE: Site = Site { seed: 0x1234_5678_9abc_def0, step: 7, site: 3 };

    fn ones(rows: usize, width: usize, probability: f32) -> Result<Vec<f32>> {
        let device = Device::cpu(2)?;
        let mut plan = Plan::new(Class::Activations);
        let (x, y) = (plan.tensor("x", [rows, width]), plan.tensor("y", [rows, width]));
        let _arena = Arena::allocate(&device, plan)?;
        let stream = Stream::new(&device, 0)?;
        stream.upload(x, &vec![1.0; rows * width])?;
        forward(&stream, Forward { y, x, residual: None, probability, site: SITE })?;
        stream.fetch(y)
    }

    #[test]
    fn mask_is_that_of_its_documentation() {
        let (rows, width, threshold) = (5, 211, 19661);
        for (index, value) in ones(rows, width, 0.3).unwrap().into_iter().enumerate() {
            let words = SITE.words(index as u64 / 8);
            let slice = words[index % 8 / 2] >> (16 * (index % 2)) & 0xffff;
            let scale = (1.0 / (1.0 - f64::from(0.3f32))) as f32;
            assert_eq!(value, if slice < threshold { 0.0 } else { scale }, "{index}");
        }
    }

    #[test]
    fn share_and_edges() {
        let kept = |probability| ones(400, 500, probability).unwrap().iter().filter(|value| **value != 0.0).count() as f64 / 2e5;
        for probability in [0.1, 0.5, 0.9] {
            // Five standard deviations.
            let allowed = 5.0 * (f64::from(probability) * (1.0 - f64::from(probability)) / 2e5).sqrt();
            assert!((kept(probability) - (1.0 - f64::from(probability))).abs() < allowed, "{probability}");
        }
        assert!(ones(3, 5, 0.0).unwrap().iter().all(|value| *value == 1.0));
        for probability in [1.0, -0.1, f32::NAN] {
            assert!(matches!(ones(1, 1, probability), Err(crate::Error::Argument { argument: "probability", .. })));
        }
    }
}
