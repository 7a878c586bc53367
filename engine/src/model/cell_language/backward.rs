//! Losses to gradients: the decoder and the distance at the slots, then the language model, and at last what cells passed through.

use scmmgpt_kernels::reduce::{self, AddAssign};
use scmmgpt_kernels::runtime::Float;
use scmmgpt_loader::language::LanguageBatch;

use super::forward::counted;
use super::handles::{Gradients, Projected, Sequences};
use super::{CellLanguage, Pairs, Workspace};
use crate::Result;
use crate::layer::causal_attention::Places;
use crate::model::cell_text::{Draw, Side};
use crate::model::language_workspace::next_labels;
use crate::model::qformer::Flows;

impl<T: Float> Workspace<T> {
    /// Adds the gradients of `scale * (weighted sum of the losses)` of the batch that [`Workspace::forward`] has seen; batch and `draw`
    /// must be the same. Without `training` there is nothing to do.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, model: &CellLanguage<T>, pairs: &Pairs<'_>, draw: Draw, scale: f64) -> Result<()> {
        let handles = &self.handles;
        let (Some(gradients), Some(sequences), Some(projected)) = (&handles.gradients, &handles.sequences, &handles.projected) else {
            return Ok(());
        };
        let generated = pairs.generated();
        self.language_backward(model, gradients, sequences, pairs.sequences, scale)?;
        self.slots_backward(model, gradients, sequences, &generated, scale)?;
        for (at, &item) in generated.iter().enumerate() {
            let y = self.slots_of(model, gradients.language.hidden, pairs.sequences, item);
            reduce::add_assign(&self.stream, AddAssign { y, x: model.rows(gradients.slots, at) })?;
        }
        let places = Places { dropout: model.language_dropout(&self.purpose, Some(draw)), ..sequences.places };
        model.language.backward(&self.stream, &places, &sequences.saved, &gradients.language)?;
        model.language.embed_backward(&self.stream, &gradients.language, &own_tokens(model, pairs.sequences))?;
        self.projection_backward(model, gradients, projected, pairs.sequences)?;
        self.cells_backward(model, gradients, projected, draw)
    }

    /// Writes the gradient of the last hidden states.
    fn language_backward(
        &self,
        model: &CellLanguage<T>,
        gradients: &Gradients<T>,
        kept: &Sequences<T>,
        batch: &LanguageBatch,
        scale: f64,
    ) -> Result<()> {
        let Some(loss) = &self.handles.language else {
            self.stream.zero(gradients.language.hidden);
            return Ok(());
        };
        let counted = counted(&next_labels(&batch.labels, &batch.lengths, batch.seq_len));
        let gradient = Some((gradients.language.hidden, scale * self.purpose.weights.language));
        loss.run(&self.stream, &model.language, kept.saved.hidden, kept.targets, counted, gradient)?;
        Ok(())
    }

    /// Writes the gradient at the slots of what is made from text. None reaches the vectors of real cells.
    fn slots_backward(
        &self,
        model: &CellLanguage<T>,
        gradients: &Gradients<T>,
        kept: &Sequences<T>,
        generated: &[usize],
        scale: f64,
    ) -> Result<()> {
        let (stream, weights, dslots) = (&self.stream, &self.purpose.weights, gradients.slots);
        match &self.handles.reconstruction {
            Some(error) => {
                let numbers = [dslots.len()];
                error.backward(stream, dslots.reshape(numbers), kept.slots.reshape(numbers), scale * weights.reconstruction)?;
            }
            None => stream.zero(dslots),
        }
        let (Some(decoded), Some(passing)) = (&self.handles.expression, &gradients.expression) else { return Ok(()) };
        let (dims, own, factor) = (decoded.dims, model.expression_keys(), scale * weights.expression);
        if let Some(error) = &decoded.squared {
            let tokens = [dims.tokens()];
            error.backward(stream, passing.output.reshape(tokens), decoded.saved.output.reshape(tokens), factor)?;
        }
        if let (Some(loss), Some(log_theta), Some(dlog_theta)) = (&decoded.counts, decoded.saved.log_theta, passing.log_theta) {
            loss.backward(stream, [passing.output, dlog_theta], log_theta, factor)?;
        }
        model.expression.backward(stream, &decoded.saved, passing)?;
        let first = dims.items - generated.len();
        for at in 0..generated.len() {
            let x = passing.keys.row_range((first + at) * dims.keys, own);
            reduce::add_assign(stream, AddAssign { y: model.rows(dslots, at).row_range(0, own), x })?;
        }
        Ok(())
    }

    /// From the rows that stood in place of words to the projection's parameters.
    fn projection_backward(
        &self,
        model: &CellLanguage<T>,
        gradients: &Gradients<T>,
        kept: &Projected<T>,
        batch: &LanguageBatch,
    ) -> Result<()> {
        let (stream, dvectors) = (&self.stream, gradients.projection.output);
        for item in 0..batch.batch {
            let rows = model.rows(dvectors, item);
            if batch.cell_first[item] {
                stream.copy(rows, self.slots_of(model, gradients.language.embedded, batch, item))?;
            } else {
                stream.zero(rows);
            }
        }
        let dqueries = gradients.cells.as_ref().map(|(queries, _)| queries.output);
        model.projection.backward(stream, &kept.projection, &gradients.projection, dqueries, kept.queries.output)
    }

    /// From the queries to Q-Former and cell encoder, where they learn.
    fn cells_backward(&self, model: &CellLanguage<T>, gradients: &Gradients<T>, kept: &Projected<T>, draw: Draw) -> Result<()> {
        let Some((queries, reading)) = &gradients.cells else { return Ok(()) };
        let (stream, purpose) = (&self.stream, &self.purpose);
        let dropout = model.cell_dropout(purpose, Some(draw), Some(Side::Cells));
        let flows = Flows { kv: Some(reading.kv), ..Flows::default() };
        model.joint.qformer().backward(stream, dropout, &kept.queries, queries, &flows)?;
        model.joint.backward_cells(stream, &kept.cells, reading, model.cell_dropout(purpose, Some(draw), None))
    }
}

/// The tokens of a batch, with none where a cell stands in their place.
fn own_tokens<T: Float>(model: &CellLanguage<T>, batch: &LanguageBatch) -> Vec<u32> {
    let mut ids = batch.token_ids.clone();
    for item in (0..batch.batch).filter(|&item| batch.cell_first[item]) {
        let start = item * batch.seq_len + batch.slots_at[item] as usize;
        ids[start..start + model.slots()].fill(u32::MAX);
    }
    ids
}
