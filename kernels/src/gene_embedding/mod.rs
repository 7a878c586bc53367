//! The cell encoder's input: gene token plus encoded expression value, or gene token plus flag where the value is to be generated.
//!
//! With `LN` a layer normalisation and `u = min(value, clamp)`:
//! `x_g = LN_g(table[id])`, `z = W2 relu(W1 u + b1) + b2`, `x_v = Dropout(LN_v(z))`,
//! `y = x_g + x_v` for known tokens, `y = x_g + flag[1]` for generated ones (positions at and after the cell's `known_length`).
//!
//! `z` is a function of one number, linear between the `width` points where a hidden unit switches: [`Method::Piecewise`] looks up
//! the segment's slope and intercept instead of multiplying by `W2`, and backward needs only per-segment sums of the gradients
//! `dz` and `dz u`. The tables ([`build_tables`]) must be rebuilt whenever the weights change. A breakpoint is the exact
//! floating-point number after which the evaluated `W1 u + b1` changes sides, so that both methods always agree on which units
//! are active; at 0 a unit is inactive.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
mod cpu_backward;
mod cpu_gemm;
mod cpu_tables;
mod cuda;
mod cuda_backward;
#[cfg(test)]
mod tests;

use crate::dropout::Mask;
use crate::error::expect_shape;
use crate::runtime::philox::Site;
use crate::runtime::{Element, Float, Plan, Real, Stream, Target, Tensor};
use crate::{Error, Result};

/// How the value encoder is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Tables of slopes and intercepts: exact, memory bound.
    Piecewise,
    /// Two plain layers: the reference, slow.
    Gemm,
}

/// The layer's weights.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<T: Float> {
    /// `[vocab, width]`: gene tokens.
    pub table: Tensor<T>,
    /// `[width]`: scale of `LN_g`.
    pub gene_weight: Tensor<T>,
    /// `[width]`: shift of `LN_g`.
    pub gene_bias: Tensor<T>,
    /// `[width, 1]`: `W1`.
    pub linear1_weight: Tensor<T>,
    /// `[width]`: `b1`.
    pub linear1_bias: Tensor<T>,
    /// `[width, width]`: `W2`.
    pub linear2_weight: Tensor<T>,
    /// `[width]`: `b2`.
    pub linear2_bias: Tensor<T>,
    /// `[width]`: scale of `LN_v`.
    pub value_weight: Tensor<T>,
    /// `[width]`: shift of `LN_v`.
    pub value_bias: Tensor<T>,
    /// `[2, width]`; only row 1 is used, and only for generated tokens.
    pub flag: Option<Tensor<T>>,
}

/// Gradients of [`Parameters`], each added to; none when frozen.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    /// `[vocab, width]`.
    pub table: Option<Tensor<T::Acc>>,
    /// `[width]`.
    pub gene_weight: Option<Tensor<T::Acc>>,
    /// `[width]`.
    pub gene_bias: Option<Tensor<T::Acc>>,
    /// `[width, 1]`.
    pub linear1_weight: Option<Tensor<T::Acc>>,
    /// `[width]`.
    pub linear1_bias: Option<Tensor<T::Acc>>,
    /// `[width, width]`.
    pub linear2_weight: Option<Tensor<T::Acc>>,
    /// `[width]`.
    pub linear2_bias: Option<Tensor<T::Acc>>,
    /// `[width]`.
    pub value_weight: Option<Tensor<T::Acc>>,
    /// `[width]`.
    pub value_bias: Option<Tensor<T::Acc>>,
    /// `[2, width]`: row 1 is added to.
    pub flag: Option<Tensor<T::Acc>>,
}

impl<T: Float> Gradients<T> {
    /// Everything frozen.
    pub fn none() -> Self {
        Gradients {
            table: None,
            gene_weight: None,
            gene_bias: None,
            linear1_weight: None,
            linear1_bias: None,
            linear2_weight: None,
            linear2_bias: None,
            value_weight: None,
            value_bias: None,
            flag: None,
        }
    }
}

