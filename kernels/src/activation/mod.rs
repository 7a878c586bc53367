//! Activation functions, element by element.
//!
//! They stand alone only where no matrix product precedes them closely enough to carry them in its epilogue.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cuda;

use crate::Result;
use crate::error::expect_shape;
use crate::runtime::{Float, Stream, Target, Tensor};

/// Which function. NaN stays NaN in all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `max(x, 0)`; slope 0 at 0.
    Relu,
    /// `x (1 + erf(x / sqrt 2)) / 2`, the exact form that BERT uses.
    Gelu,
    /// `x` above 0, `slope x` at and below.
    LeakyRelu {
        /// Slope of the negative side.
        slope: f64,
    },
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[rows, width]`, written.
    pub y: Tensor<T>,
    /// `[rows, width]`.
    pub x: Tensor<T>,
    /// The function.
    pub kind: Kind,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// `[rows, width]`, overwritten.
    pub dx: Tensor<T>,
    /// `[rows, width]`.
    pub dy: Tensor<T>,
    /// `[rows, width]`, the input of forward.
    pub x: Tensor<T>,
    /// The function.
    pub kind: Kind,
}

/// `y = f(x)`.
///
/// # Shapes
/// `x`, `y`: `[rows, width]`.
/// # Errors
/// `Shape` when they differ.
/// # Source
/// Hendrycks & Gimpel 2016, "Gaussian error linear units" (GELU); Maas et al. 2013 (leaky ReLU).
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    expect_shape("activation::forward", "y", &[args.x.rows(), args.x.width()], &[args.y.rows(), args.y.width()])?;
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::forward(stream, cpu, args);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::forward(cuda, "activation::forward", args),
    }
}

/// `dx = dy f'(x)`.
///
/// # Shapes
/// `x`, `dy`, `dx`: `[rows, width]`.
/// # Errors
/// `Shape` when they differ.
/// # Source
/// Derivative of [`forward`].
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "activation::backward";
    let shape = [args.x.rows(), args.x.width()];
    expect_shape(OP, "dy", &shape, &[args.dy.rows(), args.dy.width()])?;
    expect_shape(OP, "dx", &shape, &[args.dx.rows(), args.dx.width()])?;
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::backward(stream, cpu, args);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::backward(cuda, OP, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Arena, Class, Device, Plan};

    fn run(kind: Kind, inputs: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let device = Device::cpu(1).unwrap();
        let mut plan = Plan::new(Class::Activations);
        let [x, y, dx, dy]: [Tensor<f32>; 4] = std::array::from_fn(|index| plan.tensor(["x", "y", "dx", "dy"][index], [1, inputs.len()]));
        let _arena = Arena::allocate(&device, plan).unwrap();
        let stream = Stream::new(&device, 0).unwrap();
        stream.upload(x, inputs).unwrap();
        stream.upload(dy, &vec![1.0; inputs.len()]).unwrap();
        forward(&stream, Forward { y, x, kind }).unwrap();
        backward(&stream, Backward { dx, dy, x, kind }).unwrap();
        (stream.fetch(y).unwrap(), stream.fetch(dx).unwrap())
    }

    #[test]
    fn kinks_take_the_lower_slope_and_extremes_saturate() {
        assert_eq!(run(Kind::Relu, &[-1.0, -0.0, 0.0, 2.0]), (vec![0.0, 0.0, 0.0, 2.0], vec![0.0, 0.0, 0.0, 1.0]));
        assert_eq!(run(Kind::LeakyRelu { slope: 0.25 }, &[-4.0, 0.0, 2.0]), (vec![-1.0, 0.0, 2.0], vec![0.25, 0.25, 1.0]));
        assert_eq!(run(Kind::Sigmoid, &[-200.0, 0.0, 200.0]), (vec![0.0, 0.5, 1.0], vec![0.0, 0.25, 0.0]));
        assert_eq!(run(Kind::Gelu, &[-100.0, 0.0, 100.0]), (vec![0.0, 0.0, 100.0], vec![0.0, 0.5, 1.0]));
    }

    #[test]
    fn nan_is_not_swallowed() {
        for kind in [Kind::Relu, Kind::Gelu, Kind::LeakyRelu { slope: 0.01 }, Kind::Sigmoid] {
            assert!(run(kind, &[f32::NAN]).0[0].is_nan(), "{kind:?}");
        }
    }
}
