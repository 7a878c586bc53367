//! Rows of a table by index, and the sum of gradients back into the table.

#[cfg(feature = "testing")]
pub mod cases;
mod cpu;
pub(crate) mod cuda;
mod sorted;

pub(crate) use sorted::{Group, groups, id, position, sort};

use crate::error::expect_shape;
use crate::runtime::{Float, Stream, Target, Tensor};
use crate::{Error, Result};

/// Arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward<T: Float> {
    /// `[tokens, width]`, written.
    pub y: Tensor<T>,
    /// `[rows, width]`.
    pub table: Tensor<T>,
    /// `[tokens]`: a row of the table each.
    pub ids: Tensor<u32>,
}

/// Arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward<T: Float> {
    /// `[rows, width]`, added to.
    pub dtable: Tensor<T::Acc>,
    /// `[tokens, width]`.
    pub dy: Tensor<T>,
    /// `[tokens]`, as in forward.
    pub ids: Tensor<u32>,
    /// A row that receives no gradient.
    pub padding_id: Option<u32>,
}

/// Bytes of scratch that [`backward`] needs: a key a token on the CPU, and a little more on CUDA devices.
pub fn scratch(tokens: usize) -> usize {
    (tokens * size_of::<u64>()).max(cuda::scratch(tokens))
}

/// `y[i] = table[ids[i]]`.
///
/// # Shapes
/// `y`: `[tokens, width]`; `table`: `[rows, width]`; `ids`: `[tokens]`.
/// # Errors
/// `Shape` when a length differs, `Index` when an id is not below `rows`; a CUDA device gives a row of NaN instead.
/// # Source
/// A gather; nothing to cite.
pub fn forward<T: Float>(stream: &Stream, args: Forward<T>) -> Result<()> {
    const OP: &str = "embedding::forward";
    expect_shape(OP, "y", &[args.ids.len(), args.table.width()], &[args.y.rows(), args.y.width()])?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::forward(stream, cpu, OP, args),
        Target::Cuda(cuda) => cuda::forward(cuda, OP, args),
    }
}

/// `dtable[ids[i]] += dy[i]` in the order of `i` for every row of the table, rows equal to `padding_id` left out.
///
/// # Shapes
/// `dtable`: `[rows, width]`; `dy`: `[tokens, width]`; `ids`: `[tokens]`. Scratch: [`scratch`].
/// # Errors
/// `Shape` when a length differs, `Index` when an id is not below `rows` (a CUDA device leaves it out), `Scratch` when the stream has too
/// little.
/// # Source
/// Tokens sorted by (id, position), so that each row has one writer and one order; the idea of llm.c's `wte_backward` buckets. On CUDA
/// devices the sort is a radix sort whose ranks come from ballots (Merrill & Grimshaw 2011).
pub fn backward<T: Float>(stream: &Stream, args: Backward<T>) -> Result<()> {
    const OP: &str = "embedding::backward";
    expect_shape(OP, "dy", &[args.ids.len(), args.dtable.width()], &[args.dy.rows(), args.dy.width()])?;
    match stream.target() {
        Target::Cpu(cpu) => cpu::backward(stream, cpu, OP, args),
        Target::Cuda(cuda) => cuda::backward(cuda, OP, args),
    }
}

/// Refuses an id that names no row.
pub(crate) fn check_ids(op: &'static str, ids: &[u32], bound: usize) -> Result<()> {
    match ids.iter().position(|id| *id as usize >= bound) {
        Some(position) => Err(Error::Index { op, tensor: "ids", position, index: u64::from(ids[position]), bound }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Arena, Class, Device, Plan};

    #[test]
    fn sums_repeats_skips_padding_and_refuses_foreign_ids() {
        let device = Device::cpu(2).unwrap();
        let mut plan = Plan::new(Class::Activations);
        let (table, y) = (plan.tensor::<f32>("table", [3, 2]), plan.tensor::<f32>("y", [4, 2]));
        let (dtable, ids) = (plan.tensor("dtable", [3, 2]), plan.tensor("ids", [4]));
        let _arena = Arena::allocate(&device, plan).unwrap();
        let stream = Stream::new(&device, scratch(4)).unwrap();
        stream.upload(table, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        stream.upload(ids, &[2, 1, 2, 0]).unwrap();
        forward(&stream, Forward { y, table, ids }).unwrap();
        assert_eq!(stream.fetch(y).unwrap(), [4.0, 5.0, 2.0, 3.0, 4.0, 5.0, 0.0, 1.0]);
        backward(&stream, Backward { dtable, dy: y, ids, padding_id: Some(1) }).unwrap();
        assert_eq!(stream.fetch(dtable).unwrap(), [0.0, 1.0, 0.0, 0.0, 8.0, 10.0]);
        stream.upload(ids, &[2, 1, 3, 0]).unwrap();
        assert!(matches!(forward(&stream, Forward { y, table, ids }), Err(Error::Index { position: 2, index: 3, bound: 3, .. })));
        assert!(matches!(backward(&stream, Backward { dtable, dy: y, ids, padding_id: None }), Err(Error::Index { position: 2, .. })));
    }
}
