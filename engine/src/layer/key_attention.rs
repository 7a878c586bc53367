//! Attention of many queries over a few keys, whose logits may each have a bias of their own.
//!
//! The kernel knows no bias. Where there is one, every head gets [`PAD`] more columns: a query holds `sqrt(head_dim)` in the first of
//! them and a key its bias, so that `q . k / sqrt(head_dim)` is the logit with the bias added; values and all else hold 0 there.

use scmmgpt_kernels::attention::{self, Mask};
use scmmgpt_kernels::runtime::{Float, Plan, Real, Stream, Tensor};

use crate::Result;

/// Columns that a bias costs a head: the kernel takes heads of whole multiples of 8.
const PAD: usize = 8;

/// Sizes of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyDims {
    /// Items, each with keys of its own.
    pub items: usize,
    /// Queries an item.
    pub queries: usize,
    /// Keys an item, those that do not count included.
    pub keys: usize,
    /// Heads.
    pub num_heads: usize,
    /// Numbers a head.
    pub head_dim: usize,
    /// Whether logits have biases.
    pub biased: bool,
}

/// Queries, keys, values, and what attention makes of them; in backward, their gradients.
#[derive(Clone, Copy, Debug)]
pub struct Operands<T: Float> {
    /// `[items * queries, num_heads * head_dim]`.
    pub q: Tensor<T>,
    /// `[items * keys, num_heads * head_dim]`.
    pub k: Tensor<T>,
    /// As `k`.
    pub v: Tensor<T>,
    /// As `q`.
    pub context: Tensor<T>,
    /// The same with [`PAD`] more columns a head, where logits have biases.
    wide: Option<[Tensor<T>; 4]>,
}

/// What backward needs from forward.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    /// Sizes.
    pub dims: KeyDims,
    /// `[items]`: keys that count.
    pub key_lengths: Tensor<u32>,
    /// Operands and result.
    pub operands: Operands<T>,
    logsumexp: Tensor<T::Acc>,
}

impl KeyDims {
    fn width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    fn kernel(&self) -> attention::Dims {
        attention::Dims {
            batch: self.items,
            query_len: self.queries,
            key_len: self.keys,
            num_heads: self.num_heads,
            num_kv_heads: self.num_heads,
            head_dim: if self.biased { self.head_dim + PAD } else { self.head_dim },
        }
    }
}

/// Plans the operands, or, under another name, their gradients.
pub fn plan_operands<T: Float>(plan: &mut Plan, name: &str, dims: KeyDims) -> Operands<T> {
    let rows = [dims.items * dims.queries, dims.items * dims.keys];
    plan.under(name, |plan| {
        let mut tensor = |name: &str, rows: usize, width: usize| plan.tensor(name, [rows, width]);
        let mut all = |width: usize| {
            [("q", rows[0]), ("k", rows[1]), ("v", rows[1]), ("context", rows[0])].map(|(name, rows)| tensor(name, rows, width))
        };
        let [q, k, v, context] = all(dims.width());
        let wide = dims.biased.then(|| all(dims.num_heads * (dims.head_dim + PAD)));
        Operands { q, k, v, context, wide }
    })
}

/// Plans a pass; its inputs, which come first, are uploaded or written by the caller.
pub fn plan<T: Float>(plan: &mut Plan, dims: KeyDims) -> Saved<T> {
    let kernel = dims.kernel();
    plan.scratch(attention::scratch::<T>(&kernel));
    Saved {
        dims,
        key_lengths: plan.tensor("key_lengths", [dims.items]),
        operands: plan_operands(plan, "attention", dims),
        logsumexp: plan.tensor("logsumexp", [kernel.batch, kernel.num_heads, kernel.query_len]),
    }
}

