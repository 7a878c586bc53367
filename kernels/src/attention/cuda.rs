//! Launches of attention: f32 to the texts without tensor cores, bf16 to those with, one query an item to those of `emit_decode`.

use super::emit::{MAX_HEAD_DIM, Shape};
use super::emit_mma::Tile;
use super::{
    Backward, Dims, Dropout, Forward, Mask, cuda_decode, emit_backward, emit_forward, emit_mma_backward, emit_mma_forward, emit_mma_keys,
    scratch,
};
use crate::runtime::emit::{Text, kept};
use crate::runtime::{CudaStream, Float, Launch, Tensor};
use crate::{Error, Result};

/// Causal offset that hides nothing.
const NO_OFFSET: u32 = 1 << 30;

fn head_dim<T: Float>(op: &'static str, dims: &Dims) -> Result<usize> {
    if !matches!(T::NAME, "f32" | "bf16") {
        return Err(Error::NoCudaKernel { op, element: T::NAME });
    }
    if dims.head_dim > MAX_HEAD_DIM {
        return Err(Error::Argument { op, argument: "head_dim", value: dims.head_dim as f64, expected: "at most 128 on CUDA devices" });
    }
    Ok(dims.head_dim)
}

fn shape_of<T: Float>(op: &'static str, dims: &Dims, dropout: Option<&Dropout>) -> Result<Shape> {
    Ok(Shape { head_dim: head_dim::<T>(op, dims)?, dropout: dropout.is_some() })
}

fn grid(rows: usize, shape: Shape, heads: usize, batch: usize) -> [u32; 3] {
    [rows.div_ceil(shape.rows()) as u32, heads as u32, batch as u32]
}

fn launch<'a>(stream: &'a CudaStream, shape: Shape, pass: &str, make: fn(Shape) -> Text, grid: [u32; 3]) -> Launch<'a> {
    let entry = shape.name(pass);
    let text = kept(&entry, || make(shape));
    stream.launch(text, entry, grid, shape.threads() as u32)
}

fn launch_tile<'a>(stream: &'a CudaStream, tile: Tile, pass: &str, make: fn(Tile) -> Text, sizes: [usize; 3]) -> Launch<'a> {
    let [rows, heads, batch] = sizes;
    let entry = tile.name(pass);
    let text = kept(&entry, || make(tile));
    stream.launch(text, entry, [rows.div_ceil(tile.rows()) as u32, heads as u32, batch as u32], tile.threads() as u32)
}

fn lengths<'a>(
    launch: Launch<'a>,
    query_lengths: Option<Tensor<u32>>,
    key_lengths: Option<Tensor<u32>>,
    mask: Mask,
    dims: &Dims,
) -> Launch<'a> {
    let known_lengths = match mask {
        Mask::Prefix { known_lengths } => Some(known_lengths),
        Mask::Full | Mask::Causal => None,
    };
    // Two's complement: negative where there are fewer keys than queries.
    let offset = if matches!(mask, Mask::Causal) { (dims.key_len as u32).wrapping_sub(dims.query_len as u32) } else { NO_OFFSET };
    launch
        .optional("query_lengths", query_lengths)
        .optional("key_lengths", key_lengths)
        .optional("known_lengths", known_lengths)
        .value("query_len", dims.query_len as u32)
        .value("key_len", dims.key_len as u32)
        .value("num_heads", dims.num_heads as u32)
        .value("group", dims.group() as u32)
        .value("offset", offset)
}

fn scales(launch: Launch<'_>, scale: f64, both: bool, dropout: Option<Dropout>) -> Launch<'_> {
    let mut launch = launch.value("score_scale", (scale * std::f64::consts::LOG2_E) as f32);
    if both {
        launch = launch.value("scale", scale as f32);
    }
    let Some(Dropout { probability, site }) = dropout else { return launch };
    let threshold = (f64::from(probability) * 65536.0).round().min(65535.0) as u32;
    launch
        .value("threshold", threshold)
        .value("seed_low", site.seed as u32)
        .value("seed_high", (site.seed >> 32) as u32)
        .value("step", site.step as u32)
        .value("site", site.site)
        .value("kept", (65536.0 / f64::from(65536 - threshold)) as f32)
}

/// What the tensor cores ask of a call beyond its shapes: they are fed by copies of 16 bytes, and softmax multiplies maxima by the scale.
fn tensor_cores<T: Float>(stream: &CudaStream, op: &'static str, scale: f64, tensors: &[(&'static str, Tensor<T>)]) -> Result<()> {
    if scale <= 0.0 {
        return Err(Error::Argument { op, argument: "scale", value: scale, expected: "above 0 in bf16 on CUDA devices" });
    }
    match tensors.iter().find(|(_, tensor)| !stream.has_whole_chunks(*tensor)) {
        Some((argument, tensor)) => {
            let expected = "a row stride and a first column that are multiples of 8, in bf16 on CUDA devices";
            Err(Error::Argument { op, argument, value: tensor.row_stride() as f64, expected })
        }
        None => Ok(()),
    }
}

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let dims = args.dims;
    let head_dim = head_dim::<T>(op, &dims)?;
    if cuda_decode::suits(stream, &args) {
        return cuda_decode::forward(stream, op, args);
    }
    let launch = if T::NAME == "bf16" {
        let dropout = args.dropout.is_some();
        let few = Tile::forward_few(head_dim, dropout);
        let tile = if dims.query_len <= few.rows() { few } else { Tile::forward(head_dim, dropout) };
        tensor_cores(stream, op, args.scale, &[("out", args.out), ("q", args.q), ("k", args.k), ("v", args.v)])?;
        launch_tile(stream, tile, "forward", emit_mma_forward::text, [dims.query_len, dims.num_heads, dims.batch])
            .shared(emit_mma_forward::shared_bytes(tile) as u32)
    } else {
        let shape = shape_of::<T>(op, &dims, args.dropout.as_ref())?;
        let grid = grid(dims.query_len, shape, dims.num_heads, dims.batch);
        launch(stream, shape, "forward", emit_forward::text, grid).shared(emit_forward::shared_bytes(shape) as u32)
    };
    let launch = launch.write("out", args.out).write("logsumexp", args.logsumexp).read("q", args.q).read("k", args.k).read("v", args.v);
    let launch = lengths(launch, args.query_lengths, args.key_lengths, args.mask, &dims)
        .value("out_stride", args.out.row_stride() as u32)
        .value("q_stride", args.q.row_stride() as u32)
        .value("k_stride", args.k.row_stride() as u32)
        .value("v_stride", args.v.row_stride() as u32);
    scales(launch, args.scale, false, args.dropout).submit()
}

