//! Named workloads with fixed inputs.
//!
//! | name | one run |
//! |---|---|
//! | `peak_f32` | fused multiply-adds on registers alone in every thread: the ceiling of f32 arithmetic |
//! | `peak_read` | every thread reads its part of 512 MiB, or a GPU copies half of them: the ceiling of memory |
//! | `gemm_ELEMENT_MxNxK` | `c[m, n] = a[m, k] b[n, k]^T + bias` |
//! | `encoder_ELEMENT_bB_sS` | the 12-layer cell encoder, width 512, over B cells of S tokens, to one vector a cell |
//! | `attend_ELEMENT_bB_sS_hH_dD` | self-attention of B items of S tokens in H heads of size D; `attention_..`: and its gradients |
//! | `search_ELEMENT_nN_wW_qQ_kK` | the K best of N vectors of width W for each of Q queries, from an index on disk |
//! | `qformer_ELEMENT_bB_sS` | the 12-layer Q-Former, width 768: 32 queries that look at B cells of S tokens, width 512 |
//! | `contrastive_f32_NxQxW` | the contrastive loss in both directions and its gradients: N items, Q queries a cell, width W |
//! | `train_f32_bB_sS` | a training step of the same encoder: masked values, backward, clipping, AdamW |
//! | `prefill_ELEMENT_bB_sS` | a language model of SmolLM2-135M's sizes reads B prompts of S tokens |
//! | `decode_ELEMENT_bB_sS` | the same model writes one token behind S cached ones, for B sequences |
//! | `lora_f32_bB_sS` | a training step of its adapters (rank 8, queries and values; AdamW) over B sequences of S tokens |
//!
//! Every input is drawn by [`uniform_values`], so that a program in any language can repeat it.

mod attention;
mod cell;
mod contrastive;
mod gemm;
mod language;
mod optimizer;
mod peak;
mod qformer;
mod search;

use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use scmmgpt_engine::weights::Parameters;
use scmmgpt_kernels::runtime::{Device, Float, Real, Stream, Tensor, bf16};
use scmmgpt_loader::index::IndexElement;

/// What is compared when nothing else is asked for.
pub(crate) const STANDARD: [&str; 14] = [
    "peak_f32",
    "gemm_f32_9600x512x512",
    "gemm_f32_1200x1536x512",
    "gemm_f32_4096x4096x4096",
    "gemm_bf16_9600x512x512",
    "gemm_bf16_1200x1536x512",
    "gemm_bf16_4096x4096x4096",
    "encoder_f32_b1_s1200",
    "encoder_f32_b8_s1200",
    "encoder_bf16_b8_s1200",
    "qformer_f32_b8_s1200",
    "train_f32_b8_s512",
    "contrastive_f32_4096x1x256",
    "contrastive_f32_512x32x256",
];

/// Something that can be run again and again.
pub(crate) trait Workload {
    /// Floating-point operations of one run.
    fn flops(&self) -> f64;

    /// Bytes that one run has to fetch from memory, where that bounds it.
    fn bytes(&self) -> Option<f64> {
        None
    }

    /// Warms up, and returns what came out.
    ///
    /// # Errors
    /// Those of the run.
    fn check(&mut self) -> Result<Vec<f64>>;

    /// Seconds of one run.
    ///
    /// # Errors
    /// Those of the run.
    fn run(&mut self) -> Result<f64>;
}

/// Makes the workload of this name.
///
/// # Errors
/// When the name means nothing, or memory does not suffice.
pub(crate) fn open(name: &str, device: &Device) -> Result<Box<dyn Workload>> {
    let unknown = || anyhow!("{name}: unknown workload");
    let (kind, rest) = name.split_once('_').ok_or_else(unknown)?;
    match name {
        "peak_f32" => return Ok(Box::new(peak::Arithmetic { threads: device.threads() })),
        "peak_read" => return Ok(Box::new(peak::Memory::new(device)?)),
        _ => {}
    }
    let (element, sizes) = rest.split_once('_').ok_or_else(unknown)?;
    let workload: Box<dyn Workload> = match (kind, element) {
        ("gemm", "f32") => Box::new(gemm::Gemm::<f32>::new(device, numbers(sizes, 'x', [""; 3])?)?),
        ("gemm", "bf16") => Box::new(gemm::Gemm::<bf16>::new(device, numbers(sizes, 'x', [""; 3])?)?),
        ("attend" | "attention", "f32") => {
            Box::new(attention::Attention::<f32>::new(device, numbers(sizes, '_', ["b", "s", "h", "d"])?, kind == "attention")?)
        }
        ("attend" | "attention", "bf16") => {
            Box::new(attention::Attention::<bf16>::new(device, numbers(sizes, '_', ["b", "s", "h", "d"])?, kind == "attention")?)
        }
        ("encoder", "f32") => Box::new(cell::Encoder::<f32>::new(device, numbers(sizes, '_', ["b", "s"])?)?),
        ("encoder", "bf16") => Box::new(cell::Encoder::<bf16>::new(device, numbers(sizes, '_', ["b", "s"])?)?),
        ("search", "f32") => Box::new(search::Search::new(device, IndexElement::F32, numbers(sizes, '_', ["n", "w", "q", "k"])?)?),
        ("search", "bf16") => Box::new(search::Search::new(device, IndexElement::Bf16, numbers(sizes, '_', ["n", "w", "q", "k"])?)?),
        ("qformer", "f32") => Box::new(qformer::QFormer::<f32>::new(device, numbers(sizes, '_', ["b", "s"])?)?),
        ("qformer", "bf16") => Box::new(qformer::QFormer::<bf16>::new(device, numbers(sizes, '_', ["b", "s"])?)?),
        ("prefill", "f32") => Box::new(language::Generation::<f32>::new(device, numbers(sizes, '_', ["b", "s"])?, false)?),
        ("prefill", "bf16") => Box::new(language::Generation::<bf16>::new(device, numbers(sizes, '_', ["b", "s"])?, false)?),
        ("prefill", "int8") => Box::new(language::Generation::<bf16>::int8(device, numbers(sizes, '_', ["b", "s"])?, false)?),
        ("decode", "f32") => Box::new(language::Generation::<f32>::new(device, numbers(sizes, '_', ["b", "s"])?, true)?),
        ("decode", "bf16") => Box::new(language::Generation::<bf16>::new(device, numbers(sizes, '_', ["b", "s"])?, true)?),
        ("decode", "int8") => Box::new(language::Generation::<bf16>::int8(device, numbers(sizes, '_', ["b", "s"])?, true)?),
        ("lora", "f32") => Box::new(language::Lora::new(device, numbers(sizes, '_', ["b", "s"])?)?),
        ("contrastive", "f32") => Box::new(contrastive::Contrastive::new(device, numbers(sizes, 'x', [""; 3])?)?),
        ("train", "f32") => Box::new(cell::Train::new(device, numbers(sizes, '_', ["b", "s"])?)?),
        ("train" | "contrastive" | "lora", "bf16") => bail!("{name}: training is in f32"),
        _ => return Err(unknown()),
    };
    Ok(workload)
}

