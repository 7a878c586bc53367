//! Scaled dot-product attention with lengths, masks, grouped heads and dropout; the scores never exist as a whole matrix.
//!
//! `out_i = sum_j p_ij v_j`, `p_ij = exp(scale * q_i . k_j - logsumexp_i)` over the keys `j` that row `i` may see. With dropout the
//! sum runs over `keep_ij / (1 - probability) * p_ij`, and the sum of `p` itself is left as it is.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cpu_backward;
mod cpu_one;
mod cpu_simd;
mod cpu_simd_one;
mod cpu_tile;
mod cuda;
mod cuda_decode;
mod emit;
mod emit_backward;
mod emit_combine;
mod emit_decode;
mod emit_dropout;
mod emit_forward;
mod emit_mma;
mod emit_mma_backward;
mod emit_mma_dropout;
mod emit_mma_forward;
mod emit_mma_keys;
mod emit_mma_mask;
#[cfg(test)]
mod tests;

use crate::error::expect_shape;
use crate::runtime::philox::Site;
use crate::runtime::{Float, Stream, Target, Tensor};
use crate::{Error, Result};

/// Sizes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Items, each attending within itself.
    pub batch: usize,
    /// Query rows an item, padding included.
    pub query_len: usize,
    /// Key rows an item, padding included.
    pub key_len: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; query head `h` reads number `h / (num_heads / num_kv_heads)`.
    pub num_kv_heads: usize,
    /// Elements a head, a multiple of 8.
    pub head_dim: usize,
}

impl Dims {
    /// Query heads that share one key and value head.
    pub fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }
}

/// Which keys a query row may see; the lengths of the item limit it further.
#[derive(Clone, Copy, Debug)]
pub enum Mask {
    /// Every key.
    Full,
    /// Keys `j <= i + (key_len - query_len)`.
    Causal,
    /// Generation from known genes, for self-attention: every row sees the keys `j < known`, and a row `i >= known` sees itself too.
    Prefix {
        /// `[batch]`: the first so many rows of an item are known.
        known_lengths: Tensor<u32>,
    },
}

