//! Cells to vectors, texts to vectors, vectors to expression. Nothing here depends on the other items of a batch.

use scmmgpt_kernels::runtime::{Float, Real, Tensor};
use scmmgpt_loader::batch::CellBatch;

use super::forward::{cell_dims, narrowed, refuse};
use super::handles::Request;
use super::{CellLanguage, Workspace};
use crate::Result;
use crate::layer::Dims;
use crate::model::gene_expression::ExpressionDims;

/// Genes of all cells that are decoded at a time, about.
const TOKENS: usize = 1 << 15;

/// What the decoder says of some genes in some cells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expression {
    /// `[items, genes]`: log1p of the normalised counts; of distributions, of their means.
    pub values: Vec<f32>,
    /// The distributions of the counts, of a decoder that gives them.
    pub counts: Option<CountDistribution>,
}

/// Zero-inflated negative binomials, each number `[items, genes]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CountDistribution {
    /// ln of the mean of the negative binomial part, in a cell of size 1: one whose total is what the normalisation brings cells to.
    pub log_mean: Vec<f32>,
    /// Logit of the probability of a zero that is no count.
    pub zero_logit: Vec<f32>,
    /// ln of the inverse dispersion.
    pub log_theta: Vec<f32>,
}

impl CountDistribution {
    fn push(&mut self, output: &[f32], log_theta: &[f32]) {
        self.log_mean.extend(output.iter().step_by(2));
        self.zero_logit.extend(output.iter().skip(1).step_by(2));
        self.log_theta.extend(log_theta);
    }

    /// log1p of each mean, `(1 - pi) exp(log_mean)`.
    fn log1p_means(&self) -> Vec<f32> {
        let mean =
            |(log_mean, zero_logit): (&f32, &f32)| (f64::from(*log_mean).exp() / (1.0 + f64::from(*zero_logit).exp())).ln_1p() as f32;
        self.log_mean.iter().zip(&self.zero_logit).map(mean).collect()
    }
}

impl<T: Float> Workspace<T> {
    /// `[batch, slots, hidden_size of the language model]`: what the language model reads in the place of each cell.
    ///
    /// # Errors
    /// Those of the kernels; `Index` when a gene is not in the table.
    pub fn project_cells(&mut self, model: &CellLanguage<T>, cells: &CellBatch) -> Result<Vec<f32>> {
        self.fit(model, Request::Cells(cell_dims(cells)))?;
        self.project(model, cells, None)?;
        self.handles.projected.as_ref().map_or(Ok(Vec::new()), |kept| self.widened(kept.projection.output))
    }

    /// `[batch, hidden_size of the Q-Former]`: the mean of each cell's queries, by which it is a neighbour of others.
    ///
    /// # Errors
    /// As [`Workspace::project_cells`].
    pub fn pool_cells(&mut self, model: &CellLanguage<T>, cells: &CellBatch) -> Result<Vec<f32>> {
        self.project_cells(model, cells)?;
        let Some(kept) = &self.handles.projected else { return Ok(Vec::new()) };
        let (queries, width) = (self.widened(kept.queries.output)?, kept.queries.output.width());
        let mean = |cell: &[f32]| {
            let sums: Vec<f64> =
                (0..width).map(|column| cell.iter().skip(column).step_by(width).map(|&value| f64::from(value)).sum()).collect();
            sums.into_iter().map(|sum| (sum / model.slots() as f64) as f32)
        };
        Ok(queries.chunks_exact(model.slots() * width).flat_map(mean).collect())
    }

