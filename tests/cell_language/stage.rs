//! Stage 2 in training: losses fall; what stage 1 has learned is handed over; the same bytes at any number of threads and after any stop;
//! what cannot be is refused.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use scmmgpt_engine::Error;
use scmmgpt_engine::bundle::{Bundle, LanguageBundle};
use scmmgpt_engine::config::{ExpressionHead, ExpressionKeys, Stage2Config, TrainConfig, TuningMode};
use scmmgpt_engine::train::Trainer;
use scmmgpt_kernels::runtime::Device;
use scmmgpt_loader::checkpoint::Checkpoint;
use scmmgpt_loader::h5ad::AnnData;
use scmmgpt_loader::index::VectorIndex;
use scmmgpt_loader::language::LanguageFiles;

use crate::run::{config as of_stage1, data, log, train};

/// All three stages, small.
fn config() -> TrainConfig {
    let mut config = of_stage1();
    config.train.epochs = 1;
    let stage1 = config.stage1.as_mut().unwrap();
    stage1.masked = 0.0;
    stage1.train.epochs = 1;
    config.language.tokenizer = data("language_tokenizer.json");
    config.language.hidden_size = 32;
    config.language.intermediate_size = 48;
    config.language.num_hidden_layers = 2;
    config.language.num_attention_heads = 4;
    config.language.max_position_embeddings = 64;
    let mut stage2 = Stage2Config { projection_dim: 24, ..Stage2Config::default() };
    stage2.tuning.mode = TuningMode::Full;
    stage2.pairs.max_length = 48;
    stage2.expression.num_attention_heads = 2;
    stage2.expression.max_genes = 60;
    stage2.expression.zero_genes = 20;
    stage2.neighbors.k = 3;
    stage2.train.epochs = 2;
    stage2.train.batch_size = 16;
    stage2.train.gradient_accumulation_steps = 2;
    stage2.train.learning_rate = 3e-3;
    stage2.train.warmup_steps = 2;
    stage2.train.save_steps = 2;
    stage2.train.early_stopping_patience = 5;
    config.stage2 = Some(stage2);
    config
}

fn stage2(config: &mut TrainConfig) -> &mut Stage2Config {
    config.stage2.as_mut().unwrap()
}

fn language(folder: &Path) -> LanguageBundle {
    Bundle::describe(folder).unwrap().language.unwrap()
}

fn assert_same(left: &Path, right: &Path) {
    let names = [
        "model.safetensors",
        "config.json",
        "log.jsonl",
        "evaluation.json",
        "language/model.safetensors",
        "language/config.json",
        "language/tokenizer.json",
        "neighbors.index",
        "neighbors.safetensors",
        "stage1/model.safetensors",
        "stage0/model.safetensors",
    ];
    for name in names {
        let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
        assert!(read(left) == read(right), "{name} differs");
    }
}

#[test]
fn threads_and_interruptions_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut config = config();
    train(&config, &path("whole"), 2, false, None).unwrap();
    train(&config, &path("single"), 1, false, None).unwrap();
    assert_same(&path("whole"), &path("single"));
    for (resume, at) in [(false, (0, 2)), (true, (1, 3)), (true, (2, 1)), (true, (2, 3)), (true, (2, 4))] {
        let stopped = train(&config, &path("pieces"), 2, resume, Some(at));
        assert!(matches!(stopped, Err(Error::Stopped { step }) if step == at.1), "{stopped:?}");
    }
    train(&config, &path("pieces"), 2, true, None).unwrap();
    assert_same(&path("whole"), &path("pieces"));
    train(&config, &path("pieces"), 2, true, None).unwrap();
    assert_same(&path("whole"), &path("pieces"));
    for part in ["language", "reconstruction", "expression"] {
        let losses: Vec<f64> = log(&path("whole"), "step", 2).iter().map(|line| line[part].as_f64().unwrap()).collect();
        assert!(losses.iter().all(|&loss| loss > 0.0), "{part}: {losses:?}");
    }
    stage2(&mut config).projection_dim = 40;
    let error = train(&config, &path("pieces"), 2, true, None).unwrap_err();
    assert!(matches!(error, Error::Resume { .. }) && error.to_string().contains("projection_dim"), "{error}");
}

