//! Memory of a pass: who needs which tensors, in the order in which the work runs.

use scmmgpt_kernels::runtime::{Float, Plan, Tensor};

use super::{CellLanguage, Purpose, Sizes};
use crate::config::ExpressionHead;
use crate::layer::Dims;
use crate::layer::causal_attention::Places;
use crate::layer::rows::Rows;
use crate::model::cell_text::{CellGradients, Cells};
use crate::model::count_loss::CountLoss;
use crate::model::gene_expression::{self, ExpressionDims};
use crate::model::language_model;
use crate::model::llm_projection;
use crate::model::qformer::{self, Layout};
use crate::model::squared_error::SquaredError;
use crate::model::token_loss::TokenLoss;

/// What memory is planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// The losses of pairs.
    Losses(Sizes),
    /// Cells to the vectors that the language model reads.
    Cells(Dims),
    /// Vectors that are projected by themselves: so many.
    Pooled(usize),
    /// Sequences to the hidden states at their slots.
    Slots(Dims),
    /// Vectors to expression.
    Expression(ExpressionDims),
}

/// Cells on their way to vectors.
#[derive(Clone, Debug)]
pub(super) struct Projected<T: Float> {
    pub(super) cells: Cells<T>,
    pub(super) queries: qformer::Saved<T>,
    pub(super) projection: llm_projection::Saved<T>,
}

/// Vectors that are projected by themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pooled<T: Float> {
    pub(super) pooled: Tensor<T>,
    pub(super) projection: llm_projection::Saved<T>,
}

/// Sequences on their way through the language model.
#[derive(Clone, Debug)]
pub(super) struct Sequences<T: Float> {
    pub(super) ids: Tensor<u32>,
    pub(super) targets: Tensor<u32>,
    pub(super) places: Places<T>,
    pub(super) saved: language_model::Saved<T>,
    /// `[generated * slots, hidden_size]`.
    pub(super) slots: Tensor<T>,
}

/// The expression decoder and its error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoded<T: Float> {
    pub(super) dims: ExpressionDims,
    pub(super) saved: gene_expression::Saved<T>,
    /// What is learned of values.
    pub(super) squared: Option<SquaredError<T>>,
    /// What is learned of counts.
    pub(super) counts: Option<CountLoss<T>>,
}

#[derive(Clone, Debug)]
pub(super) struct Gradients<T: Float> {
    /// `[generated * slots, hidden_size]`.
    pub(super) slots: Tensor<T>,
    pub(super) expression: Option<gene_expression::Gradients<T>>,
    pub(super) language: language_model::Gradients<T>,
    pub(super) projection: llm_projection::Saved<T>,
    /// Where gradients pass the projection.
    pub(super) cells: Option<(qformer::Gradients<T>, CellGradients<T>)>,
}

#[derive(Clone, Debug)]
pub(super) struct Handles<T: Float> {
    pub(super) request: Request,
    pub(super) projected: Option<Projected<T>>,
    pub(super) pooled: Option<Pooled<T>>,
    pub(super) sequences: Option<Sequences<T>>,
    pub(super) language: Option<TokenLoss<T>>,
    pub(super) reconstruction: Option<SquaredError<T>>,
    pub(super) expression: Option<Decoded<T>>,
    pub(super) gradients: Option<Gradients<T>>,
}

impl Sizes {
    fn sequences(&self) -> Dims {
        Dims { batch: self.cells.batch, seq_len: self.tokens }
    }
}

impl<T: Float> CellLanguage<T> {
    pub(super) fn handles(&self, plan: &mut Plan, request: Request, purpose: &Purpose) -> Handles<T> {
        let mut handles = Handles {
            request,
            projected: None,
            pooled: None,
            sequences: None,
            language: None,
            reconstruction: None,
            expression: None,
            gradients: None,
        };
        match request {
            Request::Losses(sizes) => self.plan_losses(plan, &mut handles, sizes, purpose),
            Request::Cells(dims) => handles.projected = Some(self.plan_projected(plan, dims, purpose)),
            Request::Pooled(rows) => handles.pooled = Some(self.plan_pooled(plan, rows)),
            Request::Slots(dims) => handles.sequences = Some(self.plan_sequences(plan, dims, dims.batch, purpose)),
            Request::Expression(dims) => handles.expression = Some(self.plan_decoded(plan, dims)),
        }
        handles
    }

