//! Stage 2: the language model, and how it learns to describe and to write cells.

use serde::{Deserialize, Serialize};

use super::{domain, positive};
use crate::Result;

/// How many of a cell's vectors the expression decoder looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpressionKeys {
    /// All of them.
    #[default]
    All,
    /// The first, as the reference does: the same context for every gene.
    First,
}

/// Where the decoder's gene table starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeneTable {
    /// As a copy of the cell encoder's, whose width it then has.
    #[default]
    Encoder,
    /// At random, as in the reference.
    Random,
}

/// Sizes of the expression decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpressionConfig {
    /// Numbers a gene; 0 in a training configuration: as many as the cell encoder's genes have.
    pub gene_dim: usize,
    /// Attention heads; `gene_dim / num_attention_heads` must be a multiple of 8.
    pub num_attention_heads: usize,
    /// What is looked at.
    pub keys: ExpressionKeys,
    /// Where the gene table starts.
    pub gene_table: GeneTable,
}

impl Default for ExpressionConfig {
    fn default() -> Self {
        ExpressionConfig { gene_dim: 0, num_attention_heads: 4, keys: ExpressionKeys::default(), gene_table: GeneTable::default() }
    }
}

impl ExpressionConfig {
    /// Checks every field against its domain; `gene_dim` is decided by now.
    ///
    /// # Errors
    /// `Setting`, naming the first that is outside.
    pub fn check(&self) -> Result<()> {
        let heads = self.num_attention_heads;
        positive("stage2.expression.gene_dim", self.gene_dim)?;
        let fits = heads > 0 && self.gene_dim.is_multiple_of(heads) && (self.gene_dim / heads).is_multiple_of(8);
        domain("stage2.expression.num_attention_heads", heads, fits, "gene_dim / num_attention_heads must be a multiple of 8")
    }
}