/// What stage 1 has learned reaches stage 2 bit by bit, and stays; neighbours are training cells alone.
#[test]
fn stage_1_is_handed_over() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let config = config();
    let trainer = Trainer::prepare(config.clone()).unwrap();
    train(&config, &out, 2, false, None).unwrap();
    let [first, second] = [out.join("stage1"), out.clone()].map(|folder| Checkpoint::open(folder).unwrap());
    let mut compared = 0;
    for name in first.names() {
        assert!(first.view(name).unwrap().bytes == second.view(name).unwrap().bytes, "{name}");
        compared += 1;
    }
    assert!(compared > 50);
    let [theirs, ours] = [out.join("stage1"), out.clone()].map(|folder| Bundle::describe(&folder).unwrap());
    assert_eq!(theirs.text, ours.text);

    let index = VectorIndex::open(out.join("neighbors.index")).unwrap();
    let names = AnnData::open(&data("pbmc68k_700.h5ad")).unwrap().obs_names().unwrap();
    let found: HashSet<String> = (0..index.len()).map(|item| index.item(item).unwrap().0).collect();
    let learned: HashSet<String> = trainer.data().split.train.iter().map(|&row| names[row].clone()).collect();
    assert_eq!(found, learned);
    let split = &trainer.data().split;
    assert!(split.validation.iter().chain(&split.test).all(|&row| !found.contains(&names[row])));

    // A model that was learned whole is a Hugging Face folder, rows of the cell's tokens included.
    let described = language(&out);
    assert_eq!((described.base, described.tuning.new_tokens), (None, 0));
    let files = LanguageFiles::open(out.join("language")).unwrap();
    assert_eq!(files.config(), &described.model);
    let bundle = Bundle::open(&out, &Device::cpu(1).unwrap()).unwrap();
    let language = bundle.language("test").unwrap();
    assert_eq!(language.tokenizer().vocab_size(), files.config().vocab_size);
    assert_eq!((language.tokens().slots, language.model().slots()), (3, 3));
    assert_eq!(language.neighbours().unwrap().index.len(), learned.len());
    let prompt = language.pairs().text_prompt("cell type: B cell.").unwrap();
    let states = language.workspace().unwrap().slot_states(language.whole().unwrap(), &[prompt]).unwrap();
    assert!(states.len() == 3 * 32 && states.iter().all(|value| value.is_finite()));
    let error = Bundle::open(&out.join("stage1"), &Device::cpu(1).unwrap()).unwrap().language("describe cells").unwrap_err();
    assert!(error.to_string().contains("[stage2]"), "{error}");
}

/// Losses of the epochs of stage 2.
fn epochs(folder: &Path) -> Vec<f64> {
    log(folder, "epoch", 2).iter().map(|line| line["training_loss"].as_f64().unwrap()).collect()
}

