//! The language model against PyTorch: hidden states, logits, loss and every parameter gradient by name, in f32 and in f64; the cached
//! passes against the whole one.
//!
//! The file comes from `tools/golden/make_language_golden.py`.

#[path = "language/golden.rs"]
mod golden;

use std::path::PathBuf;

use golden::{Golden, base_model, check, wide};
use scmmgpt_engine::config::{Tuning, TuningMode};
use scmmgpt_engine::generate::sampler::SamplerConfig;
use scmmgpt_engine::generate::{Choice, Draw, Generator, Prompt};
use scmmgpt_engine::layer::Dims;
use scmmgpt_engine::model::language_model::LanguageModel;
use scmmgpt_engine::model::language_workspace::TokenBatch;
use scmmgpt_engine::weights::{ParameterPlan, Parameters};
use scmmgpt_kernels::runtime::{Class, Device, Float, Plan, Stream, bf16};
use scmmgpt_loader::language::{LanguageFiles, LanguageTokenizer};
use serde_json::Value;

/// The logits behind a prompt, by a generator of its own.
fn logits_behind<T: Float>(model: &LanguageModel<T>, device: &Device, prompt: &[u32]) -> Vec<T> {
    let mut generator = Generator::new(model, device, 1, 16).unwrap();
    generator.prefill(model, &[Prompt::from(prompt)]).unwrap();
    generator.logits().unwrap()
}

fn model<T: Float>(device: &Device, files: &LanguageFiles, trainable: bool) -> (LanguageModel<T>, Parameters<T>) {
    declared(device, files, &Tuning::full(), ParameterPlan::new(trainable))
}

fn tuned<T: Float>(device: &Device, files: &LanguageFiles, tuning: &Tuning) -> (LanguageModel<T>, Parameters<T>) {
    declared(device, files, tuning, ParameterPlan::new(true))
}

fn declared<T: Float>(
    device: &Device,
    files: &LanguageFiles,
    tuning: &Tuning,
    mut plan: ParameterPlan<T>,
) -> (LanguageModel<T>, Parameters<T>) {
    let model = LanguageModel::declare(&mut plan, files.config(), 128, tuning);
    let parameters = plan.allocate(device).unwrap();
    let stream = Stream::new(device, 0).unwrap();
    model.load(&parameters, &stream, files, 7).unwrap();
    model.refresh(&stream).unwrap();
    (model, parameters)
}

fn equals_pytorch<T: Float>() {
    let (golden, folder) = (Golden::open("language_tiny"), tempfile::tempdir().unwrap());
    let (device, batch) = (Device::cpu(2).unwrap(), golden.batch());
    for (variant, tied) in [("tied", true), ("untied", false)] {
        let files = base_model(folder.path(), tied);
        let (model, parameters) = model::<T>(&device, &files, true);
        let mut workspace = model.workspace(&device, Dims { batch: 1, seq_len: 4 }, true).unwrap();
        let loss = workspace.loss(&model, &batch, Some(1.0)).unwrap();
        check("loss", &golden.reals(&format!("loss.{variant}")), &[loss]);
        let width = files.config().hidden_size;
        let mut hidden = wide(workspace.hidden().unwrap());
        for (row, values) in hidden.chunks_mut(width).enumerate() {
            if row % batch.seq_len >= batch.lengths[row / batch.seq_len] as usize {
                values.fill(0.0);
            }
        }
        check("hidden", &golden.reals("output.hidden"), &hidden);
        for declared in parameters.declared() {
            let key = format!("grad.{variant}.{}", declared.name);
            check(&key, &golden.reals(&key), &wide(workspace.stream.fetch(declared.parameter.gradient.unwrap()).unwrap()));
        }
        let stored = golden.file.names().filter(|name| name.starts_with(&format!("grad.{variant}."))).count();
        assert_eq!(stored, parameters.declared().len(), "{variant}: gradients in the file that no parameter has");
    }
}

#[test]
fn losses_and_gradients_equal_pytorch_in_f32() {
    equals_pytorch::<f32>();
}

