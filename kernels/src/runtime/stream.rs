//! Streams, events and copies.

use std::sync::Mutex;
use std::time::Instant;

use super::cuda::{CudaEvent, CudaStream};
use super::device::{HostBlock, lock};
use super::{Access, Device, Element, Pinned, Target, Tensor};
use crate::{Error, Result};

/// An ordered queue of work on a device, with its own scratch memory.
///
/// On the CPU work runs at the call. Two streams of one device are ordered only by events.
#[derive(Debug)]
pub struct Stream {
    device: Device,
    queue: Queue,
}

#[derive(Debug)]
enum Queue {
    /// Work runs at the call; only the scratch is kept.
    Cpu(Mutex<HostBlock>),
    Cuda(CudaStream),
}

/// A point in a stream's work that other streams and the host can wait for.
#[derive(Debug)]
pub struct Event {
    recorded: Option<Instant>,
    cuda: Option<CudaEvent>,
}

impl Event {
    /// An event that has not been recorded; waiting for it returns at once.
    ///
    /// # Errors
    /// Those of the driver; none on the CPU.
    pub fn new(device: &Device) -> Result<Event> {
        Ok(Event { recorded: None, cuda: device.as_cuda().map(CudaEvent::new).transpose()? })
    }

    /// Blocks the host until the work before the event is done.
    ///
    /// # Errors
    /// Those of that work.
    pub fn synchronize(&self) -> Result<()> {
        match (&self.cuda, self.recorded) {
            (Some(event), Some(_)) => event.synchronize(),
            _ => Ok(()),
        }
    }

    /// Milliseconds between two recorded events; none while either has not been recorded.
    pub fn elapsed_ms(&self, later: &Event) -> Option<f64> {
        if let (Some(first), Some(second)) = (&self.cuda, &later.cuda) {
            self.recorded.and(later.recorded)?;
            return first.elapsed_ms(second).ok();
        }
        Some(later.recorded?.duration_since(self.recorded?).as_secs_f64() * 1e3)
    }
}

impl Stream {
    /// A stream with `scratch_bytes` of scratch: the largest `scratch` of the operations that will run on it
    /// ([`super::Plan::scratch_bytes`]).
    ///
    /// # Errors
    /// `OutOfMemory` when the scratch cannot be allocated.
    pub fn new(device: &Device, scratch_bytes: usize) -> Result<Stream> {
        let queue = match device.as_cuda() {
            Some(cuda) => Queue::Cuda(CudaStream::new(device, cuda, scratch_bytes)?),
            None => Queue::Cpu(Mutex::new(HostBlock::zeroed("scratch", scratch_bytes)?)),
        };
        Ok(Stream { device: device.clone(), queue })
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of scratch that it was created with.
    pub fn scratch_bytes(&self) -> usize {
        match &self.queue {
            Queue::Cpu(scratch) => lock(scratch).bytes(),
            Queue::Cuda(stream) => stream.scratch_bytes(),
        }
    }

    /// Sees to at least so many bytes of scratch. Where it has less, another stream takes its place once its work is done: work on
    /// another stream is ordered with what follows by nothing else.
    ///
    /// # Errors
    /// `OutOfMemory`, and those of the work under way; the stream is the former one then.
    pub fn provide_scratch(&mut self, bytes: usize) -> Result<()> {
        if bytes > self.scratch_bytes() {
            self.synchronize()?;
            *self = Stream::new(&self.device.clone(), bytes)?;
        }
        Ok(())
    }

    /// What kernels dispatch on.
    pub fn target(&self) -> Target<'_> {
        match &self.queue {
            Queue::Cpu(_) => Target::Cpu(self.device.as_cpu()),
            Queue::Cuda(stream) => Target::Cuda(stream),
        }
    }

    /// Opens the tensors of one CPU kernel call.
    pub fn access(&self) -> Access {
        Access::new(&self.device)
    }

