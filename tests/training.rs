//! Training: the same bytes at any number of threads, after any stop, and from any checkpoint that is left.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use scmmgpt_engine::config::{CellEmbedding, TrainConfig};
use scmmgpt_engine::train::{Outcome, Progress, Trainer};
use scmmgpt_engine::{Device, Error};
use scmmgpt_loader::batch::Objective;
use scmmgpt_loader::expression::ValueMode;

fn config() -> TrainConfig {
    let mut config = TrainConfig { seed: 5, ..TrainConfig::default() };
    config.model.hidden_size = 16;
    config.model.num_hidden_layers = 2;
    config.model.num_attention_heads = 2;
    config.model.intermediate_size = 24;
    config.model.hidden_dropout_prob = 0.1;
    config.model.cell_embedding = CellEmbedding::Weighted;
    config.data.train = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/pbmc68k_700.h5ad")];
    config.data.label_key = "cell_type".into();
    config.data.test_fraction = 0.8;
    config.data.validation_fraction = 0.3;
    config.data.tokens.max_seq_len = 64;
    config.data.tokens.value_mode = ValueMode::Log1p;
    config.data.tokens.objective = Objective::Masked { ratio: 0.4 };
    config.loss.classification = 1.0;
    config.train.epochs = 4;
    config.train.batch_size = 16;
    config.train.learning_rate = 2e-3;
    config.train.warmup_steps = 3;
    config.train.early_stopping_patience = 10;
    config.train.save_steps = 3;
    config
}

fn train(config: &TrainConfig, folder: &Path, threads: usize, resume: bool, stop_at: Option<u64>) -> Result<Outcome, Error> {
    let device = Device::cpu(threads)?;
    let stop = AtomicBool::new(false);
    let mut observe = |event: Progress| {
        if let (Progress::Step { step, .. }, Some(at)) = (&event, stop_at) {
            stop.store(*step >= at, Ordering::Relaxed);
        }
    };
    Trainer::prepare(config.clone())?.run(&device, folder, resume, &stop, &mut observe)
}

fn bytes(folder: &Path) -> Vec<Vec<u8>> {
    ["model.safetensors", "config.json", "log.jsonl", "evaluation.json"].map(|name| std::fs::read(folder.join(name)).unwrap()).into()
}

fn assert_same(left: &Path, right: &Path) {
    for (name, (left, right)) in ["model", "config", "log", "evaluation"].iter().zip(bytes(left).iter().zip(&bytes(right))) {
        assert!(left == right, "{name} differs");
    }
}

#[test]
fn threads_and_interruptions_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let config = config();
    let outcome = train(&config, &path("whole"), 2, false, None).unwrap();
    assert!(outcome.steps >= 24 && outcome.evaluation.is_some());
    train(&config, &path("single"), 1, false, None).unwrap();
    assert_same(&path("whole"), &path("single"));

    // Inside an epoch, at its end, and twice in a row.
    for (resume, at) in [(false, 2), (true, 7), (true, 8), (true, 14)] {
        let stopped = train(&config, &path("pieces"), 2, resume, Some(at));
        assert!(matches!(stopped, Err(Error::Stopped { step }) if step == at), "{stopped:?}");
    }
    train(&config, &path("pieces"), 2, true, None).unwrap();
    assert_same(&path("whole"), &path("pieces"));
    // A finished run has nothing left to do and keeps its result.
    train(&config, &path("pieces"), 2, true, None).unwrap();
    assert_same(&path("whole"), &path("pieces"));
}

#[test]
fn a_damaged_checkpoint_costs_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let config = config();
    let (whole, torn) = (folder.path().join("whole"), folder.path().join("torn"));
    train(&config, &whole, 2, false, None).unwrap();
    assert!(train(&config, &torn, 2, false, Some(11)).is_err());
    let mut checkpoints: Vec<PathBuf> = std::fs::read_dir(torn.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    checkpoints.sort();
    assert_eq!(checkpoints.len(), 2, "{checkpoints:?}");
    let newest = &checkpoints[1];
    let text = std::fs::read(newest).unwrap();
    std::fs::write(newest, &text[..text.len() / 2]).unwrap();
    let mut notes = Vec::new();
    let device = Device::cpu(2).unwrap();
    let mut observe = |event: Progress| {
        if let Progress::Note(note) = event {
            notes.push(note);
        }
    };
    let trainer = Trainer::prepare(config.clone()).unwrap();
    trainer.run(&device, &torn, true, &AtomicBool::new(false), &mut observe).unwrap();
    assert!(notes.iter().any(|note| note.contains("damaged")), "{notes:?}");
    assert_same(&whole, &torn);

    let mut other = config;
    other.train.learning_rate = 1e-3;
    let error = train(&other, &torn, 2, true, None).unwrap_err();
    assert!(matches!(error, Error::Resume { .. }) && error.to_string().contains("learning_rate"), "{error}");
}

