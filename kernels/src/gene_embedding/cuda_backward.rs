//! Launches of backward: tokens sorted by segment for the value encoder, then by id for the gene tokens.

use super::cuda::{THREADS, encode, stride, warps, with_mask};
use super::{Backward, Gradients, Inputs, Method};
use crate::embedding::cuda::Ids;
use crate::runtime::{CudaStream, Float, Launch, Tensor, elementwise, entry};
use crate::{Result, embedding};

const SEGMENTS: &str = include_str!("segments.ptx");
const VALUE: &str = include_str!("value.ptx");
const WEIGHTS: &str = include_str!("weights.ptx");
const GENE: &str = include_str!("gene.ptx");
const GEMM: &str = include_str!("gemm.ptx");

/// Tokens of one partial sum.
const CHUNK: usize = 64;
/// No id: a table has fewer rows.
const NO_PADDING: u32 = u32::MAX;

/// Where the parts of the scratch begin, in bytes.
struct Scratch {
    /// What [`embedding::cuda::sort`] needs; the sorted tokens lie in it.
    order: usize,
    /// `[tokens]`: each one's segment.
    segments: usize,
    /// `[tokens, 2]`.
    means: usize,
    /// `[tokens, words]`: dropout's mask, a bit a column.
    kept: usize,
    /// `[width + 3]`: the place in the order where each segment starts, and where the last one ends.
    starts: usize,
    /// `[chunks + width + 2, 2, width]`.
    runs: usize,
    /// `[chunks, 2, width]`.
    norm: usize,
    /// `[width + 2, 2, width]`.
    sums: usize,
    /// `[2, width, width]`; with tables.
    active: usize,
    /// `[tokens, width]`, then dz; without tables.
    z: usize,
    bytes: usize,
}

impl Scratch {
    fn new(tokens: usize, width: usize, method: Method) -> Scratch {
        let mut bytes = 0;
        let mut part = |words: usize| {
            let start = bytes;
            bytes += (words * size_of::<f32>()).next_multiple_of(64);
            start
        };
        let (chunks, segments) = (tokens.div_ceil(CHUNK), segments(width));
        let (active, z) = match method {
            Method::Piecewise => (2 * width * width, 0),
            Method::Gemm => (0, tokens * width),
        };
        Scratch {
            order: part(embedding::cuda::scratch(tokens) / size_of::<u32>()),
            segments: part(tokens),
            means: part(2 * tokens),
            kept: part(tokens * words(width)),
            starts: part(segments + 1),
            runs: part((chunks + segments) * 2 * width),
            norm: part(chunks * 2 * width),
            sums: part(segments * 2 * width),
            active: part(active),
            z: part(z),
            bytes,
        }
    }
}

/// Segments between `width` breakpoints, and the one of generated tokens.
fn segments(width: usize) -> usize {
    width + 2
}

/// Words of one token's mask.
fn words(width: usize) -> usize {
    width.div_ceil(32)
}

/// Bytes of scratch that [`backward`] needs.
pub(super) fn scratch(tokens: usize, width: usize, method: Method) -> usize {
    Scratch::new(tokens, width, method).bytes
}

/// One call of [`backward`].
struct Pass<'a, T: Float> {
    stream: &'a CudaStream,
    op: &'static str,
    inputs: Inputs<T>,
    args: Backward<T>,
    scratch: Scratch,
    tokens: usize,
    width: usize,
    chunks: usize,
}

pub(super) fn backward<T: Float>(stream: &CudaStream, op: &'static str, inputs: Inputs<T>, args: Backward<T>) -> Result<()> {
    let (tokens, width) = (inputs.ids.len(), inputs.parameters.width());
    let scratch = Scratch::new(tokens, width, inputs.method);
    stream.need_scratch(op, scratch.bytes)?;
    let pass = Pass { stream, op, inputs, args, scratch, tokens, width, chunks: tokens.div_ceil(CHUNK) };
    let Gradients { table, gene_weight, gene_bias, linear2_bias, value_weight, value_bias, flag, .. } = args.gradients;
    if pass.trains_linear() || [linear2_bias, value_weight, value_bias, flag].iter().any(Option::is_some) {
        pass.values()?;
    }
    if table.is_some() || gene_weight.is_some() || gene_bias.is_some() {
        pass.genes()?;
    }
    Ok(())
}