#[test]
fn losses_fall_in_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut first = config();
    first.data.test_fraction = 0.6;
    stage2(&mut first).train.epochs = 5;
    stage2(&mut first).train.gradient_accumulation_steps = 1;
    let former = path("former");
    let outcome = train(&first, &former, 2, false, None).unwrap();
    assert!(outcome.evaluation.is_some() && outcome.held_out.unwrap().losses.language < 5.0);
    let losses = epochs(&former);
    // The decoder starts at the mean of every gene: what falls is the rest.
    assert!(losses[4] < 0.7 * losses[0], "{losses:?}");

    // On from a former run, beside its language model or with all of it; with counts; with more of the cell's side.
    let run = |name: &str, change: &dyn Fn(&mut TrainConfig)| -> PathBuf {
        let mut config = first.clone();
        config.stage1 = None;
        config.language.path = former.join("language");
        config.language.tokenizer = PathBuf::new();
        let settings = stage2(&mut config);
        settings.init = Some(former.clone());
        settings.neighbors.k = 0;
        settings.train.epochs = 3;
        change(&mut config);
        train(&config, &path(name), 2, false, None).unwrap();
        assert!(log(&path(name), "step", 1).is_empty() && !path(name).join("stage1").exists());
        let losses = epochs(&path(name));
        assert!(losses[2] < 0.97 * losses[0], "{name}: {losses:?}");
        path(name)
    };
    let frozen = run("frozen", &|config| stage2(config).tuning.mode = TuningMode::Freeze);
    let adapted = run("adapted", &|config| {
        stage2(config).tuning.mode = TuningMode::Lora;
        stage2(config).tuning.gradient_checkpointing = true;
        stage2(config).tuning.load_in_8bit = true;
    });
    run("counts", &|config| stage2(config).expression.head = ExpressionHead::Zinb);
    let tuned = run("tuned", &|config| {
        stage2(config).tune_cell_encoder = true;
        stage2(config).tune_qformer = true;
        stage2(config).expression.keys = ExpressionKeys::First;
    });
    let device = Device::cpu(1).unwrap();
    for out in [&frozen, &adapted, &tuned] {
        let bundle = Bundle::open(out, &device).unwrap();
        let language = bundle.language("test").unwrap();
        let prompt = language.pairs().text_prompt("cell type: B cell.").unwrap();
        let states = language.workspace().unwrap().slot_states(language.whole().unwrap(), &[prompt]).unwrap();
        assert!(states.iter().all(|value| value.is_finite()));
    }
    assert!(adapted.join("adapter/adapter_model.safetensors").exists() && !adapted.join("language/model.safetensors").exists());
    let base = language(&frozen).base.unwrap();
    assert_eq!(base, language(&adapted).base.unwrap());
    let moved = |name: &str| {
        let [before, after] = [&former, &tuned].map(|folder| Checkpoint::open(folder).unwrap());
        before.view(name).unwrap().bytes != after.view(name).unwrap().bytes
    };
    assert!(moved("query_tokens") && moved("encoder.embedding.weight") && !moved("cell_proj.weight"));

    // Another base than the one it was trained with.
    let weights = former.join("language/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let error = Bundle::open(&adapted, &device).unwrap().language("test").unwrap_err().to_string();
    assert!(error.contains("base model") && error.contains("changed"), "{error}");
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let refuse = |change: &dyn Fn(&mut TrainConfig), part: &str| {
        let mut config = config();
        change(&mut config);
        let error = Trainer::prepare(config).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refuse(&|config| config.stage1 = None, "stage2.init");
    refuse(&|config| stage2(config).init = Some("no_such_folder".into()), "stage2.init");
    refuse(&|config| config.language.tokenizer = PathBuf::new(), "language.tokenizer");
    refuse(&|config| config.language.tokenizer = data("cell_text.json"), "cell_text.json");
    refuse(&|config| config.language.path = "no_such_model".into(), "no_such_model");
    refuse(&|config| config.language.bos_token = "<start>".into(), "language.bos_token");
    refuse(&|config| config.language.num_attention_heads = 3, "language.num_attention_heads");
    refuse(&|config| config.language.num_key_value_heads = 3, "num_key_value_heads");
    refuse(&|config| stage2(config).tuning.mode = TuningMode::Lora, "stage2.tuning.mode");
    refuse(&|config| stage2(config).tuning.new_tokens = 3, "stage2.tuning.new_tokens");
    refuse(&|config| stage2(config).pairs.max_length = 65, "stage2.pairs.max_length");
    refuse(&|config| stage2(config).pairs.max_length = 6, "max_length");
    refuse(&|config| stage2(config).expression.num_attention_heads = 4, "stage2.expression.num_attention_heads");
    refuse(&|config| stage2(config).expression.gene_dim = 32, "stage2.expression.gene_dim");
    refuse(&|config| stage2(config).expression.keys = ExpressionKeys::First, "stage2.neighbors.k");
    refuse(&|config| stage2(config).tune_qformer = true, "stage2.neighbors.k");
    refuse(&|config| stage2(config).neighbors.dropout = 1.0, "stage2.neighbors.dropout");
    refuse(&|config| stage2(config).neighbors.temperature = 0.0, "stage2.neighbors.temperature");
    refuse(&|config| stage2(config).loss.language = -1.0, "stage2.loss.language");
    refuse(&|config| stage2(config).train.epochs = 0, "stage2.train.epochs");
    refuse(&|config| config.data.label_key = String::new(), "label_key");
}
