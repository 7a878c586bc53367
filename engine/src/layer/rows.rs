//! Items whose rows are of two kinds, and the copies between "both kinds together" and "each kind by itself".

use scmmgpt_kernels::runtime::{Element, Stream, Tensor};

use super::Dims;
use crate::Result;

/// Rows of each item: learned queries first, then text, so that padding is at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Items of the batch.
    pub items: usize,
    /// Query rows of an item.
    pub queries: usize,
    /// Text rows of an item, padding included.
    pub text: usize,
}

impl Rows {
    /// Items and rows of an item.
    pub fn dims(&self) -> Dims {
        Dims { batch: self.items, seq_len: self.queries + self.text }
    }

    /// Query rows of all items.
    pub fn query_rows(&self) -> usize {
        self.items * self.queries
    }

    /// Text rows of all items.
    pub fn text_rows(&self) -> usize {
        self.items * self.text
    }

    /// Whether items have rows of both kinds.
    pub fn are_mixed(&self) -> bool {
        self.queries > 0 && self.text > 0
    }

    /// The query rows and the text rows of `[items * (queries + text), width]`, an item a row: `[items, queries * width]` and
    /// `[items, text * width]`.
    fn views<T: Element>(&self, together: Tensor<T>) -> [Tensor<T>; 2] {
        let (width, [queries, text]) = (together.width(), [self.queries, self.text]);
        let items = together.reshape([self.items, (queries + text) * width]);
        [items.columns(0, queries * width), items.columns(queries * width, text * width)]
    }

    /// Copies query rows and text rows, each contiguous, into one tensor.
    ///
    /// # Errors
    /// Those of the copy.
    pub fn join<T: Element>(&self, stream: &Stream, together: Tensor<T>, queries: Tensor<T>, text: Tensor<T>) -> Result<()> {
        for (target, source) in self.views(together).into_iter().zip([queries, text]) {
            stream.copy(target, source.reshape([self.items, target.width()]))?;
        }
        Ok(())
    }

    /// Copies query rows and text rows out of one tensor.
    ///
    /// # Errors
    /// Those of the copy.
    pub fn split<T: Element>(&self, stream: &Stream, queries: Tensor<T>, text: Tensor<T>, together: Tensor<T>) -> Result<()> {
        for (source, target) in self.views(together).into_iter().zip([queries, text]) {
            stream.copy(target.reshape([self.items, source.width()]), source)?;
        }
        Ok(())
    }
}
