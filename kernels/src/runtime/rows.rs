//! Strided matrices as safe views: rows are slices, splits are disjoint.

use std::marker::PhantomData;

use super::Float;

/// A matrix to read: `rows` slices of `width` elements, `stride` elements apart.
#[derive(Clone, Copy)]
pub struct Rows<'a, T> {
    pointer: *const T,
    rows: usize,
    width: usize,
    stride: usize,
    lifetime: PhantomData<&'a [T]>,
}

/// A matrix to write; see [`Rows`]. Only its own columns of each row belong to it.
pub struct RowsMut<'a, T> {
    pointer: *mut T,
    rows: usize,
    width: usize,
    stride: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: a shared view of elements.
unsafe impl<T: Sync> Send for Rows<'_, T> {}
// SAFETY: a shared view of elements.
unsafe impl<T: Sync> Sync for Rows<'_, T> {}
// SAFETY: an exclusive view of its elements.
unsafe impl<T: Send> Send for RowsMut<'_, T> {}
// SAFETY: through `&RowsMut` elements can only be read.
unsafe impl<T: Sync> Sync for RowsMut<'_, T> {}

impl<'a, T> Rows<'a, T> {
    /// # Safety
    /// Elements `pointer[r * stride + c]`, `r < rows`, `c < width`, are valid and not written for `'a`.
    pub(super) unsafe fn new(pointer: *const T, rows: usize, width: usize, stride: usize) -> Self {
        Rows { pointer, rows, width, stride, lifetime: PhantomData }
    }

    /// A contiguous slice as a matrix of rows of `width` elements.
    pub fn of(slice: &'a [T], width: usize) -> Self {
        assert!(width > 0 && slice.len().is_multiple_of(width));
        Rows { pointer: slice.as_ptr(), rows: slice.len() / width, width, stride: width, lifetime: PhantomData }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Elements from row to row.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// First element, for SIMD leaf functions.
    pub fn as_ptr(&self) -> *const T {
        self.pointer
    }

    /// Row `index`.
    #[inline]
    pub fn row(&self, index: usize) -> &'a [T] {
        assert!(index < self.rows);
        // SAFETY: promised at construction.
        unsafe { std::slice::from_raw_parts(self.pointer.add(index * self.stride), self.width) }
    }

    /// Rows `start..start + count`, columns `column..column + width`.
    pub fn tile(&self, start: usize, count: usize, column: usize, width: usize) -> Rows<'a, T> {
        assert!(start + count <= self.rows && column + width <= self.width);
        // SAFETY: inside the view.
        let pointer = if count == 0 { self.pointer } else { unsafe { self.pointer.add(start * self.stride + column) } };
        Rows { pointer, rows: count, width, ..*self }
    }
}

impl<'a, T> RowsMut<'a, T> {
    /// # Safety
    /// Elements `pointer[r * stride + c]`, `r < rows`, `c < width`, are valid and belong to this view alone for `'a`.
    pub(super) unsafe fn new(pointer: *mut T, rows: usize, width: usize, stride: usize) -> Self {
        RowsMut { pointer, rows, width, stride, lifetime: PhantomData }
    }

    /// A contiguous slice as a matrix of rows of `width` elements.
    pub fn of(slice: &'a mut [T], width: usize) -> Self {
        assert!(width > 0 && slice.len().is_multiple_of(width));
        RowsMut { pointer: slice.as_mut_ptr(), rows: slice.len() / width, width, stride: width, lifetime: PhantomData }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Elements from row to row.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// First element, for SIMD leaf functions.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.pointer
    }

    /// Row `index`, to read.
    #[inline]
    pub fn row(&self, index: usize) -> &[T] {
        assert!(index < self.rows);
        // SAFETY: promised at construction.
        unsafe { std::slice::from_raw_parts(self.pointer.add(index * self.stride), self.width) }
    }

    /// Row `index`, to write.
    #[inline]
    pub fn row_mut(&mut self, index: usize) -> &mut [T] {
        assert!(index < self.rows);
        // SAFETY: promised at construction; `&mut self` keeps it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(index * self.stride), self.width) }
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> RowsMut<'_, T> {
        RowsMut { pointer: self.pointer, rows: self.rows, width: self.width, stride: self.stride, lifetime: PhantomData }
    }

    /// The same view in the accumulation type, where that is the element type.
    pub fn as_acc(&mut self) -> Option<RowsMut<'_, T::Acc>>
    where
        T: Float,
    {
        let RowsMut { pointer, rows, width, stride, lifetime: _ } = *self;
        let same = std::any::TypeId::of::<T>() == std::any::TypeId::of::<T::Acc>();
        same.then_some(RowsMut { pointer: pointer.cast(), rows, width, stride, lifetime: PhantomData })
    }

    /// Rows before and from `at`.
    pub fn split_rows(self, at: usize) -> (RowsMut<'a, T>, RowsMut<'a, T>) {
        assert!(at <= self.rows);
        // SAFETY: inside the view, or one past its last row when nothing is left (never dereferenced).
        let below = if at == self.rows { self.pointer } else { unsafe { self.pointer.add(at * self.stride) } };
        let RowsMut { pointer, rows, width, stride, lifetime } = self;
        (RowsMut { pointer, rows: at, width, stride, lifetime }, RowsMut { pointer: below, rows: rows - at, width, stride, lifetime })
    }

    /// Columns before and from `at`.
    pub fn split_columns(self, at: usize) -> (RowsMut<'a, T>, RowsMut<'a, T>) {
        assert!(at <= self.width);
        // SAFETY: inside the view, or one past the row's last column when nothing is left (never dereferenced).
        let right = unsafe { self.pointer.add(if self.rows == 0 || at == self.width { 0 } else { at }) };
        let RowsMut { pointer, rows, width, stride, lifetime } = self;
        (RowsMut { pointer, rows, width: at, stride, lifetime }, RowsMut { pointer: right, rows, width: width - at, stride, lifetime })
    }

    /// Cuts the matrix into tiles of at most `tile_rows x tile_columns`, row by row: the unit of parallel work.
    pub fn into_tiles(self, tile_rows: usize, tile_columns: usize) -> Vec<RowsMut<'a, T>> {
        assert!(tile_rows > 0 && tile_columns > 0);
        let mut tiles = Vec::with_capacity(self.rows.div_ceil(tile_rows) * self.width.div_ceil(tile_columns));
        let mut rest = self;
        while rest.rows > 0 {
            let at = tile_rows.min(rest.rows);
            let (mut band, below) = rest.split_rows(at);
            while band.width > 0 {
                let at = tile_columns.min(band.width);
                let (tile, right) = band.split_columns(at);
                tiles.push(tile);
                band = right;
            }
            rest = below;
        }
        tiles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_element_once() {
        let mut memory = vec![0u32; 7 * 10];
        let (_, columns) = RowsMut::of(&mut memory, 10).split_columns(3);
        for (index, mut tile) in columns.into_tiles(3, 4).into_iter().enumerate() {
            for row in 0..tile.rows() {
                tile.row_mut(row).iter_mut().for_each(|value| *value += 1 + index as u32);
            }
        }
        let view = Rows::of(&memory, 10);
        assert_eq!(view.row(0), [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]);
        assert_eq!(view.row(6), [0, 0, 0, 5, 5, 5, 5, 6, 6, 6]);
        assert_eq!(view.tile(2, 2, 6, 2).row(1), [3, 4]);
    }
}