    /// Lends `len` scratch elements in host memory, with whatever an earlier user left in them, to the CPU path of `op`.
    ///
    /// # Errors
    /// `Scratch` when the stream owns less; a CUDA stream owns none on the host.
    pub fn with_scratch<T: Element, R>(&self, op: &'static str, len: usize, body: impl FnOnce(&mut [T]) -> R) -> Result<R> {
        let needed = len * size_of::<T>();
        let Queue::Cpu(scratch) = &self.queue else { return Err(Error::Scratch { op, needed, reserved: 0 }) };
        let block = lock(scratch);
        if needed > block.bytes() {
            return Err(Error::Scratch { op, needed, reserved: block.bytes() });
        }
        let borrow = super::device::Borrow { start: 0, rows: 1, width: needed, stride: needed, write: true };
        let pointer = block.borrow(borrow);
        // SAFETY: the mutex guard keeps the block exclusively ours, large and aligned enough; any bits are a valid `T: Pod`.
        let slice = unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr().cast::<T>(), len) };
        let result = body(slice);
        block.release(borrow);
        Ok(result)
    }

    /// Marks this point of the stream.
    ///
    /// # Errors
    /// Those of the driver; none on the CPU. So below.
    pub fn record(&self, event: &mut Event) -> Result<()> {
        event.recorded = Some(Instant::now());
        match (&self.queue, &event.cuda) {
            (Queue::Cuda(stream), Some(event)) => stream.record(event),
            _ => Ok(()),
        }
    }

    /// Lets later work of this stream wait for an event of another.
    ///
    /// # Errors
    /// As [`Stream::record`].
    pub fn wait(&self, event: &Event) -> Result<()> {
        match (&self.queue, &event.cuda) {
            (Queue::Cuda(stream), Some(event)) => stream.wait(event),
            _ => Ok(()),
        }
    }

    /// Blocks the host until everything on the stream is done.
    ///
    /// # Errors
    /// Those of work that ran since the last call; the CPU reports each at its own call.
    pub fn synchronize(&self) -> Result<()> {
        match &self.queue {
            Queue::Cpu(_) => Ok(()),
            Queue::Cuda(stream) => stream.synchronize(),
        }
    }

    /// Copies ordinary host memory into a tensor; the source may be reused on return.
    ///
    /// # Errors
    /// `Shape` when the lengths differ.
    pub fn upload<T: Element>(&self, tensor: Tensor<T>, source: &[T]) -> Result<()> {
        same_length("upload", "source", tensor.len(), source.len())?;
        if let Queue::Cuda(stream) = &self.queue {
            return stream.upload(tensor, source);
        }
        let access = self.access();
        if tensor.is_contiguous() {
            access.write(tensor).copy_from_slice(source);
        } else {
            let mut rows = access.write_rows(tensor);
            for (row, values) in source.chunks_exact(tensor.width()).enumerate() {
                rows.row_mut(row).copy_from_slice(values);
            }
        }
        Ok(())
    }

    /// Copies the first elements of page-locked host memory into a tensor; the host waits for the copy when it next writes the memory.
    ///
    /// # Errors
    /// `Shape` when the source is shorter than the tensor.
    pub fn upload_pinned<T: Element>(&self, tensor: Tensor<T>, source: &Pinned<T>) -> Result<()> {
        if source.as_slice().len() < tensor.len() {
            same_length("upload_pinned", "source", tensor.len(), source.as_slice().len())?;
        }
        self.upload(tensor, &source.as_slice()[..tensor.len()])?;
        if let (Queue::Cuda(stream), Some(cuda)) = (&self.queue, self.device.as_cuda()) {
            let event = CudaEvent::new(cuda)?;
            stream.record(&event)?;
            source.read_until(event);
        }
        Ok(())
    }

    /// Copies a tensor to the host and waits for it.
    ///
    /// # Errors
    /// `Shape` when the lengths differ.
    pub fn download<T: Element>(&self, tensor: Tensor<T>, target: &mut [T]) -> Result<()> {
        same_length("download", "target", tensor.len(), target.len())?;
        if let Queue::Cuda(stream) = &self.queue {
            return stream.download(tensor, target);
        }
        let access = self.access();
        let rows = access.read_rows(tensor);
        for (row, values) in target.chunks_exact_mut(tensor.width().max(1)).enumerate() {
            values.copy_from_slice(rows.row(row));
        }
        Ok(())
    }

    /// [`Stream::download`] into a new vector.
    ///
    /// # Errors
    /// Those of `download`.
    pub fn fetch<T: Element>(&self, tensor: Tensor<T>) -> Result<Vec<T>> {
        let mut values = vec![T::default(); tensor.len()];
        self.download(tensor, &mut values)?;
        Ok(values)
    }

    /// Copies a tensor on the device, row by row where strides differ.
    ///
    /// # Errors
    /// `Shape` when the shapes differ.
    pub fn copy<T: Element>(&self, target: Tensor<T>, source: Tensor<T>) -> Result<()> {
        if *target.shape() != *source.shape() {
            return Err(Error::Shape { op: "copy", tensor: "source", expected: target.shape().to_vec(), got: source.shape().to_vec() });
        }
        if let Queue::Cuda(stream) = &self.queue {
            return stream.copy(target, source);
        }
        let access = self.access();
        let from = access.read_rows(source);
        let mut to = access.write_rows(target);
        for row in 0..from.rows() {
            to.row_mut(row).copy_from_slice(from.row(row));
        }
        Ok(())
    }

    /// Sets every element of a tensor to zero.
    pub fn zero<T: Element>(&self, tensor: Tensor<T>) {
        if let Queue::Cuda(stream) = &self.queue {
            let _ = stream.zero(tensor);
            return;
        }
        let access = self.access();
        let mut rows = access.write_rows(tensor);
        for row in 0..rows.rows() {
            rows.row_mut(row).fill(T::default());
        }
    }
}

fn same_length(op: &'static str, tensor: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::Shape { op, tensor, expected: vec![expected], got: vec![got] }) }
}
