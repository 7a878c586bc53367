//! Causal self-attention of a language model: packed projection, rotation, grouped heads, output projection with the residual.

use scmmgpt_kernels::attention::{self, Mask};
use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::rope;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_loader::language::LanguageConfig;

use super::adapted_linear::{self, AdaptedLinear, Shared};
use super::{Dims, Dropout};
use crate::Result;
use crate::config::Tuning;
use crate::weights::ParameterPlan;

/// Weights of causal self-attention.
#[derive(Clone, Copy, Debug)]
pub struct CausalAttention<T: Float> {
    /// `[(num_heads + 2 num_kv_heads) * head_dim, width]`: queries, keys and values.
    pub qkv: AdaptedLinear<T>,
    /// `[width, num_heads * head_dim]`.
    pub out: AdaptedLinear<T>,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
}

/// Where the rows of a pass stand.
#[derive(Clone, Copy, Debug)]
pub struct Places<T: Float> {
    /// Sizes.
    pub dims: Dims,
    /// `[batch]`: tokens of each sequence.
    pub lengths: Tensor<u32>,
    /// `[tokens]`: each row's place in its sequence.
    pub positions: Tensor<u32>,
    /// Angles of the rotation.
    pub table: rope::Table<T::Acc>,
    /// Random numbers of the adapters' dropout, whose probability is that of their configuration; none in inference.
    pub dropout: Option<Dropout>,
}

/// What backward needs from forward.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    qkv_adapters: adapted_linear::Saved<T>,
    out_adapters: adapted_linear::Saved<T>,
    qkv: Tensor<T>,
    /// `[tokens, (num_heads + num_kv_heads) * head_dim]`: queries and keys after the rotation.
    rotated: Tensor<T>,
    context: Tensor<T>,
    logsumexp: Tensor<T::Acc>,
}

/// Gradients on their way, shared by all layers.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    qkv: Tensor<T>,
    rotated: Tensor<T>,
    context: Tensor<T>,
}

