//! Attention of many queries over a few keys, whose logits may each have a bias of their own.
//!
//! The kernel knows no bias. Where there is one, every head gets 8 more columns: a query holds `sqrt(head_dim)` in the first of
//! them and a key its bias, so that `q . k / sqrt(head_dim)` is the logit with the bias added; values and all else hold 0 there.

use scmmgpt_kernels::attention::{self, Mask};
use scmmgpt_kernels::reduce;
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
    /// What those columns hold of a query and of a key, `[rows * heads, PAD]`.
    tails: Option<[Tensor<T>; 2]>,
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
        Operands { q, k, v, context, wide, tails: None }
    })
}

/// Plans a pass; its inputs, which come first, are uploaded or written by the caller.
pub fn plan<T: Float>(plan: &mut Plan, dims: KeyDims) -> Saved<T> {
    let kernel = dims.kernel();
    plan.scratch(attention::scratch::<T>(&kernel));
    let key_lengths = plan.tensor("key_lengths", [dims.items]);
    let rows = [("query_tails", dims.queries), ("key_tails", dims.keys)];
    let tails = rows.map(|(name, rows)| (name, [dims.items * rows * dims.num_heads, PAD]));
    let tails = dims.biased.then(|| tails.map(|(name, shape)| plan.tensor(name, shape)));
    Saved {
        dims,
        key_lengths,
        operands: Operands { tails, ..plan_operands(plan, "attention", dims) },
        logsumexp: plan.tensor("logsumexp", [kernel.batch, kernel.num_heads, kernel.query_len]),
    }
}

impl<T: Float> Saved<T> {
    /// Uploads what the columns hold that no query or key has: `bias` is `[items * keys]`. Needed once a batch, where logits have biases.
    ///
    /// # Errors
    /// Those of the upload.
    pub fn upload_bias(&self, stream: &Stream, bias: &[f32]) -> Result<()> {
        let Some([queries, keys]) = self.operands.tails else { return Ok(()) };
        let heads = self.dims.num_heads;
        let tails = |first: &dyn Fn(usize) -> f64, tensor: Tensor<T>| {
            let mut tails = vec![T::default(); tensor.len()];
            tails.iter_mut().step_by(PAD).enumerate().for_each(|(at, tail)| *tail = T::from_acc(T::Acc::of(first(at / heads))));
            stream.upload(tensor, &tails)
        };
        let root = (self.dims.head_dim as f64).sqrt();
        tails(&|_| root, queries)?;
        Ok(tails(&|row| f64::from(bias[row]), keys)?)
    }

    /// A wide tensor a head a row: the columns of the head, and those behind them.
    fn by_head(&self, wide: Tensor<T>) -> [Tensor<T>; 2] {
        let (head_dim, rows) = (self.dims.head_dim, wide.rows() * self.dims.num_heads);
        let heads = wide.reshape([rows, head_dim + PAD]);
        [heads.columns(0, head_dim), heads.columns(head_dim, PAD)]
    }

    fn widen(&self, stream: &Stream, wide: Tensor<T>, narrow: Tensor<T>, tails: Option<Tensor<T>>) -> Result<()> {
        let [heads, behind] = self.by_head(wide);
        // Added to zeros, which is one call for all rows, whatever their distance.
        stream.zero(wide);
        reduce::add_assign(stream, reduce::AddAssign { y: heads, x: narrow.reshape(heads.shape()) })?;
        Ok(tails.map_or(Ok(()), |x| reduce::add_assign(stream, reduce::AddAssign { y: behind, x }))?)
    }

    fn narrow(&self, stream: &Stream, narrow: Tensor<T>, wide: Tensor<T>) -> Result<()> {
        let [x, _] = self.by_head(wide);
        stream.zero(narrow);
        Ok(reduce::add_assign(stream, reduce::AddAssign { y: narrow.reshape(x.shape()), x })?)
    }

    fn scale(&self) -> f64 {
        1.0 / (self.dims.head_dim as f64).sqrt()
    }

    /// `context = softmax(q k^T / sqrt(head_dim) + bias) v` in every head.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream) -> Result<()> {
        let Operands { q, k, v, context, wide, tails } = self.operands;
        let [wide_q, wide_k, wide_v, out] = wide.unwrap_or([q, k, v, context]);
        if let Some([queries, keys]) = tails {
            for (wide, narrow, tails) in [(wide_q, q, Some(queries)), (wide_k, k, Some(keys)), (wide_v, v, None)] {
                self.widen(stream, wide, narrow, tails)?;
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
            self.widen(stream, dout, gradients.context, None)?;
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
