//! Matrix products with fused epilogues: forward and data gradient ([`forward`]), weight gradient ([`accumulate`]).
//!
//! Every element of a result is summed over k in one order that depends on k alone: the same bits at any number of threads, in any
//! batch and at any vector width.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cpu_finish;
mod cpu_pack;
mod cpu_simd;
mod cpu_simd_few;
mod cuda;
mod emit;
mod emit_few;
mod emit_finish;
mod emit_mma;
mod emit_mma_operand;
mod emit_mma_store;
mod emit_simt;
#[cfg(test)]
mod tests;

#[allow(unused_imports, reason = "for the CPU paths of other kernels")]
pub(crate) use cpu::multiply;
pub(crate) use cpu_pack::KC;
#[cfg(feature = "testing")]
pub use cpu_simd::fma_peak;
#[cfg(target_arch = "x86_64")]
pub(crate) use cpu_simd::turned;

use crate::Result;
use crate::error::expect_shape;
use crate::runtime::{Float, Stream, Target, Tensor};
use crate::swiglu;

/// Which operand is stored transposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// `c[m, n] = a[m, k] b[n, k]^T`: a layer's forward pass.
    NT,
    /// `c[m, n] = a[m, k] b[k, n]`: its data gradient.
    NN,
    /// `c[m, n] = a[k, m]^T b[k, n]`: its weight gradient.
    TN,
}

