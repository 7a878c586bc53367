//! Launches of attention for one query an item: splits of the keys side by side, then their combination.

use super::emit_combine;
use super::emit_decode::{self, Decode, SPLIT};
use super::{Dims, Forward, Mask, scratch};
use crate::Result;
use crate::runtime::emit::kept;
use crate::runtime::{CudaStream, Float};

/// Splits of all heads, and bytes of their weighted values.
fn sizes(dims: &Dims) -> (usize, usize) {
    let splits = dims.key_len.div_ceil(SPLIT);
    (splits, dims.batch * dims.num_heads * splits * dims.head_dim * size_of::<f32>())
}

/// Bytes of scratch: weighted values, maximum and sum of every split and head.
pub(super) fn scratch_bytes(dims: &Dims) -> usize {
    let (splits, values) = sizes(dims);
    values + dims.batch * dims.num_heads * splits * 2 * size_of::<f32>()
}

/// Whether a call has these kernels' shape: one query an item, and more than its own key. A sequence of one row is left to the others,
/// since in a batch with longer ones it is theirs, too: neighbours change no bit.
pub(super) fn is_decoding(dims: &Dims) -> bool {
    dims.query_len == 1 && dims.key_len > 1
}

/// Whether a call has that shape, nothing that only whole tiles know, and rows that can be read 16 bytes at a time.
pub(super) fn suits<T: Float>(stream: &CudaStream, args: &Forward<T>) -> bool {
    let plain = is_decoding(&args.dims) && args.dropout.is_none() && !matches!(args.mask, Mask::Prefix { .. });
    plain && [args.q, args.k, args.v].into_iter().all(|tensor| stream.has_whole_chunks(tensor))
}

/// A causal row alone stands behind all keys, so that both masks that come here hide none.
pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let (dims, bytes) = (args.dims, size_of::<T>());
    stream.need_scratch(op, scratch::<T>(&dims))?;
    let (splits, statistics) = sizes(&dims);
    let decode = Decode::new(dims.head_dim, dims.group(), bytes);
    let tiles = dims.group().div_ceil(decode.heads);
    let entry = decode.name();
    let text = kept(&entry, || emit_decode::text(decode));
    let grid = [splits as u32, (dims.num_kv_heads * tiles) as u32, dims.batch as u32];
    stream
        .launch(text, entry, grid, emit_decode::THREADS as u32)
        .scratch("partial", 0)
        .scratch("statistics", statistics)
        .read("q", args.q)
        .read("k", args.k)
        .read("v", args.v)
        .optional("query_lengths", args.query_lengths)
        .optional("key_lengths", args.key_lengths)
        .value("key_len", dims.key_len as u32)
        .value("num_heads", dims.num_heads as u32)
        .value("group", dims.group() as u32)
        .value("tiles", tiles as u32)
        .value("q_stride", args.q.row_stride() as u32)
        .value("k_stride", args.k.row_stride() as u32)
        .value("v_stride", args.v.row_stride() as u32)
        .value("score_scale", (args.scale * std::f64::consts::LOG2_E) as f32)
        .submit()?;
    let entry = emit_combine::name(bytes);
    let text = kept(&entry, || emit_combine::text(bytes));
    stream
        .launch(text, entry, [dims.num_heads as u32, dims.batch as u32, 1], emit_decode::THREADS as u32)
        .write("out", args.out)
        .write("logsumexp", args.logsumexp)
        .scratch("partial", 0)
        .scratch("statistics", statistics)
        .optional("query_lengths", args.query_lengths)
        .optional("key_lengths", args.key_lengths)
        .value("key_len", dims.key_len as u32)
        .value("num_heads", dims.num_heads as u32)
        .value("splits", splits as u32)
        .value("head_dim", dims.head_dim as u32)
        .value("out_stride", args.out.row_stride() as u32)
        .submit()
}
