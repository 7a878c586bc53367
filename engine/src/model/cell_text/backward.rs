//! Losses to gradients: each pass in turn, and at last the cells that they have looked at.

use scmmgpt_kernels::pool;
use scmmgpt_kernels::runtime::Float;

use super::handles::Gradients;
use super::{CellText, Draw, Side, Workspace};
use crate::Result;
use crate::model::qformer::Flows;

impl<T: Float> Workspace<T> {
    /// Adds the gradients of `scale * (weighted sum of the losses)` of the batch that [`Workspace::forward`] has seen; `draw` must be the
    /// same. They reach the cell encoder where it is tuned. Without `training` there is nothing to do.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(&self, model: &CellText<T>, draw: Draw, scale: f64) -> Result<()> {
        let Some(gradients) = &self.handles.gradients else { return Ok(()) };
        self.contrastive_backward(model, gradients, scale)?;
        self.captioning_backward(model, gradients, draw, scale)?;
        self.matching_backward(model, gradients, draw, scale)?;
        self.text_backward(model, gradients, draw)?;
        self.cell_backward(model, gradients, draw)?;
        self.encoder_backward(model, gradients, draw)
    }

    fn contrastive_backward(&self, model: &CellText<T>, gradients: &Gradients<T>, scale: f64) -> Result<()> {
        let weight = self.purpose.weights.contrastive;
        match (&self.handles.contrastive, self.units()) {
            (Some(kept), Some(units)) if weight > 0.0 => {
                let dunits = [gradients.cell_projection.unit, gradients.text_projection.unit];
                model.contrastive.backward(&self.stream, kept, dunits, units, weight * scale)
            }
            _ => Ok(()),
        }
    }

    fn captioning_backward(&self, model: &CellText<T>, gradients: &Gradients<T>, draw: Draw, scale: f64) -> Result<()> {
        let (Some(head), Some(kept), Some((pass, passing))) = (&model.captioning, &self.handles.captioning, &gradients.captioning) else {
            return Ok(());
        };
        head.backward(&self.stream, &kept.head, passing, pass.output, kept.pass.output, self.purpose.weights.captioning * scale)?;
        let dropout = model.dropout(&self.purpose, draw, Some(Side::Captioning));
        let flows = Flows { prefix: &gradients.projections, ..Flows::default() };
        model.qformer.backward(&self.stream, dropout, &kept.pass, pass, &flows)
    }

    fn matching_backward(&self, model: &CellText<T>, gradients: &Gradients<T>, draw: Draw, scale: f64) -> Result<()> {
        let (Some(kept), Some((pass, passing))) = (&self.handles.matching, &gradients.matching) else { return Ok(()) };
        model.matching.backward(&self.stream, &kept.head, passing, pass.output, self.purpose.weights.matching * scale)?;
        let dropout = model.dropout(&self.purpose, draw, Some(Side::Matching));
        // The first to write the gradient of keys and values; the cell pass adds to it.
        let flows = Flows { kv: Some(gradients.reading.kv), ..Flows::default() };
        model.qformer.backward(&self.stream, dropout, &kept.pass, pass, &flows)
    }

    fn text_backward(&self, model: &CellText<T>, gradients: &Gradients<T>, draw: Draw) -> Result<()> {
        let (stream, Some(kept), Some((pass, dpooled))) = (&self.stream, &self.handles.embedded_texts, &gradients.texts) else {
            return Ok(());
        };
        model.text_projection.backward(stream, &kept.projection, &gradients.text_projection, *dpooled, kept.rows)?;
        let (lengths, seq_len) = (kept.pass.lengths(), self.handles.request.texts.seq_len);
        let kind = model.config.text_pooling.kind();
        pool::backward(stream, pool::Backward { dx: pass.output, dy: *dpooled, lengths, weights: None, seq_len, kind })?;
        let dropout = model.dropout(&self.purpose, draw, Some(Side::Texts));
        model.qformer.backward(stream, dropout, &kept.pass, pass, &Flows::default())
    }

    fn cell_backward(&self, model: &CellText<T>, gradients: &Gradients<T>, draw: Draw) -> Result<()> {
        let (stream, Some(kept), Some(pass)) = (&self.stream, &self.handles.embedded_cells, &gradients.cells) else { return Ok(()) };
        if self.purpose.weights.contrastive > 0.0 {
            model.cell_projection.backward(stream, &kept.projection, &gradients.cell_projection, pass.output, kept.rows)?;
        } else {
            stream.zero(pass.output);
        }
        let dropout = model.dropout(&self.purpose, draw, Some(Side::Cells));
        let flows =
            Flows { kv: Some(gradients.reading.kv), kv_layer: gradients.kv_layer, projections: &gradients.projections, ..Flows::default() };
        model.qformer.backward(stream, dropout, &kept.pass, pass, &flows)
    }

    fn encoder_backward(&self, model: &CellText<T>, gradients: &Gradients<T>, draw: Draw) -> Result<()> {
        let (stream, Some(kept)) = (&self.stream, &self.handles.cells) else { return Ok(()) };
        if gradients.cells.is_none() && gradients.matching.is_none() {
            return Ok(());
        }
        model.backward_cells(stream, kept, &gradients.reading, model.dropout(&self.purpose, draw, None))
    }
}
