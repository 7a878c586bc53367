//! The cell encoder at scGPT's size, as inference and as a training step. Dropout is 0 and every cell fills its sequence.

use anyhow::Result;
use scmmgpt_engine::config::ModelConfig;
use scmmgpt_engine::layer::Dims;
use scmmgpt_engine::model::cell_model::{CellModel, Heads, LossWeights, Purpose, Workspace};
use scmmgpt_engine::weights::{ParameterPlan, Parameters};
use scmmgpt_kernels::runtime::{Device, Float};
use scmmgpt_loader::batch::{CellBatch, NO_LABEL};

use super::optimizer::Optimizer;
use super::{Workload, digest, fill, mixed, seconds};

/// scGPT's whole-human vocabulary with its special tokens.
const GENES: usize = 60_697;
const PAD: u32 = GENES as u32 - 3;
const CLS: u32 = GENES as u32 - 2;

/// Values are bins below this.
const BINS: u32 = 51;

/// What a hidden value is read as.
const HIDDEN: f32 = -1.0;

fn config() -> ModelConfig {
    ModelConfig { vocab_size: GENES, hidden_dropout_prob: 0.0, ..ModelConfig::default() }
}

/// Genes and values; with `hides`, two in five values are to be predicted.
fn batch(dims: Dims, hides: bool) -> CellBatch {
    let tokens = dims.tokens();
    let is_gene = |token: usize| !token.is_multiple_of(dims.seq_len);
    let gene_ids = mixed(11, tokens).enumerate().map(|(token, word)| if is_gene(token) { word % PAD } else { CLS }).collect();
    let targets: Vec<f32> =
        mixed(12, tokens).enumerate().map(|(token, word)| if is_gene(token) { (word % BINS) as f32 } else { 0.0 }).collect();
    let masked = |(token, word): (usize, u32)| f32::from(u8::from(hides && is_gene(token) && word % 5 < 2));
    let target_mask: Vec<f32> = mixed(13, tokens).enumerate().map(masked).collect();
    let values = targets.iter().zip(&target_mask).map(|(target, mask)| if *mask > 0.0 { HIDDEN } else { *target }).collect();
    let lengths = vec![dims.seq_len as u32; dims.batch];
    let (labels, rows) = (vec![NO_LABEL; dims.batch], (0..dims.batch).collect());
    CellBatch {
        batch: dims.batch,
        seq_len: dims.seq_len,
        gene_ids,
        values,
        targets,
        target_mask,
        known_lengths: lengths.clone(),
        lengths,
        labels,
        rows,
    }
}

/// A model with its weights and the memory of one pass.
struct Setup<T: Float> {
    model: CellModel<T>,
    parameters: Parameters<T>,
    workspace: Workspace<T>,
    batch: CellBatch,
}

impl<T: Float> Setup<T> {
    fn new(device: &Device, dims: Dims, training: bool) -> Result<Self> {
        let mut plan = ParameterPlan::new(training);
        let model = CellModel::declare(&mut plan, &config(), Heads { expression: training, ..Heads::default() }, PAD);
        let parameters = plan.allocate(device)?;
        let weights = LossWeights { expression: f64::from(u8::from(training)), ..LossWeights::default() };
        let purpose = Purpose { training, dropout: false, generative: false, weights, label_smoothing: 0.0, classify: false };
        let workspace = model.workspace(device, dims, purpose)?;
        fill(&parameters, &workspace.stream)?;
        model.refresh(&workspace.stream)?;
        Ok(Setup { model, parameters, workspace, batch: batch(dims, training) })
    }

    /// Products of the layers, forward: the input layer's are left out, because they can be tabulated.
    fn flops(&self) -> f64 {
        let (config, tokens) = (config(), self.batch.gene_ids.len() as f64);
        let (width, wide) = (config.hidden_size as f64, config.intermediate_size as f64);
        let dense = 2.0 * (4.0 * width * width + 2.0 * width * wide);
        let attention = 4.0 * width * self.batch.seq_len as f64;
        config.num_hidden_layers as f64 * tokens * (dense + attention)
    }
}

/// Inference: a batch to one vector a cell.
pub(super) struct Encoder<T: Float> {
    device: Device,
    setup: Setup<T>,
}

impl<T: Float> Encoder<T> {
    /// Cells and tokens.
    pub(super) fn new(device: &Device, [batch, seq_len]: [usize; 2]) -> Result<Self> {
        Ok(Encoder { device: device.clone(), setup: Setup::new(device, Dims { batch, seq_len }, false)? })
    }
}

impl<T: Float> Workload for Encoder<T> {
    fn flops(&self) -> f64 {
        self.setup.flops()
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        self.run()?;
        Ok(digest(&self.setup.workspace.cell_embeddings()?))
    }

    fn run(&mut self) -> Result<f64> {
        let Setup { model, workspace, batch, .. } = &mut self.setup;
        seconds(&self.device, || {
            workspace.forward(model, batch, None)?;
            workspace.cell_embeddings()?;
            Ok(())
        })
    }
}

/// A step of training, always on the same batch.
pub(super) struct Train {
    device: Device,
    setup: Setup<f32>,
    optimizer: Optimizer,
    /// Loss and length of the gradient in the last step.
    last: [f64; 2],
}

impl Train {
    /// Cells and tokens.
    pub(super) fn new(device: &Device, [batch, seq_len]: [usize; 2]) -> Result<Self> {
        let setup = Setup::new(device, Dims { batch, seq_len }, true)?;
        let optimizer = Optimizer::new(&setup.parameters);
        Ok(Train { device: device.clone(), setup, optimizer, last: [0.0; 2] })
    }
}

impl Workload for Train {
    /// Backward counts twice forward.
    fn flops(&self) -> f64 {
        let (width, tokens) = (config().hidden_size as f64, self.setup.batch.gene_ids.len() as f64);
        let decoder = tokens * 2.0 * (2.0 * width * width + width);
        3.0 * (self.setup.flops() + decoder)
    }

    /// Loss and length of the gradient in each of two steps, the second and the third.
    fn check(&mut self) -> Result<Vec<f64>> {
        let mut checks = Vec::new();
        for _ in 0..2 {
            self.run()?;
            checks.extend(self.last);
        }
        Ok(checks)
    }

    fn run(&mut self) -> Result<f64> {
        let Train { device, setup, optimizer, last } = self;
        let Setup { model, workspace, batch, .. } = setup;
        seconds(device, || {
            let losses = workspace.forward(model, batch, None)?;
            workspace.backward(model, None, 1.0)?;
            let norm = optimizer.step(&workspace.stream)?;
            model.refresh(&workspace.stream)?;
            *last = [losses.expression, norm];
            Ok(workspace.stream.synchronize()?)
        })
    }
}