impl<T: Float> Saved<T> {
    /// Writes the columns that hold no query, key or value: `bias` is `[items * keys]`. Needed once a batch, where logits have biases.
    ///
    /// # Errors
    /// Those of the upload.
    pub fn upload_bias(&self, stream: &Stream, bias: &[f32]) -> Result<()> {
        let Some([q, k, v, _]) = self.operands.wide else { return Ok(()) };
        let (heads, head_dim) = (self.dims.num_heads, self.dims.head_dim);
        let tails = |first: &dyn Fn(usize) -> f64, rows: usize| -> Vec<T> {
            let mut tails = vec![T::default(); rows * heads * PAD];
            tails.iter_mut().step_by(PAD).enumerate().for_each(|(at, tail)| *tail = T::from_acc(T::Acc::of(first(at / heads))));
            tails
        };
        let root = (head_dim as f64).sqrt();
        stream.upload(self.tails(q), &tails(&|_| root, q.rows()))?;
        stream.upload(self.tails(k), &tails(&|row| f64::from(bias[row]), k.rows()))?;
        stream.zero(self.tails(v));
        Ok(())
    }

    /// A wide tensor a head a row.
    fn by_head(&self, wide: Tensor<T>) -> Tensor<T> {
        wide.reshape([wide.rows() * self.dims.num_heads, self.dims.head_dim + PAD])
    }

    fn heads(&self, wide: Tensor<T>) -> Tensor<T> {
        self.by_head(wide).columns(0, self.dims.head_dim)
    }

    fn tails(&self, wide: Tensor<T>) -> Tensor<T> {
        self.by_head(wide).columns(self.dims.head_dim, PAD)
    }

    fn widen(&self, stream: &Stream, wide: Tensor<T>, narrow: Tensor<T>) -> Result<()> {
        let heads = self.heads(wide);
        Ok(stream.copy(heads, narrow.reshape(heads.shape()))?)
    }

    fn narrow(&self, stream: &Stream, narrow: Tensor<T>, wide: Tensor<T>) -> Result<()> {
        let heads = self.heads(wide);
        Ok(stream.copy(narrow.reshape(heads.shape()), heads)?)
    }

    fn scale(&self) -> f64 {
        1.0 / (self.dims.head_dim as f64).sqrt()
    }

    /// `context = softmax(q k^T / sqrt(head_dim) + bias) v` in every head.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream) -> Result<()> {
        let Operands { q, k, v, context, wide } = self.operands;
        let [wide_q, wide_k, wide_v, out] = wide.unwrap_or([q, k, v, context]);
        if wide.is_some() {
            for (wide, narrow) in [(wide_q, q), (wide_k, k), (wide_v, v)] {
                self.widen(stream, wide, narrow)?;
            }
        }
        let arguments = attention::Forward {
            out,
            logsumexp: self.logsumexp,
            q: wide_q,
            k: wide_k,
            v: wide_v,
            query_lengths: None,
            key_lengths: Some(self.key_lengths),
            mask: Mask::Full,
            scale: self.scale(),
            dropout: None,
            dims: self.dims.kernel(),
        };
        attention::forward(stream, arguments)?;
        if wide.is_some() { self.narrow(stream, context, out) } else { Ok(()) }
    }

    /// From `gradients.context` to the gradients of queries, keys and values; biases are constants.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, stream: &Stream, gradients: &Operands<T>) -> Result<()> {
        let kept = self.operands;
        let [q, k, v, out] = kept.wide.unwrap_or([kept.q, kept.k, kept.v, kept.context]);
        let [dq, dk, dv, dout] = gradients.wide.unwrap_or([gradients.q, gradients.k, gradients.v, gradients.context]);
        if gradients.wide.is_some() {
            stream.zero(self.tails(dout));
            self.widen(stream, dout, gradients.context)?;
        }
        let arguments = attention::Backward {
            dq,
            dk,
            dv,
            dout,
            out,
            logsumexp: self.logsumexp,
            q,
            k,
            v,
            query_lengths: None,
            key_lengths: Some(self.key_lengths),
            mask: Mask::Full,
            scale: self.scale(),
            dropout: None,
            dims: self.dims.kernel(),
        };
        attention::backward(stream, arguments)?;
        if gradients.wide.is_some() {
            for (narrow, wide) in [(gradients.q, dq), (gradients.k, dk), (gradients.v, dv)] {
                self.narrow(stream, narrow, wide)?;
            }
        }
        Ok(())
    }
}
