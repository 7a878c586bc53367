//! Tensor handles: where a tensor lies, never the memory itself.

use std::marker::PhantomData;

use super::plan::PlanId;
use super::{Element, Shape};

/// A place in an arena: plan, offset, shape and the distance between rows. Copying it copies no data.
///
/// All dimensions but the last count as rows; a row is contiguous, rows lie `row_stride` elements apart, so that a column range of
/// a matrix is a tensor too ([`Tensor::columns`]).
pub struct Tensor<T> {
    pub(super) plan: PlanId,
    pub(super) offset: usize,
    shape: Shape,
    row_stride: usize,
    element: PhantomData<fn() -> T>,
}

impl<T> Clone for Tensor<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Tensor<T> {}

impl<T: Element> std::fmt::Debug for Tensor<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}{:?}@{:?}+{}", T::NAME, self.shape, self.plan, self.offset)
    }
}

impl<T: Element> Tensor<T> {
    pub(super) fn new(plan: PlanId, offset: usize, shape: Shape) -> Self {
        Tensor { plan, offset, shape, row_stride: shape.width(), element: PhantomData }
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// True when a dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape.rows()
    }

    /// The last dimension.
    pub fn width(&self) -> usize {
        self.shape.width()
    }

    /// Elements from the start of one row to the start of the next.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// True when rows follow each other without a gap.
    pub fn is_contiguous(&self) -> bool {
        self.row_stride == self.width() || self.rows() <= 1
    }

    /// Columns `start..start + width` of every row: the same memory, a narrower last dimension.
    ///
    /// # Panics
    /// When the range leaves the row: a bug of the caller, never of an input.
    pub fn columns(self, start: usize, width: usize) -> Self {
        assert!(start + width <= self.width(), "columns {start}+{width} of a row of {}", self.width());
        Tensor { offset: self.offset + start, shape: self.shape.with_width(width), ..self }
    }

    /// Rows `start..start + count` as a matrix `[count, width]`.
    ///
    /// # Panics
    /// When the range leaves the tensor: a bug of the caller.
    pub fn row_range(self, start: usize, count: usize) -> Self {
        assert!(start + count <= self.rows(), "rows {start}+{count} of {}", self.rows());
        Tensor { offset: self.offset + start * self.row_stride, shape: [count, self.width()].into(), ..self }
    }

    /// The same elements under another shape; a strided tensor may only regroup its rows.
    ///
    /// # Panics
    /// When the number of elements differs, or the last dimension of a strided tensor changes: a bug of the caller.
    pub fn reshape(self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.len(), self.len(), "reshape {:?} to {shape:?}", self.shape);
        assert!(self.is_contiguous() || shape.width() == self.width(), "reshape of a strided tensor");
        let row_stride = if self.is_contiguous() { shape.width() } else { self.row_stride };
        Tensor { shape, row_stride, ..self }
    }
}
