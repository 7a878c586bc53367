//! Shapes, tolerances and traffic of the gene embedding's cases.
//!
//! Values are whole numbers and breakpoints lie half-way between them, with ties, so that differences never step over a kink;
//! what happens at the breakpoints themselves is the unit tests' business.

use super::{Backward, Forward, Generated, Gradients, Method, Parameters, Saved, Tables, backward, build_tables, forward, scratch};
use crate::Result;
use crate::runtime::philox::Site;
use crate::runtime::{Float, Stream, Tensor};
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

/// What a case switches on.
#[derive(Clone, Copy, Default)]
struct Options {
    gemm: bool,
    dropout: bool,
    /// Sequence length; the cells' known lengths are part of the case.
    generated: Option<usize>,
    /// Whether `x_g` is written, and brings a gradient of its own.
    gene: bool,
    /// Whether only some of the weights are trained.
    frozen: bool,
    padding_id: Option<u32>,
}

const SITE: Site = Site { seed: 11, step: 2, site: 5 };
/// The weights that stay frozen with [`Options::frozen`].
const FROZEN: [&str; 4] = ["table", "gene_bias", "linear1_weight", "value_weight"];

impl Options {
    fn parameters<T: Float>(t: &Bindings<T>) -> Parameters<T> {
        Parameters {
            table: t.value("table"),
            gene_weight: t.value("gene_weight"),
            gene_bias: t.value("gene_bias"),
            linear1_weight: t.value("linear1_weight"),
            linear1_bias: t.value("linear1_bias"),
            linear2_weight: t.value("linear2_weight"),
            linear2_bias: t.value("linear2_bias"),
            value_weight: t.value("value_weight"),
            value_bias: t.value("value_bias"),
            flag: Some(t.value("flag")),
        }
    }

    fn tables<T: Float>(t: &Bindings<T>) -> Tables<T::Acc> {
        let (breakpoints, order) = (t.accumulated("breakpoints"), t.index("order"));
        Tables { breakpoints, order, slope: t.accumulated("slope"), intercept: t.accumulated("intercept") }
    }

    fn saved<T: Float>(t: &Bindings<T>) -> Saved<T> {
        let [gene_mean, gene_rstd, value_mean, value_rstd] =
            ["gene_mean", "gene_rstd", "value_mean", "value_rstd"].map(|name| t.accumulated(name));
        Saved { gene_mean, gene_rstd, value_mean, value_rstd }
    }

    fn generated<T: Float>(&self, t: &Bindings<T>) -> Option<Generated> {
        self.generated.map(|seq_len| Generated { known_lengths: t.index("known_lengths"), seq_len })
    }

    fn method(&self) -> Method {
        if self.gemm { Method::Gemm } else { Method::Piecewise }
    }
}

impl Op for Options {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        build_tables(stream, Self::parameters(t), Self::tables(t))?;
        forward(
            stream,
            Forward {
                y: t.value("y"),
                gene: self.gene.then(|| t.value("gene")),
                saved: Self::saved(t),
                ids: t.index("ids"),
                values: t.accumulated("values"),
                generated: self.generated(t),
                parameters: Self::parameters(t),
                tables: Self::tables(t),
                clamp: 512.0,
                eps: 1e-5,
                dropout: self.dropout.then_some((0.2, SITE)),
                method: self.method(),
            },
        )
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let gradient = |name: &str| -> Option<Tensor<T::Acc>> {
            let name = format!("d{name}");
            (!(self.frozen && FROZEN.contains(&&name[1..]))).then(|| t.accumulated(&name))
        };
        let gradients = Gradients {
            // With padding the table's gradient is not forward's derivative: it is compared, but not with differences.
            table: if self.padding_id.is_some() { Some(t.accumulated("table_gradient")) } else { gradient("table") },
            gene_weight: gradient("gene_weight"),
            gene_bias: gradient("gene_bias"),
            linear1_weight: gradient("linear1_weight"),
            linear1_bias: gradient("linear1_bias"),
            linear2_weight: gradient("linear2_weight"),
            linear2_bias: gradient("linear2_bias"),
            value_weight: gradient("value_weight"),
            value_bias: gradient("value_bias"),
            flag: gradient("flag"),
        };
        backward(
            stream,
            Backward {
                gradients,
                dy: t.value("dy"),
                dgene: self.gene.then(|| t.value("dgene")),
                saved: Self::saved(t),
                ids: t.index("ids"),
                values: t.accumulated("values"),
                generated: self.generated(t),
                parameters: Self::parameters(t),
                tables: Self::tables(t),
                clamp: 512.0,
                dropout: self.dropout.then_some((0.2, SITE)),
                method: self.method(),
                padding_id: self.padding_id,
            },
        )
    }
}

/// First-layer weights and biases: rising, falling and constant units (on and off), half-way breakpoints, ties among them.
fn first_layer(width: usize) -> (Vec<f64>, Vec<f64>) {
    let weights = [0.875, -0.75, 0.5, -1.125, 0.0, 0.25, 1.25, 0.0];
    let points = [-1.5, 0.5, 1.5, 2.5, 4.5, 0.5, 10.5, 20.5, -0.5, 30.5, 6.5];
    let weight = |unit: usize| weights[unit % weights.len()];
    let bias = |unit: usize| match weight(unit) {
        0.0 => {
            if unit % 8 == 4 {
                0.5
            } else {
                -0.5
            }
        }
        weight => -weight * points[unit % points.len()],
    };
    ((0..width).map(weight).collect(), (0..width).map(bias).collect())
}

