//! Products with frozen weights of one byte: `w = scale q`, `q` in -127..=127, a scale for every output.
//!
//! Activations stay in their own type and sums in the accumulation type: small integers are exact in bf16 and f32, so that
//! `sum_k x q` has no error but that of its sums, and the scale comes last. The bits of a row of `y` depend on its row of `x` alone.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cpu_simd_few;
mod cuda;
#[cfg(test)]
mod tests;

use crate::Result;
use crate::error::expect_shape;
use crate::runtime::{Float, Stream, Target, Tensor};

/// Integers a word.
pub const PACKED: usize = 4;

/// Words of a row of `k` integers.
pub fn words(k: usize) -> usize {
    k.div_ceil(PACKED)
}

/// A frozen weight.
#[derive(Clone, Copy, Debug)]
pub struct Weight<T: Float> {
    /// `[n, words(k)]`: four signed bytes a word, the first in the lowest bits; what the last word has behind k counts for nothing.
    pub words: Tensor<u32>,
    /// `[n]`.
    pub scale: Tensor<T::Acc>,
}

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[m, n]`, overwritten.
    pub y: Tensor<T>,
    /// `[m, k]`.
    pub x: Tensor<T>,
    /// `[n, k]`.
    pub weight: Weight<T>,
    /// `[m, n]`, added to the product.
    pub residual: Option<Tensor<T>>,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// `[m, k]`, overwritten.
    pub dx: Tensor<T>,
    /// `[m, n]`.
    pub dy: Tensor<T>,
    /// `[n, k]`.
    pub weight: Weight<T>,
}

/// The integers and scales of the rows of `weight`, `[n, k]`: `scale = max|w| / 127`, `q = w / scale` rounded to nearest even.
///
/// A row of zeros has the scale 0; one with a number that is not finite, that scale NaN, so that it shows in every product.
///
/// # Source
/// Symmetric absmax quantisation as in Dettmers et al. 2022, "LLM.int8()", eq. 1, a row at a time.
pub fn quantize(weight: &[f32], k: usize) -> (Vec<u32>, Vec<f32>) {
    let (mut packed, mut scales) = (Vec::with_capacity(weight.len().div_ceil(PACKED)), Vec::new());
    for row in weight.chunks_exact(k.max(1)) {
        let finite = row.iter().all(|value| value.is_finite());
        let largest = row.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        // Divided by what a scale is worth in f32: a product with its reciprocal would round twice.
        let scale = if finite { largest / 127.0 } else { f32::NAN };
        let integer = |value: &f32| if scale > 0.0 { (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8 } else { 0 };
        for part in row.chunks(PACKED) {
            let mut bytes = [0u8; PACKED];
            bytes.iter_mut().zip(part).for_each(|(byte, value)| *byte = integer(value) as u8);
            packed.push(u32::from_le_bytes(bytes));
        }
        scales.push(scale);
    }
    (packed, scales)
}

/// `y = scale (x q^T) + residual`.
///
/// # Shapes
/// See [`Forward`]; `x`, `y` and `residual` may be columns of wider matrices.
/// # Errors
/// `Shape` when a size differs.
/// # Source
/// Dettmers et al. 2022, section 2.1 (row-wise constants), with activations that are not quantised.
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "int8_gemm::forward";
    let (m, n) = check(OP, args.x, args.y, args.weight)?;
    args.residual.map_or(Ok(()), |residual| expect_shape(OP, "residual", &[m, n], &[residual.rows(), residual.width()]))?;
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::forward(stream, cpu, args);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::forward(cuda, OP, args),
    }
}

/// `dx = dy (scale q)`. The weight is frozen and has no gradient.
///
/// # Shapes
/// See [`Backward`]; `dx` and `dy` may be columns of wider matrices.
/// # Errors
/// `Shape` when a size differs.
/// # Source
/// Derivative of [`forward`].
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "int8_gemm::backward";
    check(OP, args.dx, args.dy, args.weight)?;
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::backward(stream, cpu, args);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::backward(cuda, OP, args),
    }
}

/// m and n.
fn check<T: Float>(op: &'static str, x: Tensor<T>, y: Tensor<T>, weight: Weight<T>) -> Result<(usize, usize)> {
    let (m, k, n) = (x.rows(), x.width(), weight.words.rows());
    expect_shape(op, "weight", &[n, words(k)], &[n, weight.words.width()])?;
    expect_shape(op, "scale", &[n], &weight.scale.shape())?;
    expect_shape(op, "y", &[m, n], &[y.rows(), y.width()])?;
    Ok((m, n))
}