#[test]
fn losses_and_gradients_equal_pytorch_in_f64() {
    equals_pytorch::<f64>();
}

/// New rows learn in every mode, from both sides where the head is tied, and nothing else does in the mode `freeze`; gradient
/// checkpointing changes no bit.
#[test]
fn modes_of_tuning_choose_what_learns() {
    let (golden, folder) = (Golden::open("language_tiny"), tempfile::tempdir().unwrap());
    let (device, new_tokens) = (Device::cpu(2).unwrap(), 3);
    for tied in [true, false] {
        let files = base_model(folder.path(), tied);
        let vocabulary = files.config().vocab_size as u32;
        let mut batch = golden.batch();
        for (place, token) in [(1, vocabulary), (4, vocabulary + 2), (13, vocabulary + 2)] {
            batch.token_ids[place] = token;
            batch.labels[place] = token;
        }
        let gradients = |mode: TuningMode, gradient_checkpointing: bool| {
            let tuning = Tuning { mode, new_tokens, gradient_checkpointing, ..Tuning::default() };
            let (model, parameters) = tuned::<f64>(&device, &files, &tuning);
            assert_eq!(model.vocab_size(), vocabulary as usize + new_tokens);
            let mut workspace = model.workspace(&device, Dims { batch: 1, seq_len: 4 }, true).unwrap();
            let loss = workspace.loss(&model, &batch, Some(1.0)).unwrap();
            let learning = parameters.declared().iter().filter_map(|declared| {
                let gradient = declared.parameter.gradient?;
                Some((declared.name.clone(), workspace.stream.fetch(gradient).unwrap()))
            });
            (loss, learning.collect::<Vec<_>>())
        };
        let (loss, all) = gradients(TuningMode::Full, false);
        let (frozen_loss, frozen) = gradients(TuningMode::Freeze, false);
        assert_eq!(loss, frozen_loss);
        let rows: Vec<&str> = frozen.iter().map(|(name, _)| name.as_str()).collect();
        let head = "lm_head.token_adapter.trainable_tokens_delta";
        let expected = ["model.embed_tokens.token_adapter.trainable_tokens_delta", head];
        assert_eq!(rows, expected[..if tied { 1 } else { 2 }]);
        for (name, gradient) in &frozen {
            let (_, same) = all.iter().find(|(other, _)| other == name).unwrap();
            assert!(gradient == same, "{name}: another gradient than when everything learns");
            let silent = gradient.chunks(files.config().hidden_size).position(|row| row.iter().all(|value| *value == 0.0));
            // The second new token occurs nowhere; only as an alternative in the head.
            assert_eq!(silent, (!tied && name != head).then_some(1), "{name}");
        }
        for mode in [TuningMode::Full, TuningMode::Freeze] {
            assert!(gradients(mode, true) == gradients(mode, false), "gradient checkpointing changed a bit");
        }
        let planned = |gradient_checkpointing: bool| {
            let tuning = Tuning { mode: TuningMode::Freeze, gradient_checkpointing, ..Tuning::default() };
            let mut plan = Plan::new(Class::Activations);
            LanguageModel::<f32>::declare(&mut ParameterPlan::new(true), files.config(), 64, &tuning).plan(
                &mut plan,
                Dims { batch: 2, seq_len: 64 },
                true,
            );
            plan.bytes()
        };
        // Two layers: the memory of one goes, but for its output.
        assert!(planned(true) < planned(false) * 6 / 10, "{} of {} bytes", planned(true), planned(false));
    }
}

