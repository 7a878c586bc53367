//! Sums over tensors and the few whole-tensor updates of a training step: bias gradients, the global gradient norm, the check for
//! NaN and infinity, residual addition and scaling.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cuda;

use crate::Result;
use crate::error::expect_shape;
use crate::runtime::{Float, Real, Stream, Target, Tensor};

/// Arguments of [`column_sum`].
#[derive(Clone, Copy, Debug)]
pub struct ColumnSum<T: Float> {
    /// `[width]`, added to.
    pub sum: Tensor<T::Acc>,
    /// `[rows, width]`.
    pub x: Tensor<T>,
}

/// Arguments of [`add_assign`].
#[derive(Clone, Copy, Debug)]
pub struct AddAssign<T: Float> {
    /// `[rows, width]`, added to.
    pub y: Tensor<T>,
    /// `[rows, width]`.
    pub x: Tensor<T>,
}

/// Rows that one partial sum of [`column_sum`] covers, whatever the number of threads.
const CHUNK_ROWS: usize = 128;

/// Bytes of scratch that [`column_sum`] needs; never less than [`squared_norm`] and [`all_finite`] need on CUDA devices, which is the
/// same whatever the tensors.
pub fn scratch<T: Float>(rows: usize, width: usize) -> usize {
    (rows.div_ceil(CHUNK_ROWS) * width * size_of::<T::Acc>()).max(cuda::NORM_SCRATCH)
}

/// `sum[c] += sum_r x[r, c]`: the gradient of a bias.
///
/// # Shapes
/// `x`: `[rows, width]`; `sum`: `[width]`. Scratch: [`scratch`].
/// # Errors
/// `Shape` when a length differs, `Scratch` when the stream has too little.
/// # Source
/// Derivative of `y = x + bias`.
pub fn column_sum<T: Float>(stream: &Stream, args: ColumnSum<T>) -> Result<()> {
    const OP: &str = "reduce::column_sum";
    expect_shape(OP, "sum", &[args.x.width()], &[args.sum.len()])?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::column_sum(stream, cpu, args),
        Target::Cuda(cuda) => cuda::column_sum(cuda, OP, args),
    }
}

/// Sum of the squares of all elements of all tensors, on the host: the square of the global gradient norm.
/// Squares and sums are in f64, so that f32 neither overflows nor loses small gradients; NaN and infinity come through.
///
/// # Errors
/// None on the CPU; a CUDA device reports failed work, and `Scratch` when the stream has less than [`scratch`] of anything.
/// # Source
/// Pascanu, Mikolov & Bengio 2013, algorithm 1 (clipping by the global norm).
pub fn squared_norm<A: Real>(stream: &Stream, tensors: &[Tensor<A>]) -> Result<f64> {
    match stream.target() {
        Target::Cpu(cpu) => Ok(cpu::squared_norm(stream, cpu, tensors)),
        Target::Cuda(cuda) => cuda::squared_norm(cuda, "reduce::squared_norm", tensors),
    }
}

/// True when no element of any tensor is NaN or infinite.
///
/// # Errors
/// As [`squared_norm`].
pub fn all_finite<T: Float>(stream: &Stream, tensors: &[Tensor<T>]) -> Result<bool> {
    match stream.target() {
        Target::Cpu(cpu) => Ok(cpu::all_finite(stream, cpu, tensors)),
        // No f32 has a square beyond f64, and no memory holds enough of them for their sum.
        Target::Cuda(cuda) => Ok(cuda::squared_norm(cuda, "reduce::all_finite", tensors)?.is_finite()),
    }
}

/// `y += x`, added in the accumulation type and rounded once.
///
/// # Shapes
/// `x`, `y`: `[rows, width]`, each with its own row stride.
/// # Errors
/// `Shape` when a length differs.
pub fn add_assign<T: Float>(stream: &Stream, args: AddAssign<T>) -> Result<()> {
    const OP: &str = "reduce::add_assign";
    let (y, x) = (args.y, args.x);
    expect_shape(OP, "x", &[y.rows(), y.width()], &[x.rows(), x.width()])?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::add_assign(stream, cpu, args),
        Target::Cuda(cuda) => cuda::add_assign(cuda, OP, args),
    }
}

/// `x *= factor` for every element of every tensor.
///
/// # Errors
/// None on the CPU; a device reports failed work.
pub fn scale<T: Float>(stream: &Stream, tensors: &[Tensor<T>], factor: f64) -> Result<()> {
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::scale(stream, cpu, tensors, factor);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::scale(cuda, "reduce::scale", tensors, factor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Arena, Class, Device, Plan};

    #[test]
    fn norm_and_finiteness_of_many_tensors() {
        let mut results = Vec::new();
        for threads in [1, 3] {
            let device = Device::cpu(threads).unwrap();
            let mut plan = Plan::new(Class::Gradients);
            let tensors: Vec<Tensor<f32>> = [1, 100_003, 7].iter().map(|len| plan.tensor("g", [*len])).collect();
            let wide: Tensor<f32> = plan.tensor("wide", [5, 9]);
            let _arena = Arena::allocate(&device, plan).unwrap();
            let stream = Stream::new(&device, 0).unwrap();
            for (seed, tensor) in tensors.iter().enumerate() {
                let values: Vec<f32> = (0..tensor.len()).map(|index| ((index * 31 + seed) % 1009) as f32 * 0.37 - 180.0).collect();
                stream.upload(*tensor, &values).unwrap();
            }
            let expected: f64 = tensors.iter().flat_map(|t| stream.fetch(*t).unwrap()).map(|x| f64::from(x) * f64::from(x)).sum();
            let got = squared_norm(&stream, &tensors).unwrap();
            assert!((got - expected).abs() < 1e-12 * expected, "{got} {expected}");
            results.push(got.to_bits());

            stream.upload(wide, &[2.0; 45]).unwrap();
            let middle = wide.columns(3, 4);
            assert_eq!(squared_norm(&stream, &[middle]).unwrap(), 80.0);
            scale(&stream, &[middle], 0.5).unwrap();
            assert_eq!(squared_norm(&stream, &[wide]).unwrap(), 20.0 + 100.0);
            assert!(all_finite(&stream, &[tensors[0], wide]).unwrap());
            for bad in [f32::NAN, f32::INFINITY] {
                let mut values = vec![1.0; tensors[1].len()];
                values[99_999] = bad;
                stream.upload(tensors[1], &values).unwrap();
                assert!(!all_finite(&stream, &tensors).unwrap());
                assert!(!squared_norm(&stream, &tensors).unwrap().is_finite());
            }
            stream.upload(tensors[0], &[1e30]).unwrap();
            assert!((squared_norm(&stream, &tensors[..1]).unwrap() / 1e60 - 1.0).abs() < 1e-6, "beyond the range of f32");
            assert_eq!(squared_norm::<f32>(&stream, &[]).unwrap(), 0.0);
        }
        assert_eq!(results[0], results[1]);
    }
}
