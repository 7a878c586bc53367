//! Launches of the tables and of forward. Ids stay on the device: one that names no row is not refused there, but gives a row of NaN.

use super::{Forward, Inputs, Method, Parameters, Tables};
use crate::Result;
use crate::runtime::{CudaStream, Float, Launch, Tensor, elementwise, entry};

const TABLES: &str = include_str!("tables.ptx");
const FORWARD: &str = include_str!("forward.ptx");

/// Threads of most CTAs: columns, tokens, or four tokens of a warp each.
pub(super) const THREADS: usize = 128;

pub(super) fn build<T: Float>(stream: &CudaStream, op: &'static str, parameters: Parameters<T>, tables: Tables<T::Acc>) -> Result<()> {
    let width = parameters.width();
    if width == 0 {
        return Ok(());
    }
    let blocks = |threads: usize| [width.div_ceil(threads) as u32, 1, 1];
    // Breakpoints in the order of the units; the table that is written last has room for them.
    let points = tables.slope.row_range(0, 1);
    stream
        .launch(TABLES, entry::<T>(op, "gene_embedding_breakpoints")?, blocks(THREADS), THREADS as u32)
        .write("points", points)
        .read("linear1_weight", parameters.linear1_weight)
        .read("linear1_bias", parameters.linear1_bias)
        .value("width", width as u32)
        .submit()?;
    stream
        .launch(TABLES, entry::<T>(op, "gene_embedding_order")?, blocks(THREADS), THREADS as u32)
        .write("breakpoints", tables.breakpoints)
        .write("order", tables.order)
        .read("points", points)
        .value("width", width as u32)
        .submit()?;
    stream
        .launch(TABLES, entry::<T>(op, "gene_embedding_tables")?, blocks(32), 32)
        .write("slope", tables.slope)
        .write("intercept", tables.intercept)
        .read("breakpoints", tables.breakpoints)
        .read("order", tables.order)
        .read("linear1_weight", parameters.linear1_weight)
        .read("linear1_bias", parameters.linear1_bias)
        .read("linear2_weight", parameters.linear2_weight)
        .read("linear2_bias", parameters.linear2_bias)
        .value("width", width as u32)
        .value("linear2_stride", parameters.linear2_weight.row_stride() as u32)
        .submit()
}

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, inputs: Inputs<T>, args: Forward<T>) -> Result<()> {
    let (tokens, width, parameters) = (inputs.ids.len(), args.y.width(), inputs.parameters);
    if inputs.method == Method::Gemm {
        encode(stream, op, &inputs, args.y.row_stride(), |launch| launch.write("z", args.y))?;
    }
    let launch = stream
        .launch(FORWARD, entry::<T>(op, "gene_embedding_forward")?, warps(tokens), THREADS as u32)
        .write("y", args.y)
        .optional("gene", args.gene)
        .write("gene_mean", args.saved.gene_mean)
        .write("gene_rstd", args.saved.gene_rstd)
        .write("value_mean", args.saved.value_mean)
        .write("value_rstd", args.saved.value_rstd)
        .read("ids", inputs.ids)
        .read("values", inputs.values)
        .optional("known_lengths", inputs.generated.map(|generated| generated.known_lengths))
        .read("table", parameters.table)
        .read("gene_weight", parameters.gene_weight)
        .read("gene_bias", parameters.gene_bias)
        .read("value_weight", parameters.value_weight)
        .read("value_bias", parameters.value_bias)
        .optional("flag", parameters.flag.map(|flag| flag.row_range(1, 1)))
        .read("breakpoints", inputs.tables.breakpoints)
        .read("slope", inputs.tables.slope)
        .read("intercept", inputs.tables.intercept)
        .value("tokens", tokens as u32)
        .value("vocab", parameters.table.rows() as u32)
        .value("width", width as u32)
        .value("seq_len", inputs.seq_len())
        .value("y_stride", args.y.row_stride() as u32)
        .value("gene_stride", stride(args.gene))
        .value("table_stride", parameters.table.row_stride() as u32)
        .value("encoded", u32::from(inputs.method == Method::Gemm))
        .value("clamp", inputs.clamp as f32)
        .value("inverse_width", 1.0 / width as f32)
        .value("eps", args.eps as f32);
    with_mask(launch, &inputs).submit()
}

/// The parameters of dropout that only a kernel which draws numbers has besides `threshold` and `scale`.
pub(super) fn with_mask<'a, T: Float>(launch: Launch<'a>, inputs: &Inputs<T>) -> Launch<'a> {
    let site = inputs.mask.map(|mask| mask.site());
    launch
        .value("threshold", inputs.threshold())
        .value("scale", inputs.scale())
        .value("seed", site.map_or(0, |site| site.seed))
        .value("step", site.map_or(0, |site| site.step as u32))
        .value("site", site.map_or(0, |site| site.site))
}

/// Both plain layers of every token; `z` adds the launch's first argument.
pub(super) fn encode<'a, T: Float>(
    stream: &'a CudaStream,
    op: &'static str,
    inputs: &Inputs<T>,
    z_stride: usize,
    z: impl FnOnce(Launch<'a>) -> Launch<'a>,
) -> Result<()> {
    let (tokens, parameters) = (inputs.ids.len(), inputs.parameters);
    let (grid, threads) = elementwise(tokens, parameters.width());
    z(stream.launch(FORWARD, entry::<T>(op, "gene_embedding_encode")?, grid, threads))
        .read("values", inputs.values)
        .read("linear1_weight", parameters.linear1_weight)
        .read("linear1_bias", parameters.linear1_bias)
        .read("linear2_weight", parameters.linear2_weight)
        .read("linear2_bias", parameters.linear2_bias)
        .value("tokens", tokens as u32)
        .value("width", parameters.width() as u32)
        .value("z_stride", z_stride as u32)
        .value("linear2_stride", parameters.linear2_weight.row_stride() as u32)
        .value("clamp", inputs.clamp as f32)
        .submit()
}

impl<T: Float> Inputs<T> {
    pub(super) fn seq_len(&self) -> u32 {
        self.generated.map_or(1, |generated| generated.seq_len as u32)
    }

    pub(super) fn threshold(&self) -> u32 {
        self.mask.map_or(0, |mask| mask.threshold())
    }

    pub(super) fn scale(&self) -> f32 {
        self.mask.map_or(1.0, |mask| mask.scale() as f32)
    }
}

/// Grid of a kernel with a warp a token.
pub(super) fn warps(tokens: usize) -> [u32; 3] {
    [tokens.div_ceil(THREADS / 32) as u32, 1, 1]
}

pub(super) fn stride<T: Float>(tensor: Option<Tensor<T>>) -> u32 {
    tensor.map_or(0, |tensor| tensor.row_stride() as u32)
}
