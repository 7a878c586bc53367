//! Page-locked host memory for batches on their way to a device.

use super::{Device, Element};

/// Host memory that a copy stream can read while the host goes on; ordinary memory on the CPU.
#[derive(Debug)]
pub struct Pinned<T> {
    values: Vec<T>,
}

impl<T: Element> Pinned<T> {
    /// Zeroed memory for `len` elements.
    pub fn new(_device: &Device, len: usize) -> Pinned<T> {
        Pinned { values: vec![T::default(); len] }
    }

    /// To read.
    pub fn as_slice(&self) -> &[T] {
        &self.values
    }

    /// To write, after the copies that still read it are done.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.values
    }
}
