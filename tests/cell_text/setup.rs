//! A run small enough for tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use scmmgpt_engine::config::{CellEmbedding, Stage1Config, TextPooling, TrainConfig};
use scmmgpt_engine::train::{Outcome, Progress, Trainer};
use scmmgpt_engine::{Device, Error};
use scmmgpt_loader::batch::Objective;
use scmmgpt_loader::expression::ValueMode;

pub(crate) fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data").join(name)
}

/// Both stages, every objective.
pub(crate) fn config() -> TrainConfig {
    let mut config = TrainConfig { seed: 5, ..TrainConfig::default() };
    config.model.hidden_size = 16;
    config.model.num_hidden_layers = 1;
    config.model.num_attention_heads = 2;
    config.model.intermediate_size = 16;
    config.model.hidden_dropout_prob = 0.1;
    config.model.cell_embedding = CellEmbedding::Weighted;
    config.data.train = vec![data("pbmc68k_700.h5ad")];
    config.data.label_key = "cell_type".into();
    config.data.test_fraction = 0.8;
    config.data.validation_fraction = 0.3;
    config.data.tokens.max_seq_len = 48;
    config.data.tokens.value_mode = ValueMode::Log1p;
    config.data.tokens.objective = Objective::Masked { ratio: 0.4 };
    config.loss.classification = 1.0;
    config.train.epochs = 2;
    config.train.batch_size = 16;
    config.train.learning_rate = 2e-3;
    config.train.warmup_steps = 3;
    config.qformer.hidden_size = 16;
    config.qformer.num_hidden_layers = 2;
    config.qformer.num_attention_heads = 2;
    config.qformer.intermediate_size = 16;
    config.qformer.num_query_tokens = 3;
    config.qformer.projection_dim = 8;
    config.qformer.max_position_embeddings = 32;
    config.qformer.gene_linear_weight = 4.0;
    config.qformer.text_pooling = TextPooling::Mean;
    config.text.tokenizer = data("text_vocab.txt");
    config.text.ontology = Some(data("cell_text.json"));
    config.text.max_length = 20;
    config.text.descriptions.template_pool = true;
    let mut stage1 = Stage1Config { masked: 0.5, ..Stage1Config::default() };
    stage1.loss.captioning = 0.5;
    stage1.train.epochs = 3;
    stage1.train.batch_size = 16;
    stage1.train.learning_rate = 2e-3;
    stage1.train.warmup_steps = 3;
    stage1.train.save_steps = 3;
    stage1.train.early_stopping_patience = 10;
    config.stage1 = Some(stage1);
    config
}

/// Trains; with `stop_at` until that step of a stage.
pub(crate) fn train(
    config: &TrainConfig,
    folder: &Path,
    threads: usize,
    resume: bool,
    stop_at: Option<(u32, u64)>,
) -> Result<Outcome, Error> {
    let device = Device::cpu(threads)?;
    let stop = AtomicBool::new(false);
    let mut stage = 0;
    let mut observe = |event: Progress| match (&event, stop_at) {
        (Progress::Stage { stage: number, .. }, _) => stage = *number,
        (Progress::Step { step, .. }, Some(at)) => stop.store((stage, *step) >= at, Ordering::Relaxed),
        _ => {}
    };
    Trainer::prepare(config.clone())?.run(&device, folder, resume, &stop, &mut observe)
}

/// The log's objects of one kind and stage.
pub(crate) fn log(folder: &Path, event: &str, stage: u64) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("log.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["event"] == event && line["stage"] == stage).collect()
}
