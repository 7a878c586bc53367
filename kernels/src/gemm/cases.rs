//! Shapes of the matrix-product cases: every layout and epilogue, sizes around the tiles, columns of wider matrices, more than one
//! block of depth, depth 0, and the encoder's own sizes for the benches. Multiples of 8 are what tensor cores take.

use super::{Accumulate, Epilogue, Forward, Layout, accumulate, forward, scratch};
use crate::Result;
use crate::runtime::{Element, Float, Stream, Tensor, bf16};
use crate::swiglu;
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Plain,
    Bias,
    Relu,
    Gelu,
    /// Without what backward needs.
    GeluAlone,
    BiasResidual,
    Residual,
    Scaled,
    Added,
    SwiGlu,
    /// What backward does, forward.
    ReluMask,
    GeluMask,
}

impl Kind {
    fn has_bias(self) -> bool {
        matches!(self, Kind::Bias | Kind::Relu | Kind::Gelu | Kind::GeluAlone | Kind::BiasResidual)
    }

    fn has_residual(self) -> bool {
        matches!(self, Kind::BiasResidual | Kind::Residual | Kind::Added)
    }

    /// Backward begins with a product with the identity, whose epilogue undoes forward's.
    fn has_identity(self) -> bool {
        matches!(self, Kind::Relu | Kind::Gelu | Kind::Scaled)
    }
}

/// Of [`Kind::Scaled`].
const FACTOR: f64 = 2.75;

/// `c = epilogue(op(a) op(b))` with every matrix `margin` columns inside a wider one; backward is composed of the other products.
#[derive(Clone, Copy)]
struct Gemm {
    layout: Layout,
    kind: Kind,
    margin: usize,
}

impl Gemm {
    fn inner<T: Element>(&self, tensor: Tensor<T>) -> Tensor<T> {
        tensor.columns(self.margin, tensor.width() - 2 * self.margin)
    }

    fn product<T: Float>(&self, stream: &Stream, c: Tensor<T>, a: Tensor<T>, b: Tensor<T>, layout: Layout) -> Result<()> {
        forward(stream, Forward { c, a, b, layout, epilogue: Epilogue::None })
    }
}

impl Op for Gemm {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let matrix = |name| self.inner(t.value(name));
        let epilogue = match self.kind {
            Kind::Plain => Epilogue::None,
            Kind::Bias => Epilogue::Bias { bias: t.value("bias") },
            Kind::Relu => Epilogue::BiasRelu { bias: t.value("bias") },
            Kind::Gelu => Epilogue::BiasGelu { bias: t.value("bias"), pre_activation: Some(matrix("pre_activation")) },
            Kind::GeluAlone => Epilogue::BiasGelu { bias: t.value("bias"), pre_activation: None },
            Kind::Residual => Epilogue::Residual { residual: matrix("residual") },
            Kind::Scaled => Epilogue::Scaled { factor: FACTOR },
            Kind::Added => {
                stream.copy(matrix("c"), matrix("residual"))?;
                Epilogue::Added
            }
            Kind::SwiGlu => Epilogue::SwiGlu { gate_up: matrix("gate_up") },
            Kind::ReluMask => Epilogue::ReluMask { output: matrix("output") },
            Kind::GeluMask => Epilogue::GeluMask { pre_activation: matrix("pre_activation") },
            Kind::BiasResidual => Epilogue::BiasResidual { bias: t.value("bias"), residual: matrix("residual") },
        };
        forward(stream, Forward { c: matrix("c"), a: matrix("a"), b: matrix("b"), layout: self.layout, epilogue })
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let matrix = |name| self.inner(t.value(name));
        let (a, b, dc) = (matrix("a"), matrix("b"), matrix("dc"));
        let (da, db) = (matrix("da"), self.inner(t.accumulated("db")));
        // Through the activation: dc times the identity, with the mask as the epilogue.
        let mask = match self.kind {
            Kind::Relu => Some(Epilogue::ReluMask { output: matrix("c") }),
            Kind::Gelu => Some(Epilogue::GeluMask { pre_activation: matrix("pre_activation") }),
            Kind::Scaled => Some(Epilogue::Scaled { factor: FACTOR }),
            _ => None,
        };
        let dsum = match mask {
            Some(epilogue) => {
                let (c, identity, layout) = (t.value("dsum"), t.value("identity"), self.layout);
                let (a, b) = if layout == Layout::TN { (identity, dc) } else { (dc, identity) };
                forward(stream, Forward { c, a, b, layout, epilogue })?;
                c
            }
            None if self.kind == Kind::SwiGlu => {
                let halves = |tensor: Tensor<T>| (tensor.columns(0, dc.width()), tensor.columns(dc.width(), dc.width()));
                let ((gate, up), (dgate, dup)) = (halves(matrix("gate_up")), halves(t.value("dsum")));
                swiglu::backward(stream, swiglu::Backward { dgate, dup, dy: dc, gate, up })?;
                t.value("dsum")
            }
            None => dc,
        };
        match self.layout {
            Layout::NT => {
                self.product(stream, da, dsum, b, Layout::NN)?;
                accumulate(stream, Accumulate { c: db, a: dsum, b: a, layout: Layout::TN })?;
            }
            Layout::NN => {
                self.product(stream, da, dsum, b, Layout::NT)?;
                accumulate(stream, Accumulate { c: db, a, b: dsum, layout: Layout::TN })?;
            }
            Layout::TN => {
                self.product(stream, da, b, dsum, Layout::NT)?;
                accumulate(stream, Accumulate { c: db, a, b: dsum, layout: Layout::NN })?;
            }
        }
        if self.kind.has_residual() {
            stream.copy(matrix("dresidual"), dc)?;
        }
        if self.kind.has_bias() {
            let dbias = t.accumulated("dbias");
            let c = dbias.reshape([1, dbias.len()]);
            accumulate(stream, Accumulate { c, a: t.value("ones"), b: dsum, layout: Layout::TN })?;
        }
        Ok(())
    }
}

