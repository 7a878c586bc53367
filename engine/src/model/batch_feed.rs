//! Batches on their way to the device: two places, so that the next batch travels while the current one is computed.
//!
//! A batch is written to page-locked memory and copied on a stream of its own, in two pieces. Two events a place keep the order: a pass
//! waits until its batch has arrived, and a copy until the pass that last read the place is done.

use scmmgpt_kernels::cross_entropy::IGNORE;
use scmmgpt_kernels::runtime::{Arena, Class, Device, Event, Float, Pinned, Plan, Real, Stream, Tensor};
use scmmgpt_loader::batch::{CellBatch, NO_LABEL};

use crate::Result;
use crate::layer::Dims;

/// A batch in device memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchTensors<T: Float> {
    /// `[tokens]`.
    pub(super) gene_ids: Tensor<u32>,
    /// `[tokens]`.
    pub(super) values: Tensor<T::Acc>,
    /// `[tokens]`.
    pub(super) targets: Tensor<T::Acc>,
    /// `[tokens]`.
    pub(super) target_mask: Tensor<T::Acc>,
    /// `[tokens]`: the values, without those that are hidden.
    pub(super) pool_weights: Tensor<T::Acc>,
    /// `[batch]`.
    pub(super) lengths: Tensor<u32>,
    /// `[batch]`.
    pub(super) known_lengths: Tensor<u32>,
    /// `[batch]`.
    pub(super) labels: Tensor<u32>,
}

/// All integers of a batch, and all reals: a copy each.
#[derive(Clone, Copy, Debug)]
struct Pieces<T: Float> {
    integers: Tensor<u32>,
    reals: Tensor<T::Acc>,
}

impl<T: Float> Pieces<T> {
    fn plan(plan: &mut Plan, dims: Dims) -> Pieces<T> {
        let tokens = dims.tokens();
        Pieces { integers: plan.tensor("integers", [tokens + 3 * dims.batch]), reals: plan.tensor("reals", [4 * tokens]) }
    }

    fn tensors(self, dims: Dims) -> BatchTensors<T> {
        let (tokens, cells) = (dims.tokens(), dims.batch);
        let real = |index: usize| self.reals.columns(index * tokens, tokens);
        let cell = |index: usize| self.integers.columns(tokens + index * cells, cells);
        BatchTensors {
            gene_ids: self.integers.columns(0, tokens),
            lengths: cell(0),
            known_lengths: cell(1),
            labels: cell(2),
            values: real(0),
            targets: real(1),
            target_mask: real(2),
            pool_weights: real(3),
        }
    }
}

/// Room for one batch, on the host and on the device.
#[derive(Debug)]
struct Place<T: Float> {
    dims: Dims,
    arena: Arena,
    pieces: Pieces<T>,
    integers: Pinned<u32>,
    reals: Pinned<T::Acc>,
    arrived: Event,
    used: Event,
}

impl<T: Float> Place<T> {
    fn new(device: &Device, dims: Dims) -> Result<Place<T>> {
        let mut plan = Plan::new(Class::Batch);
        let pieces = Pieces::plan(&mut plan, dims);
        Ok(Place {
            dims,
            arena: Arena::allocate(device, plan)?,
            pieces,
            integers: Pinned::new(device, pieces.integers.len()),
            reals: Pinned::new(device, pieces.reals.len()),
            arrived: Event::new(device)?,
            used: Event::new(device)?,
        })
    }

    fn fit(&mut self, device: &Device, dims: Dims) -> Result<()> {
        if self.dims == dims {
            return Ok(());
        }
        let mut plan = Plan::new(Class::Batch);
        let pieces = Pieces::plan(&mut plan, dims);
        self.arena.replan(plan)?;
        (self.dims, self.pieces) = (dims, pieces);
        if self.integers.as_slice().len() < pieces.integers.len() {
            self.integers = Pinned::new(device, pieces.integers.len());
        }
        if self.reals.as_slice().len() < pieces.reals.len() {
            self.reals = Pinned::new(device, pieces.reals.len());
        }
        Ok(())
    }

    /// Writes a batch to host memory.
    fn write(&mut self, batch: &CellBatch) {
        let label = |&label: &i32| if label == NO_LABEL { IGNORE } else { label as u32 };
        let integers = batch.gene_ids.iter().chain(&batch.lengths).chain(&batch.known_lengths).copied();
        let integers = integers.chain(batch.labels.iter().map(label));
        self.integers.as_mut_slice().iter_mut().zip(integers).for_each(|(place, value)| *place = value);
        // A hidden value may not speak through the pooling either.
        let weights = batch.values.iter().zip(&batch.target_mask).map(|(value, mask)| value * (1.0 - mask));
        let reals = batch.values.iter().chain(&batch.targets).chain(&batch.target_mask).copied().chain(weights);
        self.reals.as_mut_slice().iter_mut().zip(reals).for_each(|(place, value)| *place = T::Acc::of(f64::from(value)));
    }
}

/// The two places, and the stream that fills them.
#[derive(Debug)]
pub(super) struct BatchFeed<T: Float> {
    copy: Stream,
    /// The batch that passes read.
    current: Place<T>,
    /// The one after it.
    next: Place<T>,
}

impl<T: Float> BatchFeed<T> {
    /// Room for batches of this size; larger ones make it grow.
    pub(super) fn new(device: &Device, dims: Dims) -> Result<BatchFeed<T>> {
        Ok(BatchFeed { copy: Stream::new(device, 0)?, current: Place::new(device, dims)?, next: Place::new(device, dims)? })
    }

    /// What [`BatchFeed::new`] allocates on the device.
    pub(super) fn plan(dims: Dims) -> Plan {
        let mut plan = Plan::new(Class::Batch);
        for name in ["current", "next"] {
            plan.under(name, |plan| Pieces::<T>::plan(plan, dims));
        }
        plan
    }

    /// Starts the copy of the next batch, which replaces one that was staged and not taken.
    pub(super) fn stage(&mut self, batch: &CellBatch) -> Result<()> {
        let place = &mut self.next;
        place.fit(self.copy.device(), Dims { batch: batch.batch, seq_len: batch.seq_len })?;
        place.write(batch);
        self.copy.wait(&place.used)?;
        self.copy.upload_pinned(place.pieces.integers, &place.integers)?;
        self.copy.upload_pinned(place.pieces.reals, &place.reals)?;
        Ok(self.copy.record(&mut place.arrived)?)
    }

    /// Size of the batch that [`BatchFeed::take`] will give.
    pub(super) fn next_dims(&self) -> Dims {
        self.next.dims
    }

    /// Makes the staged batch the current one, for later work on `compute`.
    pub(super) fn take(&mut self, compute: &Stream) -> Result<()> {
        compute.record(&mut self.current.used)?;
        std::mem::swap(&mut self.current, &mut self.next);
        Ok(compute.wait(&self.current.arrived)?)
    }

    /// The current batch.
    pub(super) fn tensors(&self) -> BatchTensors<T> {
        self.current.pieces.tensors(self.current.dims)
    }
}