fn case(name: &str, tokens: usize, width: usize, vocab: usize, ids: Fill, options: Options) -> Case {
    let method = if options.gemm { "gemm" } else { "piecewise" };
    let (weights, biases) = first_layer(width);
    let mut case = Case::new(format!("{name}_{tokens}x{width}_{method}"), options)
        .index("ids", [tokens], ids)
        .constant("values", [tokens], Fill::Values(vec![1.0, -2.0, 0.0, 3.0, 1.0, 13.0, -1.0, 40.0, 512.0, 900.0, 2.0, 2.0, 8.0]))
        .constant("breakpoints", [width], Fill::Values(vec![0.0]))
        .constant("slope", [width + 1, width], Fill::Values(vec![0.0]))
        .constant("intercept", [width + 1, width], Fill::Values(vec![0.0]))
        .index("order", [width], Fill::Integers(vec![0]))
        .output("y", [tokens, width])
        .tolerance(Tolerance::f32().reduction(tokens.max(width)))
        .scratch(scratch::<f64>(tokens, width, options.method()))
        .bytes(4 * (2 + usize::from(options.gene)) * tokens * width)
        .flops(if options.gemm { 2 * tokens * width * width } else { 20 * tokens * width });
    for name in ["gene_mean", "gene_rstd", "value_mean", "value_rstd"] {
        case = case.statistic(name, [tokens]);
    }
    for name in ["gene_weight", "gene_bias", "linear1_bias", "linear2_bias", "value_weight", "value_bias"] {
        case =
            if options.frozen && FROZEN.contains(&name) { case.fixed(name, [width], Fill::Uniform) } else { case.parameter(name, [width]) };
    }
    case = case.parameter("linear2_weight", [width, width]).parameter("flag", [2, width]);
    case = match options.frozen {
        true => case.fixed("linear1_weight", [width, 1], Fill::Uniform),
        false => case.parameter("linear1_weight", [width, 1]),
    };
    case = match (options.padding_id, options.frozen) {
        (Some(_), _) => case.fixed("table", [vocab, width], Fill::Uniform).statistic("table_gradient", [vocab, width]),
        (None, true) => case.fixed("table", [vocab, width], Fill::Uniform),
        (None, false) => case.parameter("table", [vocab, width]),
    };
    if options.gene {
        case = case.output("gene", [tokens, width]);
    }
    if let Some(seq_len) = options.generated {
        case = case.index("known_lengths", [tokens / seq_len], Fill::Integers(vec![3, 0, seq_len as u32, 1]));
    }
    for slot in &mut case.slots {
        match slot.name {
            "linear1_weight" => slot.fill = Fill::Values(weights.clone()),
            "linear1_bias" => slot.fill = Fill::Values(biases.clone()),
            _ => {}
        }
    }
    case
}

/// One token, odd sizes, every option, ids in ties, a cell of nothing but padding, and the encoder's size with real values.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for gemm in [false, true] {
        let options = Options { gemm, ..Options::default() };
        let every = Options { dropout: true, gene: true, ..options };
        cases.extend([
            case("one", 1, 1, 1, Fill::Integers(vec![0]), options),
            // No constant unit: the last segment, above all breakpoints, has tokens.
            case("row", 7, 4, 5, Fill::Below(5), options),
            case("prime", 67, 37, 13, Fill::Below(13), every),
            case("wide", 131, 70, 11, Fill::Integers(vec![10, 3, 3, 0, 3, 7]), Options { dropout: true, ..options }),
            case("generated", 40, 19, 23, Fill::Below(23), Options { generated: Some(10), ..every }),
            case("frozen", 21, 12, 6, Fill::Below(6), Options { frozen: true, ..every }),
            // The second of three cells is empty.
            case(
                "padding",
                15,
                9,
                4,
                Fill::Integers(vec![1, 0, 2, 1, 3, 3, 3, 3, 3, 3, 2, 2, 0, 3, 3]),
                Options { padding_id: Some(3), generated: Some(5), ..every },
            ),
            case("padded", 200, 16, 4, Fill::Integers(vec![1, 3, 3, 3, 3, 2, 3]), Options { padding_id: Some(3), ..options }),
        ]);
    }
    for (name, gemm, training) in [("training", false, true), ("inference", false, false), ("training", true, true)] {
        let options = Options { gemm, dropout: training, ..Options::default() };
        let mut case = case(name, 9600, 512, 60_697, Fill::Below(60_697), options).bench();
        case.differentiable = training;
        for slot in &mut case.slots {
            match slot.name {
                // log1p of normalised counts; weights as they are initialised.
                "values" => slot.fill = Fill::Range(0.0, 7.0),
                "linear1_weight" | "linear1_bias" => slot.fill = Fill::Uniform,
                _ => {}
            }
        }
        cases.push(case);
    }
    cases
}
