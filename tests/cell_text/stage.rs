//! Training: losses fall; the same bytes at any number of threads and after any stop; what cannot be is refused.

use std::path::Path;

use scmmgpt_engine::Error;
use scmmgpt_engine::config::TrainConfig;
use scmmgpt_engine::train::Trainer;

use crate::setup::{config, data, log, train};

fn assert_same(left: &Path, right: &Path) {
    let names = ["model.safetensors", "config.json", "log.jsonl", "evaluation.json", "stage0/model.safetensors", "stage0/config.json"];
    for name in names {
        let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
        assert!(read(left) == read(right), "{name} differs");
    }
}

/// With every objective, and passages among the texts.
#[test]
fn threads_and_interruptions_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut config = config();
    let passage =
        |key: &str, source: &str| format!("{{\"key\": \"{key}\", \"text\": \"A passage about {key}.\", \"source\": \"{source}\"}}\n");
    std::fs::write(path("passages.jsonl"), passage("dendritic cell", "doi:1") + &passage("CL:0000236", "doi:2")).unwrap();
    config.text.literature = Some(path("passages.jsonl"));
    config.text.descriptions.literature_share = 0.3;
    let outcome = train(&config, &path("whole"), 2, false, None).unwrap();
    let evaluation = outcome.evaluation.unwrap();
    assert_eq!(evaluation.retrieval.len(), 2);
    train(&config, &path("single"), 1, false, None).unwrap();
    assert_same(&path("whole"), &path("single"));

    // In stage 0, at its last step, and in stage 1: inside an epoch, at its end, twice in a row.
    let steps = log(&path("whole"), "step", 0).len() as u64;
    for (resume, at) in [(false, (0, 2)), (true, (0, steps)), (true, (1, 1)), (true, (1, 7)), (true, (1, 8))] {
        let stopped = train(&config, &path("pieces"), 2, resume, Some(at));
        assert!(matches!(stopped, Err(Error::Stopped { step }) if step == at.1), "{stopped:?}");
    }
    train(&config, &path("pieces"), 2, true, None).unwrap();
    assert_same(&path("whole"), &path("pieces"));
    train(&config, &path("pieces"), 2, true, None).unwrap();
    assert_same(&path("whole"), &path("pieces"));

    let lines = log(&path("whole"), "step", 1);
    let sources: Vec<&str> = lines.iter().filter_map(|line| line["literature"].as_array()).flatten().filter_map(|id| id.as_str()).collect();
    assert!(sources.contains(&"doi:1") && sources.contains(&"doi:2"), "{sources:?}");
    for part in ["contrastive", "matching", "captioning", "expression", "mvc"] {
        let losses: Vec<f64> = lines.iter().filter_map(|line| line[part].as_f64()).collect();
        // A last batch of few cells may be of one type.
        assert!(losses.len() == lines.len() && losses.iter().any(|&loss| loss > 0.1), "{part}: {losses:?}");
    }

    config.qformer.temperature = 0.2;
    let error = train(&config, &path("pieces"), 2, true, None).unwrap_err();
    assert!(matches!(error, Error::Resume { .. }) && error.to_string().contains("temperature"), "{error}");
}

#[test]
fn losses_fall_from_a_former_run_and_from_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.data.test_fraction = 0.5;
    config.train.epochs = 1;
    let stage1 = config.stage1.take();
    let former = folder.path().join("former");
    train(&config, &former, 2, false, None).unwrap();
    config.stage1 = stage1;
    for (name, tuned) in [("tuned", true), ("frozen", false), ("new", true)] {
        let mut config = config.clone();
        let settings = config.stage1.as_mut().unwrap();
        settings.masked = 0.0;
        settings.tune_cell_encoder = tuned;
        settings.train.epochs = 6;
        if name == "new" {
            config.train.epochs = 0;
        } else {
            settings.init = Some(former.clone());
        }
        let out = folder.path().join(name);
        train(&config, &out, 2, false, None).unwrap();
        assert!(log(&out, "step", 0).is_empty() && !out.join("stage0").exists());
        let epochs: Vec<f64> = log(&out, "epoch", 1).iter().map(|line| line["training_loss"].as_f64().unwrap()).collect();
        assert!(epochs.len() == 6 && epochs[5] < 0.9 * epochs[0], "{name}: {epochs:?}");
    }
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("no_ontology.json");
    std::fs::write(&text, "{\"genes\": [1, 2]}").unwrap();
    let refuse = |change: &dyn Fn(&mut TrainConfig), part: &str| {
        let mut config = config();
        change(&mut config);
        let error = Trainer::prepare(config).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let stage1 =
        |change: fn(&mut scmmgpt_engine::config::Stage1Config)| move |config: &mut TrainConfig| change(config.stage1.as_mut().unwrap());
    refuse(&|config| config.text.tokenizer = Default::default(), "text.tokenizer");
    refuse(&|config| config.text.tokenizer = data("cell_text.json"), "cell_text.json");
    refuse(&|config| config.text.ontology = Some(text.clone()), "no_ontology.json");
    refuse(&|config| config.text.max_length = 40, "qformer.max_position_embeddings");
    refuse(&|config| config.text.descriptions.templates = vec!["{cell_type} of {planet}".into()], "planet");
    refuse(&|config| config.text.descriptions.literature_share = 0.5, "literature_share");
    refuse(&|config| config.qformer.num_attention_heads = 3, "qformer.num_attention_heads");
    refuse(&|config| config.qformer.vocab_size = 100, "qformer.vocab_size");
    refuse(&stage1(|stage1| stage1.train.batch_size = 1), "stage1.train.batch_size");
    refuse(&stage1(|stage1| stage1.train.epochs = 0), "stage1.train.epochs");
    refuse(&stage1(|stage1| stage1.loss.contrastive = 0.0), "stage1.loss.contrastive");
    refuse(&stage1(|stage1| stage1.contrast.group = 1), "stage1.contrast.group");
    refuse(&stage1(|stage1| stage1.tune_cell_encoder = false), "stage1.tune_cell_encoder");
    refuse(&stage1(|stage1| stage1.init = Some("no_such_folder".into())), "no_such_folder");
    refuse(
        &|config| config.loss = scmmgpt_engine::config::LossConfig { expression: 0.0, mvc: 0.0, classification: 1.0, label_smoothing: 0.0 },
        "stage1.masked",
    );
}
