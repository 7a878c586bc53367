//! One call of the attention kernel: what forward and backward of a layer have in common.

use scmmgpt_kernels::attention::{self, Dims, Dropout, Mask};
use scmmgpt_kernels::runtime::{Float, Stream, Tensor};

use crate::Result;

/// Operands and results of an attention, scaled by `1 / sqrt(head_dim)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attend<T: Float> {
    pub(super) out: Tensor<T>,
    pub(super) logsumexp: Tensor<T::Acc>,
    pub(super) q: Tensor<T>,
    pub(super) k: Tensor<T>,
    pub(super) v: Tensor<T>,
    pub(super) query_lengths: Option<Tensor<u32>>,
    pub(super) key_lengths: Option<Tensor<u32>>,
    pub(super) mask: Mask,
    pub(super) dropout: Option<Dropout>,
    pub(super) dims: Dims,
}

impl<T: Float> Attend<T> {
    fn scale(&self) -> f64 {
        1.0 / (self.dims.head_dim as f64).sqrt()
    }

    /// Writes `out` and `logsumexp`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub(super) fn forward(self, stream: &Stream) -> Result<()> {
        let scale = self.scale();
        let Attend { out, logsumexp, q, k, v, query_lengths, key_lengths, mask, dropout, dims } = self;
        let arguments = attention::Forward { out, logsumexp, q, k, v, query_lengths, key_lengths, mask, scale, dropout, dims };
        Ok(attention::forward(stream, arguments)?)
    }

    /// Writes the gradients of `q`, `k` and `v` from that of `out`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub(super) fn backward(self, stream: &Stream, [dq, dk, dv]: [Tensor<T>; 3], dout: Tensor<T>) -> Result<()> {
        let scale = self.scale();
        let Attend { out, logsumexp, q, k, v, query_lengths, key_lengths, mask, dropout, dims } = self;
        let arguments =
            attention::Backward { dq, dk, dv, dout, out, logsumexp, q, k, v, query_lengths, key_lengths, mask, scale, dropout, dims };
        Ok(attention::backward(stream, arguments)?)
    }
}
