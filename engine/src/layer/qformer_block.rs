//! One Q-Former layer: self-attention over all rows; then query rows look at the cell; then either kind has its own feed-forward half.
//!
//! # Source
//! Li et al. 2023, "BLIP-2"; LAVIS `Qformer.py`, `BertLayer`. Post-norm everywhere, as BERT.

use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};

use super::Pass;
use super::bert_output::{self, BertOutput};
use super::cross_attention::{self, CrossAttention, Keys};
use super::norm::{self, Norm};
use super::prefix_attention::{self, Prefix};
use super::rows::Rows;
use super::self_attention::{self, SelfAttention};
use crate::Result;
use crate::config::QFormerConfig;
use crate::weights::ParameterPlan;

/// Weights of one layer.
#[derive(Clone, Copy, Debug)]
pub struct QFormerBlock<T: Float> {
    attention: SelfAttention<T>,
    attention_norm: Norm<T>,
    cross: Option<(CrossAttention<T>, Norm<T>)>,
    query: BertOutput<T>,
    text: BertOutput<T>,
}

/// What a pass has in one layer.
#[derive(Clone, Copy, Debug)]
pub struct Layout<T: Float> {
    /// Rows that go through the layer.
    pub rows: Rows,
    /// The cells that query rows look at, where the layer lets them.
    pub keys: Option<Keys<T>>,
    /// Rows of another pass that text rows see before themselves; the self-attention is causal then.
    pub prefix: Option<Prefix<T>>,
    /// Keep what backward needs.
    pub training: bool,
    /// Whether dropout applies.
    pub dropout: bool,
}

/// What backward needs from forward; the layer's output last.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    rows: Rows,
    attention: Attention<T>,
    sum: Tensor<T>,
    statistics: norm::Saved<T>,
    normed: Tensor<T>,
    cross: Option<Looked<T>>,
    query: Option<Half<T>>,
    text: Option<Half<T>>,
    projected: Tensor<T>,
    /// `[items * (queries + text), width]`.
    pub output: Tensor<T>,
}

#[derive(Clone, Copy, Debug)]
enum Attention<T: Float> {
    Within(self_attention::Saved<T>),
    Prefixed(prefix_attention::Saved<T>),
}

#[derive(Clone, Copy, Debug)]
struct Looked<T: Float> {
    attention: cross_attention::Saved<T>,
    sum: Tensor<T>,
    statistics: norm::Saved<T>,
    normed: Tensor<T>,
}

/// Rows of one kind: as they come out of self-attention, and their feed-forward half.
#[derive(Clone, Copy, Debug)]
struct Half<T: Float> {
    x: Tensor<T>,
    kept: bert_output::Saved<T>,
}

/// Gradients on their way through a layer; all layers of a pass share one.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    within: Option<self_attention::Gradients<T>>,
    prefixed: Option<prefix_attention::Gradients<T>>,
    cross: Option<cross_attention::Gradients<T>>,
    space: bert_output::Space<T>,
    normed: Tensor<T>,
    /// Of the query rows and of the text rows, where a pass has both.
    parts: Option<[Tensor<T>; 2]>,
}

/// Gradients that one layer exchanges with others than its neighbours.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exchange<T: Float> {
    /// Written: of the keys and values that its query rows look at.
    pub kv: Option<Tensor<T>>,
    /// Written: of its prefix.
    pub prefix: Option<Tensor<T>>,
    /// Read: of its own `qkv`, from the pass whose prefix that is.
    pub qkv: Option<Tensor<T>>,
}

/// Dropout sites that one layer uses.
const SITES: u32 = 6;

