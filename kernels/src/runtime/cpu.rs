//! The CPU target: worker threads, and the one place where handles become slices.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::device::{Borrow, HostBlock};
use super::memory::Memory;
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

    /// As [`Cpu::install`], for many short kernels in a row: between them the other workers look for work instead of sleeping, since to
    /// wake one takes longer than such a kernel. They give way to whoever else wants their cores.
    pub fn install_awake<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        self.install(|| {
            let (me, done) = (self.pool.current_thread_index(), AtomicBool::new(false));
            rayon::in_place_scope(|scope| {
                scope.spawn_broadcast(|_, worker| {
                    if Some(worker.index()) != me {
                        stay_awake(&done);
                    }
                });
                let _ends = Ends(&done);
                body()
            })
        })
    }

    /// Number of worker threads. It may decide how work is cut for speed, never how a sum is ordered.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

/// How long a worker looks for work in vain.
const PATIENCE: Duration = Duration::from_millis(1);

/// Does what work there is until `done`. The patience ends, because this may have been started by a worker that waits inside a task
/// which others wait for.
fn stay_awake(done: &AtomicBool) {
    let mut last = Instant::now();
    while !done.load(Ordering::Acquire) {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            last = Instant::now();
        } else if last.elapsed() < PATIENCE {
            std::thread::yield_now();
        } else {
            return;
        }
    }
}

/// Says that the body has ended, also by a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
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
    static BUFFERS: RefCell<Vec<Memory>> = const { RefCell::new(Vec::new()) };
}

/// Lends `body` a buffer of `len` elements with whatever an earlier user left in it; kept by the thread for the next call.
/// For packing and tiles of bounded size inside CPU kernels.
///
/// # Panics
/// When the system has no memory left.
#[expect(clippy::expect_used, reason = "as when a vector cannot grow")]
pub fn with_buffer<T: Element, R>(len: usize, body: impl FnOnce(&mut [T]) -> R) -> R {
    let bytes = len * size_of::<T>();
    let kept = BUFFERS.with_borrow_mut(Vec::pop).filter(|buffer| buffer.bytes() >= bytes);
    let mut buffer = kept.unwrap_or_else(|| Memory::zeroed(bytes).expect("memory for a buffer of a kernel"));
    let result = body(bytemuck::cast_slice_mut(&mut buffer.as_mut_slice()[..bytes]));
    BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
    result
}