pub(super) fn backward<T: Float>(stream: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let dims = args.dims;
    if T::NAME == "bf16" {
        return backward_on_tensor_cores(stream, op, args);
    }
    let shape = shape_of::<T>(op, &dims, args.dropout.as_ref())?;
    let shared = emit_backward::shared_bytes(shape) as u32;
    let queries =
        launch(stream, shape, "backward_queries", emit_backward::queries, grid(dims.query_len, shape, dims.num_heads, dims.batch));
    of_queries(queries.shared(shared), &args).submit()?;
    let keys = launch(stream, shape, "backward_keys", emit_backward::keys, grid(dims.key_len, shape, dims.num_kv_heads, dims.batch));
    of_keys(keys.shared(shared), &args).submit()
}

fn backward_on_tensor_cores<T: Float>(stream: &CudaStream, op: &'static str, args: Backward<T>) -> Result<()> {
    let dims = args.dims;
    let (head_dim, dropout) = (head_dim::<T>(op, &dims)?, args.dropout.is_some());
    let gradients = [("dq", args.dq), ("dk", args.dk), ("dv", args.dv), ("dout", args.dout)];
    tensor_cores(stream, op, args.scale, &gradients)?;
    tensor_cores(stream, op, args.scale, &[("out", args.out), ("q", args.q), ("k", args.k), ("v", args.v)])?;
    stream.need_scratch(op, scratch::<T>(&dims))?;
    let (queries, keys) = (Tile::queries(head_dim, dropout), Tile::keys(head_dim, dropout));
    let sizes = [dims.query_len, dims.num_heads, dims.batch];
    let launch = launch_tile(stream, queries, "backward_queries", emit_mma_backward::queries, sizes);
    of_queries(launch.shared(emit_mma_backward::shared_bytes(queries) as u32), &args).scratch("statistics", 0).submit()?;
    let launch = launch_tile(stream, keys, "backward_keys", emit_mma_keys::keys, [dims.key_len, dims.num_kv_heads, dims.batch]);
    of_keys(launch.shared(emit_mma_keys::shared_bytes(keys) as u32), &args).scratch("statistics", 0).submit()
}

fn of_queries<'a, T: Float>(launch: Launch<'a>, args: &Backward<T>) -> Launch<'a> {
    let launch = operands(launch.write("dq", args.dq), args).value("dq_stride", args.dq.row_stride() as u32);
    scales(strides(launch, args), args.scale, true, args.dropout)
}

fn of_keys<'a, T: Float>(launch: Launch<'a>, args: &Backward<T>) -> Launch<'a> {
    let launch = operands(launch.write("dk", args.dk).write("dv", args.dv), args)
        .value("dk_stride", args.dk.row_stride() as u32)
        .value("dv_stride", args.dv.row_stride() as u32);
    scales(strides(launch, args), args.scale, true, args.dropout)
}

fn operands<'a, T: Float>(launch: Launch<'a>, args: &Backward<T>) -> Launch<'a> {
    let launch = launch.read("dout", args.dout).read("saved", args.out).read("logsumexp", args.logsumexp);
    let launch = launch.read("q", args.q).read("k", args.k).read("v", args.v);
    lengths(launch, args.query_lengths, args.key_lengths, args.mask, &args.dims)
}

fn strides<'a, T: Float>(launch: Launch<'a>, args: &Backward<T>) -> Launch<'a> {
    launch
        .value("dout_stride", args.dout.row_stride() as u32)
        .value("saved_stride", args.out.row_stride() as u32)
        .value("q_stride", args.q.row_stride() as u32)
        .value("k_stride", args.k.row_stride() as u32)
        .value("v_stride", args.v.row_stride() as u32)
}
