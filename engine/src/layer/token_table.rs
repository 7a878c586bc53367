//! A language model's tokens as rows: those of the base model, and below them those of new tokens, which learn in every mode. One table
//! serves as embedding, as output product, or, tied, as both.

use scmmgpt_kernels::embedding;
use scmmgpt_kernels::gemm::{self, Epilogue, Layout};
use scmmgpt_kernels::runtime::{Float, Plan, Real, Stream, Tensor};

use super::int8_linear::Int8Linear;
use super::linear::LLAMA_INIT;
use crate::Result;
use crate::weights::{ParameterPlan, Table};

/// What the parameter of the new rows is called behind the table's own name: as PEFT stores trained rows of a table.
pub const NEW_ROWS: &str = "token_adapter.trainable_tokens_delta";

/// The rows of all tokens.
#[derive(Clone, Copy, Debug)]
pub struct TokenTable<T: Float> {
    rows: Table<T>,
    /// Rows of the base model.
    base: usize,
    /// A copy of the rows that [`TokenTable::logits`] reads, where nothing learns.
    int8: Option<Int8Linear<T>>,
}

impl<T: Float> TokenTable<T> {
    /// Declares `name.weight`, a row for each of `tokens`, and the rows of `new_tokens` below it; `frozen`: only the new ones learn.
    pub fn declare(plan: &mut ParameterPlan<T>, name: &str, [tokens, new_tokens]: [usize; 2], width: usize, frozen: bool) -> Self {
        let rows = plan.under(name, |plan| plan.table(("weight", tokens), (NEW_ROWS, new_tokens), width, LLAMA_INIT, frozen));
        TokenTable { rows, base: tokens, int8: None }
    }

    /// Declares a copy of the rows in int8 for the logits; `name` is the table's.
    pub fn with_int8(self, plan: &mut ParameterPlan<T>, name: &str) -> Self {
        let (new, width) = (self.vocab_size() - self.base, self.rows.value.width());
        let parts = [("weight", self.base), (NEW_ROWS, new)];
        let parts = if new == 0 { &parts[..1] } else { &parts };
        TokenTable { int8: Some(plan.under(name, |plan| Int8Linear::declare(plan, parts, width))), ..self }
    }

    /// Adds the mean of the other rows to those of new tokens.
    ///
    /// # Errors
    /// Those of the copies.
    pub fn centre(&self, stream: &Stream) -> Result<()> {
        let (all, width) = (self.rows.value, self.rows.value.width());
        let (base, new) = (all.row_range(0, self.base), all.row_range(self.base, all.rows() - self.base));
        if new.is_empty() {
            return Ok(());
        }
        let mut mean = vec![0.0; width];
        for row in stream.fetch(base)?.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value.to_acc().f64() / self.base as f64);
        }
        let values = stream.fetch(new)?.into_iter().zip(mean.into_iter().cycle());
        let values: Vec<T> = values.map(|(value, mean)| T::from_acc(value.to_acc() + T::Acc::of(mean))).collect();
        Ok(stream.upload(new, &values)?)
    }

    /// Tokens, new ones included.
    pub fn vocab_size(&self) -> usize {
        self.rows.value.rows()
    }

    /// States the scratch of backward for as many tokens, and plans the rows that [`TokenTable::embed_backward`] adds to.
    pub fn plan_gradients(&self, plan: &mut Plan, tokens: usize) -> Tensor<u32> {
        plan.scratch(embedding::scratch(tokens));
        plan.scratch(gemm::scratch::<T>(self.vocab_size() - self.rows.first, self.rows.value.width(), tokens));
        plan.tensor("trained_rows", [tokens])
    }

    /// `y[i] = table[ids[i]]`.
    ///
    /// # Errors
    /// `Index` when an id is outside the vocabulary, and those of the kernel.
    pub fn embed(&self, stream: &Stream, y: Tensor<T>, ids: Tensor<u32>) -> Result<()> {
        Ok(embedding::forward(stream, embedding::Forward { y, table: self.rows.value, ids })?)
    }

    /// Adds `dy[i]` to the gradient of row `ids[i]` (on the host), where that row learns. An id outside the vocabulary has no row: so
    /// a caller marks the rows of `y` that it has replaced.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn embed_backward(&self, stream: &Stream, trained_rows: Tensor<u32>, dy: Tensor<T>, ids: &[u32]) -> Result<()> {
        let Some(dtable) = self.rows.gradient else { return Ok(()) };
        let learning = self.rows.first..self.vocab_size();
        let row = |&id: &u32| if learning.contains(&(id as usize)) { 1 + id - learning.start as u32 } else { 0 };
        stream.upload(trained_rows, &ids.iter().map(row).collect::<Vec<_>>())?;
        Ok(embedding::backward(stream, embedding::Backward { dtable, dy, ids: trained_rows, padding_id: Some(0) })?)
    }

    /// `logits = hidden table^T`, `[rows, vocab_size]`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn logits(&self, stream: &Stream, logits: Tensor<T>, hidden: Tensor<T>) -> Result<()> {
        if let Some(copy) = self.int8 {
            return copy.forward(stream, logits, hidden, None);
        }
        let arguments = gemm::Forward { c: logits, a: hidden, b: self.rows.value, layout: Layout::NT, epilogue: Epilogue::None };
        Ok(gemm::forward(stream, arguments)?)
    }

    /// The gradient of the rows that learn, from `dlogits`, and `dhidden`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn logits_backward(&self, stream: &Stream, dhidden: Tensor<T>, dlogits: Tensor<T>, hidden: Tensor<T>) -> Result<()> {
        let Table { value, gradient, first } = self.rows;
        if let Some(gradient) = gradient {
            let count = value.rows() - first;
            let (c, a) = (gradient.row_range(1, count), dlogits.columns(first, count));
            gemm::accumulate(stream, gemm::Accumulate { c, a, b: hidden, layout: Layout::TN })?;
        }
        let arguments = gemm::Forward { c: dhidden, a: dlogits, b: value, layout: Layout::NN, epilogue: Epilogue::None };
        Ok(gemm::forward(stream, arguments)?)
    }
}
