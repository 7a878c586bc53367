//! Causal self-attention behind a prefix: each row sees its own past and, before that, rows of another pass through the same weights.

use scmmgpt_kernels::attention::{self, Mask};
use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use super::Pass;
use super::attend::Attend;
use super::rows::Rows;
use super::self_attention::{SelfAttention, dropped, residual_dropout};
use crate::Result;

/// The rows that come before, as the other pass has projected them.
#[derive(Clone, Copy, Debug)]
pub struct Prefix<T: Float> {
    /// `[items * prefix, 3 * width]`: what the other pass keeps as `qkv`.
    pub qkv: Tensor<T>,
    /// `[items]`: rows of the prefix and unpadded rows of the text, together.
    pub key_lengths: Tensor<u32>,
    /// Rows of the prefix (as `queries`) and of the text.
    pub rows: Rows,
}

/// What backward needs from forward; rows are those of the text unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    prefix: Prefix<T>,
    qkv: Tensor<T>,
    /// `[items * (prefix + text), 3 * width]`.
    joined: Tensor<T>,
    context: Tensor<T>,
    logsumexp: Tensor<T::Acc>,
}

/// Gradients on their way, shared by all layers.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    qkv: Tensor<T>,
    joined: Tensor<T>,
    q: Tensor<T>,
    context: Tensor<T>,
}

impl<T: Float> Saved<T> {
    /// Rows of the prefix and of the text.
    pub(super) fn rows(&self) -> &Rows {
        &self.prefix.rows
    }
}

impl<T: Float> SelfAttention<T> {
    fn prefixed_dims(&self, rows: &Rows) -> attention::Dims {
        attention::Dims { query_len: rows.text, ..self.dims(rows.dims()) }
    }

    /// Plans what [`SelfAttention::forward_prefixed`] keeps.
    pub fn plan_prefixed(&self, plan: &mut Plan, prefix: Prefix<T>) -> Saved<T> {
        let rows = &prefix.rows;
        let (text, width, dims) = (rows.text_rows(), self.width(), self.prefixed_dims(rows));
        plan.scratch(attention::scratch::<T>(&dims));
        self.qkv.plan(plan, text);
        plan.under("self_attn", |plan| Saved {
            prefix,
            qkv: plan.tensor("qkv", [text, 3 * width]),
            joined: plan.tensor("joined", [rows.dims().tokens(), 3 * width]),
            context: plan.tensor("context", [text, width]),
            logsumexp: plan.tensor("logsumexp", [dims.batch, dims.num_heads, dims.query_len]),
        })
    }

    /// Plans what backward passes through; one for all layers.
    pub fn plan_prefixed_gradients(&self, plan: &mut Plan, rows: &Rows) -> Gradients<T> {
        let (text, width) = (rows.text_rows(), self.width());
        Gradients {
            qkv: plan.tensor("dqkv", [text, 3 * width]),
            joined: plan.tensor("djoined", [rows.dims().tokens(), 3 * width]),
            q: plan.tensor("dq", [text, width]),
            context: plan.tensor("dcontext", [text, width]),
        }
    }

    fn attend_prefixed(&self, pass: &Pass, saved: &Saved<T>) -> Attend<T> {
        let ([q, ..], [_, k, v]) = (self.thirds(saved.qkv), self.thirds(saved.joined));
        Attend {
            out: saved.context,
            logsumexp: saved.logsumexp,
            q,
            k,
            v,
            query_lengths: Some(pass.lengths),
            key_lengths: Some(saved.prefix.key_lengths),
            mask: Mask::Causal,
            dropout: pass.attention_dropout_at(self.site),
            dims: self.prefixed_dims(&saved.prefix.rows),
        }
    }

    /// As [`SelfAttention::forward`] for the text rows, with the prefix in front of their keys and values.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward_prefixed(
        &self,
        stream: &Stream,
        pass: &Pass,
        saved: &Saved<T>,
        sum: Tensor<T>,
        projected: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        self.qkv.forward(stream, saved.qkv, x)?;
        // Queries of the prefix are copied too, and read by nobody: keys and values alone are not contiguous.
        saved.prefix.rows.join(stream, saved.joined, saved.prefix.qkv, saved.qkv)?;
        self.attend_prefixed(pass, saved).forward(stream)?;
        residual_dropout(stream, pass, self.site + 1, &self.out, sum, projected, saved.context, x)
    }

    /// As [`SelfAttention::backward`] for the text rows; `dprefix`, as the prefix's `qkv`, is overwritten with the prefix's gradient.
    ///
    /// # Errors
    /// Those of the kernels.
    #[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
    pub fn backward_prefixed(
        &self,
        stream: &Stream,
        pass: &Pass,
        saved: &Saved<T>,
        gradients: &Gradients<T>,
        dprefix: Tensor<T>,
        dx: Tensor<T>,
        dbranch: Tensor<T>,
        dsum: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let g = gradients;
        let dprojected = dropped(stream, pass, self.site + 1, dbranch, dsum)?;
        self.out.backward(stream, Some((g.context, Epilogue::None)), dprojected, saved.context)?;
        let ([dq, ..], [unread, dk, dv]) = (self.thirds(g.qkv), self.thirds(g.joined));
        stream.zero(unread);
        self.attend_prefixed(pass, saved).backward(stream, [g.q, dk, dv], g.context)?;
        saved.prefix.rows.split(stream, dprefix, g.qkv, g.joined)?;
        stream.copy(dq, g.q)?;
        self.qkv.backward(stream, Some((dx, Epilogue::Residual { residual: dsum })), g.qkv, x)
    }
}