fn draft(layout: Layout, kind: Kind, [m, n, k]: [usize; 3], margin: usize) -> Case {
    let wide = |rows: usize, width: usize| [rows, width + 2 * margin];
    let suffix = if margin > 0 { "_columns" } else { "" };
    let name = format!("{layout:?}_{kind:?}_{m}x{n}x{k}{suffix}").to_lowercase();
    let a = if layout == Layout::TN { wide(k, m) } else { wide(m, k) };
    let sums = if kind == Kind::SwiGlu { 2 * n } else { n };
    let [rows, columns] = if layout == Layout::NT { [sums, k] } else { [k, sums] };
    let mut case = Case::in_every_precision(name, Gemm { layout, kind, margin })
        .input("a", a)
        .parameter("b", wide(rows, columns))
        .output("c", wide(m, n))
        .scratch(scratch::<bf16>(rows, columns, m))
        .tolerance(Tolerance::f32().reduction(k.max(m).max(n)))
        .bytes(4 * (m * k + k * sums + m * n))
        .flops(2 * m * sums * k);
    if kind.has_bias() {
        case = case.parameter("bias", [n]).fixed("ones", [m, 1], Fill::Values(vec![1.0]));
    }
    if kind.has_residual() {
        case = case.input("residual", wide(m, n));
    }
    if matches!(kind, Kind::Gelu | Kind::GeluMask) {
        case = case.fixed("pre_activation", wide(m, n), Fill::Uniform);
    }
    if kind == Kind::SwiGlu {
        // Where the gate is a launch of its own, devices do not have it in f16; nor its backward.
        if layout != Layout::NT {
            case.f16 = None;
        }
        case = case.fixed("gate_up", wide(m, sums), Fill::Uniform).fixed("dsum", [m, sums], Fill::Uniform);
    }
    if kind == Kind::ReluMask {
        case = case.fixed("output", wide(m, n), Fill::Uniform);
    }
    case
}

/// Forward and backward, with what the mask on the way back is tried on.
fn case(layout: Layout, kind: Kind, size: [usize; 3], margin: usize) -> Case {
    let ([m, n, _], mut case) = (size, draft(layout, kind, size, margin));
    if kind == Kind::SwiGlu {
        case.f16 = None;
    }
    if kind.has_identity() {
        let side = if layout == Layout::TN { m } else { n };
        let identity = std::iter::once(1.0).chain(std::iter::repeat_n(0.0, side)).collect();
        case = case.fixed("identity", [side, side], Fill::Values(identity)).fixed("dsum", [m, n], Fill::Uniform);
    }
    case
}

fn forward_case(layout: Layout, kind: Kind, size: [usize; 3], margin: usize) -> Case {
    draft(layout, kind, size, margin).forward_only()
}

/// A sum by itself: `c += op(a) op(b)`, as for a weight gradient.
#[derive(Clone, Copy)]
struct Sum {
    layout: Layout,
}

impl Op for Sum {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        accumulate(stream, Accumulate { c: t.accumulated("c"), a: t.value("a"), b: t.value("b"), layout: self.layout })
    }
}

fn sum(layout: Layout, [m, n, k]: [usize; 3]) -> Case {
    let name = format!("{layout:?}_accumulate_{m}x{n}x{k}").to_lowercase();
    Case::in_every_precision(name, Sum { layout })
        .fixed("a", if layout == Layout::TN { [k, m] } else { [m, k] }, Fill::Uniform)
        .fixed("b", if layout == Layout::NT { [n, k] } else { [k, n] }, Fill::Uniform)
        .loss("c", [m, n])
        .scratch(scratch::<bf16>(m, n, k))
        .tolerance(Tolerance::f32().reduction(k))
        .bytes(4 * (m * k + k * n + 2 * m * n))
        .flops(2 * m * n * k)
        .forward_only()
}

