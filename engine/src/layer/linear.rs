//! `y = x W^T + b`, with the epilogues that its neighbours fuse into it.

use scmmgpt_kernels::gemm::{self, Epilogue, Layout};
use scmmgpt_kernels::reduce;
use scmmgpt_kernels::runtime::{Float, Plan, Shape, Stream, Tensor};

use crate::Result;
use crate::weights::{Init, Parameter, ParameterPlan};

/// How BERT's matrices and tables start.
pub const BERT_INIT: Init = Init::Normal(0.02);
/// How Llama's matrices and tables start.
pub const LLAMA_INIT: Init = Init::Normal(0.02);

/// Weights of a linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Linear<T: Float> {
    /// `[output, input]`.
    pub weight: Parameter<T>,
    /// `[output]`.
    pub bias: Option<Parameter<T>>,
}

impl<T: Float> Linear<T> {
    /// Declares `name.weight` and `name.bias` with PyTorch's default initialisation.
    pub fn declare(plan: &mut ParameterPlan<T>, name: impl std::fmt::Display, input: usize, output: usize, bias: bool) -> Self {
        plan.under(name, |plan| Linear {
            weight: plan.parameter("weight", [output, input], Init::linear(input)),
            bias: bias.then(|| plan.parameter("bias", [output], Init::linear(input))),
        })
    }

    /// Declares `name.weight` and `name.bias` with BERT's initialisation: normal weights, no bias.
    pub fn declare_bert(plan: &mut ParameterPlan<T>, name: &str, input: usize, output: usize) -> Self {
        Self::declare_packed(plan, &[name.to_string()], input, output)
    }

    /// Declares several layers `NAME.weight`, `[output, input]`, and `NAME.bias` as one of `names * output` outputs, with BERT's
    /// initialisation.
    pub fn declare_packed(plan: &mut ParameterPlan<T>, names: &[String], input: usize, output: usize) -> Self {
        let all = |end: &str, shape: Shape| names.iter().map(|name| (format!("{name}.{end}"), shape)).collect::<Vec<_>>();
        Linear {
            weight: plan.packed(&all("weight", [output, input].into()), BERT_INIT),
            bias: Some(plan.packed(&all("bias", [output].into()), Init::Zeros)),
        }
    }

    /// Declares several layers `NAME.weight`, `[output, input]` each with its own number of outputs, as one without bias, with Llama's
    /// initialisation.
    pub fn declare_llama(plan: &mut ParameterPlan<T>, outputs: &[(&str, usize)], input: usize) -> Self {
        let parts: Vec<(String, Shape)> =
            outputs.iter().map(|(name, output)| (format!("{name}.weight"), [*output, input].into())).collect();
        Linear { weight: plan.packed(&parts, LLAMA_INIT), bias: None }
    }

    /// States the scratch that [`Linear::backward`] needs for `rows` rows.
    pub fn plan(&self, plan: &mut Plan, rows: usize) {
        let [output, input] = [self.weight.value.rows(), self.weight.value.width()];
        plan.scratch(reduce::scratch::<T>(rows, output));
        plan.scratch(gemm::scratch::<T>(output, input, rows));
    }

    /// `y = x W^T + b`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn forward(&self, stream: &Stream, y: Tensor<T>, x: Tensor<T>) -> Result<()> {
        let epilogue = self.bias.map_or(Epilogue::None, |bias| Epilogue::Bias { bias: bias.value });
        self.forward_with(stream, y, x, epilogue)
    }

    /// `y = epilogue(x W^T)`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn forward_with(&self, stream: &Stream, y: Tensor<T>, x: Tensor<T>, epilogue: Epilogue<T>) -> Result<()> {
        Ok(gemm::forward(stream, gemm::Forward { c: y, a: x, b: self.weight.value, layout: Layout::NT, epilogue })?)
    }

    /// Parameter gradients `dW += dy^T x`, `db += sum_rows(dy)`, then `dx = epilogue(dy W)` when `dx` is wanted.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, stream: &Stream, dx: Option<(Tensor<T>, Epilogue<T>)>, dy: Tensor<T>, x: Tensor<T>) -> Result<()> {
        if let Some(gradient) = self.weight.gradient {
            gemm::accumulate(stream, gemm::Accumulate { c: gradient, a: dy, b: x, layout: Layout::TN })?;
        }
        if let Some(gradient) = self.bias.and_then(|bias| bias.gradient) {
            reduce::column_sum(stream, reduce::ColumnSum { sum: gradient, x: dy })?;
        }
        if let Some((dx, epilogue)) = dx {
            gemm::forward(stream, gemm::Forward { c: dx, a: dy, b: self.weight.value, layout: Layout::NN, epilogue })?;
        }
        Ok(())
    }
}
