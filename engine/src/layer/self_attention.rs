//! Multi-head self-attention of a cell: packed projection, fused attention, output projection with the residual.

use scmmgpt_kernels::attention::{self, Mask};
use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::runtime::philox::Site;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_kernels::{dropout, reduce, select};

use super::attend::Attend;
use super::linear::Linear;
use super::{Dims, Pass};
use crate::Result;
use crate::config::ModelConfig;
use crate::weights::{Init, ParameterPlan};

/// Weights of self-attention.
#[derive(Clone, Copy, Debug)]
pub struct SelfAttention<T: Float> {
    /// `[3 * width, width]`: queries, keys and values, heads contiguous inside each.
    pub qkv: Linear<T>,
    /// `[width, width]`.
    pub out: Linear<T>,
    num_heads: usize,
    pub(super) site: u32,
    /// Whether what generated tokens attend to passes `out` too.
    generated_out: bool,
}

/// What backward needs from forward.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    /// `[tokens, 3 * width]`.
    pub qkv: Tensor<T>,
    /// `[tokens, width]`: attention output before the projection.
    pub context: Tensor<T>,
    /// `[batch, num_heads, seq_len]`.
    pub logsumexp: Tensor<T::Acc>,
    /// `[tokens, width]`, where generated tokens pass `out` by: known tokens behind `out`, generated ones as they are.
    selected: Option<Tensor<T>>,
}

/// Gradients on their way, shared by all layers.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    /// `[tokens, 3 * width]`.
    pub qkv: Tensor<T>,
    /// As `qkv`: the gradient from another pass that has read this layer's `qkv`.
    pub qkv_elsewhere: Option<Tensor<T>>,
    /// `[tokens, width]`.
    pub context: Tensor<T>,
    /// `[tokens, width]`, each, where generated tokens pass `out` by: of the known tokens behind and before it.
    pub(super) known: Option<[Tensor<T>; 2]>,
}

impl<T: Float> SelfAttention<T> {
    /// Declares `self_attn.Wqkv` and `self_attn.out_proj`; `site` numbers its two dropouts.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &ModelConfig, site: u32) -> Self {
        let ModelConfig { hidden_size: width, num_attention_heads: num_heads, generated_out_proj: generated_out, .. } = *config;
        plan.under("self_attn", |plan| {
            let qkv = Linear {
                weight: plan.parameter("Wqkv.weight", [3 * width, width], Init::Uniform((6.0 / (4 * width) as f64).sqrt())),
                bias: Some(plan.parameter("Wqkv.bias", [3 * width], Init::Zeros)),
            };
            let out = Linear {
                weight: plan.parameter("out_proj.weight", [width, width], Init::linear(width)),
                bias: Some(plan.parameter("out_proj.bias", [width], Init::Zeros)),
            };
            SelfAttention { qkv, out, num_heads, site, generated_out }
        })
    }

    /// Declares `attention.self.{query,key,value}`, packed, and `attention.output.dense`, as BERT names them; `site` numbers its two
    /// dropouts.
    pub fn declare_bert(plan: &mut ParameterPlan<T>, width: usize, num_heads: usize, site: u32) -> Self {
        plan.under("attention", |plan| SelfAttention {
            qkv: Linear::declare_packed(plan, &["query", "key", "value"].map(|name| format!("self.{name}")), width, width),
            out: Linear::declare_bert(plan, "output.dense", width, width),
            num_heads,
            site,
            generated_out: true,
        })
    }

    pub(super) fn width(&self) -> usize {
        self.out.weight.value.width()
    }

    pub(super) fn dims(&self, dims: Dims) -> attention::Dims {
        attention::Dims {
            batch: dims.batch,
            query_len: dims.seq_len,
            key_len: dims.seq_len,
            num_heads: self.num_heads,
            num_kv_heads: self.num_heads,
            head_dim: self.width() / self.num_heads,
        }
    }

    /// Plans what forward keeps.
    pub fn plan(&self, plan: &mut Plan, dims: Dims) -> Saved<T> {
        let (tokens, width) = (dims.tokens(), self.width());
        plan.scratch(attention::scratch::<T>(&self.dims(dims)));
        self.qkv.plan(plan, tokens);
        plan.under("self_attn", |plan| Saved {
            qkv: plan.tensor("qkv", [tokens, 3 * width]),
            context: plan.tensor("context", [tokens, width]),
            logsumexp: plan.tensor("logsumexp", [dims.batch, self.num_heads, dims.seq_len]),
            selected: (!self.generated_out).then(|| plan.tensor("selected", [tokens, width])),
        })
    }

    /// Plans what backward passes through; one for all layers.
    pub fn plan_gradients(&self, plan: &mut Plan, dims: Dims) -> Gradients<T> {
        let (tokens, width) = (dims.tokens(), self.width());
        Gradients {
            qkv: plan.tensor("dqkv", [tokens, 3 * width]),
            qkv_elsewhere: None,
            context: plan.tensor("dcontext", [tokens, width]),
            known: (!self.generated_out).then(|| ["dknown", "dknown_context"].map(|name| plan.tensor(name, [tokens, width]))),
        }
    }

    fn attend(&self, pass: &Pass, saved: &Saved<T>) -> Attend<T> {
        let [q, k, v] = self.thirds(saved.qkv);
        Attend {
            out: saved.context,
            logsumexp: saved.logsumexp,
            q,
            k,
            v,
            query_lengths: Some(pass.lengths),
            key_lengths: Some(pass.lengths),
            mask: pass.known_lengths.map_or(Mask::Full, |known_lengths| Mask::Prefix { known_lengths }),
            dropout: pass.attention_dropout_at(self.site),
            dims: self.dims(pass.dims),
        }
    }

    /// Queries, keys and values.
    pub(super) fn thirds(&self, qkv: Tensor<T>) -> [Tensor<T>; 3] {
        let width = self.width();
        [0, width, 2 * width].map(|start| qkv.columns(start, width))
    }

    /// `sum = x + dropout(out_proj(attention(qkv(x))))`; `projected` is needed only with dropout. Without `generated_out_proj`, generated
    /// tokens do without `out_proj`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(
        &self,
        stream: &Stream,
        pass: &Pass,
        saved: &Saved<T>,
        sum: Tensor<T>,
        projected: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        self.qkv.forward(stream, saved.qkv, x)?;
        self.attend(pass, saved).forward(stream)?;
        let Some((selected, lengths)) = saved.selected.zip(pass.known_lengths) else {
            return residual_dropout(stream, pass, self.site + 1, &self.out, sum, projected, saved.context, x);
        };
        self.out.forward(stream, sum, saved.context)?;
        let (head, tail, seq_len) = (Some(sum), Some(saved.context), pass.dims.seq_len);
        select::forward(stream, select::Forward { y: selected, head, tail, lengths, seq_len })?;
        add_dropped(stream, pass, self.site + 1, sum, selected, x)
    }

    /// From `dsum` to `dx = dsum + d(branch)`, with `dbranch` as working space.
    ///
    /// # Errors
    /// Those of the kernels.
    #[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
    pub fn backward(
        &self,
        stream: &Stream,
        pass: &Pass,
        saved: &Saved<T>,
        gradients: &Gradients<T>,
        dx: Tensor<T>,
        dbranch: Tensor<T>,
        dsum: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let dprojected = dropped(stream, pass, self.site + 1, dbranch, dsum)?;
        if let Some(([known, known_context], lengths)) = gradients.known.zip(pass.known_lengths) {
            let seq_len = pass.dims.seq_len;
            select::forward(stream, select::Forward { y: known, head: Some(dprojected), tail: None, lengths, seq_len })?;
            self.out.backward(stream, Some((known_context, Epilogue::None)), known, saved.context)?;
            let (head, tail) = (Some(known_context), Some(dprojected));
            select::forward(stream, select::Forward { y: gradients.context, head, tail, lengths, seq_len })?;
        } else {
            self.out.backward(stream, Some((gradients.context, Epilogue::None)), dprojected, saved.context)?;
        }
        self.attend(pass, saved).backward(stream, self.thirds(gradients.qkv), gradients.context)?;
        if let Some(elsewhere) = gradients.qkv_elsewhere {
            reduce::add_assign(stream, reduce::AddAssign { y: gradients.qkv, x: elsewhere })?;
        }
        self.qkv.backward(stream, Some((dx, Epilogue::Residual { residual: dsum })), gradients.qkv, x)
    }
}

