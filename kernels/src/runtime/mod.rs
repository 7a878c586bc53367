//! Devices, streams, memory plans, arenas and tensor handles.
//!
//! A [`Plan`] lists tensors by name and shape and hands out [`Tensor`] handles; [`Arena::allocate`] makes one allocation for the
//! whole plan; kernels take handles and a [`Stream`]. On the CPU a stream runs its work at the call; the interface is that of a
//! device whose streams run on their own, so order between streams is only ever what an [`Event`] says.

mod arena;
mod cpu;
mod cuda;
mod device;
mod element;
pub mod emit;
pub mod math;
mod memory;
pub mod philox;
mod pinned;
mod plan;
mod rows;
mod shape;
pub mod simd;
mod stream;
mod tensor;

pub use arena::Arena;
pub use cpu::{Access, Cpu, with_buffer};
pub use cuda::{Cuda, CudaStream, Launch, Value, elementwise, entry, variant};
pub use device::{Device, Target};
pub use element::{Element, Float, Real};
pub use pinned::Pinned;
pub use plan::{Class, Entry, Plan, Report};
pub use rows::{Rows, RowsMut};
pub use shape::Shape;
pub use stream::{Event, Stream};
pub use tensor::Tensor;

pub use half::{bf16, f16};
