//! Shapes of one to four dimensions, held in place.

/// Sizes of one to four dimensions, the last one contiguous.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    sizes: [usize; 4],
    rank: usize,
}

impl Shape {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.iter().product()
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// True when a dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.sizes[..self.rank.saturating_sub(1)].iter().product()
    }

    /// The last dimension.
    pub fn width(&self) -> usize {
        self.sizes[self.rank.saturating_sub(1)]
    }

    pub(super) fn with_width(mut self, width: usize) -> Self {
        self.sizes[self.rank - 1] = width;
        self
    }
}

impl std::ops::Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.sizes[..self.rank]
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

macro_rules! from_array {
    ($($rank:literal),*) => { $(impl From<[usize; $rank]> for Shape {
        fn from(sizes: [usize; $rank]) -> Self {
            let mut shape = Shape { sizes: [1; 4], rank: $rank };
            shape.sizes[..$rank].copy_from_slice(&sizes);
            shape
        }
    })* };
}
from_array!(1, 2, 3, 4);
