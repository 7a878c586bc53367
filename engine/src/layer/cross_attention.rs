//! Attention of query rows over the tokens of a cell; keys and values are projected elsewhere, for all layers at once.

use scmmgpt_kernels::attention::{self, Mask};
use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use super::attend::Attend;
use super::linear::Linear;
use super::self_attention::{dropped, residual_dropout};
use super::{Dims, Pass};
use crate::Result;
use crate::weights::ParameterPlan;

/// Weights of cross-attention, without those of its keys and values.
#[derive(Clone, Copy, Debug)]
pub struct CrossAttention<T: Float> {
    query: Linear<T>,
    out: Linear<T>,
    num_heads: usize,
    site: u32,
}

/// What one layer's rows look at: keys `columns(0, width)`, values `columns(width, width)`.
#[derive(Clone, Copy, Debug)]
pub struct Keys<T: Float> {
    /// `[cells * seq_len, 2 * width]`: keys and values; columns of a wider matrix.
    pub kv: Tensor<T>,
    /// Cells and their tokens. The query rows of one cell follow each other, however many items they belong to.
    pub cells: Dims,
    /// `[cells]`: tokens that count.
    pub lengths: Tensor<u32>,
}

/// What backward needs from forward.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    keys: Keys<T>,
    q: Tensor<T>,
    context: Tensor<T>,
    logsumexp: Tensor<T::Acc>,
}

/// Gradients on their way, shared by all layers.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    q: Tensor<T>,
    context: Tensor<T>,
}

impl<T: Float> CrossAttention<T> {
    /// Declares `crossattention.self.query` and `crossattention.output.dense`; `site` numbers its two dropouts.
    pub fn declare(plan: &mut ParameterPlan<T>, width: usize, num_heads: usize, site: u32) -> Self {
        plan.under("crossattention", |plan| CrossAttention {
            query: Linear::declare_bert(plan, "self.query", width, width),
            out: Linear::declare_bert(plan, "output.dense", width, width),
            num_heads,
            site,
        })
    }

    fn width(&self) -> usize {
        self.out.weight.value.width()
    }

    fn dims(&self, rows: usize, cells: Dims) -> attention::Dims {
        attention::Dims {
            batch: cells.batch,
            query_len: rows / cells.batch,
            key_len: cells.seq_len,
            num_heads: self.num_heads,
            num_kv_heads: self.num_heads,
            head_dim: self.width() / self.num_heads,
        }
    }

    /// Plans what forward keeps for `rows` query rows, equally many of each cell.
    pub fn plan(&self, plan: &mut Plan, rows: usize, keys: Keys<T>) -> Saved<T> {
        let (width, dims) = (self.width(), self.dims(rows, keys.cells));
        plan.scratch(attention::scratch::<T>(&dims));
        self.query.plan(plan, rows);
        plan.under("crossattention", |plan| Saved {
            keys,
            q: plan.tensor("q", [rows, width]),
            context: plan.tensor("context", [rows, width]),
            logsumexp: plan.tensor("logsumexp", [dims.batch, dims.num_heads, dims.query_len]),
        })
    }

    /// Plans what backward passes through; one for all layers.
    pub fn plan_gradients(&self, plan: &mut Plan, rows: usize) -> Gradients<T> {
        let width = self.width();
        Gradients { q: plan.tensor("dq", [rows, width]), context: plan.tensor("dcontext", [rows, width]) }
    }

    fn attend(&self, pass: &Pass, saved: &Saved<T>) -> Attend<T> {
        let (keys, [k, v]) = (&saved.keys, self.halves(saved.keys.kv));
        Attend {
            out: saved.context,
            logsumexp: saved.logsumexp,
            q: saved.q,
            k,
            v,
            query_lengths: None,
            key_lengths: Some(keys.lengths),
            mask: Mask::Full,
            dropout: pass.attention_dropout_at(self.site),
            dims: self.dims(saved.q.rows(), keys.cells),
        }
    }

    /// Keys and values.
    fn halves(&self, kv: Tensor<T>) -> [Tensor<T>; 2] {
        [0, self.width()].map(|start| kv.columns(start, self.width()))
    }

    /// `sum = x + dropout(out(attention(query(x), keys, values)))`; `projected` is needed only with dropout.
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
        self.query.forward(stream, saved.q, x)?;
        self.attend(pass, saved).forward(stream)?;
        residual_dropout(stream, pass, self.site + 1, &self.out, sum, projected, saved.context, x)
    }

    /// From `dsum` to `dx = dsum + d(branch)` and to `dkv`, as the keys' `kv`, overwritten; `dbranch` is working space.
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
        dkv: Tensor<T>,
        dx: Tensor<T>,
        dbranch: Tensor<T>,
        dsum: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let dprojected = dropped(stream, pass, self.site + 1, dbranch, dsum)?;
        self.out.backward(stream, Some((gradients.context, Epilogue::None)), dprojected, saved.context)?;
        let [dk, dv] = self.halves(dkv);
        self.attend(pass, saved).backward(stream, [gradients.q, dk, dv], gradients.context)?;
        self.query.backward(stream, Some((dx, Epilogue::Residual { residual: dsum })), gradients.q, x)
    }
}