/// Every layout and epilogue over odd sizes; the named shapes of the encoder and of a language model for the benches.
pub fn cases() -> Vec<Case> {
    const LAYOUTS: [Layout; 3] = [Layout::NT, Layout::NN, Layout::TN];
    const KINDS: [Kind; 9] =
        [Kind::Plain, Kind::Bias, Kind::Relu, Kind::Gelu, Kind::BiasResidual, Kind::Residual, Kind::Scaled, Kind::Added, Kind::SwiGlu];
    let mut cases = Vec::new();
    for layout in LAYOUTS {
        for kind in KINDS {
            cases.push(case(layout, kind, [7, 33, 5], 0));
            cases.push(case(layout, kind, [15, 31, 19], 3));
            cases.push(case(layout, kind, [72, 136, 88], 8));
        }
        for size in [[1, 1, 1], [13, 32, 16], [14, 17, 15], [29, 65, 17], [2, 3, 0], [1, 3, 257], [3, 2, 515], [211, 97, 31]] {
            cases.push(case(layout, Kind::Bias, size, 0));
        }
        // The small tile, and the large one, which takes many rows; their products are tiny.
        for kind in KINDS {
            cases.push(case(layout, kind, [24, 40, 24], 0));
            cases.push(forward_case(layout, kind, [13_800, 72, 8], 0));
        }
        for size in [[7, 33, 5], [24, 40, 24], [72, 136, 88], [13_800, 72, 8]] {
            cases.push(forward_case(layout, Kind::GeluAlone, size, 0));
        }
        for kind in [Kind::ReluMask, Kind::GeluMask] {
            cases.push(forward_case(layout, kind, [13_800, 72, 8], 0));
        }
        cases.push(case(layout, Kind::Gelu, [16, 37, 300], 1));
        cases.push(case(layout, Kind::BiasResidual, [40, 72, 328], 0));
        cases.push(case(layout, Kind::Relu, [200, 136, 200], 0));
        // Enough blocks without tensor cores to keep them whole, and a ring that is passed twice.
        cases.push(forward_case(layout, Kind::Bias, [1300, 1250, 37], 0));
        // What only f32 has whole chunks of.
        for kind in [Kind::BiasResidual, Kind::SwiGlu] {
            cases.push(case(layout, kind, [72, 140, 20], 0));
        }
    }
    // Wide enough for the large tile.
    cases.push(forward_case(Layout::NT, Kind::Residual, [72, 27_640, 72], 0));
    for size in [[17, 35, 600], [40, 64, 601], [24, 72, 2049], [136, 264, 3100], [13_800, 72, 8]] {
        cases.push(sum(Layout::TN, size));
    }
    for layout in [Layout::NT, Layout::NN] {
        for size in [[7, 33, 5], [24, 40, 24], [72, 72, 24], [24, 72, 2056], [72, 136, 2056], [13_800, 72, 8]] {
            cases.push(sum(layout, size));
        }
    }
    for size in [[8, 33, 5], [10, 40, 24], [25, 40, 24], [73, 136, 88]] {
        cases.push(forward_case(Layout::NT, Kind::SwiGlu, size, 0));
    }
    // Few rows: one, not as many as lanes make, all; and a ring that is passed twice.
    for kind in KINDS {
        cases.push(case(Layout::NT, kind, [9, 40, 24], 0));
    }
    cases.push(forward_case(Layout::NT, Kind::GeluAlone, [9, 40, 24], 0));
    for size in [[1, 8, 8], [16, 72, 1096], [5, 40, 264]] {
        cases.push(forward_case(Layout::NT, Kind::Bias, size, 8));
    }
    for kind in [Kind::BiasResidual, Kind::SwiGlu] {
        cases.push(forward_case(Layout::NT, kind, [3, 37, 44], 4));
    }
    for size in [[9600, 512, 512], [1200, 512, 512], [1200, 1536, 512], [1, 4096, 4096], [4096, 4096, 4096]] {
        cases.push(case(Layout::NT, Kind::Plain, size, 0).bench());
    }
    for kind in [Kind::Relu, Kind::Gelu, Kind::BiasResidual, Kind::SwiGlu] {
        cases.push(case(Layout::NT, kind, [9600, 512, 512], 0).bench());
    }
    cases.push(case(Layout::NN, Kind::Plain, [9600, 512, 512], 0).bench());
    cases.push(sum(Layout::TN, [512, 512, 9600]).bench());
    cases
}
