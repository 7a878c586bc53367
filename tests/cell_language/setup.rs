//! The golden file and a model with its weights.

use std::path::PathBuf;

use scmmgpt_engine::config::{CellTextConfig, ExpressionConfig, ExpressionHead, ExpressionKeys, ModelConfig, QFormerConfig, Tuning};
use scmmgpt_engine::layer::Dims;
use scmmgpt_engine::model::cell_language::{
    CellLanguage, CellLanguageConfig, ExpressionTargets, LossWeights, Losses, Neighbours, Pairs, Purpose, Sizes, Tuned, Workspace,
};
use scmmgpt_engine::model::cell_text::Draw;
use scmmgpt_engine::weights::{ParameterPlan, Parameters};
use scmmgpt_kernels::runtime::{Device, Float, Real};
use scmmgpt_kernels::testing::{Tolerance, compare};
use scmmgpt_loader::batch::CellBatch;
use scmmgpt_loader::checkpoint::{self, Checkpoint};
use scmmgpt_loader::language::LanguageBatch;
use serde_json::Value;

/// Neighbours of the file are weighed at this temperature.
const TEMPERATURE: f64 = 0.25;

pub(crate) struct Golden {
    pub(crate) file: Checkpoint,
    pub(crate) config: Value,
}

/// One batch of the file.
#[derive(Clone)]
pub(crate) struct Batch {
    pub(crate) cells: CellBatch,
    pub(crate) sequences: LanguageBatch,
    pub(crate) expression: ExpressionTargets,
    pub(crate) neighbours: Option<Neighbours>,
}

impl Batch {
    pub(crate) fn pairs(&self) -> Pairs<'_> {
        let Batch { cells, sequences, expression, neighbours } = self;
        Pairs { cells, sequences, expression, neighbours: neighbours.as_ref() }
    }
}

/// What the expression decoder reads and says.
#[derive(Clone, Copy, Default)]
pub(crate) struct Decoder {
    pub(crate) keys: ExpressionKeys,
    pub(crate) head: ExpressionHead,
}

pub(crate) const DRAW: Draw = Draw { dropout: false, seed: 1, step: 3 };

pub(crate) fn purpose(weights: LossWeights) -> Purpose {
    Purpose { training: true, dropout: false, weights }
}

impl Golden {
    pub(crate) fn open() -> Golden {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/cell_language_tiny.safetensors");
        let file = Checkpoint::open(path).unwrap();
        let config = serde_json::from_str(&file.metadata()["config"]).unwrap();
        Golden { file, config }
    }

    pub(crate) fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap() as usize
    }

    pub(crate) fn reals(&self, name: &str) -> Vec<f32> {
        self.file.to_f32(name).unwrap()
    }

    fn unsigned(&self, name: &str) -> Vec<u32> {
        // -100 is a label that does not count.
        let words = self.file.view(name).unwrap().bytes.chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().unwrap()));
        words.map(|word| if word == -100 { u32::MAX } else { word as u32 }).collect()
    }

    /// Gradients that the file leaves out, as `objective.parameter`.
    pub(crate) fn zero_gradients(&self) -> Vec<String> {
        serde_json::from_str(&self.file.metadata()["zero_grads"]).unwrap()
    }

    fn config(&self, Decoder { keys, head }: Decoder) -> CellLanguageConfig {
        let model = ModelConfig {
            hidden_size: self.size("cell_width"),
            num_hidden_layers: self.size("cell_layers"),
            num_attention_heads: self.size("cell_heads"),
            intermediate_size: self.size("cell_hidden"),
            vocab_size: self.size("cell_vocabulary"),
            hidden_dropout_prob: 0.0,
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
            learn_temperature: true,
            captioning: true,
            ..QFormerConfig::default()
        };
        let expression = ExpressionConfig {
            gene_dim: self.size("gene_dim"),
            num_attention_heads: self.size("gene_heads"),
            keys,
            head,
            gene_readout: head == ExpressionHead::Zinb,
            ..ExpressionConfig::default()
        };
        expression.check().unwrap();
        let language = serde_json::from_value(self.config["language"].clone()).unwrap();
        let cell_text = CellTextConfig { model, qformer };
        CellLanguageConfig { cell_text, language, positions: 64, projection_dim: self.size("middle"), expression }
    }

    /// The batch of a decoder of distributions.
    pub(crate) fn counts(&self) -> Batch {
        let mut batch = self.batch(false);
        batch.expression.values = self.reals("input.counts");
        batch.expression.mask = self.reals("input.count_weights");
        batch.expression.log_sizes = self.reals("input.log_sizes");
        batch
    }

    pub(crate) fn batch(&self, with_neighbours: bool) -> Batch {
        let (values, lengths) = (self.reals("input.values"), self.unsigned("input.lengths"));
        let batch = self.size("batch");
        let cells = CellBatch {
            batch,
            seq_len: self.size("seq_len"),
            gene_ids: self.unsigned("input.gene_ids"),
            targets: values.clone(),
            target_mask: vec![0.0; values.len()],
            values,
            known_lengths: lengths.clone(),
            lengths,
            labels: vec![0; batch],
            rows: (0..batch).collect(),
        };
        let token_ids = self.unsigned("input.token_ids");
        let sequences = LanguageBatch {
            batch,
            seq_len: token_ids.len() / batch,
            token_ids,
            lengths: self.unsigned("input.token_lengths"),
            labels: self.unsigned("input.labels"),
            slots_at: self.unsigned("input.slots_at"),
            cell_first: self.unsigned("input.cell_first").into_iter().map(|first| first == 1).collect(),
            truncated: 0,
            sources: vec![None; batch],
        };
        let expression = ExpressionTargets {
            genes: self.size("genes"),
            gene_ids: self.unsigned("input.target_genes"),
            values: self.reals("input.targets"),
            mask: self.reals("input.target_mask"),
            log_sizes: Vec::new(),
        };
        let neighbours = with_neighbours.then(|| Neighbours {
            count: self.size("neighbours"),
            pooled: self.reals("input.neighbours"),
            bias: self.bias(),
            counts: self.unsigned("input.neighbour_counts"),
        });
        Batch { cells, sequences, expression, neighbours }
    }

    /// `log softmax(similarity / temperature)`.
    fn bias(&self) -> Vec<f32> {
        let count = self.size("neighbours");
        let logs = |row: &[f32]| {
            let scaled: Vec<f64> = row.iter().map(|&value| f64::from(value) / TEMPERATURE).collect();
            let sum: f64 = scaled.iter().map(|value| value.exp()).sum();
            scaled.into_iter().map(move |value| (value - sum.ln()) as f32)
        };
        self.reals("input.similarities").chunks(count).flat_map(logs).collect()
    }

    /// The parameters as a checkpoint of their own; those of a decoder of distributions take the place of others.
    fn parameters(&self, folder: &std::path::Path, head: ExpressionHead) -> Checkpoint {
        let special = |name: &str| format!("param.counts.{name}");
        let plain = self.file.names().filter_map(|name| name.strip_prefix("param."));
        let chosen = plain.filter_map(|name| match (head, name.strip_prefix("counts.")) {
            (ExpressionHead::Mse, None) => Some((name.to_string(), format!("param.{name}"))),
            (ExpressionHead::Zinb, None) if !self.file.contains(&special(name)) => Some((name.to_string(), format!("param.{name}"))),
            (ExpressionHead::Zinb, Some(name)) => Some((name.to_string(), special(name))),
            _ => None,
        });
        let chosen: Vec<(String, String)> = chosen.collect();
        let tensors = chosen.iter().map(|(name, stored)| {
            let view = self.file.view(stored).unwrap();
            (name.as_str(), view.dtype, view.shape, view.bytes)
        });
        let path = folder.join("model.safetensors");
        checkpoint::write(&path, tensors, &Default::default()).unwrap();
        Checkpoint::open(path).unwrap()
    }
}