#[test]
fn losses_fall_with_every_objective() {
    let objectives = [Objective::Masked { ratio: 0.4 }, Objective::Generative { ratios: vec![0.25, 0.5] }];
    for objective in objectives {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config();
        config.data.tokens.objective = objective;
        config.model.hidden_dropout_prob = 0.0;
        config.train.gradient_accumulation_steps = 2;
        config.train.epochs = 8;
        train(&config, &folder.path().join("run"), 2, false, None).unwrap();
        let log = std::fs::read_to_string(folder.path().join("run/log.jsonl")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let epochs: Vec<f64> = lines.filter(|line| line["event"] == "epoch").map(|line| line["training_loss"].as_f64().unwrap()).collect();
        assert!(epochs.len() == 8 && epochs[7] < 0.8 * epochs[0], "{epochs:?}");
    }
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let refuse = |change: &dyn Fn(&mut TrainConfig), part: &str| {
        let mut config = config();
        change(&mut config);
        let error = Trainer::prepare(config).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refuse(&|config| config.model.num_attention_heads = 3, "model.num_attention_heads");
    refuse(&|config| config.train.batch_size = 0, "train.batch_size");
    refuse(&|config| config.data.train.clear(), "data.train");
    refuse(&|config| config.data.label_key = "no_such_column".into(), "cell_type");
    refuse(&|config| config.data.train[0] = "no_such_file.h5ad".into(), "no_such_file.h5ad");
    refuse(&|config| config.data.layer = "no_such_layer".into(), "no_such_layer");
    refuse(&|config| config.data.label_key = String::new(), "data.label_key");
    refuse(&|config| config.data.tokens.objective = Objective::None, "data.tokens.objective");
    refuse(&|config| config.model.vocab_size = 5, "model.vocab_size");
    refuse(&|config| (config.data.test_key, config.data.test_values) = ("tissue".into(), vec!["no_such_tissue".into()]), "no_such_tissue");
}

/// A folder as scGPT releases it: `args.json`, `vocab.json` and the weights. The configuration says nothing of sizes.
#[test]
fn an_scgpt_folder_gives_sizes_vocabulary_and_binning() {
    let folder = tempfile::tempdir().unwrap();
    let (run, released) = (folder.path().join("run"), folder.path().join("released"));
    let mut first = config();
    first.train.epochs = 1;
    train(&first, &run, 2, false, None).unwrap();
    std::fs::create_dir(&released).unwrap();
    for name in ["model.safetensors", "vocab.json"] {
        std::fs::copy(run.join(name), released.join(name)).unwrap();
    }
    let arguments = r#"{"embsize": 16, "nheads": 2, "d_hid": 24, "nlayers": 2, "n_layers_cls": 3, "dropout": 0.2, "n_bins": 51, "max_seq_len": 96,
        "pad_value": -2, "mask_value": -1, "input_style": "binned", "input_emb_style": "continuous", "load_model": null, "fp16": true}"#;
    std::fs::write(released.join("args.json"), arguments).unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "[loss]\nclassification = 1.0\nexpression = 0.0\nmvc = 0.0\n[train]\nepochs = 1\n").unwrap();
    let cells = format!("data.train=[{:?}]", config().data.train[0]);
    let init = format!("init={:?}", released);
    let rows = format!("model.vocab_size={}", first_dimension(&released.join("model.safetensors")));
    let overrides = [cells, init.clone(), rows, "data.label_key=cell_type".into(), "data.tokens.max_seq_len=64".into()];
    let read = TrainConfig::read(&file, &overrides).unwrap();
    assert_eq!((read.model.hidden_size, read.model.num_hidden_layers, read.model.intermediate_size), (16, 2, 24));
    assert_eq!((read.model.num_attention_heads, read.model.classifier_layers, read.model.hidden_dropout_prob), (2, 3, 0.2));
    let tokens = &read.data.tokens;
    assert_eq!((tokens.value_mode, tokens.n_bins, tokens.cls_value, tokens.mask_value), (ValueMode::Binned, 51, -2.0, -1.0));
    assert_eq!(tokens.max_seq_len, 64, "what the configuration says stays");
    assert_eq!(read.data.vocabulary.as_deref(), Some(released.join("vocab.json").as_path()));
    train(&read, &folder.path().join("tuned"), 2, false, None).unwrap();

    let refuse = |arguments: &str, part: &str| {
        std::fs::write(released.join("args.json"), arguments).unwrap();
        let error = TrainConfig::read(&file, &overrides).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("args.json"), "{error}");
    };
    refuse("not JSON", "line 1");
    refuse(r#"{"embsize": "wide"}"#, "expected u32");
    refuse(r#"{"input_emb_style": "category"}"#, "continuous");
    refuse(r#"{"input_style": "normed_raw"}"#, "data.tokens.value_mode");
}

fn first_dimension(weights: &Path) -> usize {
    scmmgpt_loader::checkpoint::Checkpoint::open(weights).unwrap().view("encoder.embedding.weight").unwrap().shape[0]
}
