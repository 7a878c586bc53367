//! The rows that enter a Q-Former: learned queries as they are, and texts as word plus absolute position; then a norm and dropout.
//!
//! There are no token types. What BERT adds for the only type that a text has goes into the positions when its weights are read
//! ([`crate::model::bert`]).

use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_kernels::{dropout, embedding, reduce};

use super::Pass;
use super::linear::BERT_INIT;
use super::norm::{self, Norm};
use super::rows::Rows;
use super::self_attention::dropped;
use crate::Result;
use crate::config::QFormerConfig;
use crate::weights::{Parameter, ParameterPlan};

/// Weights of the input layer.
#[derive(Clone, Copy, Debug)]
pub struct QFormerEmbedding<T: Float> {
    queries: Parameter<T>,
    /// `[vocab_size, width]`; the captioning head reads it too.
    pub words: Parameter<T>,
    positions: Parameter<T>,
    norm: Norm<T>,
}

/// What backward needs from forward; the output last.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    rows: Rows,
    query_ids: Tensor<u32>,
    word_ids: Tensor<u32>,
    position_ids: Tensor<u32>,
    queries: Tensor<T>,
    text: Tensor<T>,
    positions: Tensor<T>,
    sum: Tensor<T>,
    statistics: norm::Saved<T>,
    normed: Tensor<T>,
    /// `[items * (queries + text), width]`.
    pub output: Tensor<T>,
}

/// Gradients on their way.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    normed: Tensor<T>,
    sum: Tensor<T>,
    queries: Tensor<T>,
    text: Tensor<T>,
}

impl<T: Float> QFormerEmbedding<T> {
    /// Declares `query_tokens`, and `Qformer.bert.embeddings` as BERT names its parts.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &QFormerConfig) -> Self {
        let width = config.hidden_size;
        let queries = plan.parameter("query_tokens", [1, config.num_query_tokens, width], BERT_INIT);
        plan.under("Qformer.bert.embeddings", |plan| QFormerEmbedding {
            queries,
            words: plan.parameter("word_embeddings.weight", [config.vocab_size, width], BERT_INIT),
            positions: plan.parameter("position_embeddings.weight", [config.max_position_embeddings, width], BERT_INIT),
            norm: Norm::declare(plan, "LayerNorm", width, config.layer_norm_eps),
        })
    }

    fn width(&self) -> usize {
        self.words.value.width()
    }

    /// Plans what forward keeps.
    pub fn plan(&self, plan: &mut Plan, rows: Rows, dropout: bool) -> Saved<T> {
        let (width, tokens, [queries, text]) = (self.width(), rows.dims().tokens(), [rows.query_rows(), rows.text_rows()]);
        plan.scratch(embedding::scratch(tokens));
        plan.under("embeddings", |plan| {
            let sum = plan.tensor("sum", [tokens, width]);
            let mut alone = |name: &str, count: usize| if count == tokens { sum } else { plan.tensor(name, [count, width]) };
            let [from_queries, from_text] = [alone("queries", queries), alone("text", text)];
            let normed = plan.tensor("normed", [tokens, width]);
            Saved {
                rows,
                query_ids: plan.tensor("query_ids", [queries]),
                word_ids: plan.tensor("word_ids", [text]),
                position_ids: plan.tensor("position_ids", [text]),
                queries: from_queries,
                text: from_text,
                positions: plan.tensor("positions", [text, width]),
                sum,
                statistics: self.norm.plan(plan, "norm", tokens),
                normed,
                output: if dropout { plan.tensor("output", [tokens, width]) } else { normed },
            }
        })
    }

    /// Plans the gradients.
    pub fn plan_gradients(&self, plan: &mut Plan, rows: Rows, dropout: bool) -> Gradients<T> {
        let (width, tokens) = (self.width(), rows.dims().tokens());
        let sum = plan.tensor("dsum", [tokens, width]);
        let mut alone = |name: &str, count: usize| if count == tokens { sum } else { plan.tensor(name, [count, width]) };
        let [queries, text] = [alone("dqueries", rows.query_rows()), alone("dtext", rows.text_rows())];
        Gradients { normed: plan.tensor("dnormed", [if dropout { tokens } else { 0 }, width]), sum, queries, text }
    }

    /// Uploads the tokens of the texts, `[items * text]`, and what is known without them.
    ///
    /// # Errors
    /// Those of the upload.
    pub fn upload(&self, stream: &Stream, saved: &Saved<T>, token_ids: &[u32]) -> Result<()> {
        let Rows { items, queries, text } = saved.rows;
        let counted = |count: usize| (0..items).flat_map(|_| 0..count as u32).collect::<Vec<_>>();
        stream.upload(saved.query_ids, &counted(queries))?;
        stream.upload(saved.word_ids, token_ids)?;
        // Padding may reach beyond the last position; what it gets does not matter.
        let last = self.positions.value.rows() as u32 - 1;
        let positions: Vec<u32> = counted(text).into_iter().map(|position| position.min(last)).collect();
        Ok(stream.upload(saved.position_ids, &positions)?)
    }

    fn table(&self) -> Tensor<T> {
        self.queries.value.reshape([self.queries.value.rows(), self.width()])
    }

    /// Writes `saved.output`.
    ///
    /// # Errors
    /// Those of the kernels; `Index` when a token is outside the word table.
    pub fn forward(&self, stream: &Stream, pass: &Pass, saved: &Saved<T>) -> Result<()> {
        if saved.rows.queries > 0 {
            embedding::forward(stream, embedding::Forward { y: saved.queries, table: self.table(), ids: saved.query_ids })?;
        }
        if saved.rows.text > 0 {
            embedding::forward(stream, embedding::Forward { y: saved.text, table: self.words.value, ids: saved.word_ids })?;
            embedding::forward(stream, embedding::Forward { y: saved.positions, table: self.positions.value, ids: saved.position_ids })?;
            reduce::add_assign(stream, reduce::AddAssign { y: saved.text, x: saved.positions })?;
        }
        if saved.rows.are_mixed() {
            saved.rows.join(stream, saved.sum, saved.queries, saved.text)?;
        }
        self.norm.forward(stream, saved.statistics, saved.normed, saved.sum)?;
        if let Some((probability, site)) = pass.dropout_at(0) {
            dropout::forward(stream, dropout::Forward { y: saved.output, x: saved.normed, residual: None, probability, site })?;
        }
        Ok(())
    }

    /// The parameters' gradients from `dy`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, stream: &Stream, pass: &Pass, saved: &Saved<T>, gradients: &Gradients<T>, dy: Tensor<T>) -> Result<()> {
        let dnormed = dropped(stream, pass, 0, gradients.normed, dy)?;
        self.norm.backward(stream, saved.statistics, gradients.sum, dnormed, saved.sum)?;
        if saved.rows.are_mixed() {
            saved.rows.split(stream, gradients.queries, gradients.text, gradients.sum)?;
        }
        let flatten = |gradient: Tensor<T::Acc>| gradient.reshape([gradient.rows(), gradient.width()]);
        let tables = [
            (self.queries.gradient.map(flatten), gradients.queries, saved.query_ids),
            (self.words.gradient, gradients.text, saved.word_ids),
            (self.positions.gradient, gradients.text, saved.position_ids),
        ];
        for (dtable, dy, ids) in tables {
            if let (Some(dtable), false) = (dtable, ids.is_empty()) {
                embedding::backward(stream, embedding::Backward { dtable, dy, ids, padding_id: None })?;
            }
        }
        Ok(())
    }
}
