//! Devices and the memory blocks registered with them.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cuda::DeviceBlock;
use super::memory::Memory;
use super::plan::PlanId;
use super::{Cpu, Cuda, CudaStream};
use crate::{Error, Result};

/// A device: where arenas live and streams run. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Device {
    inner: Arc<Inner>,
    allow_tf32: bool,
}

#[derive(Debug)]
struct Inner {
    cpu: Cpu,
    cuda: Option<Arc<Cuda>>,
    blocks: Mutex<HashMap<PlanId, Block>>,
}

/// The memory of an arena.
#[derive(Clone, Debug)]
pub(super) enum Block {
    Host(Arc<HostBlock>),
    Device(Arc<DeviceBlock>),
}

impl Block {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Block::Host(block) => block.bytes(),
            Block::Device(block) => block.bytes(),
        }
    }
}

/// What a kernel dispatches on, once, in its own folder.
#[derive(Debug)]
pub enum Target<'a> {
    /// The CPU path.
    Cpu(&'a Cpu),
    /// A stream of a CUDA device.
    Cuda(&'a CudaStream),
}

impl Device {
    /// The CPU, with its own pool of `threads` workers (0: as many as the machine offers).
    ///
    /// # Errors
    /// `Threads` when the pool cannot be started.
    pub fn cpu(threads: usize) -> Result<Device> {
        Device::new(None, threads)
    }

    fn new(cuda: Option<Arc<Cuda>>, threads: usize) -> Result<Device> {
        let inner = Inner { cpu: Cpu::new(threads)?, cuda, blocks: Mutex::default() };
        Ok(Device { inner: Arc::new(inner), allow_tf32: false })
    }

    /// CUDA device number `ordinal`, with `threads` workers for what the host does.
    ///
    /// # Errors
    /// `DriverNotFound`; `DriverTooOld`; `DeviceUnavailable` when the device does not exist or is too old; `Driver` when it refuses;
    /// those of [`Device::cpu`].
    pub fn cuda(ordinal: usize, threads: usize) -> Result<Device> {
        Device::new(Some(Cuda::open(ordinal)?), threads)
    }

    /// The first CUDA device if it can be used and is hardware, else the CPU. Whoever wants to know why a GPU was not taken asks for
    /// it by name.
    fn auto(threads: usize) -> Result<Device> {
        Device::new(Cuda::open(0).ok().filter(|cuda| cuda.is_hardware()), threads)
    }

    /// The device that a name means: `cpu` with `threads` workers; `cuda:N`, and `cuda` the first of them; `auto`: the first CUDA device
    /// where it can be used and is no software, else the CPU.
    ///
    /// # Errors
    /// `DeviceUnavailable` for an unknown name; those of [`Device::cpu`] and [`Device::cuda`].
    pub fn open(name: &str, threads: usize) -> Result<Device> {
        let refuse = |reason: &str| Err(Error::DeviceUnavailable { device: name.into(), reason: reason.into() });
        match name {
            "auto" => Device::auto(threads),
            "cpu" => Device::cpu(threads),
            "cuda" => Device::cuda(0, threads),
            _ => match name.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()) {
                Some(ordinal) => Device::cuda(ordinal, threads),
                None => refuse("devices are auto, cpu and cuda:N"),
            },
        }
    }

    /// The same device, on whose streams products of f32 may round their operands to tf32 (10 bits behind the leading one; sums stay f32)
    /// and run on tensor cores. Off unless asked for; the CPU computes in f32 either way.
    #[must_use]
    pub fn allow_tf32(self, allow: bool) -> Device {
        Device { allow_tf32: allow, ..self }
    }

    /// See [`Device::allow_tf32`].
    pub(super) fn allows_tf32(&self) -> bool {
        self.allow_tf32
    }

    /// The entries of PTX texts that a CUDA device has launched since it was opened.
    #[cfg(feature = "testing")]
    pub fn launched(&self) -> std::collections::BTreeSet<String> {
        self.inner.cuda.as_ref().map(|cuda| cuda.launched()).unwrap_or_default()
    }

    /// Runs `body` on the device's worker threads, so that the parallel loops inside start without a hand-over.
    pub fn enter<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        self.inner.cpu.install(body)
    }

    /// As [`Device::enter`], for many short kernels in a row: see [`Cpu::install_awake`]. Another device has its own workers.
    pub fn enter_awake<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        if self.is_cuda() { body() } else { self.inner.cpu.install_awake(body) }
    }

    /// Number of worker threads.
    pub fn threads(&self) -> usize {
        self.inner.cpu.threads()
    }

    /// Whether it is a CUDA device.
    pub fn is_cuda(&self) -> bool {
        self.inner.cuda.is_some()
    }

    /// Whether it is a CUDA device without hardware behind it: what runs there is right or wrong, but its times mean nothing.
    pub fn is_software(&self) -> bool {
        self.inner.cuda.as_ref().is_some_and(|cuda| !cuda.is_hardware())
    }

    /// One line for logs: kind and capability.
    pub fn describe(&self) -> String {
        match &self.inner.cuda {
            Some(cuda) => cuda.describe(),
            None => format!("cpu, {} threads, {}", self.threads(), super::simd::level().name()),
        }
    }

    pub(super) fn as_cpu(&self) -> &Cpu {
        &self.inner.cpu
    }

    pub(super) fn as_cuda(&self) -> Option<&Arc<Cuda>> {
        self.inner.cuda.as_ref()
    }

    /// Zeroed memory where this device computes; on a CPU its pages exist at once.
    pub(super) fn zeroed(&self, class: &'static str, bytes: usize) -> Result<Block> {
        self.memory(class, bytes, HostBlock::zeroed)
    }

    /// Zeroed memory where this device computes; on a CPU a page exists from its first write on.
    pub(super) fn reserved(&self, class: &'static str, bytes: usize) -> Result<Block> {
        self.memory(class, bytes, HostBlock::reserved)
    }

    fn memory(&self, class: &'static str, bytes: usize, host: fn(&'static str, usize) -> Result<HostBlock>) -> Result<Block> {
        Ok(match &self.inner.cuda {
            Some(cuda) => Block::Device(Arc::new(DeviceBlock::zeroed(cuda, class, bytes)?)),
            None => Block::Host(Arc::new(host(class, bytes)?)),
        })
    }

    pub(super) fn register(&self, plan: PlanId, block: Block) {
        lock(&self.inner.blocks).insert(plan, block);
    }

    pub(super) fn unregister(&self, plan: PlanId) {
        lock(&self.inner.blocks).remove(&plan);
    }

    /// The host memory behind a handle.
    ///
    /// # Panics
    /// When the handle's arena does not exist on this device: a bug of ours.
    #[expect(clippy::panic, reason = "a handle outlived its arena or changed device: a bug, never an input")]
    pub(super) fn block(&self, plan: PlanId) -> Arc<HostBlock> {
        match lock(&self.inner.blocks).get(&plan) {
            Some(Block::Host(block)) => block.clone(),
            other => panic!("{plan:?} has no arena in host memory of this device, but {other:?}"),
        }
    }

    /// [`Device::block`] for device memory.
    #[expect(clippy::panic, reason = "as above")]
    pub(super) fn device_block(&self, plan: PlanId) -> Arc<DeviceBlock> {
        match lock(&self.inner.blocks).get(&plan) {
            Some(Block::Device(block)) => block.clone(),
            other => panic!("{plan:?} has no arena in device memory of this device, but {other:?}"),
        }
    }
}