/// What happens to `ab` before it is written to `c`.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<T: Float> {
    /// `c = ab`.
    None,
    /// `c = ab + bias`.
    Bias {
        /// `[n]`.
        bias: Tensor<T>,
    },
    /// `c = max(ab + bias, 0)`.
    BiasRelu {
        /// `[n]`.
        bias: Tensor<T>,
    },
    /// `c = gelu(ab + bias)`, `gelu(x) = x (1 + erf(x / sqrt 2)) / 2`.
    BiasGelu {
        /// `[n]`.
        bias: Tensor<T>,
        /// `[m, n]`, written: `ab + bias`, which the backward pass needs.
        pre_activation: Option<Tensor<T>>,
    },
    /// `c = ab + bias + residual`.
    BiasResidual {
        /// `[n]`.
        bias: Tensor<T>,
        /// `[m, n]`.
        residual: Tensor<T>,
    },
    /// `c = factor ab`: what an adapter projects down to.
    Scaled {
        /// The factor.
        factor: f64,
    },
    /// `c = c + ab`: an adapter's share joins what it adapts.
    Added,
    /// `c = silu(gate) up`, `silu(x) = x / (1 + exp(-x))`, where `ab = [gate, up]`: the gate of Llama's feed-forward part. `c` is half as
    /// wide as `ab`.
    SwiGlu {
        /// `[m, 2 * width of c]`, written: `ab`, which the backward pass needs.
        gate_up: Tensor<T>,
    },
    /// `c = ab + residual`: a data gradient that joins the one of the residual branch.
    Residual {
        /// `[m, n]`.
        residual: Tensor<T>,
    },
    /// Data gradient through a ReLU: `c = ab` where `output > 0`, else 0.
    ReluMask {
        /// `[m, n]`, what [`Epilogue::BiasRelu`] wrote.
        output: Tensor<T>,
    },
    /// Data gradient through a GELU: `c = ab gelu'(pre_activation)`.
    GeluMask {
        /// `[m, n]`, what [`Epilogue::BiasGelu`] wrote.
        pre_activation: Tensor<T>,
    },
}

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[m, n]`, overwritten.
    pub c: Tensor<T>,
    /// `[m, k]`, or `[k, m]` for [`Layout::TN`].
    pub a: Tensor<T>,
    /// `[k, n]`, or `[n, k]` for [`Layout::NT`].
    pub b: Tensor<T>,
    /// Which operand is transposed.
    pub layout: Layout,
    /// What happens to the product on its way to `c`.
    pub epilogue: Epilogue<T>,
}

/// Arguments of [`accumulate`].
#[derive(Clone, Copy, Debug)]
pub struct Accumulate<T: Float> {
    /// `[m, n]`, added to.
    pub c: Tensor<T::Acc>,
    /// `[m, k]`, or `[k, m]` for [`Layout::TN`].
    pub a: Tensor<T>,
    /// `[k, n]`, or `[n, k]` for [`Layout::NT`].
    pub b: Tensor<T>,
    /// Which operand is transposed.
    pub layout: Layout,
}

/// `c = epilogue(op(a) op(b))`.
///
/// # Shapes
/// See [`Forward`] and [`Epilogue`]. Every matrix may be a column range of a wider one; leading dimensions count as rows.
/// # Errors
/// `Shape` when a size differs.
/// # Source
/// Blocking and packing: Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication"; GELU: Hendrycks & Gimpel 2016.
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "gemm::forward";
    let (m, n) = check_operands(OP, args.layout, args.a, args.b)?;
    let width = if let Epilogue::SwiGlu { .. } = args.epilogue { n / 2 } else { n };
    check_matrix(OP, "c", m, width, args.c)?;
    let check_bias = |bias: Tensor<T>| expect_shape(OP, "bias", &[n], &bias.shape());
    match args.epilogue {
        Epilogue::None | Epilogue::Scaled { .. } | Epilogue::Added => {}
        Epilogue::SwiGlu { gate_up } => check_matrix(OP, "gate_up", m, 2 * width, gate_up).and_then(|()| expect_even(OP, n))?,
        Epilogue::Bias { bias } | Epilogue::BiasRelu { bias } => check_bias(bias)?,
        Epilogue::BiasGelu { bias, pre_activation } => {
            check_bias(bias)?;
            pre_activation.map_or(Ok(()), |tensor| check_matrix(OP, "pre_activation", m, n, tensor))?;
        }
        Epilogue::BiasResidual { bias, residual } => {
            check_bias(bias)?;
            check_matrix(OP, "residual", m, n, residual)?;
        }
        Epilogue::Residual { residual } => check_matrix(OP, "residual", m, n, residual)?,
        Epilogue::ReluMask { output } => check_matrix(OP, "output", m, n, output)?,
        Epilogue::GeluMask { pre_activation } => check_matrix(OP, "pre_activation", m, n, pre_activation)?,
    }
    match (stream.target(), args.epilogue) {
        // Only where both operands are read along k is the gate an epilogue; elsewhere the sums are in the cache when it comes.
        (target, Epilogue::SwiGlu { gate_up }) if args.layout != Layout::NT || matches!(target, Target::Cpu(_)) => {
            forward(stream, Forward { c: gate_up, epilogue: Epilogue::None, ..args })?;
            let (gate, up) = (gate_up.columns(0, width), gate_up.columns(width, width));
            swiglu::forward(stream, swiglu::Forward { y: args.c, gate, up })
        }
        (Target::Cpu(cpu), _) => {
            cpu::forward(stream, cpu, args);
            Ok(())
        }
        (Target::Cuda(cuda), _) => cuda::forward(cuda, OP, args),
    }
}

/// Bytes of stream scratch that [`accumulate`] needs for these sizes: on CUDA devices a long k is summed in segments side by side.
pub fn scratch<T: Float>(m: usize, n: usize, k: usize) -> usize {
    if T::NAME == "f64" { 0 } else { cuda::scratch(m, n, k) }
}

/// `c += op(a) op(b)`, in the accumulation type. Scratch: [`scratch`].
///
/// # Shapes
/// See [`Accumulate`]. For a weight gradient, layout TN: `a` = dy `[rows, out]`, `b` = x `[rows, in]`, `c` = dweight `[out, in]`.
/// # Errors
/// `Shape` when a size differs; `Scratch` when the stream has less than it needs.
/// # Source
/// As [`forward`].
pub fn accumulate<T: Float>(stream: &Stream, args: Accumulate<T>) -> Result<()> {
    const OP: &str = "gemm::accumulate";
    let (m, n) = check_operands(OP, args.layout, args.a, args.b)?;
    check_matrix(OP, "c", m, n, args.c)?;
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu::accumulate(stream, cpu, args);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::accumulate(cuda, OP, args),
    }
}

/// Every PTX text of this kernel: entry and module.
pub fn texts() -> Vec<(String, String)> {
    emit::all().into_iter().map(|text| (text.entry, text.ptx)).collect()
}

/// m and n, after checking that both operands agree on k.
fn check_operands<T: Float>(op: &'static str, layout: Layout, a: Tensor<T>, b: Tensor<T>) -> Result<(usize, usize)> {
    let (m, k) = if layout == Layout::TN { (a.width(), a.rows()) } else { (a.rows(), a.width()) };
    let (n, expected) = if layout == Layout::NT { (b.rows(), [b.rows(), k]) } else { (b.width(), [k, b.width()]) };
    expect_shape(op, "b", &expected, &[b.rows(), b.width()])?;
    Ok((m, n))
}

/// Refuses a product that has no two halves.
fn expect_even(op: &'static str, n: usize) -> Result<()> {
    expect_shape(op, "b", &[n.next_multiple_of(2)], &[n])
}

fn check_matrix<T: crate::runtime::Element>(op: &'static str, name: &'static str, m: usize, n: usize, tensor: Tensor<T>) -> Result<()> {
    expect_shape(op, name, &[m, n], &[tensor.rows(), tensor.width()])
}
