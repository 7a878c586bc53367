//! Self-attention of rows whose queries, keys and values are columns of one matrix, as in the cell encoder.

use anyhow::Result;
use scmmgpt_kernels::attention::{Backward, Dims, Forward, Mask, backward, forward, scratch};
use scmmgpt_kernels::runtime::{Arena, Class, Device, Float, Plan, Stream, Tensor};

use super::{Workload, digest, in_a_row, uniform, upload};

/// Forward, and with `trains` the gradient of queries, keys and values too.
pub(super) struct Attention<T: Float> {
    stream: Stream,
    forward: Forward<T>,
    backward: Backward<T>,
    dqkv: Tensor<T>,
    trains: bool,
    _arena: Arena,
}

impl<T: Float> Attention<T> {
    /// Items, tokens, heads, their size.
    pub(super) fn new(device: &Device, [batch, tokens, heads, size]: [usize; 4], trains: bool) -> Result<Self> {
        let dims = Dims { batch, query_len: tokens, key_len: tokens, num_heads: heads, num_kv_heads: heads, head_dim: size };
        let (rows, width) = (batch * tokens, heads * size);
        let mut plan = Plan::new(Class::Activations);
        let [qkv, dqkv] = ["qkv", "dqkv"].map(|name| plan.tensor(name, [rows, 3 * width]));
        let [out, dout] = ["out", "dout"].map(|name| plan.tensor(name, [rows, width]));
        let logsumexp = plan.tensor("logsumexp", [batch, heads, tokens]);
        plan.scratch(scratch::<T>(&dims));
        let stream = Stream::new(device, plan.scratch_bytes())?;
        let arena = Arena::allocate(device, plan)?;
        upload(&stream, qkv, &uniform(1, qkv.len(), 1.0))?;
        upload(&stream, dout, &uniform(2, dout.len(), 1.0))?;
        let parts = |whole: Tensor<T>| [0, 1, 2].map(|part| whole.columns(part * width, width));
        let ([q, k, v], [dq, dk, dv]) = (parts(qkv), parts(dqkv));
        let (query_lengths, key_lengths, mask, dropout) = (None, None, Mask::Full, None);
        let scale = 1.0 / (size as f64).sqrt();
        let forward = Forward { out, logsumexp, q, k, v, query_lengths, key_lengths, mask, scale, dropout, dims };
        let backward = Backward { dq, dk, dv, dout, out, logsumexp, q, k, v, query_lengths, key_lengths, mask, scale, dropout, dims };
        Ok(Attention { stream, forward, backward, dqkv, trains, _arena: arena })
    }
}

impl<T: Float> Workload for Attention<T> {
    /// Two products forward, five backward.
    fn flops(&self) -> f64 {
        let dims = self.forward.dims;
        let product = 2.0 * (dims.batch * dims.num_heads * dims.query_len * dims.key_len * dims.head_dim) as f64;
        product * if self.trains { 7.0 } else { 2.0 }
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        self.run()?;
        let mut checks = digest(&self.stream.fetch(self.forward.out)?);
        if self.trains {
            checks.extend(digest(&self.stream.fetch(self.dqkv)?));
        }
        Ok(checks)
    }

    fn run(&mut self) -> Result<f64> {
        let (stream, args, gradients, trains) = (&self.stream, self.forward, self.backward, self.trains);
        in_a_row(stream, || {
            forward(stream, args)?;
            if trains {
                backward(stream, gradients)?;
            }
            Ok(())
        })
    }
}
