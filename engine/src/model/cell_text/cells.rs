//! A batch of cells on its way to the keys and values that queries look at: encoder, `ln_gene`, projections.

use scmmgpt_kernels::runtime::{Float, Plan, Real, Stream, Tensor};
use scmmgpt_loader::batch::CellBatch;

use super::CellText;
use crate::Result;
use crate::layer::gene_embedding::Input;
use crate::layer::{Dims, Dropout, Pass, norm};
use crate::model::cell_encoder;
use crate::model::qformer::CellKeys;

/// What is kept of a batch of cells.
#[derive(Clone, Debug)]
pub(in crate::model) struct Cells<T: Float> {
    pub(super) gene_ids: Tensor<u32>,
    pub(super) values: Tensor<T::Acc>,
    lengths: Tensor<u32>,
    encoder: cell_encoder::Saved<T>,
    statistics: norm::Saved<T>,
    features: Tensor<T>,
    pub(in crate::model) keys: CellKeys<T>,
}

/// Gradients on their way back.
#[derive(Clone, Debug)]
pub(in crate::model) struct CellGradients<T: Float> {
    /// As the keys' `kv`.
    pub(in crate::model) kv: Tensor<T>,
    features: Tensor<T>,
    /// Gradient of the encoder's tokens.
    hidden: Tensor<T>,
    /// None when the encoder is frozen.
    encoder: Option<cell_encoder::Gradients<T>>,
}

impl<T: Float> CellText<T> {
    pub(in crate::model) fn plan_cells(&self, plan: &mut Plan, dims: Dims, training: bool, dropout: bool) -> Cells<T> {
        let (tokens, encoder) = (dims.tokens(), self.cells.encoder());
        let tuned = training && self.tunes_cells;
        let lengths = plan.tensor("lengths", [dims.batch]);
        Cells {
            gene_ids: plan.tensor("gene_ids", [tokens]),
            values: plan.tensor("values", [tokens]),
            lengths,
            encoder: encoder.plan(plan, dims, tuned, dropout && self.tunes_cells, false),
            statistics: self.cell_norm.plan(plan, "ln_gene", tokens),
            features: plan.tensor("features", [tokens, encoder.width()]),
            keys: self.qformer.plan_keys(plan, dims, lengths),
        }
    }

    pub(in crate::model) fn plan_cell_gradients(&self, plan: &mut Plan, cells: &Cells<T>, dropout: bool) -> CellGradients<T> {
        let (dims, width) = (cells.keys.cells, self.cells.encoder().width());
        let encoder = self.tunes_cells.then(|| self.cells.encoder().plan_gradients(plan, dims, dropout));
        let hidden = match &encoder {
            Some(encoder) => encoder.hidden,
            None => plan.tensor("dhidden", [dims.tokens(), width]),
        };
        let kv = plan.tensor("dkv", cells.keys.kv.shape());
        CellGradients { kv, features: plan.tensor("dfeatures", [dims.tokens(), width]), hidden, encoder }
    }

    /// Uploads the cells and writes the keys and values.
    pub(in crate::model) fn forward_cells(
        &self,
        stream: &Stream,
        kept: &Cells<T>,
        cells: &CellBatch,
        dropout: Option<Dropout>,
    ) -> Result<()> {
        let values: Vec<T::Acc> = cells.values.iter().map(|&value| T::Acc::of(f64::from(value))).collect();
        stream.upload(kept.gene_ids, &cells.gene_ids)?;
        stream.upload(kept.values, &values)?;
        stream.upload(kept.lengths, &cells.lengths)?;
        self.cells.encoder().forward_tokens(stream, &kept.pass(dropout), &kept.encoder, kept.input())?;
        self.cell_norm.forward(stream, kept.statistics, kept.features, kept.encoder.hidden)?;
        self.qformer.forward_keys(stream, &kept.keys, kept.features)
    }

    /// From `gradients.kv` to the parameters of keys, values and `ln_gene`, and to the encoder where it is tuned.
    pub(in crate::model) fn backward_cells(
        &self,
        stream: &Stream,
        kept: &Cells<T>,
        gradients: &CellGradients<T>,
        dropout: Option<Dropout>,
    ) -> Result<()> {
        self.qformer.backward_keys(stream, gradients.features, gradients.kv, kept.features)?;
        self.cell_norm.backward(stream, kept.statistics, gradients.hidden, gradients.features, kept.encoder.hidden)?;
        let Some(encoder) = &gradients.encoder else { return Ok(()) };
        let pass = kept.pass(dropout);
        self.cells.encoder().backward(stream, &pass, &kept.encoder, encoder, None, kept.input(), self.cells.padding_id())
    }
}

impl<T: Float> Cells<T> {
    pub(super) fn pass(&self, dropout: Option<Dropout>) -> Pass {
        Pass { dims: self.keys.cells, lengths: self.lengths, known_lengths: None, dropout }
    }

    fn input(&self) -> Input<T> {
        Input { gene_ids: self.gene_ids, values: self.values }
    }
}