pub(crate) struct Model<T: Float> {
    pub(crate) parameters: Parameters<T>,
    pub(crate) model: CellLanguage<T>,
    pub(crate) workspace: Workspace<T>,
}

impl<T: Float> Model<T> {
    pub(crate) fn new(golden: &Golden, purpose: Purpose, tuned: &Tuned, decoder: Decoder) -> Self {
        Model::on(&Device::cpu(2).unwrap(), golden, purpose, tuned, decoder)
    }

    pub(crate) fn on(device: &Device, golden: &Golden, purpose: Purpose, tuned: &Tuned, decoder: Decoder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = ParameterPlan::<T>::new(purpose.training);
        let model = CellLanguage::declare(&mut plan, &golden.config(decoder), tuned, golden.size("cell_pad") as u32);
        let parameters = plan.allocate(device).unwrap();
        let dims = Dims { batch: 1, seq_len: 8 };
        let sizes = Sizes { cells: dims, tokens: 8, generated: 1, genes: 8, neighbours: 0 };
        let workspace = model.workspace(device, sizes, purpose).unwrap();
        parameters.load(&workspace.stream, &golden.parameters(folder.path(), decoder.head)).unwrap();
        model.refresh(&workspace.stream).unwrap();
        Model { parameters, model, workspace }
    }

    pub(crate) fn forward(&mut self, batch: &Batch) -> Losses {
        self.workspace.forward(&self.model, &batch.pairs(), DRAW).unwrap()
    }

    pub(crate) fn backward(&self, batch: &Batch) {
        self.workspace.backward(&self.model, &batch.pairs(), DRAW, 1.0).unwrap();
    }

    /// The gradient of a parameter; none when it is frozen.
    pub(crate) fn gradient(&self, name: &str) -> Option<Vec<f64>> {
        let gradient = self.parameters.named(name).unwrap().parameter.gradient?;
        Some(self.workspace.stream.fetch(gradient).unwrap().into_iter().map(|value| value.f64()).collect())
    }
}

/// With the rows of new tokens of the file.
pub(crate) fn tuned(golden: &Golden, language: Tuning, cell_encoder: bool, qformer: bool) -> Tuned {
    Tuned { language: Tuning { new_tokens: golden.size("new_tokens"), ..language }, cell_encoder, qformer }
}

/// Within 1e-5 of each value and of the tensor's largest in f32, within 1e-6 in f64. A gradient that is zero in theory (a key's bias)
/// may carry rounding.
pub(crate) fn check<T: Float>(what: &str, reference: &[f32], got: &[f64]) {
    let reference: Vec<f64> = reference.iter().map(|&value| f64::from(value)).collect();
    let largest = reference.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let (relative, rounding) = if T::NAME == "f64" { (1e-6, 1e-12) } else { (1e-5, 1e-6) };
    compare(what, &reference, got, Tolerance::new(relative * largest + rounding, relative)).unwrap();
}
