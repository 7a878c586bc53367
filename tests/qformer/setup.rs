//! The golden file and a model with its weights.

use std::path::PathBuf;

use scmmgpt_engine::config::{CellTextConfig, ModelConfig, QFormerConfig, TextPooling};
use scmmgpt_engine::layer::Dims;
use scmmgpt_engine::model::cell_model::Heads;
use scmmgpt_engine::model::cell_text::{CellText, Contrast, Draw, LossWeights, Losses, Purpose, Sizes, Workspace};
use scmmgpt_engine::weights::{ParameterPlan, Parameters};
use scmmgpt_kernels::runtime::{Device, Float, Real};
use scmmgpt_loader::batch::CellBatch;
use scmmgpt_loader::checkpoint::{self, Checkpoint};
use scmmgpt_loader::text::TextBatch;
use serde_json::Value;

pub(crate) struct Golden {
    pub(crate) file: Checkpoint,
    pub(crate) config: Value,
    pub(crate) text_pooling: TextPooling,
}

/// Training without dropout, as the file was made.
pub(crate) fn purpose(weights: LossWeights) -> Purpose {
    Purpose { training: true, dropout: false, weights, contrast: Contrast::default(), label_smoothing: 0.1 }
}

impl Golden {
    pub(crate) fn open() -> Golden {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/qformer_tiny.safetensors");
        let file = Checkpoint::open(path).unwrap();
        let config = serde_json::from_str(&file.metadata()["config"]).unwrap();
        Golden { file, config, text_pooling: TextPooling::Cls }
    }

    pub(crate) fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap() as usize
    }

    pub(crate) fn reals(&self, name: &str) -> Vec<f32> {
        self.file.to_f32(name).unwrap()
    }

    /// Gradients that the file leaves out, as `objective.parameter`.
    pub(crate) fn zero_gradients(&self) -> Vec<String> {
        serde_json::from_str(&self.file.metadata()["zero_grads"]).unwrap()
    }

    pub(crate) fn draw(&self) -> Draw {
        Draw { dropout: false, seed: self.size("seed") as u64, step: self.size("step") as u64 }
    }

    pub(crate) fn cell_text_config(&self, [cells, hidden, attention]: [f32; 3]) -> CellTextConfig {
        let model = ModelConfig {
            hidden_size: self.size("cell_width"),
            num_hidden_layers: self.size("cell_layers"),
            num_attention_heads: self.size("cell_heads"),
            intermediate_size: self.size("cell_hidden"),
            vocab_size: self.size("cell_vocabulary"),
            hidden_dropout_prob: cells,
            ..ModelConfig::default()
        };
        let qformer = QFormerConfig {
            hidden_size: self.size("width"),
            num_hidden_layers: self.size("layers"),
            num_attention_heads: self.size("heads"),
            intermediate_size: self.size("hidden"),
            max_position_embeddings: self.size("positions"),
            vocab_size: self.size("words"),
            num_query_tokens: self.size("queries"),
            cross_attention_freq: self.size("every"),
            projection_dim: self.size("projection"),
            hidden_dropout_prob: hidden,
            attention_probs_dropout_prob: attention,
            learn_temperature: true,
            captioning: true,
            text_pooling: self.text_pooling,
            ..QFormerConfig::default()
        };
        let config = CellTextConfig { model, qformer };
        config.check().unwrap();
        config
    }

    fn unsigned(&self, name: &str) -> Vec<u32> {
        self.file.view(name).unwrap().bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    pub(crate) fn cells(&self) -> CellBatch {
        let (values, lengths) = (self.reals("input.values"), self.unsigned("input.lengths"));
        CellBatch {
            batch: self.size("batch"),
            seq_len: self.size("seq_len"),
            gene_ids: self.unsigned("input.gene_ids"),
            targets: values.clone(),
            target_mask: vec![0.0; values.len()],
            values,
            known_lengths: lengths.clone(),
            lengths,
            labels: vec![0; self.size("batch")],
            rows: (0..self.size("batch")).collect(),
        }
    }

    pub(crate) fn texts(&self) -> TextBatch {
        TextBatch {
            batch: self.size("batch"),
            seq_len: self.size("text_len"),
            token_ids: self.unsigned("input.token_ids"),
            lengths: self.unsigned("input.text_lengths"),
            classes: self.unsigned("input.classes"),
            sources: vec![None; self.size("batch")],
            truncated: 0,
        }
    }

    pub(crate) fn sizes(&self) -> Sizes {
        let batch = self.size("batch");
        Sizes { cells: Dims { batch, seq_len: self.size("seq_len") }, texts: Dims { batch, seq_len: self.size("text_len") } }
    }

    /// The parameters as a checkpoint of their own.
    fn parameters(&self, folder: &std::path::Path) -> Checkpoint {
        let names: Vec<String> = self.file.names().filter(|name| name.starts_with("param.")).map(String::from).collect();
        let tensors = names.iter().map(|name| {
            let view = self.file.view(name).unwrap();
            (name.trim_start_matches("param."), view.dtype, view.shape, view.bytes)
        });
        let path = folder.join("model.safetensors");
        checkpoint::write(&path, tensors, &Default::default()).unwrap();
        Checkpoint::open(path).unwrap()
    }
}

pub(crate) struct Model<T: Float> {
    pub(crate) parameters: Parameters<T>,
    pub(crate) model: CellText<T>,
    pub(crate) workspace: Workspace<T>,
}

impl<T: Float> Model<T> {
    /// Everything is trained, without dropout.
    pub(crate) fn new(golden: &Golden, purpose: Purpose) -> Self {
        Self::with(golden, purpose, [0.0; 3], true)
    }

    /// With these dropouts: the cell encoder's, the Q-Former's, and that of its attention.
    pub(crate) fn with(golden: &Golden, purpose: Purpose, dropouts: [f32; 3], tune_cell_encoder: bool) -> Self {
        Self::on(&Device::cpu(2).unwrap(), golden, purpose, dropouts, tune_cell_encoder)
    }

    pub(crate) fn on(device: &Device, golden: &Golden, purpose: Purpose, dropouts: [f32; 3], tune_cell_encoder: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = ParameterPlan::<T>::new(purpose.training);
        let config = golden.cell_text_config(dropouts);
        let padding = golden.size("cell_pad") as u32;
        let model = CellText::declare(&mut plan, &config, Heads::default(), tune_cell_encoder, padding);
        let parameters = plan.allocate(device).unwrap();
        let workspace = model.workspace(device, golden.sizes(), purpose).unwrap();
        parameters.load(&workspace.stream, &golden.parameters(folder.path())).unwrap();
        model.refresh(&workspace.stream).unwrap();
        Model { parameters, model, workspace }
    }

    /// Losses of the file's batch.
    pub(crate) fn losses(&mut self, golden: &Golden, draw: Draw) -> Losses {
        self.workspace.forward(&self.model, &golden.cells(), &golden.texts(), draw).unwrap()
    }
}

pub(crate) fn wide<T: Float>(values: Vec<T>) -> Vec<f64> {
    values.into_iter().map(|value| value.to_acc().f64()).collect()
}