/// What forward leaves for backward: the statistics of both normalisations.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    /// `[tokens]`: mean of the table's row.
    pub gene_mean: Tensor<T::Acc>,
    /// `[tokens]`: its reciprocal standard deviation.
    pub gene_rstd: Tensor<T::Acc>,
    /// `[tokens]`: mean of `z`; 0 for generated tokens.
    pub value_mean: Tensor<T::Acc>,
    /// `[tokens]`: its reciprocal standard deviation; 0 for generated tokens.
    pub value_rstd: Tensor<T::Acc>,
}

/// Which tokens are generated: those of cell `c` at position `known_lengths[c]` and after.
#[derive(Clone, Copy, Debug)]
pub struct Generated {
    /// `[batch]`, with `tokens = batch * seq_len`.
    pub known_lengths: Tensor<u32>,
    /// Tokens of one cell.
    pub seq_len: usize,
}

/// The value encoder between its breakpoints: `z = slope[s] u + intercept[s]`, with `s` the number of breakpoints below `u`.
#[derive(Clone, Copy, Debug)]
pub struct Tables<A: Element> {
    /// `[width]`, ascending: the last number on the near side of each hidden unit's switch; infinite for a unit that never does.
    pub breakpoints: Tensor<A>,
    /// `[width]`: the hidden unit of each breakpoint.
    pub order: Tensor<u32>,
    /// `[width + 1, width]`.
    pub slope: Tensor<A>,
    /// `[width + 1, width]`.
    pub intercept: Tensor<A>,
}

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[tokens, width]`, written.
    pub y: Tensor<T>,
    /// `[tokens, width]`, written when given: `x_g`.
    pub gene: Option<Tensor<T>>,
    /// Written.
    pub saved: Saved<T>,
    /// `[tokens]`.
    pub ids: Tensor<u32>,
    /// `[tokens]`: expression in whatever unit the model was trained on (counts, bins or log1p).
    pub values: Tensor<T::Acc>,
    /// Tokens whose value is not known; none when all are.
    pub generated: Option<Generated>,
    /// The weights.
    pub parameters: Parameters<T>,
    /// Built from the same weights; not read by [`Method::Gemm`].
    pub tables: Tables<T::Acc>,
    /// Values above count as this; scGPT: 512.
    pub clamp: f64,
    /// Added to the variances.
    pub eps: f64,
    /// Probability and random numbers of the dropout on `x_v`; none outside training.
    pub dropout: Option<(f32, Site)>,
    /// How.
    pub method: Method,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// Added to.
    pub gradients: Gradients<T>,
    /// `[tokens, width]`.
    pub dy: Tensor<T>,
    /// `[tokens, width]`: a gradient of `x_g` from elsewhere.
    pub dgene: Option<Tensor<T>>,
    /// From forward.
    pub saved: Saved<T>,
    /// As in forward.
    pub ids: Tensor<u32>,
    /// As in forward.
    pub values: Tensor<T::Acc>,
    /// As in forward.
    pub generated: Option<Generated>,
    /// As in forward.
    pub parameters: Parameters<T>,
    /// As in forward.
    pub tables: Tables<T::Acc>,
    /// As in forward.
    pub clamp: f64,
    /// As in forward.
    pub dropout: Option<(f32, Site)>,
    /// As in forward.
    pub method: Method,
    /// A row of the table that receives no gradient.
    pub padding_id: Option<u32>,
}

/// What both passes read.
#[derive(Clone, Copy)]
struct Inputs<T: Float> {
    ids: Tensor<u32>,
    values: Tensor<T::Acc>,
    generated: Option<Generated>,
    parameters: Parameters<T>,
    tables: Tables<T::Acc>,
    clamp: f64,
    mask: Option<Mask>,
    method: Method,
}

/// Plans the tables for a layer of `width` hidden units and outputs.
pub fn plan_tables<A: Real>(plan: &mut Plan, width: usize) -> Tables<A> {
    Tables {
        breakpoints: plan.tensor("breakpoints", [width]),
        order: plan.tensor("order", [width]),
        slope: plan.tensor("slope", [width + 1, width]),
        intercept: plan.tensor("intercept", [width + 1, width]),
    }
}

/// Fills the tables from the weights: units sorted by breakpoint `-b1 / W1`, prefix sums of `W2 W1` and `W2 b1` over the active
/// units, in f64 and rounded once.
///
/// # Shapes
/// As in [`Parameters`] and [`Tables`].
/// # Errors
/// `Shape` when a length differs.
/// # Source
/// A ReLU network of one input and one hidden layer is piecewise linear; the tables are our own.
pub fn build_tables<T: Float>(stream: &Stream, parameters: Parameters<T>, tables: Tables<T::Acc>) -> Result<()> {
    const OP: &str = "gene_embedding::build_tables";
    parameters.check(OP)?;
    tables.check(OP, parameters.width())?;
    match stream.target() {
        Target::Cpu(cpu) => {
            cpu_tables::build(stream, cpu, parameters, tables);
            Ok(())
        }
        Target::Cuda(cuda) => cuda::build(cuda, OP, parameters, tables),
    }
}

/// Bytes of scratch that [`backward`] needs, on whichever device.
pub fn scratch<T: Float>(tokens: usize, width: usize, method: Method) -> usize {
    cpu_backward::scratch::<T>(tokens, width, method).max(cuda_backward::scratch(tokens, width, method))
}

/// Gene tokens and values to `[tokens, width]`; the module's text has the formulas.
///
/// # Shapes
/// As in [`Forward`].
/// # Errors
/// `Shape` when a length differs; `Index` when an id is not below `vocab` (a CUDA device gives a row of NaN instead); `Argument`
/// when the dropout probability is not in `[0, 1)`, or when tokens are generated and there is no flag.
/// # Source
/// scGPT `GeneEncoder` and `ContinuousValueEncoder`, and its generative input.
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "gene_embedding::forward";
    let Forward { ids, values, generated, parameters, tables, clamp, method, .. } = args;
    let mask = args.dropout.map(|(probability, site)| Mask::new(OP, probability, site)).transpose()?;
    let inputs = Inputs { ids, values, generated, parameters, tables, clamp, mask, method };
    let shape = [ids.len(), parameters.width()];
    inputs.check(OP)?;
    args.saved.check(OP, ids.len())?;
    expect_shape(OP, "y", &shape, &[args.y.rows(), args.y.width()])?;
    args.gene.map_or(Ok(()), |gene| expect_shape(OP, "gene", &shape, &[gene.rows(), gene.width()]))?;
    if shape.contains(&0) {
        return Ok(());
    }
    match stream.target() {
        Target::Cpu(cpu) => cpu::forward(stream, cpu, OP, inputs, args),
        Target::Cuda(cuda) => cuda::forward(cuda, OP, inputs, args),
    }
}

/// Gradients of the weights; ids and values have none.
///
/// Both normalisations as in `layer_norm::backward`; gene tokens are summed into the table in the order of their positions. With
/// `G0[s]` and `G1[s]` the sums of `dz` and `dz u` over the tokens of segment `s`, and `P_j` the sum over the segments in which
/// unit `j` is active: `dW2[:, j] = W1_j P_j(G1) + b1_j P_j(G0)`, `db2 = sum G0`, `dW1_j = W2[:, j] . P_j(G1)`,
/// `db1_j = W2[:, j] . P_j(G0)`. `dflag[1]` is the sum of `dy` over generated tokens.
///
/// # Shapes
/// As in [`Backward`]. Scratch: [`scratch`].
/// # Errors
/// Those of [`forward`]; `Scratch` when the stream has too little.
/// # Source
/// Derivative of [`forward`].
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "gene_embedding::backward";
    let Backward { ids, values, generated, parameters, tables, clamp, method, .. } = args;
    let mask = args.dropout.map(|(probability, site)| Mask::new(OP, probability, site)).transpose()?;
    let inputs = Inputs { ids, values, generated, parameters, tables, clamp, mask, method };
    let shape = [ids.len(), parameters.width()];
    inputs.check(OP)?;
    args.saved.check(OP, ids.len())?;
    args.gradients.check(OP, &parameters)?;
    expect_shape(OP, "dy", &shape, &[args.dy.rows(), args.dy.width()])?;
    args.dgene.map_or(Ok(()), |dgene| expect_shape(OP, "dgene", &shape, &[dgene.rows(), dgene.width()]))?;
    if shape.contains(&0) {
        return Ok(());
    }
    match stream.target() {
        Target::Cpu(cpu) => cpu_backward::backward(stream, cpu, OP, inputs, args),
        Target::Cuda(cuda) => cuda_backward::backward(cuda, OP, inputs, args),
    }
}

impl<T: Float> Parameters<T> {
    fn width(&self) -> usize {
        self.table.width()
    }

    fn check(&self, op: &'static str) -> Result<()> {
        let width = self.width();
        expect_shape(op, "linear1_weight", &[width, 1], &self.linear1_weight.shape())?;
        expect_shape(op, "linear2_weight", &[width, width], &self.linear2_weight.shape())?;
        let vectors = [
            ("gene_weight", self.gene_weight),
            ("gene_bias", self.gene_bias),
            ("linear1_bias", self.linear1_bias),
            ("linear2_bias", self.linear2_bias),
            ("value_weight", self.value_weight),
            ("value_bias", self.value_bias),
        ];
        vectors.into_iter().try_for_each(|(name, tensor)| expect_shape(op, name, &[width], &tensor.shape()))?;
        self.flag.map_or(Ok(()), |flag| expect_shape(op, "flag", &[2, width], &flag.shape()))
    }
}

impl<T: Float> Gradients<T> {
    fn check(&self, op: &'static str, parameters: &Parameters<T>) -> Result<()> {
        let width = parameters.width();
        let all: [(_, _, &[usize]); 10] = [
            ("dtable", self.table, &[parameters.table.rows(), width]),
            ("dgene_weight", self.gene_weight, &[width]),
            ("dgene_bias", self.gene_bias, &[width]),
            ("dlinear1_weight", self.linear1_weight, &[width, 1]),
            ("dlinear1_bias", self.linear1_bias, &[width]),
            ("dlinear2_weight", self.linear2_weight, &[width, width]),
            ("dlinear2_bias", self.linear2_bias, &[width]),
            ("dvalue_weight", self.value_weight, &[width]),
            ("dvalue_bias", self.value_bias, &[width]),
            ("dflag", self.flag, &[2, width]),
        ];
        all.into_iter().try_for_each(|(name, tensor, shape)| tensor.map_or(Ok(()), |tensor| expect_shape(op, name, shape, &tensor.shape())))
    }
}

impl<T: Float> Saved<T> {
    fn check(&self, op: &'static str, tokens: usize) -> Result<()> {
        expect_shape(op, "gene_mean", &[tokens], &self.gene_mean.shape())?;
        expect_shape(op, "gene_rstd", &[tokens], &self.gene_rstd.shape())?;
        expect_shape(op, "value_mean", &[tokens], &self.value_mean.shape())?;
        expect_shape(op, "value_rstd", &[tokens], &self.value_rstd.shape())
    }
}

impl<A: Element> Tables<A> {
    fn check(&self, op: &'static str, width: usize) -> Result<()> {
        expect_shape(op, "breakpoints", &[width], &self.breakpoints.shape())?;
        expect_shape(op, "order", &[width], &self.order.shape())?;
        expect_shape(op, "slope", &[width + 1, width], &self.slope.shape())?;
        expect_shape(op, "intercept", &[width + 1, width], &self.intercept.shape())
    }
}

impl<T: Float> Inputs<T> {
    fn check(&self, op: &'static str) -> Result<()> {
        let tokens = self.ids.len();
        self.parameters.check(op)?;
        self.tables.check(op, self.parameters.width())?;
        expect_shape(op, "values", &[tokens], &[self.values.len()])?;
        let Some(generated) = self.generated else { return Ok(()) };
        expect_shape(op, "ids", &[generated.known_lengths.len() * generated.seq_len], &[tokens])?;
        match self.parameters.flag {
            Some(_) => Ok(()),
            None => Err(Error::Argument { op, argument: "flag", value: 0.0, expected: "a table of two rows where tokens are generated" }),
        }
    }
}