/// `sum = residual + dropout(x)`.
fn add_dropped<T: Float>(stream: &Stream, pass: &Pass, site: u32, sum: Tensor<T>, x: Tensor<T>, residual: Tensor<T>) -> Result<()> {
    // A dropout of 0 is a sum.
    let (probability, site) = pass.dropout_at(site).unwrap_or((0.0, Site { seed: 0, step: 0, site }));
    Ok(dropout::forward(stream, dropout::Forward { y: sum, x, residual: Some(residual), probability, site })?)
}

/// `sum = residual + dropout(linear(input))`: one fused product without dropout, two passes with it.
///
/// # Errors
/// Those of the kernels.
#[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
pub(super) fn residual_dropout<T: Float>(
    stream: &Stream,
    pass: &Pass,
    site: u32,
    linear: &Linear<T>,
    sum: Tensor<T>,
    projected: Tensor<T>,
    input: Tensor<T>,
    residual: Tensor<T>,
) -> Result<()> {
    let Some((probability, site)) = pass.dropout_at(site) else {
        let epilogue = match linear.bias {
            Some(bias) => Epilogue::BiasResidual { bias: bias.value, residual },
            None => Epilogue::Residual { residual },
        };
        return linear.forward_with(stream, sum, input, epilogue);
    };
    linear.forward(stream, projected, input)?;
    Ok(dropout::forward(stream, dropout::Forward { y: sum, x: projected, residual: Some(residual), probability, site })?)
}

/// The gradient before a dropout: `dy` itself without dropout, else masked into `target`.
///
/// # Errors
/// Those of the kernel.
pub(super) fn dropped<T: Float>(stream: &Stream, pass: &Pass, site: u32, target: Tensor<T>, dy: Tensor<T>) -> Result<Tensor<T>> {
    let Some((probability, site)) = pass.dropout_at(site) else { return Ok(dy) };
    dropout::backward(stream, dropout::Backward { dx: target, dy, probability, site })?;
    Ok(target)
}
