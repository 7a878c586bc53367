//! Memory of a pass: who needs which tensors, in the order in which the work runs.

use scmmgpt_kernels::runtime::{Float, Plan, Tensor};

use super::cells::{CellGradients, Cells};
use super::{CellText, Purpose, Sizes};
use crate::layer::Dims;
use crate::layer::rows::Rows;
use crate::model::qformer::{self, Layout};
use crate::model::{captioning_head, contrastive_head, matching_head, projection, space_expert};

/// What memory is planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) cells: Dims,
    pub(super) texts: Dims,
    pub(super) work: Work,
}

/// Sizes of what a request does not have.
pub(super) const NONE: Dims = Dims { batch: 0, seq_len: 0 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// The losses of pairs of cells and texts.
    Losses,
    /// Embeddings of cells.
    Cells,
    /// Embeddings of texts.
    Texts,
    /// Matching of every cell with every text.
    Pairs,
}

impl Request {
    pub(super) fn losses(sizes: Sizes) -> Request {
        Request { cells: sizes.cells, texts: sizes.texts, work: Work::Losses }
    }

    pub(super) fn texts(texts: Dims) -> Request {
        Request { cells: NONE, texts, work: Work::Texts }
    }
}

/// One side of the contrast: a pass, its projection, and for texts one row each.
#[derive(Clone, Debug)]
pub(super) struct Embedded<T: Float> {
    pub(super) pass: qformer::Saved<T>,
    /// What is projected: all rows of the cell pass, or what stands for each text.
    pub(super) rows: Tensor<T>,
    pub(super) projection: projection::Saved<T>,
}

#[derive(Clone, Debug)]
pub(super) struct Matching<T: Float> {
    pub(super) pass: qformer::Saved<T>,
    pub(super) head: matching_head::Saved<T>,
}

#[derive(Clone, Debug)]
pub(super) struct Captioning<T: Float> {
    pub(super) pass: qformer::Saved<T>,
    pub(super) head: captioning_head::Saved<T>,
}

/// Gradients of the four passes lie over each other: each pass is done with its own when the next begins.
#[derive(Clone, Debug)]
pub(super) struct Gradients<T: Float> {
    pub(super) cell_projection: projection::Gradients<T>,
    pub(super) text_projection: projection::Gradients<T>,
    pub(super) reading: CellGradients<T>,
    /// Working space for adding to the gradient of keys and values, where two passes look at the cells.
    pub(super) kv_layer: Option<Tensor<T>>,
    /// Of each layer's projections in the cell pass, from the captions.
    pub(super) projections: Vec<Tensor<T>>,
    pub(super) captioning: Option<(qformer::Gradients<T>, captioning_head::Gradients<T>)>,
    pub(super) matching: Option<(qformer::Gradients<T>, matching_head::Gradients<T>)>,
    /// With the gradient of the projected rows.
    pub(super) texts: Option<(qformer::Gradients<T>, Tensor<T>)>,
    pub(super) cells: Option<qformer::Gradients<T>>,
}

#[derive(Clone, Debug)]
pub(super) struct Handles<T: Float> {
    pub(super) request: Request,
    pub(super) cells: Option<Cells<T>>,
    pub(super) embedded_cells: Option<Embedded<T>>,
    /// In inference alone: the expert is not trained with the rest.
    pub(super) expert: Option<space_expert::Saved<T>>,
    pub(super) embedded_texts: Option<Embedded<T>>,
    pub(super) contrastive: Option<contrastive_head::Saved<T>>,
    pub(super) matching: Option<Matching<T>>,
    pub(super) captioning: Option<Captioning<T>>,
    pub(super) gradients: Option<Gradients<T>>,
}