impl<'a, T: Float> Pass<'a, T> {
    fn launch(&self, text: &'static str, name: &str, grid: [u32; 3]) -> Result<Launch<'a>> {
        Ok(self.stream.launch(text, entry::<T>(self.op, name)?, grid, THREADS as u32))
    }

    fn columns(&self) -> u32 {
        self.width.div_ceil(THREADS) as u32
    }

    fn trains_linear(&self) -> bool {
        let gradients = self.args.gradients;
        gradients.linear1_weight.is_some() || gradients.linear1_bias.is_some() || gradients.linear2_weight.is_some()
    }

    /// Where z stands, when the method has no tables.
    fn z(&self) -> Option<usize> {
        (self.inputs.method == Method::Gemm).then_some(self.scratch.z)
    }

    /// Sorts the tokens by numbers below `bound`, and says where in the scratch they lie then.
    fn sort(&self, ids: Ids, bound: usize) -> Result<usize> {
        embedding::cuda::sort(self.stream, self.op, ids, self.tokens, bound, self.scratch.order)
    }

    /// Value encoder and flag.
    fn values(&self) -> Result<()> {
        let Pass { inputs, args, scratch, tokens, width, .. } = self;
        if let Some(z) = self.z() {
            encode(self.stream, self.op, inputs, *width, |launch| launch.scratch("z", z))?;
        }
        let order = self.sorted_segments()?;
        let means = self
            .launch(VALUE, "gene_embedding_value_means", warps(*tokens))?
            .scratch("means", scratch.means)
            .scratch("kept", scratch.kept)
            .scratch("segments", scratch.segments);
        with_mask(self.value_inputs(means).value("inverse_width", 1.0 / *width as f32), inputs).submit()?;
        let chunks = self
            .launch(VALUE, "gene_embedding_value_chunks", [self.chunks as u32, self.columns(), 1])?
            .scratch("runs", scratch.runs)
            .scratch("norm", scratch.norm)
            .scratch("means", scratch.means)
            .scratch("kept", scratch.kept)
            .scratch("order", order)
            .scratch("segments", scratch.segments);
        self.value_inputs(chunks)
            .value("chunks", self.chunks as u32)
            .value("threshold", inputs.threshold())
            .value("scale", inputs.scale())
            .submit()?;
        self.combine(args.gradients.value_weight, args.gradients.value_bias)?;
        self.launch(WEIGHTS, "gene_embedding_segment_sums", [segments(*width) as u32, self.columns(), 1])?
            .scratch("sums", scratch.sums)
            .scratch("runs", scratch.runs)
            .scratch("starts", scratch.starts)
            .value("chunks", self.chunks as u32)
            .value("width", *width as u32)
            .submit()?;
        self.launch(WEIGHTS, "gene_embedding_shifts", [self.columns(), 1, 1])?
            .optional("dlinear2_bias", args.gradients.linear2_bias)
            .optional("dflag", args.gradients.flag.map(|flag| flag.row_range(1, 1)))
            .scratch("sums", scratch.sums)
            .value("width", *width as u32)
            .submit()?;
        match (self.trains_linear(), inputs.method) {
            (false, _) => Ok(()),
            (true, Method::Piecewise) => self.linear_from_sums(),
            (true, Method::Gemm) => self.linear_from_tokens(order),
        }
    }

    /// What both kernels over the tokens' values read.
    fn value_inputs(&self, launch: Launch<'a>) -> Launch<'a> {
        let Pass { inputs, args, .. } = self;
        launch
            .read("dy", args.dy)
            .read("values", inputs.values)
            .read("value_mean", args.saved.value_mean)
            .read("value_rstd", args.saved.value_rstd)
            .read("value_weight", inputs.parameters.value_weight)
            .optional_scratch("z", self.z())
            .read("slope", inputs.tables.slope)
            .read("intercept", inputs.tables.intercept)
            .value("tokens", self.tokens as u32)
            .value("width", self.width as u32)
            .value("words", words(self.width) as u32)
            .value("dy_stride", args.dy.row_stride() as u32)
            .value("clamp", inputs.clamp as f32)
    }

    /// The tokens in the order of their segments, and where each segment starts.
    fn sorted_segments(&self) -> Result<usize> {
        let Pass { inputs, scratch, tokens, width, .. } = self;
        self.launch(SEGMENTS, "gene_embedding_find_segments", [tokens.div_ceil(THREADS) as u32, 1, 1])?
            .scratch("segments", scratch.segments)
            .read("values", inputs.values)
            .optional("known_lengths", inputs.generated.map(|generated| generated.known_lengths))
            .optional("breakpoints", (inputs.method == Method::Piecewise).then_some(inputs.tables.breakpoints))
            .value("tokens", *tokens as u32)
            .value("width", *width as u32)
            .value("seq_len", inputs.seq_len())
            .value("clamp", inputs.clamp as f32)
            .submit()?;
        let order = self.sort(Ids::Scratch(scratch.segments), segments(*width))?;
        let blocks = (tokens + 1).div_ceil(THREADS) as u32;
        self.stream
            .launch(SEGMENTS, "gene_embedding_starts_u32", [blocks, 1, 1], THREADS as u32)
            .scratch("starts", scratch.starts)
            .scratch("order", order)
            .scratch("segments", scratch.segments)
            .value("tokens", *tokens as u32)
            .value("count", segments(*width) as u32)
            .submit()?;
        Ok(order)
    }

    /// The partial sums of a normalisation's scale and shift, to their gradients.
    fn combine(&self, first: Option<Tensor<T::Acc>>, second: Option<Tensor<T::Acc>>) -> Result<()> {
        self.launch(GENE, "gene_embedding_combine", [self.columns(), 1, 1])?
            .optional("first", first)
            .optional("second", second)
            .scratch("chunk_sums", self.scratch.norm)
            .value("chunks", self.chunks as u32)
            .value("width", self.width as u32)
            .submit()
    }

    /// Both layers' weights from the segments' sums.
    fn linear_from_sums(&self) -> Result<()> {
        let Pass { inputs: Inputs { parameters, tables, .. }, scratch, width, .. } = self;
        let gradients = self.args.gradients;
        let narrow = [width.div_ceil(32) as u32, 1, 1];
        self.stream
            .launch(WEIGHTS, entry::<T>(self.op, "gene_embedding_active")?, narrow, 32)
            .scratch("active", scratch.active)
            .scratch("sums", scratch.sums)
            .read("order", tables.order)
            .read("linear1_weight", parameters.linear1_weight)
            .read("linear1_bias", parameters.linear1_bias)
            .value("width", *width as u32)
            .submit()?;
        if let Some(gradient) = gradients.linear2_weight {
            self.launch(WEIGHTS, "gene_embedding_linear2", elementwise(*width, *width).0)?
                .write("dlinear2_weight", gradient)
                .scratch("active", scratch.active)
                .read("linear1_weight", parameters.linear1_weight)
                .read("linear1_bias", parameters.linear1_bias)
                .value("width", *width as u32)
                .value("dlinear2_stride", gradient.row_stride() as u32)
                .submit()?;
        }
        self.stream
            .launch(WEIGHTS, entry::<T>(self.op, "gene_embedding_linear1")?, narrow, 32)
            .optional("dlinear1_weight", gradients.linear1_weight)
            .optional("dlinear1_bias", gradients.linear1_bias)
            .scratch("active", scratch.active)
            .read("linear2_weight", parameters.linear2_weight)
            .value("width", *width as u32)
            .value("linear2_stride", parameters.linear2_weight.row_stride() as u32)
            .submit()
    }

    /// Both layers' weights from every token's dz.
    fn linear_from_tokens(&self, order: usize) -> Result<()> {
        let Pass { inputs, scratch, width, .. } = self;
        let (gradients, parameters) = (self.args.gradients, inputs.parameters);
        // Generated tokens come behind all others.
        let known = scratch.starts + (width + 1) * size_of::<u32>();
        self.launch(GEMM, "gene_embedding_gemm_linear1", [self.chunks as u32, self.columns(), 1])?
            .scratch("chunk_sums", scratch.norm)
            .scratch("dz", scratch.z)
            .scratch("order", order)
            .scratch("known", known)
            .read("values", inputs.values)
            .read("linear1_weight", parameters.linear1_weight)
            .read("linear1_bias", parameters.linear1_bias)
            .read("linear2_weight", parameters.linear2_weight)
            .value("width", *width as u32)
            .value("linear2_stride", parameters.linear2_weight.row_stride() as u32)
            .value("clamp", inputs.clamp as f32)
            .submit()?;
        self.combine(gradients.linear1_weight, gradients.linear1_bias)?;
        let Some(gradient) = gradients.linear2_weight else { return Ok(()) };
        self.launch(GEMM, "gene_embedding_gemm_linear2", elementwise(*width, *width).0)?
            .write("dlinear2_weight", gradient)
            .scratch("dz", scratch.z)
            .scratch("order", order)
            .scratch("known", known)
            .read("values", inputs.values)
            .read("linear1_weight", parameters.linear1_weight)
            .read("linear1_bias", parameters.linear1_bias)
            .value("width", *width as u32)
            .value("dlinear2_stride", gradient.row_stride() as u32)
            .value("clamp", inputs.clamp as f32)
            .submit()
    }

    /// Gene tokens: the normalisation's scale and shift, and the table.
    fn genes(&self) -> Result<()> {
        let Pass { inputs, args, scratch, .. } = self;
        let (Gradients { table, gene_weight, gene_bias, .. }, parameters) = (args.gradients, inputs.parameters);
        if gene_weight.is_some() || gene_bias.is_some() {
            let chunks = self.launch(GENE, "gene_embedding_gene_chunks", [self.chunks as u32, self.columns(), 1])?;
            self.gene_inputs(chunks.scratch("norm", scratch.norm)).submit()?;
            self.combine(gene_weight, gene_bias)?;
        }
        let Some(gradient) = table else { return Ok(()) };
        let order = self.sort(Ids::Tensor(inputs.ids), parameters.table.rows())?;
        let means = self
            .launch(GENE, "gene_embedding_gene_means", warps(self.tokens))?
            .scratch("means", scratch.means)
            .read("gene_weight", parameters.gene_weight);
        self.gene_inputs(means).value("inverse_width", 1.0 / self.width as f32).submit()?;
        let sums = self
            .launch(GENE, "gene_embedding_table", [self.tokens as u32, self.columns(), 1])?
            .write("dtable", gradient)
            .scratch("order", order)
            .scratch("means", scratch.means)
            .read("gene_weight", parameters.gene_weight);
        self.gene_inputs(sums)
            .value("dtable_stride", gradient.row_stride() as u32)
            .value("padding_id", args.padding_id.unwrap_or(NO_PADDING))
            .submit()
    }

    /// What all kernels over the gene tokens read.
    fn gene_inputs(&self, launch: Launch<'a>) -> Launch<'a> {
        let Pass { inputs: Inputs { ids, parameters, .. }, args, .. } = self;
        launch
            .read("dy", args.dy)
            .optional("dgene", args.dgene)
            .read("ids", *ids)
            .read("table", parameters.table)
            .read("gene_mean", args.saved.gene_mean)
            .read("gene_rstd", args.saved.gene_rstd)
            .value("tokens", self.tokens as u32)
            .value("vocab", parameters.table.rows() as u32)
            .value("width", self.width as u32)
            .value("dy_stride", args.dy.row_stride() as u32)
            .value("dgene_stride", stride(args.dgene))
            .value("table_stride", parameters.table.row_stride() as u32)
    }
}