impl<T: Float> QFormerBlock<T> {
    /// Declares layer `index` under LAVIS's names, without the keys and values of its cross-attention.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &QFormerConfig, index: usize) -> Self {
        let (width, heads, eps) = (config.hidden_size, config.num_attention_heads, config.layer_norm_eps);
        let sizes = [width, config.intermediate_size];
        // Site 0 is the embeddings' dropout.
        let site = 1 + SITES * index as u32;
        plan.under(index, |plan| QFormerBlock {
            attention: SelfAttention::declare_bert(plan, width, heads, site),
            attention_norm: Norm::declare(plan, "attention.output.LayerNorm", width, eps),
            cross: config.has_cross_attention(index).then(|| {
                let attention = CrossAttention::declare(plan, width, heads, site + 2);
                (attention, Norm::declare(plan, "crossattention.output.LayerNorm", width, eps))
            }),
            query: BertOutput::declare(plan, "_query", sizes, eps, site + 4),
            text: BertOutput::declare(plan, "", sizes, eps, site + 5),
        })
    }

    /// Whether its query rows look at the cell.
    pub fn has_cross_attention(&self) -> bool {
        self.cross.is_some()
    }

    fn width(&self) -> usize {
        self.attention_norm.weight.value.len()
    }

    /// Plans what forward keeps besides `output`.
    pub fn plan(&self, plan: &mut Plan, layout: &Layout<T>, output: Tensor<T>) -> Saved<T> {
        let Layout { rows, keys, prefix, training, dropout } = *layout;
        let (width, tokens) = (self.width(), rows.dims().tokens());
        let attention = match prefix {
            Some(prefix) => Attention::Prefixed(self.attention.plan_prefixed(plan, prefix)),
            None => Attention::Within(self.attention.plan(plan, rows.dims())),
        };
        let (sum, normed) = (plan.tensor("sum", [tokens, width]), plan.tensor("normed", [tokens, width]));
        let statistics = self.attention_norm.plan(plan, "attention_norm", tokens);
        let alone = |plan: &mut Plan, together: Tensor<T>, name: &str, count: usize| match rows.are_mixed() {
            true => plan.tensor(name, [count, width]),
            false => together,
        };
        let half = |plan: &mut Plan, half: &BertOutput<T>, name: &str, count: usize| {
            plan.under(name, |plan| {
                let (x, output) = (alone(plan, normed, "x", count), alone(plan, output, "output", count));
                Half { x, kept: half.plan(plan, count, training, output) }
            })
        };
        let queries = rows.query_rows();
        let cross = match (&self.cross, keys) {
            (Some((attention, norm)), Some(keys)) if queries > 0 => Some(plan.under("cross", |plan| Looked {
                attention: attention.plan(plan, queries, keys),
                sum: plan.tensor("sum", [queries, width]),
                statistics: norm.plan(plan, "norm", queries),
                normed: plan.tensor("normed", [queries, width]),
            })),
            _ => None,
        };
        Saved {
            rows,
            attention,
            sum,
            statistics,
            normed,
            cross,
            query: (queries > 0).then(|| half(plan, &self.query, "query", queries)),
            text: (rows.text > 0).then(|| half(plan, &self.text, "text", rows.text_rows())),
            projected: plan.tensor("projected", [if dropout { tokens } else { 0 }, width]),
            output,
        }
    }

    /// Plans the gradients that pass through; a layer with cross-attention plans for all.
    pub fn plan_gradients(&self, plan: &mut Plan, saved: &Saved<T>, dropout: bool) -> Gradients<T> {
        let (rows, width) = (saved.rows, self.width());
        let tokens = rows.dims().tokens();
        let (within, prefixed) = match &saved.attention {
            Attention::Within(_) => (Some(self.attention.plan_gradients(plan, rows.dims())), None),
            Attention::Prefixed(kept) => (None, Some(self.attention.plan_prefixed_gradients(plan, kept.rows()))),
        };
        let cross = self.cross.as_ref().filter(|_| saved.cross.is_some());
        Gradients {
            within,
            prefixed,
            cross: cross.map(|(attention, _)| plan.under("cross", |plan| attention.plan_gradients(plan, rows.query_rows()))),
            space: self.text.plan_space(plan, tokens, dropout),
            normed: plan.tensor("dnormed", [tokens, width]),
            parts: rows
                .are_mixed()
                .then(|| [plan.tensor("dqueries", [rows.query_rows(), width]), plan.tensor("dtext", [rows.text_rows(), width])]),
        }
    }

    /// Writes `saved.output`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, pass: &Pass, saved: &Saved<T>, x: Tensor<T>) -> Result<()> {
        match &saved.attention {
            Attention::Within(kept) => self.attention.forward(stream, pass, kept, saved.sum, saved.projected, x)?,
            Attention::Prefixed(kept) => self.attention.forward_prefixed(stream, pass, kept, saved.sum, saved.projected, x)?,
        }
        self.attention_norm.forward(stream, saved.statistics, saved.normed, saved.sum)?;
        let projected = |rows: usize| if saved.projected.is_empty() { saved.projected } else { saved.projected.row_range(0, rows) };
        if let (true, Some(query), Some(text)) = (saved.rows.are_mixed(), &saved.query, &saved.text) {
            saved.rows.split(stream, query.x, text.x, saved.normed)?;
        }
        if let Some(half) = &saved.query {
            let (mut x, projected) = (half.x, projected(half.x.rows()));
            if let (Some((attention, norm)), Some(kept)) = (&self.cross, &saved.cross) {
                attention.forward(stream, pass, &kept.attention, kept.sum, projected, x)?;
                norm.forward(stream, kept.statistics, kept.normed, kept.sum)?;
                x = kept.normed;
            }
            self.query.forward(stream, pass, &half.kept, projected, x)?;
        }
        if let Some(half) = &saved.text {
            self.text.forward(stream, pass, &half.kept, projected(half.x.rows()), half.x)?;
        }
        match (saved.rows.are_mixed(), &saved.query, &saved.text) {
            (true, Some(query), Some(text)) => saved.rows.join(stream, saved.output, query.kept.output, text.kept.output),
            _ => Ok(()),
        }
    }

    /// From `dy` to `dx`, which may be the tensor of `dy`: it is written after the last read.
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
        exchange: &Exchange<T>,
        dx: Tensor<T>,
        dy: Tensor<T>,
        x: Tensor<T>,
    ) -> Result<()> {
        let g = gradients;
        // With one kind of rows, `g.normed` is theirs; with both, each kind has its own, copied out and back.
        let [dqueries, dtext] = g.parts.unwrap_or([g.normed; 2]);
        let [dy_queries, dy_text] = g.parts.unwrap_or([dy; 2]);
        if g.parts.is_some() {
            saved.rows.split(stream, dqueries, dtext, dy)?;
        }
        if let Some(half) = &saved.text {
            self.text.backward(stream, pass, &half.kept, &g.space.first(half.x.rows()), dtext, dy_text, half.x)?;
        }
        if let Some(half) = &saved.query {
            let space = g.space.first(half.x.rows());
            let looked = self.cross.as_ref().zip(saved.cross.as_ref());
            let x = looked.map_or(half.x, |(_, kept)| kept.normed);
            self.query.backward(stream, pass, &half.kept, &space, dqueries, dy_queries, x)?;
            if let (Some(((attention, norm), kept)), Some(passing), Some(dkv)) = (looked, &g.cross, exchange.kv) {
                norm.backward(stream, kept.statistics, space.sum, dqueries, kept.sum)?;
                attention.backward(stream, pass, &kept.attention, passing, dkv, dqueries, space.branch, space.sum, half.x)?;
            }
        }
        if g.parts.is_some() {
            saved.rows.join(stream, g.normed, dqueries, dtext)?;
        }
        let (dsum, dbranch) = (g.space.sum, g.space.branch);
        self.attention_norm.backward(stream, saved.statistics, dsum, g.normed, saved.sum)?;
        match (&saved.attention, &g.within, &g.prefixed, exchange.prefix) {
            (Attention::Within(kept), Some(passing), ..) => {
                let passing = self_attention::Gradients { qkv_elsewhere: exchange.qkv, ..*passing };
                self.attention.backward(stream, pass, kept, &passing, dx, dbranch, dsum, x)
            }
            (Attention::Prefixed(kept), _, Some(passing), Some(dprefix)) => {
                self.attention.backward_prefixed(stream, pass, kept, passing, dprefix, dx, dbranch, dsum, x)
            }
            _ => Ok(()),
        }
    }

    /// What self-attention keeps of its rows: `[rows, 3 * width]`, the prefix of another pass; none behind a prefix.
    pub fn projections(saved: &Saved<T>) -> Option<Tensor<T>> {
        match &saved.attention {
            Attention::Within(kept) => Some(kept.qkv),
            Attention::Prefixed(_) => None,
        }
    }
}