impl<T: Float> CellText<T> {
    pub(super) fn handles(&self, plan: &mut Plan, request: Request, purpose: &Purpose) -> Handles<T> {
        let Request { cells: cell_dims, texts: text_dims, work } = request;
        let Purpose { training, dropout, weights, .. } = *purpose;
        let (losses, queries) = (work == Work::Losses, self.config.num_query_tokens);
        let captions = losses && weights.captioning > 0.0;
        let plain = |rows: Rows| Layout { rows, keys: None, prefix: None, training, dropout };

        let cells = (work != Work::Texts).then(|| plan.under("cells", |plan| self.plan_cells(plan, cell_dims, training, dropout)));
        let keys = cells.as_ref().map(|cells| cells.keys);
        let embedded_cells = (losses || work == Work::Cells).then(|| {
            plan.under("cell_pass", |plan| {
                // Captions read every layer's projections.
                let rows = Rows { items: cell_dims.batch, queries, text: 0 };
                let pass = self.qformer.plan(plan, &Layout { keys, training: training || captions, ..plain(rows) });
                let projection = self.cell_projection.plan(plan, "cell_proj", rows.query_rows());
                Embedded { rows: pass.output, pass, projection }
            })
        });
        let expert = self.expert.filter(|_| work == Work::Cells).map(|expert| expert.plan(plan, cell_dims));
        let embedded_texts = (losses || work == Work::Texts).then(|| {
            plan.under("text_pass", |plan| {
                let pass = self.qformer.plan(plan, &plain(Rows { items: text_dims.batch, queries: 0, text: text_dims.seq_len }));
                let rows = plan.tensor("pooled", [text_dims.batch, self.config.hidden_size]);
                Embedded { pass, rows, projection: self.text_projection.plan(plan, "text_proj", text_dims.batch) }
            })
        });
        let contrastive = losses.then(|| self.contrastive.plan(plan, text_dims.batch, self.config.projection_dim, purpose.contrast));
        // In training each cell meets its own text and another's, otherwise all texts.
        let per_cell = if losses { 2 } else { text_dims.batch };
        let matching = ((losses && weights.matching > 0.0) || work == Work::Pairs).then(|| {
            plan.under("matching_pass", |plan| {
                let rows = Rows { items: per_cell * cell_dims.batch, queries, text: text_dims.seq_len };
                let pass = self.qformer.plan(plan, &Layout { keys, ..plain(rows) });
                Matching { pass, head: self.matching.plan(plan, rows) }
            })
        });
        let captioning = self.captioning.as_ref().filter(|_| captions).map(|head| {
            plan.under("captioning_pass", |plan| {
                let rows = Rows { items: text_dims.batch, queries: 0, text: text_dims.seq_len };
                let prefix = embedded_cells.as_ref().map(|cells| &cells.pass);
                let pass = self.qformer.plan(plan, &Layout { prefix, ..plain(rows) });
                Captioning { pass, head: head.plan(plan, rows.text_rows(), purpose.label_smoothing) }
            })
        });
        let mut handles =
            Handles { request, cells, embedded_cells, expert, embedded_texts, contrastive, matching, captioning, gradients: None };
        if losses && training {
            handles.gradients = plan.under("gradients", |plan| self.plan_gradients(plan, &handles, purpose));
        }
        handles
    }

    fn plan_gradients(&self, plan: &mut Plan, handles: &Handles<T>, purpose: &Purpose) -> Option<Gradients<T>> {
        let (cells, texts) = (handles.embedded_cells.as_ref()?, handles.embedded_texts.as_ref()?);
        let Request { cells: cell_dims, texts: text_dims, .. } = handles.request;
        let dropout = purpose.dropout;
        let contrasts = purpose.weights.contrastive > 0.0;
        let reading = self.plan_cell_gradients(plan, handles.cells.as_ref()?, dropout);
        let looks = contrasts || handles.captioning.is_some();
        let projections = handles.captioning.as_ref().map_or_else(Vec::new, |_| self.qformer.plan_projections(plan, &cells.pass));
        let head = self.captioning.as_ref().zip(handles.captioning.as_ref());
        Some(Gradients {
            cell_projection: self.cell_projection.plan_gradients(plan, "cell_proj", cells.rows.rows()),
            text_projection: self.text_projection.plan_gradients(plan, "text_proj", text_dims.batch),
            reading,
            kv_layer: (looks && handles.matching.is_some()).then(|| self.qformer.plan_kv_layer(plan, cell_dims)),
            projections,
            captioning: head.map(|(head, kept)| {
                plan.scope(|plan| {
                    let pass = self.qformer.plan_gradients(plan, &kept.pass, dropout);
                    (pass, head.plan_gradients(plan, text_dims.tokens()))
                })
            }),
            matching: handles.matching.as_ref().map(|kept| {
                plan.scope(|plan| {
                    let pass = self.qformer.plan_gradients(plan, &kept.pass, dropout);
                    (pass, self.matching.plan_gradients(plan, kept.pass.rows()))
                })
            }),
            texts: contrasts.then(|| {
                plan.scope(|plan| {
                    let pooled = plan.tensor("dpooled", [text_dims.batch, self.config.hidden_size]);
                    (self.qformer.plan_gradients(plan, &texts.pass, dropout), pooled)
                })
            }),
            cells: looks.then(|| plan.scope(|plan| self.qformer.plan_gradients(plan, &cells.pass, dropout))),
        })
    }
}