/// The logits after each sequence, at once and token by token behind a prefix of any length; alone and in a batch.
#[test]
fn the_cache_changes_nothing() {
    let (golden, folder) = (Golden::open("language_tiny"), tempfile::tempdir().unwrap());
    let (device, batch) = (Device::cpu(2).unwrap(), golden.batch());
    let files = base_model(folder.path(), false);
    let (model, _parameters) = model::<f32>(&device, &files, false);
    let expected = golden.reals("output.untied.last_logits");
    let vocabulary = files.config().vocab_size;
    let sequence = |item: usize| &batch.token_ids[item * batch.seq_len..][..batch.lengths[item] as usize];
    let prompts: Vec<&[u32]> = (0..batch.batch).map(sequence).collect();
    let mut together = Generator::new(&model, &device, batch.batch, 32).unwrap();
    together.prefill(&model, &prompts.iter().copied().map(Prompt::from).collect::<Vec<_>>()).unwrap();
    let at_once = together.logits().unwrap();
    check("prefill", &expected, &wide(at_once.clone()));
    for (item, prompt) in prompts.iter().enumerate() {
        for split in 1..=prompt.len() {
            let mut alone = Generator::new(&model, &device, 1, 32).unwrap();
            alone.prefill(&model, &[Prompt::from(&prompt[..split])]).unwrap();
            for &token in &prompt[split..] {
                alone.decode(&model, &[token]).unwrap();
            }
            let logits = alone.logits().unwrap();
            let expected = &expected[item * vocabulary..][..vocabulary];
            check("decode", expected, &wide(logits.clone()));
            if split == prompt.len() {
                assert!(logits == at_once[item * vocabulary..][..vocabulary], "item {item}: neighbours in the batch changed the bits");
            }
        }
    }
}

/// Weights and activations in bf16, sums in f32: near the golden logits, and the same bits in any company, token by token too.
#[test]
fn bf16_is_near_and_keeps_its_bits_in_company() {
    let (golden, folder) = (Golden::open("language_tiny"), tempfile::tempdir().unwrap());
    let (device, batch) = (Device::cpu(2).unwrap(), golden.batch());
    let files = base_model(folder.path(), false);
    let (model, _parameters) = model::<bf16>(&device, &files, false);
    let (expected, vocabulary) = (golden.reals("output.untied.last_logits"), files.config().vocab_size);
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let sequence = |item: usize| &batch.token_ids[item * batch.seq_len..][..batch.lengths[item] as usize];
    let logits = |items: &[usize], cached: usize| {
        let mut generator = Generator::new(&model, &device, items.len(), 32).unwrap();
        let split = |item: usize| sequence(item).split_at(sequence(item).len() - cached);
        let prompts: Vec<Prompt<'_>> = items.iter().map(|&item| Prompt::from(split(item).0)).collect();
        generator.prefill(&model, &prompts).unwrap();
        for at in 0..cached {
            let next: Vec<u32> = items.iter().map(|&item| split(item).1[at]).collect();
            generator.decode(&model, &next).unwrap();
        }
        generator.logits().unwrap()
    };
    for (item, cached) in [(0, 0), (0, 5), (1, 0), (1, 5), (2, 0)] {
        let alone = logits(&[item], cached);
        for (expected, got) in expected[item * vocabulary..].iter().zip(wide(alone.clone())) {
            assert!((expected - got).abs() < 0.03 * largest, "sequence {item}: expected {expected}, got {got}");
        }
        for company in [3, 8, 9, 20] {
            let others = if cached == 0 { [0, 1, 2] } else { [0, 1, 0] };
            let items: Vec<usize> = std::iter::once(item).chain(others.into_iter().cycle()).take(company).collect();
            assert!(logits(&items, cached)[..vocabulary] == alone, "sequence {item} among {company}, {cached} tokens cached");
        }
    }
}