/// Locks without caring for poison: every critical section here leaves the data whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Zeroed, aligned host memory and the list of who uses which part of it now.
#[derive(Debug)]
pub(super) struct HostBlock {
    pointer: NonNull<u8>,
    memory: Memory,
    borrows: Mutex<Vec<Borrow>>,
}

// SAFETY: the block owns its memory; every access goes through `borrow`, which refuses conflicting ranges.
unsafe impl Send for HostBlock {}
// SAFETY: as above; the list of borrows is behind a mutex.
unsafe impl Sync for HostBlock {}

/// A strided byte range in use: `rows` rows of `width` bytes, `stride` bytes apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Borrow {
    pub(super) start: usize,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) stride: usize,
    pub(super) write: bool,
}

impl Borrow {
    fn end(&self) -> usize {
        if self.rows == 0 || self.width == 0 { self.start } else { self.start + (self.rows - 1) * self.stride + self.width }
    }

    fn overlaps(&self, other: &Borrow) -> bool {
        if self.start == self.end() || other.start == other.end() || self.end() <= other.start || other.end() <= self.start {
            return false;
        }
        if self.stride != other.stride || self.width >= self.stride || other.width >= other.stride {
            return true;
        }
        // Two column ranges of matrices with the same row distance: compare the columns, which may wrap.
        let stride = self.stride as i64;
        let distance = (other.start as i64 - self.start as i64).rem_euclid(stride);
        distance < self.width as i64 || stride - distance < other.width as i64
    }
}

impl HostBlock {
    pub(super) fn zeroed(class: &'static str, bytes: usize) -> Result<HostBlock> {
        let mut block = HostBlock::reserved(class, bytes)?;
        // Touched now: memory that does not exist shows here, and no kernel waits for pages.
        block.memory.as_mut_slice().fill(0);
        Ok(block)
    }

    pub(super) fn reserved(class: &'static str, bytes: usize) -> Result<HostBlock> {
        let Some(mut memory) = Memory::zeroed(bytes.max(1)) else { return Err(Error::OutOfMemory { class, requested: bytes }) };
        Ok(HostBlock { pointer: NonNull::from(memory.as_mut_slice()).cast(), memory, borrows: Mutex::default() })
    }

    pub(super) fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Marks a range as used and returns its first byte.
    ///
    /// # Panics
    /// When the range leaves the block, or a written range meets any other one in use: bugs of ours.
    #[expect(clippy::panic, reason = "overlap is a bug in a kernel's caller, never an input")]
    pub(super) fn borrow(&self, borrow: Borrow) -> NonNull<u8> {
        assert!(borrow.end() <= self.bytes(), "{borrow:?} leaves a block of {} bytes", self.bytes());
        let mut borrows = lock(&self.borrows);
        if let Some(other) = borrows.iter().find(|other| (borrow.write || other.write) && borrow.overlaps(other)) {
            let other = *other;
            drop(borrows);
            panic!("{borrow:?} overlaps {other:?}");
        }
        borrows.push(borrow);
        // SAFETY: start <= end <= size of the allocation.
        unsafe { self.pointer.add(borrow.start) }
    }

    pub(super) fn release(&self, borrow: Borrow) {
        let mut borrows = lock(&self.borrows);
        if let Some(index) = borrows.iter().position(|other| *other == borrow) {
            borrows.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_ranges_of_one_matrix_are_disjoint() {
        let borrow = |start, width, write| Borrow { start, rows: 4, width, stride: 100, write };
        assert!(!borrow(0, 30, true).overlaps(&borrow(30, 70, true)));
        assert!(borrow(0, 31, true).overlaps(&borrow(30, 70, true)));
        assert!(!borrow(30, 70, true).overlaps(&borrow(100, 30, true)), "later rows, other columns");
        assert!(borrow(30, 71, true).overlaps(&borrow(100, 30, true)), "wraps into the next row");
        assert!(borrow(0, 100, true).overlaps(&borrow(100, 30, true)), "contiguous");
    }
}
