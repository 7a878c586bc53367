//! Launches of the matrix products: which text a call takes, and its grid.

use super::emit::{Finish, Stored};
use super::{Accumulate, Epilogue, Forward, Layout, emit_simt};
use crate::runtime::{CudaStream, Element, Float, Tensor, emit};
use crate::{Error, Result};

/// Both operands and the matrix that their product goes to.
struct Product<T: Float, C: Element> {
    c: Tensor<C>,
    a: Tensor<T>,
    b: Tensor<T>,
    layout: Layout,
    finish: Finish,
    bias: Option<Tensor<T>>,
    other: Option<Tensor<T>>,
}

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let (finish, bias, other) = match args.epilogue {
        Epilogue::None => (Finish::None, None, None),
        Epilogue::Bias { bias } => (Finish::Bias, Some(bias), None),
        Epilogue::BiasRelu { bias } => (Finish::BiasRelu, Some(bias), None),
        Epilogue::BiasGelu { bias, pre_activation: None } => (Finish::BiasGelu, Some(bias), None),
        Epilogue::BiasGelu { bias, pre_activation } => (Finish::BiasGeluKept, Some(bias), pre_activation),
        Epilogue::BiasResidual { bias, residual } => (Finish::BiasResidual, Some(bias), Some(residual)),
        Epilogue::Residual { residual } => (Finish::Residual, None, Some(residual)),
        Epilogue::ReluMask { output } => (Finish::ReluMask, None, Some(output)),
        Epilogue::GeluMask { pre_activation } => (Finish::GeluMask, None, Some(pre_activation)),
    };
    let Forward { c, a, b, layout, .. } = args;
    Product { c, a, b, layout, finish, bias, other }.launch(stream, op)
}

pub(super) fn accumulate<T: Float>(stream: &CudaStream, op: &'static str, args: Accumulate<T>) -> Result<()> {
    let Accumulate { c, a, b, layout } = args;
    Product { c, a, b, layout, finish: Finish::Accumulate, bias: None, other: None }.launch(stream, op)
}

impl<T: Float, C: Element> Product<T, C> {
    fn launch(self, stream: &CudaStream, op: &'static str) -> Result<()> {
        let stored = match T::NAME {
            "f32" => Stored::F32,
            "bf16" => Stored::Bf16,
            element => return Err(Error::NoCudaKernel { op, element }),
        };
        let (m, n) = (self.c.rows(), self.c.width());
        let k = if self.layout == Layout::TN { self.a.rows() } else { self.a.width() };
        let entry = emit_simt::entry(stored, self.layout, self.finish);
        let text = emit::kept(&entry, || emit_simt::text(stored, self.layout, self.finish));
        let grid = [n.div_ceil(emit_simt::TILE) as u32, m.div_ceil(emit_simt::TILE) as u32, 1];
        let mut launch = stream.launch(text, entry, grid, emit_simt::THREADS as u32);
        launch = launch.write("c", self.c).read("a", self.a).read("b", self.b);
        if let Some(bias) = self.bias {
            launch = launch.read("bias", bias);
        }
        if let (Some(name), Some(other)) = (self.finish.other(), self.other) {
            launch = if self.finish.reads_other() { launch.read(name, other) } else { launch.write(name, other) };
        }
        launch = launch.value("m", m as u32).value("n", n as u32).value("k", k as u32);
        launch = launch.value("c_stride", self.c.row_stride() as u32);
        launch = launch.value("a_stride", self.a.row_stride() as u32).value("b_stride", self.b.row_stride() as u32);
        if let Some(other) = self.other {
            launch = launch.value("other_stride", other.row_stride() as u32);
        }
        launch.submit()
    }
}