/// What the real SmolLM2 says (`tools/fetch_smollm2.sh` brings it; without it nothing is compared).
#[test]
fn smollm2_says_what_an_independent_forward_pass_says() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join(".models/smollm2.gguf");
    if !path.exists() {
        eprintln!("no .models/smollm2.gguf: nothing was compared; run tools/fetch_smollm2.sh");
        return;
    }
    let golden: Value = serde_json::from_str(include_str!("golden/smollm2.json")).unwrap();
    let ids = |value: &Value| value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect::<Vec<_>>();
    let tokenizer = LanguageTokenizer::open(&path).unwrap();
    let files = LanguageFiles::open(&path).unwrap();
    let device = Device::cpu(0).unwrap();
    let (model, parameters) = model::<f32>(&device, &files, false);
    let texts = golden["texts"].as_array().unwrap();
    let prompts: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer.encode(text["text"].as_str().unwrap()).unwrap()).collect();
    for (text, prompt) in texts.iter().zip(&prompts) {
        assert_eq!(*prompt, ids(&text["ids"]));
        let logits = logits_behind(&model, &device, prompt);
        for (token, expected) in ids(&text["top_ids"]).into_iter().zip(text["top_logits"].as_array().unwrap()) {
            let (got, expected) = (f64::from(logits[token as usize]), expected.as_f64().unwrap());
            assert!((got - expected).abs() < 2e-3, "{text}: token {token} has {got}, expected {expected}");
        }
    }

    // 64 tokens, greedily, of a prompt alone and of the same among seven.
    let expected = ids(&golden["greedy"]);
    let sampler = SamplerConfig::default();
    let choice = Choice { sampler: &sampler, suppress: &[], eos: &[], may_end: true, seed: 0 };
    for batch in [1, 7] {
        let batched: Vec<Prompt> = (0..batch).map(|item| Prompt::from(prompts[item % prompts.len()].as_slice())).collect();
        let mut generator = Generator::new(&model, &device, batch, 96).unwrap();
        generator.prefill(&model, &batched).unwrap();
        let mut said = Vec::new();
        for _ in 0..expected.len() {
            let chosen = generator.choose(&choice, &vec![Draw { history: &[], number: 0 }; batch]).unwrap();
            said.push(chosen[0].token);
            generator.decode(&model, &chosen.iter().map(|chosen| chosen.token).collect::<Vec<_>>()).unwrap();
        }
        assert_eq!(said, expected, "in a batch of {batch}");
    }
    assert_eq!(tokenizer.decode(&expected).unwrap().trim_start().split('.').next(), Some("Paris"));

    let paragraph = tokenizer.encode(golden["paragraph"].as_str().unwrap()).unwrap();
    assert_eq!(paragraph, ids(&golden["paragraph_ids"]));
    let (length, labels) = (paragraph.len(), paragraph.clone());
    let batch = TokenBatch { batch: 1, seq_len: length, token_ids: paragraph, lengths: vec![length as u32], labels };
    let mut workspace = model.workspace(&device, Dims { batch: 1, seq_len: length }, false).unwrap();
    let perplexity = workspace.loss(&model, &batch, None).unwrap().exp();
    let expected = golden["perplexity"].as_f64().unwrap();
    assert!((perplexity / expected - 1.0).abs() < 1e-3, "perplexity {perplexity}, expected {expected}");

    // Narrower copies are a little worse. In int8 the activations are bf16.
    let stream = Stream::new(&device, 0).unwrap();
    let exact: Vec<f64> = prompts.iter().flat_map(|prompt| wide(logits_behind(&model, &device, prompt))).collect();
    let deviation = (exact.iter().map(|logit| logit * logit).sum::<f64>() / exact.len() as f64).sqrt();
    for (int8, most, error) in [(false, 0.02, 0.05), (true, 0.02, 0.08)] {
        let (copy, _parameters) = model.converted::<bf16>(&parameters, &stream, int8, None).unwrap();
        let mut workspace = copy.workspace(&device, Dims { batch: 1, seq_len: length }, false).unwrap();
        let narrow = workspace.loss(&copy, &batch, None).unwrap().exp();
        let near: Vec<f64> = prompts.iter().flat_map(|prompt| wide(logits_behind(&copy, &device, prompt))).collect();
        let squares = exact.iter().zip(&near).map(|(exact, near)| (exact - near).powi(2)).sum::<f64>();
        let share = (squares / exact.len() as f64).sqrt() / deviation;
        println!(
            "{}: perplexity {narrow:.4} beside {perplexity:.4}, logits off by {share:.4} of their size",
            if int8 { "int8" } else { "bf16" }
        );
        assert!((narrow / perplexity - 1.0).abs() < most && share < error && narrow != perplexity, "int8 {int8}: {narrow} {share}");
    }
}
