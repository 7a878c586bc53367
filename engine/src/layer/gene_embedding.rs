//! The input of the cell encoder: gene embedding plus value embedding, fused.
//!
//! The weights are those of scGPT's `encoder`, `value_encoder` and `flag_encoder`.

use scmmgpt_kernels::gene_embedding::{self as kernel, Generated, Method, Tables};
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use super::linear::Linear;
use super::norm::Norm;
use super::{Dims, Pass};
use crate::Result;
use crate::config::ModelConfig;
use crate::weights::{Init, Parameter, ParameterPlan};

/// Weights of the input layer.
#[derive(Clone, Copy, Debug)]
pub struct GeneEmbedding<T: Float> {
    table: Parameter<T>,
    gene_norm: Norm<T>,
    linear1: Linear<T>,
    linear2: Linear<T>,
    value_norm: Norm<T>,
    flag: Parameter<T>,
    tables: Tables<T::Acc>,
    max_value: f64,
    method: Method,
}

/// What backward needs from forward.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    statistics: kernel::Saved<T>,
    /// `[tokens, width]`: normalised gene embedding, where a head reads it.
    pub gene: Option<Tensor<T>>,
    /// `[tokens, width]`: the sum.
    pub output: Tensor<T>,
}

/// A batch as the input layer reads it.
#[derive(Clone, Copy, Debug)]
pub struct Input<T: Float> {
    /// `[tokens]`: gene tokens.
    pub gene_ids: Tensor<u32>,
    /// `[tokens]`: expression values.
    pub values: Tensor<T::Acc>,
}

impl<T: Float> GeneEmbedding<T> {
    /// Declares the input layer under scGPT's names.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &ModelConfig) -> Self {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let table = plan.parameter("encoder.embedding.weight", [config.vocab_size, width], Init::Uniform(0.1));
        GeneEmbedding {
            table,
            gene_norm: Norm::declare(plan, "encoder.enc_norm", width, eps),
            linear1: Linear::declare(plan, "value_encoder.linear1", 1, width, true),
            linear2: Linear::declare(plan, "value_encoder.linear2", width, width, true),
            value_norm: Norm::declare(plan, "value_encoder.norm", width, eps),
            flag: plan.parameter("flag_encoder.weight", [2, width], Init::Normal(1.0)),
            tables: kernel::plan_tables(plan.derived(), width),
            max_value: config.max_value,
            method: Method::Piecewise,
        }
    }

    fn parameters(&self) -> kernel::Parameters<T> {
        let bias = |linear: &Linear<T>| linear.bias.map_or(linear.weight.value, |bias| bias.value);
        kernel::Parameters {
            table: self.table.value,
            gene_weight: self.gene_norm.weight.value,
            gene_bias: self.gene_norm.bias.value,
            linear1_weight: self.linear1.weight.value,
            linear1_bias: bias(&self.linear1),
            linear2_weight: self.linear2.weight.value,
            linear2_bias: bias(&self.linear2),
            value_weight: self.value_norm.weight.value,
            value_bias: self.value_norm.bias.value,
            flag: Some(self.flag.value),
        }
    }

    /// Rebuilds the piecewise-linear tables; needed whenever the weights have changed.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn refresh(&self, stream: &Stream) -> Result<()> {
        Ok(kernel::build_tables(stream, self.parameters(), self.tables)?)
    }

    /// Plans what forward keeps; `gene` when a head reads the gene embedding.
    pub fn plan(&self, plan: &mut Plan, dims: Dims, gene: bool) -> Saved<T> {
        let (tokens, width) = (dims.tokens(), self.gene_norm.weight.value.len());
        plan.scratch(kernel::scratch::<T>(tokens, width, self.method));
        plan.under("embedding", |plan| Saved {
            statistics: kernel::Saved {
                gene_mean: plan.tensor("gene_mean", [tokens]),
                gene_rstd: plan.tensor("gene_rstd", [tokens]),
                value_mean: plan.tensor("value_mean", [tokens]),
                value_rstd: plan.tensor("value_rstd", [tokens]),
            },
            gene: gene.then(|| plan.tensor("gene", [tokens, width])),
            output: plan.tensor("output", [tokens, width]),
        })
    }

    fn generated(pass: &Pass) -> Option<Generated> {
        pass.known_lengths.map(|known_lengths| Generated { known_lengths, seq_len: pass.dims.seq_len })
    }

    /// Writes `saved.output` (and `saved.gene`).
    ///
    /// # Errors
    /// Those of the kernel; `Index` when a gene token is outside the table.
    pub fn forward(&self, stream: &Stream, pass: &Pass, saved: &Saved<T>, input: Input<T>) -> Result<()> {
        let arguments = kernel::Forward {
            y: saved.output,
            gene: saved.gene,
            saved: saved.statistics,
            ids: input.gene_ids,
            values: input.values,
            generated: Self::generated(pass),
            parameters: self.parameters(),
            tables: self.tables,
            clamp: self.max_value,
            eps: self.gene_norm.eps,
            dropout: pass.dropout_at(0),
            method: self.method,
        };
        Ok(kernel::forward(stream, arguments)?)
    }

    /// The parameters' gradients from `dy` and, where a head reads the gene embedding, `dgene`. `padding_id` gets none.
    ///
    /// # Errors
    /// Those of the kernel.
    #[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
    pub fn backward(
        &self,
        stream: &Stream,
        pass: &Pass,
        saved: &Saved<T>,
        dy: Tensor<T>,
        dgene: Option<Tensor<T>>,
        input: Input<T>,
        padding_id: u32,
    ) -> Result<()> {
        let bias = |linear: &Linear<T>| linear.bias.and_then(|bias| bias.gradient);
        let arguments = kernel::Backward {
            gradients: kernel::Gradients {
                table: self.table.gradient,
                gene_weight: self.gene_norm.weight.gradient,
                gene_bias: self.gene_norm.bias.gradient,
                linear1_weight: self.linear1.weight.gradient,
                linear1_bias: bias(&self.linear1),
                linear2_weight: self.linear2.weight.gradient,
                linear2_bias: bias(&self.linear2),
                value_weight: self.value_norm.weight.gradient,
                value_bias: self.value_norm.bias.gradient,
                flag: self.flag.gradient.filter(|_| pass.known_lengths.is_some()),
            },
            dy,
            dgene,
            saved: saved.statistics,
            ids: input.gene_ids,
            values: input.values,
            generated: Self::generated(pass),
            parameters: self.parameters(),
            tables: self.tables,
            clamp: self.max_value,
            dropout: pass.dropout_at(0),
            method: self.method,
            padding_id: Some(padding_id),
        };
        Ok(kernel::backward(stream, arguments)?)
    }
}