    /// `[rows, hidden_size of the language model]`: vectors of [`Workspace::pool_cells`] as keys of the expression decoder.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn project_pooled_cells(&mut self, model: &CellLanguage<T>, pooled: &[f32]) -> Result<Vec<f32>> {
        let rows = pooled.len() / model.config.cell_text.qformer.hidden_size;
        self.fit(model, Request::Pooled(rows))?;
        let Some(kept) = self.handles.pooled else { return Ok(Vec::new()) };
        self.project_pooled(model, &kept, pooled)?;
        self.widened(kept.projection.output)
    }

    /// `[prompts, slots, hidden_size]`: the last hidden states at the slots of prompts that end with `<cell>`, the slots, `</cell>`.
    ///
    /// # Errors
    /// `Texts` when a prompt is too short for its slots or longer than the model's positions; those of the kernels (`Index` for an
    /// unknown token).
    pub fn slot_states(&mut self, model: &CellLanguage<T>, prompts: &[Vec<u32>]) -> Result<Vec<f32>> {
        let (slots, positions) = (model.slots(), model.language.positions());
        if let Some(prompt) = prompts.iter().find(|prompt| prompt.len() <= slots || prompt.len() > positions) {
            return refuse(format!("a prompt has {} tokens, expected more than the {slots} slots and at most {positions}", prompt.len()));
        }
        let seq_len = prompts.iter().map(Vec::len).max().unwrap_or(0);
        if seq_len == 0 {
            return Ok(Vec::new());
        }
        self.fit(model, Request::Slots(Dims { batch: prompts.len(), seq_len }))?;
        let padded = |prompt: &Vec<u32>| prompt.iter().copied().chain(std::iter::repeat_n(0, seq_len - prompt.len())).collect::<Vec<_>>();
        let ids: Vec<u32> = prompts.iter().flat_map(padded).collect();
        self.embed(model, &ids, &prompts.iter().map(|prompt| prompt.len() as u32).collect::<Vec<_>>())?;
        let Some(kept) = &self.handles.sequences else { return Ok(Vec::new()) };
        model.language.forward(&self.stream, &kept.places, &kept.saved)?;
        let mut states = Vec::new();
        for (item, prompt) in prompts.iter().enumerate() {
            // Behind the slots stands `</cell>` alone.
            let rows = kept.saved.hidden.row_range(item * seq_len + prompt.len() - 1 - slots, slots);
            states.extend(self.widened(rows)?);
        }
        Ok(states)
    }

    /// Expression of `genes` in cells that `keys`, `[items, keys, hidden_size of the language model]`, describe; `bias`, `[items, keys]`, is
    /// added to the keys' logits. Of vectors of slots the model looks at the first [`CellLanguage::expression_keys`].
    ///
    /// # Errors
    /// `Texts` when lengths do not fit; those of the kernels (`Index` when a gene is not in the table).
    pub fn decode_expression(
        &mut self,
        model: &CellLanguage<T>,
        items: usize,
        keys: &[f32],
        bias: Option<&[f32]>,
        genes: &[u32],
    ) -> Result<Expression> {
        let width = model.language.config().hidden_size;
        let count = keys.len() / (items * width).max(1);
        if items == 0 || genes.is_empty() {
            return Ok(Expression::default());
        }
        if count == 0 || keys.len() != items * count * width || bias.is_some_and(|bias| bias.len() != items * count) {
            return refuse(format!("{items} cells come with {} numbers of keys, of {width} each", keys.len()));
        }
        let mut decoded = Expression::default();
        let at_once = (TOKENS / genes.len()).clamp(1, items);
        for start in (0..items).step_by(at_once) {
            let chunk = start..items.min(start + at_once);
            let dims = ExpressionDims { items: chunk.len(), genes: genes.len(), keys: count, biased: bias.is_some() };
            self.fit(model, Request::Expression(dims))?;
            let (stream, Some(kept)) = (&self.stream, &self.handles.expression) else { continue };
            stream.upload(kept.saved.gene_ids, &genes.repeat(chunk.len()))?;
            stream.upload(kept.saved.keys, &narrowed::<T>(&keys[chunk.start * count * width..chunk.end * count * width]))?;
            stream.upload(kept.saved.attention.key_lengths, &vec![count as u32; chunk.len()])?;
            if let Some(bias) = bias {
                kept.saved.attention.upload_bias(stream, &bias[chunk.start * count..chunk.end * count])?;
            }
            model.expression.forward(stream, &kept.saved)?;
            let output = self.widened(kept.saved.output)?;
            match kept.saved.log_theta {
                Some(log_theta) => {
                    decoded.counts.get_or_insert_default().push(&output, &self.widened(log_theta)?);
                }
                None => decoded.values.extend(output),
            }
        }
        if let Some(counts) = &decoded.counts {
            decoded.values = counts.log1p_means();
        }
        Ok(decoded)
    }

    fn widened(&self, tensor: Tensor<T>) -> Result<Vec<f32>> {
        Ok(self.stream.fetch(tensor)?.into_iter().map(|value| value.to_acc().f64() as f32).collect())
    }
}
