//! A linear expert of the joint space: `v_q = u_q + e`, where `u_q` is what query `q` makes of a cell, of length 1, and
//! `e = bias + sum_i value_i * weight[gene_i]` is what the cell's genes say on their own.
//!
//! With a few hundred labelled cells most of what can be learned is linear in the expression values. The map is fitted once the texts
//! have their places, and frozen: `<e, t_c>` is the logit that a logistic regression gives to class `c` with text `t_c`, times
//! `temperature * gene_linear_weight`, so that the softmax over `<u_q + e, t_c> / temperature` is the product of the two experts. Since
//! `e` is a vector among texts and no list of classes, it ranks texts that training has not seen as well: by their likeness to those it
//! has. `projection_dim` must be at least the number of classes for it to say all that it knows.
//!
//! The sum keeps its length: how sure the expert is of a cell is what ranks cells for a text. Cosines would put a cell of a known class
//! that is a little like the text before one that is very much like it, and like other texts too.
//!
//! # Source
//! Frome et al. 2013, "DeViSE" (cells to the place of their label's text); Romera-Paredes & Torr 2015, "An embarrassingly simple approach
//! to zero-shot learning", eq. 3 (ridge on the side of the labels' descriptions); Hinton 2002 (product of experts). Ours.

use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_kernels::{embedding, reduce};

use super::gene_linear::{self, GeneLinear};
use crate::Result;
use crate::layer::{Dims, Pass};
use crate::weights::ParameterPlan;

/// In front of the names of the weights in checkpoints, which are those of [`gene_linear`].
pub const PATH: &str = "cell_proj";

/// Weights of the expert, frozen.
#[derive(Clone, Copy, Debug)]
pub struct SpaceExpert<T: Float> {
    linear: GeneLinear<T>,
    queries: usize,
}

/// Working memory of one pass; the output last.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    linear: gene_linear::Saved<T>,
    /// `[batch, projection_dim]`: `e` of each cell.
    of_cells: Tensor<T>,
    /// `[batch * queries]`: the cell of each query.
    cell_ids: Tensor<u32>,
    /// `[batch * queries, projection_dim]`.
    pub sum: Tensor<T>,
}

impl<T: Float> SpaceExpert<T> {
    /// Declares `cell_proj.gene_linear.weight`, `[vocab_size, projection_dim]`, and `cell_proj.gene_linear.bias`, zeros.
    pub fn declare(plan: &mut ParameterPlan<T>, vocab_size: usize, queries: usize, projection_dim: usize) -> Self {
        SpaceExpert { linear: plan.under(PATH, |plan| GeneLinear::declare(plan, vocab_size, projection_dim)), queries }
    }

    /// Plans a pass.
    pub fn plan(&self, plan: &mut Plan, dims: Dims) -> Saved<T> {
        let (rows, width) = (dims.batch * self.queries, self.linear.width());
        plan.under("space_expert", |plan| Saved {
            linear: self.linear.plan(plan, dims),
            of_cells: plan.tensor("of_cells", [dims.batch, width]),
            cell_ids: plan.tensor("cell_ids", [rows]),
            sum: plan.tensor("sum", [rows, width]),
        })
    }

    /// Writes `saved.sum` from `unit`, `[batch * queries, projection_dim]`. `values`: `[tokens]`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(
        &self,
        stream: &Stream,
        pass: &Pass,
        saved: &Saved<T>,
        unit: Tensor<T>,
        gene_ids: Tensor<u32>,
        values: Tensor<T::Acc>,
    ) -> Result<()> {
        let Saved { of_cells, cell_ids, sum, .. } = *saved;
        stream.zero(of_cells);
        self.linear.forward(stream, pass, &saved.linear, of_cells, gene_ids, values)?;
        let ids: Vec<u32> = (0..pass.dims.batch as u32).flat_map(|cell| std::iter::repeat_n(cell, self.queries)).collect();
        stream.upload(cell_ids, &ids)?;
        embedding::forward(stream, embedding::Forward { y: sum, table: of_cells, ids: cell_ids })?;
        Ok(reduce::add_assign(stream, reduce::AddAssign { y: sum, x: unit })?)
    }
}
