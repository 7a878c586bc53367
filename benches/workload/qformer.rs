//! The Q-Former at the reference's size: what the learned queries read of a batch of cells. Dropout is 0 and every cell fills its sequence.

use anyhow::Result;
use scmmgpt_engine::config::QFormerConfig;
use scmmgpt_engine::layer::Dims;
use scmmgpt_engine::layer::rows::Rows;
use scmmgpt_engine::model::qformer::{CellKeys, Layout, QFormer as Model, Saved};
use scmmgpt_engine::weights::{ParameterPlan, Parameters};
use scmmgpt_kernels::runtime::{Arena, Class, Device, Float, Plan, Stream, Tensor};

use super::{Workload, digest, fill, seconds, uniform, upload};

/// Numbers a gene token, scGPT's.
const ENCODER_WIDTH: usize = 512;

fn config() -> QFormerConfig {
    // No text comes through: a word table of one row will do.
    QFormerConfig { vocab_size: 1, ..QFormerConfig::default() }
}

/// The cells' features to keys and values of every layer, and the queries through all layers.
pub(super) struct QFormer<T: Float> {
    device: Device,
    stream: Stream,
    model: Model<T>,
    features: Tensor<T>,
    keys: CellKeys<T>,
    pass: Saved<T>,
    dims: Dims,
    _parameters: Parameters<T>,
    _arena: Arena,
}

impl<T: Float> QFormer<T> {
    /// Cells and tokens.
    pub(super) fn new(device: &Device, [batch, seq_len]: [usize; 2]) -> Result<Self> {
        let (config, dims) = (config(), Dims { batch, seq_len });
        let mut parameters = ParameterPlan::new(false);
        let model = Model::declare(&mut parameters, &config, ENCODER_WIDTH);
        let parameters = parameters.allocate(device)?;
        let mut plan = Plan::new(Class::Activations);
        let features = plan.tensor("features", [dims.tokens(), ENCODER_WIDTH]);
        let lengths = plan.tensor("lengths", [batch]);
        let keys = model.plan_keys(&mut plan, dims, lengths);
        let rows = Rows { items: batch, queries: config.num_query_tokens, text: 0 };
        let pass = model.plan(&mut plan, &Layout { rows, keys: Some(keys), prefix: None, training: false, dropout: false });
        let stream = Stream::new(device, plan.scratch_bytes())?;
        let arena = Arena::allocate(device, plan)?;
        fill(&parameters, &stream)?;
        upload(&stream, features, &uniform(21, features.len(), 1.0))?;
        stream.upload(lengths, &vec![seq_len as u32; batch])?;
        Ok(QFormer { device: device.clone(), stream, model, features, keys, pass, dims, _parameters: parameters, _arena: arena })
    }
}

impl<T: Float> Workload for QFormer<T> {
    fn flops(&self) -> f64 {
        let (config, tokens, rows) = (config(), self.dims.tokens() as f64, (self.dims.batch * config().num_query_tokens) as f64);
        let (width, wide, seq_len) = (config.hidden_size as f64, config.intermediate_size as f64, self.dims.seq_len as f64);
        let looking = (0..config.num_hidden_layers).filter(|&layer| config.has_cross_attention(layer)).count() as f64;
        let keys = tokens * 2.0 * ENCODER_WIDTH as f64 * 2.0 * width;
        let cross = keys + rows * (4.0 * width * width + 4.0 * width * seq_len);
        let every = rows * (8.0 * width * width + 4.0 * width * config.num_query_tokens as f64 + 4.0 * width * wide);
        looking * cross + config.num_hidden_layers as f64 * every
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        self.run()?;
        Ok(digest(&self.stream.fetch(self.pass.output)?))
    }

    fn run(&mut self) -> Result<f64> {
        let QFormer { device, stream, model, features, keys, pass, .. } = self;
        seconds(device, || {
            model.upload(stream, pass, &[], &[])?;
            model.forward_keys(stream, keys, *features)?;
            model.forward(stream, None, pass)?;
            stream.fetch(pass.output)?;
            Ok(())
        })
    }
}