/// Dropout on the probabilities.
///
/// Element `(b, h, i, j)` is dropped when 16 bits of the site's words are below `probability * 65536`: slice `j % 8` (low half first)
/// of block `i + (j / 8) * 2^22 + (b * num_heads + h) * 2^42`. The probability is thereby rounded to 1 / 65536, also in the factor
/// `1 / (1 - probability)` of what is kept.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Share of the probabilities set to 0, in [0, 1).
    pub probability: f32,
    /// The random numbers; the same in forward and backward.
    pub site: Site,
}

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[batch * query_len, num_heads * head_dim]`, written.
    pub out: Tensor<T>,
    /// `[batch, num_heads, query_len]`, written: natural logarithm of the sum of `exp(scale * q . k)`.
    pub logsumexp: Tensor<T::Acc>,
    /// `[batch * query_len, num_heads * head_dim]`; may be columns of a wider matrix.
    pub q: Tensor<T>,
    /// `[batch * key_len, num_kv_heads * head_dim]`; may be columns of a wider matrix.
    pub k: Tensor<T>,
    /// `[batch * key_len, num_kv_heads * head_dim]`; may be columns of a wider matrix.
    pub v: Tensor<T>,
    /// `[batch]`: rows at and beyond give `out = 0`, `logsumexp = -inf`. None: every row counts.
    pub query_lengths: Option<Tensor<u32>>,
    /// `[batch]`: keys at and beyond are seen by nobody. None: every key counts.
    pub key_lengths: Option<Tensor<u32>>,
    /// Who sees whom.
    pub mask: Mask,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f64,
    /// None at inference.
    pub dropout: Option<Dropout>,
    /// Sizes.
    pub dims: Dims,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// As `q`, overwritten; 0 in padded rows. The three gradients may be columns of one matrix.
    pub dq: Tensor<T>,
    /// As `k`, overwritten; 0 in padded rows.
    pub dk: Tensor<T>,
    /// As `v`, overwritten; 0 in padded rows.
    pub dv: Tensor<T>,
    /// As `out`.
    pub dout: Tensor<T>,
    /// From forward.
    pub out: Tensor<T>,
    /// From forward.
    pub logsumexp: Tensor<T::Acc>,
    /// As in forward.
    pub q: Tensor<T>,
    /// As in forward.
    pub k: Tensor<T>,
    /// As in forward.
    pub v: Tensor<T>,
    /// As in forward.
    pub query_lengths: Option<Tensor<u32>>,
    /// As in forward.
    pub key_lengths: Option<Tensor<u32>>,
    /// As in forward.
    pub mask: Mask,
    /// As in forward.
    pub scale: f64,
    /// As in forward.
    pub dropout: Option<Dropout>,
    /// Sizes.
    pub dims: Dims,
}

/// Bytes of stream scratch that either pass needs on CUDA devices: in bf16 two numbers a query and head for gradients, and for one query
/// an item the splits of its keys. The CPU keeps its tiles and sums in buffers of its threads.
pub fn scratch<T: Float>(dims: &Dims) -> usize {
    let statistics = 8 * dims.batch * dims.num_heads * dims.query_len.next_multiple_of(emit_mma_backward::STATISTICS);
    let splits = if cuda_decode::is_decoding(dims) { cuda_decode::scratch_bytes(dims) } else { 0 };
    splits.max(if T::NAME == "bf16" { statistics } else { 0 })
}

/// `out = softmax(scale * q k^T) v` for every head, and the logarithm of each row's normaliser.
///
/// A row that sees no key gives 0 and -inf. The result of an item depends on nothing but its own unpadded rows (with dropout, on its
/// place in the batch too).
///
/// # Shapes
/// See [`Forward`]. Scratch: [`scratch`].
/// # Errors
/// `Shape` when a tensor does not fit `dims`; `Scratch` when a CUDA stream has too little; `Argument` when a size is 0, `head_dim` is no
/// multiple of 8, `num_kv_heads` does not divide `num_heads`, a prefix mask meets `query_len != key_len`, or the dropout probability is
/// outside [0, 1); `Index` when a length exceeds its dimension. On CUDA devices `Argument` also when `head_dim` is above 128, and in bf16, where tensor cores work, when a
/// row does not begin at a multiple of 16 bytes or `scale` is not above 0.
/// # Source
/// Milakov & Gimelshein 2018, algorithm 3 (online softmax); Dao 2023, "FlashAttention-2", algorithm 1. One query an item, on CUDA devices:
/// splits of the keys that are combined afterwards, as in Dao, Haziza, Massa & Sizov 2023, "Flash-Decoding".
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "attention::forward";
    check_dims(OP, &args.dims, &args.mask, args.dropout.as_ref())?;
    let (queries, keys) = widths(&args.dims);
    for (name, tensor, shape) in [("out", args.out, queries), ("q", args.q, queries), ("k", args.k, keys), ("v", args.v, keys)] {
        expect_shape(OP, name, &shape, &[tensor.rows(), tensor.width()])?;
    }
    check_lengths(OP, &args.dims, &args.logsumexp.shape(), &args.mask, args.query_lengths, args.key_lengths)?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::forward(stream, cpu, args),
        Target::Cuda(cuda) => cuda::forward(cuda, OP, args),
    }
}

/// With `dp_ij = keep_ij / (1 - probability) * dout_i . v_j`, `delta_i = dout_i . out_i` and `ds_ij = p_ij * (dp_ij - delta_i)`:
/// `dv_j = sum_i keep_ij / (1 - probability) * p_ij dout_i`; `dk_j = scale * sum_i ds_ij q_i`; `dq_i = scale * sum_j ds_ij k_j`.
///
/// The probabilities are computed again from `logsumexp`; sums run in an order that the positions of the rows alone decide.
///
/// # Shapes
/// See [`Backward`]. Scratch: [`scratch`].
/// # Errors
/// As in [`forward`].
/// # Source
/// Dao 2023, "FlashAttention-2", algorithm 2.
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "attention::backward";
    check_dims(OP, &args.dims, &args.mask, args.dropout.as_ref())?;
    let (queries, keys) = widths(&args.dims);
    let by_query = [("dq", args.dq), ("dout", args.dout), ("out", args.out), ("q", args.q)].map(|(name, tensor)| (name, tensor, queries));
    let by_key = [("dk", args.dk), ("dv", args.dv), ("k", args.k), ("v", args.v)].map(|(name, tensor)| (name, tensor, keys));
    for (name, tensor, shape) in by_query.into_iter().chain(by_key) {
        expect_shape(OP, name, &shape, &[tensor.rows(), tensor.width()])?;
    }
    check_lengths(OP, &args.dims, &args.logsumexp.shape(), &args.mask, args.query_lengths, args.key_lengths)?;
    match stream.target() {
        Target::Cpu(cpu) => cpu_backward::backward(stream, cpu, args),
        Target::Cuda(cuda) => cuda::backward(cuda, OP, args),
    }
}

/// Every PTX text of this kernel that tests assemble: entry and module. Other head sizes are made when they are asked for.
pub fn texts() -> Vec<(String, String)> {
    emit::all().into_iter().map(|text| (text.entry, text.ptx)).collect()
}

/// Shapes of the matrices with a row per query and with a row per key.
fn widths(dims: &Dims) -> ([usize; 2], [usize; 2]) {
    let queries = [dims.batch * dims.query_len, dims.num_heads * dims.head_dim];
    (queries, [dims.batch * dims.key_len, dims.num_kv_heads * dims.head_dim])
}

/// Positions that fit the bits of a dropout block; far beyond any memory.
const MAX_POSITIONS: usize = 1 << 22;

fn check_dims(op: &'static str, dims: &Dims, mask: &Mask, dropout: Option<&Dropout>) -> Result<()> {
    let refuse = |argument, value, expected| Err(Error::Argument { op, argument, value, expected });
    let sizes = [("batch", dims.batch), ("num_heads", dims.num_heads), ("num_kv_heads", dims.num_kv_heads)];
    for (name, size) in sizes.into_iter().chain([("query_len", dims.query_len), ("key_len", dims.key_len)]) {
        if size == 0 || size > MAX_POSITIONS {
            return refuse(name, size as f64, "1 to 2^22");
        }
    }
    if !dims.num_heads.is_multiple_of(dims.num_kv_heads) {
        return refuse("num_kv_heads", dims.num_kv_heads as f64, "a divisor of num_heads");
    }
    if dims.head_dim == 0 || !dims.head_dim.is_multiple_of(8) {
        return refuse("head_dim", dims.head_dim as f64, "a multiple of 8");
    }
    if matches!(mask, Mask::Prefix { .. }) && dims.query_len != dims.key_len {
        return refuse("key_len", dims.key_len as f64, "query_len: a prefix mask is for self-attention");
    }
    match dropout {
        Some(dropout) if !(0.0..1.0).contains(&dropout.probability) => refuse("probability", f64::from(dropout.probability), "[0, 1)"),
        _ => Ok(()),
    }
}

fn check_lengths(
    op: &'static str,
    dims: &Dims,
    logsumexp: &[usize],
    mask: &Mask,
    query_lengths: Option<Tensor<u32>>,
    key_lengths: Option<Tensor<u32>>,
) -> Result<()> {
    expect_shape(op, "logsumexp", &[dims.batch, dims.num_heads, dims.query_len], logsumexp)?;
    let known_lengths = match *mask {
        Mask::Prefix { known_lengths } => Some(known_lengths),
        _ => None,
    };
    for (name, lengths) in [("query_lengths", query_lengths), ("key_lengths", key_lengths), ("known_lengths", known_lengths)] {
        lengths.map_or(Ok(()), |lengths| expect_shape(op, name, &[dims.batch], &lengths.shape()))?;
    }
    Ok(())
}