/// `b8_s1200` or `4096x512x512` as numbers.
fn numbers<const N: usize>(text: &str, separator: char, prefixes: [&str; N]) -> Result<[usize; N]> {
    let number = |(part, prefix): (&str, &str)| part.strip_prefix(prefix)?.parse().ok().filter(|&number: &usize| number > 0);
    let parts = text.split(separator).zip(prefixes).filter_map(number).collect::<Vec<_>>();
    let count = text.split(separator).count();
    <[usize; N]>::try_from(parts).ok().filter(|_| count == N).with_context(|| format!("{text}: not {N} sizes"))
}

/// 32 mixed bits of each index: a multiplication and three rounds of shift and multiply, all modulo 2^32.
///
/// # Source
/// Wellons' `triple32` family of integer hashes, two rounds.
pub(crate) fn mixed(seed: u32, len: usize) -> impl Iterator<Item = u32> {
    let start = seed.wrapping_mul(0x85EB_CA6B);
    (0..len as u32).map(move |index| {
        let mut word = index.wrapping_mul(0x9E37_79B1).wrapping_add(start);
        word ^= word >> 15;
        word = word.wrapping_mul(0x2C1B_3C6D);
        word ^= word >> 12;
        word = word.wrapping_mul(0x297A_2D39);
        word ^ (word >> 15)
    })
}

/// Numbers in [-bound, bound): the upper 24 bits of [`mixed`] as a fraction, in f32.
pub(crate) fn uniform_values(seed: u32, len: usize, bound: f32) -> impl Iterator<Item = f32> {
    mixed(seed, len).map(move |word| bound * ((word >> 8) as f32 / (1u32 << 23) as f32 - 1.0))
}

/// [`uniform_values`], all of them.
pub(crate) fn uniform(seed: u32, len: usize, bound: f32) -> Vec<f32> {
    uniform_values(seed, len, bound).collect()
}

/// Writes f32 values into a tensor of any element.
pub(crate) fn upload<T: Float>(stream: &Stream, tensor: Tensor<T>, values: &[f32]) -> Result<()> {
    let values: Vec<T> = values.iter().map(|&value| T::from_acc(T::Acc::of(f64::from(value)))).collect();
    Ok(stream.upload(tensor, &values)?)
}

/// A matrix is uniform within 1 / sqrt(its width), a bias within 0.02, a norm's weight within 0.02 of 1; the seed is FNV-1a of the name.
pub(crate) fn fill<T: Float>(parameters: &Parameters<T>, stream: &Stream) -> Result<()> {
    for declared in parameters.declared() {
        let value = declared.parameter.value;
        let seed = declared.name.bytes().fold(0x811C_9DC5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let is_matrix = value.shape().rank() > 1;
        let bound = if is_matrix { 1.0 / (value.width() as f32).sqrt() } else { 0.02 };
        let mut values = uniform(seed, value.len(), bound);
        if !is_matrix && declared.name.to_lowercase().contains("norm") && declared.name.ends_with("weight") {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        upload(stream, value, &values)?;
    }
    Ok(())
}

/// First and last value, and the root of the mean square.
pub(crate) fn digest<T: Float>(values: &[T]) -> Vec<f64> {
    let values: Vec<f64> = values.iter().map(|value| value.to_acc().f64()).collect();
    let mean_square = values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64;
    values.first().into_iter().chain(values.last()).copied().chain([mean_square.sqrt()]).collect()
}

/// Seconds that `body` takes on the device's own threads; what it has queued on a GPU is done when it returns.
pub(crate) fn seconds(device: &Device, body: impl FnOnce() -> Result<()> + Send) -> Result<f64> {
    device.enter(|| {
        let start = Instant::now();
        body()?;
        Ok(start.elapsed().as_secs_f64())
    })
}

/// How often a short workload runs in a row on a GPU.
const IN_A_ROW: usize = 20;

/// Seconds of one `body`: on a GPU of one among several, so that the way to it does not count.
pub(crate) fn in_a_row(stream: &Stream, body: impl Fn() -> Result<()> + Send + Sync) -> Result<f64> {
    let count = if stream.device().is_cuda() { IN_A_ROW } else { 1 };
    let all = seconds(stream.device(), || {
        (0..count).try_for_each(|_| body())?;
        Ok(stream.synchronize()?)
    })?;
    Ok(all / count as f64)
}
