//! The CPU target: worker threads, and the one place where handles become slices.

use std::cell::RefCell;
use std::sync::Arc;

use super::device::{Borrow, HostBlock};
use super::{Device, Element, Rows, RowsMut, Tensor};
use crate::{Error, Result};

/// The CPU as a kernel sees it.
#[derive(Debug)]
pub struct Cpu {
    pool: rayon::ThreadPool,
}

impl Cpu {
    pub(super) fn new(threads: usize) -> Result<Cpu> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("compute-{index}")).build();
        match pool {
            Ok(pool) => Ok(Cpu { pool }),
            Err(source) => Err(Error::Threads { threads, reason: source.to_string() }),
        }
    }

    /// Runs `body` on the worker threads; free when already there.
    pub fn install<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        self.pool.install(body)
    }

    /// Number of worker threads. It may decide how work is cut for speed, never how a sum is ordered.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

/// The tensors that one kernel call uses, as slices.
///
/// Every handle is resolved here. A written range must be disjoint from every other range in use on the device, in this call or in
/// any other that runs at the same time; that is what makes handing out `&mut` from a shared `Access` sound. Ranges are given back
/// when the `Access` is dropped.
pub struct Access {
    device: Device,
    held: RefCell<Vec<(Arc<HostBlock>, Borrow)>>,
}

impl Access {
    pub(super) fn new(device: &Device) -> Access {
        Access { device: device.clone(), held: RefCell::default() }
    }

    fn resolve<T: Element>(&self, tensor: Tensor<T>, write: bool) -> *mut T {
        let block = self.device.block(tensor.plan);
        let size = size_of::<T>();
        let borrow = if tensor.is_contiguous() {
            let bytes = tensor.len() * size;
            Borrow { start: tensor.offset * size, rows: 1, width: bytes, stride: bytes, write }
        } else {
            let (width, stride) = (tensor.width() * size, tensor.row_stride() * size);
            Borrow { start: tensor.offset * size, rows: tensor.rows(), width, stride, write }
        };
        let pointer = block.borrow(borrow);
        self.held.borrow_mut().push((block, borrow));
        pointer.as_ptr().cast()
    }

    /// A contiguous tensor to read.
    pub fn read<T: Element>(&self, tensor: Tensor<T>) -> &[T] {
        assert!(tensor.is_contiguous(), "a strided tensor is read by rows");
        let pointer = self.resolve(tensor, false);
        // SAFETY: `resolve` checked the range and keeps it and its block held as long as `self`; nobody writes it meanwhile.
        unsafe { std::slice::from_raw_parts(pointer, tensor.len()) }
    }

    /// A contiguous tensor to write (and read).
    #[expect(clippy::mut_from_ref, reason = "resolve refuses overlap with any range in use")]
    pub fn write<T: Element>(&self, tensor: Tensor<T>) -> &mut [T] {
        assert!(tensor.is_contiguous(), "a strided tensor is written by rows");
        let pointer = self.resolve(tensor, true);
        // SAFETY: as in `read`, and the range is exclusively ours.
        unsafe { std::slice::from_raw_parts_mut(pointer, tensor.len()) }
    }

    /// A tensor as rows to read; columns of a wider matrix are fine.
    pub fn read_rows<T: Element>(&self, tensor: Tensor<T>) -> Rows<'_, T> {
        let pointer = self.resolve(tensor, false);
        // SAFETY: as in `read`.
        unsafe { Rows::new(pointer, tensor.rows(), tensor.width(), tensor.row_stride()) }
    }

    /// A tensor as rows to write; columns of a wider matrix are fine.
    pub fn write_rows<T: Element>(&self, tensor: Tensor<T>) -> RowsMut<'_, T> {
        let pointer = self.resolve(tensor, true);
        // SAFETY: as in `write`.
        unsafe { RowsMut::new(pointer, tensor.rows(), tensor.width(), tensor.row_stride()) }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        for (block, borrow) in self.held.get_mut().drain(..) {
            block.release(borrow);
        }
    }
}

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u128>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `body` a buffer of `len` elements with whatever an earlier user left in it; kept by the thread for the next call.
/// For packing and tiles of bounded size inside CPU kernels.
pub fn with_buffer<T: Element, R>(len: usize, body: impl FnOnce(&mut [T]) -> R) -> R {
    let align = size_of::<u128>();
    let bytes = len * size_of::<T>() + super::plan::ALIGNMENT;
    let mut buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() * align < bytes {
        buffer.resize(bytes.div_ceil(align), 0);
    }
    let raw: &mut [u8] = bytemuck::cast_slice_mut(&mut buffer);
    let skip = raw.as_ptr().align_offset(super::plan::ALIGNMENT);
    let result = body(bytemuck::cast_slice_mut(&mut raw[skip..skip + len * size_of::<T>()]));
    BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
    result
}
