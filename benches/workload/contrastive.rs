//! A step of the contrastive loss.

use anyhow::Result;
use scmmgpt_kernels::contrastive::{Backward, Forward, backward, forward, scratch};
use scmmgpt_kernels::runtime::{Arena, Class, Device, Plan, Stream};

use super::{Workload, digest, seconds, uniform, upload};

const TEMPERATURE: f32 = 0.1;

/// Loss in both directions and the gradients of all embeddings, which are of length 1; the gradient of the loss is the number of items.
pub(super) struct Contrastive {
    stream: Stream,
    forward: Forward<f32>,
    backward: Backward<f32>,
    _arena: Arena,
}

impl Contrastive {
    /// Items, queries a cell, width.
    pub(super) fn new(device: &Device, sizes: [usize; 3]) -> Result<Self> {
        let [items, queries, width] = sizes;
        let mut plan = Plan::new(Class::Activations);
        let (cells, dcells) = (plan.tensor("cells", [items * queries, width]), plan.tensor("dcells", [items * queries, width]));
        let (texts, dtexts) = (plan.tensor("texts", [items, width]), plan.tensor("dtexts", [items, width]));
        let (row_logsumexp, column_logsumexp) = (plan.tensor("row_logsumexp", [items]), plan.tensor("column_logsumexp", [items]));
        let (loss, dloss, temperature) = (plan.tensor("loss", [1]), plan.tensor("dloss", [1]), plan.tensor("temperature", [1]));
        plan.scratch(scratch::<f32>(items, queries, width));
        let stream = Stream::new(device, plan.scratch_bytes())?;
        let arena = Arena::allocate(device, plan)?;
        for (seed, tensor) in [(1, cells), (2, texts)] {
            let mut values = uniform(seed, tensor.len(), 1.0);
            for row in values.chunks_exact_mut(width) {
                let norm = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
                row.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
            }
            upload(&stream, tensor, &values)?;
        }
        stream.upload(dloss, &[items as f32])?;
        stream.upload(temperature, &[TEMPERATURE])?;
        let (classes, group, symmetric, dtemperature) = (None, 0, true, None);
        let forward = Forward { loss, row_logsumexp, column_logsumexp, cells, texts, classes, temperature, queries, group, symmetric };
        let backward = Backward {
            dcells,
            dtexts,
            dtemperature,
            dloss,
            row_logsumexp,
            column_logsumexp,
            cells,
            texts,
            classes,
            temperature,
            queries,
            group,
            symmetric,
        };
        Ok(Contrastive { stream, forward, backward, _arena: arena })
    }
}

impl Workload for Contrastive {
    /// Backward counts twice forward.
    fn flops(&self) -> f64 {
        3.0 * 2.0 * (self.forward.cells.len() * self.forward.texts.rows()) as f64
    }

    /// The loss and both gradients.
    fn check(&mut self) -> Result<Vec<f64>> {
        self.run()?;
        let mut checks = vec![f64::from(self.stream.fetch(self.forward.loss)?[0])];
        for gradient in [self.backward.dcells, self.backward.dtexts] {
            checks.extend(digest(&self.stream.fetch(gradient)?));
        }
        Ok(checks)
    }

    fn run(&mut self) -> Result<f64> {
        let (stream, args, gradients) = (&self.stream, self.forward, self.backward);
        seconds(stream.device(), || {
            forward(stream, args)?;
            backward(stream, gradients)?;
            Ok(stream.synchronize()?)
        })
    }
}