    fn plan_losses(&self, plan: &mut Plan, handles: &mut Handles<T>, sizes: Sizes, purpose: &Purpose) {
        let Sizes { cells, generated, genes, neighbours, .. } = sizes;
        let Purpose { training, weights, .. } = *purpose;
        let sequences = sizes.sequences();
        handles.projected = Some(self.plan_projected(plan, cells, purpose));
        handles.pooled = (generated * neighbours > 0).then(|| self.plan_pooled(plan, generated * neighbours));
        handles.sequences = Some(self.plan_sequences(plan, sequences, generated, purpose));
        handles.language =
            (weights.language > 0.0).then(|| TokenLoss::plan(plan, sequences.tokens(), self.language.vocab_size(), training));
        let numbers = generated * self.slots() * self.language.config().hidden_size;
        handles.reconstruction =
            (weights.reconstruction > 0.0 && generated > 0).then(|| SquaredError::plan(plan, "reconstruction", numbers));
        handles.expression = (weights.expression > 0.0).then(|| {
            let (items, keys) = (cells.batch + generated, self.expression_keys() + neighbours);
            self.plan_decoded(plan, ExpressionDims { items, genes, keys, biased: neighbours > 0 })
        });
        handles.gradients = training.then(|| plan.under("gradients", |plan| self.plan_gradients(plan, handles, sizes, purpose)));
    }

    fn plan_projected(&self, plan: &mut Plan, dims: Dims, purpose: &Purpose) -> Projected<T> {
        let (training, dropout) = (purpose.training && self.tunes_cells(), purpose.dropout && self.tunes_cells());
        let cells = plan.under("cells", |plan| self.joint.plan_cells(plan, dims, training, dropout));
        let rows = Rows { items: dims.batch, queries: self.slots(), text: 0 };
        let queries = plan.under("cell_pass", |plan| {
            self.joint.qformer().plan(plan, &Layout { rows, keys: Some(cells.keys), prefix: None, training, dropout })
        });
        Projected { cells, queries, projection: self.projection.plan(plan, "llm_proj", rows.query_rows()) }
    }

    fn plan_pooled(&self, plan: &mut Plan, rows: usize) -> Pooled<T> {
        plan.under("pooled", |plan| Pooled {
            pooled: plan.tensor("pooled", [rows, self.config.cell_text.qformer.hidden_size]),
            projection: self.projection.plan(plan, "llm_proj", rows),
        })
    }

    fn plan_sequences(&self, plan: &mut Plan, dims: Dims, generated: usize, purpose: &Purpose) -> Sequences<T> {
        let (tokens, width) = (dims.tokens(), self.language.config().hidden_size);
        plan.under("sequences", |plan| {
            let [ids, targets, positions] = ["ids", "targets", "positions"].map(|name| plan.tensor(name, [tokens]));
            let lengths = plan.tensor("lengths", [dims.batch]);
            let slots = plan.tensor("slots", [generated * self.slots(), width]);
            let places = Places { dims, lengths, positions, table: self.language.rotation(), dropout: None };
            Sequences { ids, targets, places, saved: self.language.plan(plan, dims, purpose.training), slots }
        })
    }

    fn plan_decoded(&self, plan: &mut Plan, dims: ExpressionDims) -> Decoded<T> {
        let saved = self.expression.plan(plan, dims);
        let of_counts = self.config.expression.head == ExpressionHead::Zinb;
        Decoded {
            dims,
            saved,
            squared: (!of_counts).then(|| SquaredError::plan(plan, "expression", dims.tokens())),
            counts: of_counts.then(|| CountLoss::plan(plan, "expression", dims.items, dims.genes)),
        }
    }

    fn plan_gradients(&self, plan: &mut Plan, handles: &Handles<T>, sizes: Sizes, purpose: &Purpose) -> Gradients<T> {
        let projected = handles.projected.as_ref().filter(|_| self.tunes_cells());
        Gradients {
            slots: plan.tensor("dslots", [sizes.generated * self.slots(), self.language.config().hidden_size]),
            expression: handles.expression.map(|kept| self.expression.plan_gradients(plan, kept.dims)),
            language: self.language.plan_gradients(plan, sizes.sequences()),
            projection: self.projection.plan(plan, "dllm_proj", sizes.cells.batch * self.slots()),
            cells: projected.map(|kept| {
                let queries = self.joint.qformer().plan_gradients(plan, &kept.queries, purpose.dropout);
                (queries, self.joint.plan_cell_gradients(plan, &kept.cells, purpose.dropout))
            }),
        }
    }
}