impl<T: Float> CausalAttention<T> {
    /// Declares `self_attn` under Hugging Face's names; `site` numbers its first product among those of the model.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &LanguageConfig, tuning: &Tuning, site: u32) -> Self {
        let LanguageConfig { hidden_size, num_attention_heads: num_heads, num_key_value_heads: num_kv_heads, head_dim, .. } = *config;
        let (queries, keys) = (num_heads * head_dim, num_kv_heads * head_dim);
        plan.under("self_attn", |plan| CausalAttention {
            qkv: AdaptedLinear::declare(plan, &[("q_proj", queries), ("k_proj", keys), ("v_proj", keys)], hidden_size, tuning, site),
            out: AdaptedLinear::declare(plan, &[("o_proj", hidden_size)], queries, tuning, site + 1),
            num_heads,
            num_kv_heads,
            head_dim,
        })
    }

    /// Columns of the queries, and of the keys (as many as of the values).
    fn widths(&self) -> (usize, usize) {
        (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim)
    }

    fn dims(&self, dims: Dims, key_len: usize) -> attention::Dims {
        attention::Dims {
            batch: dims.batch,
            query_len: dims.seq_len,
            key_len,
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
        }
    }

    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    /// Plans what forward keeps.
    pub fn plan(&self, plan: &mut Plan, dims: Dims, shared: Option<Shared<T>>) -> Saved<T> {
        let (tokens, (queries, keys)) = (dims.tokens(), self.widths());
        plan.scratch(attention::scratch::<T>(&self.dims(dims, dims.seq_len)));
        plan.under("self_attn", |plan| Saved {
            qkv_adapters: self.qkv.plan(plan, "qkv", tokens, shared),
            out_adapters: self.out.plan(plan, "out", tokens, shared),
            qkv: plan.tensor("qkv", [tokens, queries + 2 * keys]),
            rotated: plan.tensor("rotated", [tokens, queries + keys]),
            context: plan.tensor("context", [tokens, queries]),
            logsumexp: plan.tensor("logsumexp", [dims.batch, self.num_heads, dims.seq_len]),
        })
    }

    /// Plans what backward passes through; one for all layers.
    pub fn plan_gradients(&self, plan: &mut Plan, dims: Dims) -> Gradients<T> {
        let (tokens, (queries, keys)) = (dims.tokens(), self.widths());
        Gradients {
            qkv: plan.tensor("dqkv", [tokens, queries + 2 * keys]),
            rotated: plan.tensor("drotated", [tokens, queries + keys]),
            context: plan.tensor("dcontext", [tokens, queries]),
        }
    }

    /// Queries, keys (both rotated) and values of the rows of `x`.
    fn project(&self, stream: &Stream, places: &Places<T>, saved: &Saved<T>, x: Tensor<T>) -> Result<[Tensor<T>; 3]> {
        let (queries, keys) = self.widths();
        self.qkv.forward(stream, &saved.qkv_adapters, saved.qkv, x, Epilogue::None, places.dropout)?;
        let (y, x) = (saved.rotated, saved.qkv.columns(0, queries + keys));
        rope::forward(stream, rope::Rotate { y, x, positions: places.positions, table: places.table })?;
        Ok([saved.rotated.columns(0, queries), saved.rotated.columns(queries, keys), saved.qkv.columns(queries + keys, keys)])
    }

    /// `sum = residual + o_proj(attention(qkv(x)))`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(
        &self,
        stream: &Stream,
        places: &Places<T>,
        saved: &Saved<T>,
        sum: Tensor<T>,
        residual: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let [q, k, v] = self.project(stream, places, saved, x)?;
        let arguments = attention::Forward {
            out: saved.context,
            logsumexp: saved.logsumexp,
            q,
            k,
            v,
            query_lengths: Some(places.lengths),
            key_lengths: Some(places.lengths),
            mask: Mask::Causal,
            scale: self.scale(),
            dropout: None,
            dims: self.dims(places.dims, places.dims.seq_len),
        };
        attention::forward(stream, arguments)?;
        self.out.forward(stream, &saved.out_adapters, sum, saved.context, Epilogue::Residual { residual }, places.dropout)
    }

    /// From `dsum` to `dx`, without the residual's share, which is `dsum` itself.
    ///
    /// # Errors
    /// Those of the kernels.
    #[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
    pub fn backward(
        &self,
        stream: &Stream,
        places: &Places<T>,
        saved: &Saved<T>,
        gradients: &Gradients<T>,
        dx: Tensor<T>,
        dsum: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let (queries, keys) = self.widths();
        let g = gradients;
        self.out.backward(stream, &saved.out_adapters, g.context, dsum, saved.context, places.dropout)?;
        let arguments = attention::Backward {
            dq: g.rotated.columns(0, queries),
            dk: g.rotated.columns(queries, keys),
            dv: g.qkv.columns(queries + keys, keys),
            dout: g.context,
            out: saved.context,
            logsumexp: saved.logsumexp,
            q: saved.rotated.columns(0, queries),
            k: saved.rotated.columns(queries, keys),
            v: saved.qkv.columns(queries + keys, keys),
            query_lengths: Some(places.lengths),
            key_lengths: Some(places.lengths),
            mask: Mask::Causal,
            scale: self.scale(),
            dropout: None,
            dims: self.dims(places.dims, places.dims.seq_len),
        };
        attention::backward(stream, arguments)?;
        let (y, x_gradient) = (g.qkv.columns(0, queries + keys), g.rotated);
        rope::backward(stream, rope::Rotate { y, x: x_gradient, positions: places.positions, table: places.table })?;
        self.qkv.backward(stream, &saved.qkv_adapters, dx, g.qkv, x, places.dropout)
    }

    /// Plans the cache of one layer: keys and values of `capacity` places a sequence, and the scratch of one more token each.
    pub fn plan_cache(&self, plan: &mut Plan, batch: usize, capacity: usize) -> Cache<T> {
        plan.scratch(attention::scratch::<T>(&self.dims(Dims { batch, seq_len: 1 }, capacity)));
        let (_, keys) = self.widths();
        Cache { keys: plan.tensor("keys", [batch * capacity, keys]), values: plan.tensor("values", [batch * capacity, keys]), capacity }
    }

    /// As [`CausalAttention::forward`], and keeps the keys and values of each sequence's `lengths` rows (on the host) in the cache, from
    /// its beginning.
    ///
    /// # Errors
    /// Those of the kernels.
    #[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
    pub fn prefill(
        &self,
        stream: &Stream,
        places: &Places<T>,
        saved: &Saved<T>,
        cache: &Cache<T>,
        lengths: &[usize],
        sum: Tensor<T>,
        residual: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        self.forward(stream, places, saved, sum, residual, x)?;
        let (queries, keys) = self.widths();
        let (k, v) = (saved.rotated.columns(queries, keys), saved.qkv.columns(queries + keys, keys));
        for (item, &length) in lengths.iter().enumerate() {
            let (from, to) = (item * places.dims.seq_len, item * cache.capacity);
            stream.copy(cache.keys.row_range(to, length), k.row_range(from, length))?;
            stream.copy(cache.values.row_range(to, length), v.row_range(from, length))?;
        }
        Ok(())
    }

    /// One more token a sequence: `x` has a row for each, at the place `cached` (on the host), and sees all that the cache holds of its
    /// sequence. `places.lengths` counts the cached tokens and the new one.
    ///
    /// # Errors
    /// Those of the kernels.
    #[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
    pub fn decode(
        &self,
        stream: &Stream,
        places: &Places<T>,
        saved: &Saved<T>,
        cache: &Cache<T>,
        cached: &[usize],
        sum: Tensor<T>,
        residual: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let [q, k, v] = self.project(stream, places, saved, x)?;
        for (item, &place) in cached.iter().enumerate() {
            let to = item * cache.capacity + place;
            stream.copy(cache.keys.row_range(to, 1), k.row_range(item, 1))?;
            stream.copy(cache.values.row_range(to, 1), v.row_range(item, 1))?;
        }
        let rows = places.dims.batch * cache.capacity;
        let arguments = attention::Forward {
            out: saved.context,
            logsumexp: saved.logsumexp,
            q,
            k: cache.keys.row_range(0, rows),
            v: cache.values.row_range(0, rows),
            query_lengths: None,
            key_lengths: Some(places.lengths),
            mask: Mask::Full,
            scale: self.scale(),
            dropout: None,
            dims: self.dims(places.dims, cache.capacity),
        };
        attention::forward(stream, arguments)?;
        self.out.forward(stream, &saved.out_adapters, sum, saved.context, Epilogue::Residual { residual }, places.dropout)
    }

    /// Several more tokens a sequence, `new` of them (on the host) behind the `cached` ones: each sees all that the cache holds of its
    /// sequence and the new ones before it. `x` is padded at the end as in [`CausalAttention::forward`].
    ///
    /// # Errors
    /// Those of the kernels.
    #[expect(clippy::too_many_arguments, reason = "handles, each with its own meaning")]
    pub fn extend(
        &self,
        stream: &Stream,
        places: &Places<T>,
        saved: &Saved<T>,
        cache: &Cache<T>,
        behind: Behind<'_>,
        sum: Tensor<T>,
        residual: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let [q, k, v] = self.project(stream, places, saved, x)?;
        let Dims { batch, seq_len } = places.dims;
        let statistics = saved.logsumexp.reshape([batch, self.num_heads * seq_len]);
        for (item, (&cached, &new)) in behind.cached.iter().zip(behind.new).enumerate() {
            let (from, first) = (item * seq_len, item * cache.capacity);
            stream.copy(cache.keys.row_range(first + cached, new), k.row_range(from, new))?;
            stream.copy(cache.values.row_range(first + cached, new), v.row_range(from, new))?;
            let statistic = statistics.row_range(item, 1).columns(0, self.num_heads * new);
            let arguments = attention::Forward {
                out: saved.context.row_range(from, new),
                logsumexp: statistic.reshape([1, self.num_heads, new]),
                q: q.row_range(from, new),
                k: cache.keys.row_range(first, cached + new),
                v: cache.values.row_range(first, cached + new),
                query_lengths: None,
                key_lengths: None,
                mask: Mask::Causal,
                scale: self.scale(),
                dropout: None,
                dims: self.dims(Dims { batch: 1, seq_len: new }, cached + new),
            };
            attention::forward(stream, arguments)?;
        }
        self.out.forward(stream, &saved.out_adapters, sum, saved.context, Epilogue::Residual { residual }, places.dropout)
    }
}

/// How many tokens each sequence has, and how many more come.
#[derive(Clone, Copy, Debug)]
pub struct Behind<'a> {
    /// `[batch]`: tokens in the cache.
    pub cached: &'a [usize],
    /// `[batch]`: tokens that follow, at least one.
    pub new: &'a [usize],
}

impl<T: Float> Cache<T> {
    /// Copies the places `from..to` of sequence `source` to sequence `target`.
    ///
    /// # Errors
    /// Those of the copy.
    pub fn copy(&self, stream: &Stream, source: usize, target: usize, from: usize, to: usize) -> Result<()> {
        for tensor in [self.keys, self.values] {
            let rows = |item: usize| tensor.row_range(item * self.capacity + from, to - from);
            stream.copy(rows(target), rows(source))?;
        }
        Ok(())
    }
}

/// Keys (rotated) and values of one layer, `capacity` places a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Cache<T: Float> {
    keys: Tensor<T>,
    values: Tensor<T>,
    capacity: usize,
}
