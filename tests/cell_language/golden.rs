//! Stage 2's passes against PyTorch: every loss and every parameter gradient by name, in f32 and in f64.
//!
//! The file comes from `tools/golden/make_cell_language_golden.py`.

use scmmgpt_engine::config::{ExpressionHead, ExpressionKeys, Tuning, TuningMode};
use scmmgpt_engine::model::cell_language::{LossWeights, Losses};
use scmmgpt_kernels::runtime::{Device, Float};

use crate::driver::device;
use crate::setup::{Decoder, Golden, Model, check, purpose, tuned};

const NONE: LossWeights = LossWeights { language: 0.0, reconstruction: 0.0, expression: 0.0 };
const EXPRESSION: LossWeights = LossWeights { expression: 1.0, ..NONE };

const ALL: Decoder = Decoder { keys: ExpressionKeys::All, head: ExpressionHead::Mse };
const FIRST: Decoder = Decoder { keys: ExpressionKeys::First, ..ALL };
const COUNTS: Decoder = Decoder { head: ExpressionHead::Zinb, ..ALL };

/// An objective of the file: its name, what it weighs, the decoder, and whether there are neighbours.
const OBJECTIVES: [(&str, LossWeights, Decoder, bool); 7] = [
    ("language", LossWeights { language: 1.0, ..NONE }, ALL, false),
    ("reconstruction", LossWeights { reconstruction: 1.0, ..NONE }, ALL, false),
    ("expression", EXPRESSION, ALL, false),
    ("expression_first", EXPRESSION, FIRST, false),
    ("expression_neighbours", EXPRESSION, ALL, true),
    ("expression_counts", EXPRESSION, COUNTS, false),
    ("joint", LossWeights { language: 0.5, reconstruction: 2.0, expression: 0.25 }, ALL, true),
];

/// Compares the gradients of all parameters that learn; of those that cells do not pass there is none.
fn check_gradients<T: Float>(golden: &Golden, objective: &str, model: &Model<T>) -> usize {
    let mut compared = 0;
    for declared in model.parameters.declared() {
        let name = &declared.name;
        let counts = format!("grad.{objective}.counts.{name}");
        let key = if golden.file.contains(&counts) { counts } else { format!("grad.{objective}.{name}") };
        let zero = !golden.file.contains(&key) && golden.zero_gradients().contains(&format!("{objective}.{name}"));
        assert!(golden.file.contains(&key) != zero, "{key}");
        match model.gradient(name) {
            None => assert!(zero, "{key} is frozen"),
            Some(gradient) if zero => check::<T>(&key, &vec![0.0; gradient.len()], &gradient),
            Some(gradient) => check::<T>(&key, &golden.reals(&key), &gradient),
        }
        compared += usize::from(!zero);
    }
    compared
}

fn every_objective<T: Float>(device: &Device, gradient_checkpointing: bool) {
    let golden = Golden::open();
    let tuned = tuned(&golden, Tuning { gradient_checkpointing, ..Tuning::full() }, true, true);
    for (objective, weights, decoder, neighbours) in OBJECTIVES {
        let mut model = Model::<T>::on(device, &golden, purpose(weights), &tuned, decoder);
        let batch = if decoder.head == ExpressionHead::Zinb { golden.counts() } else { golden.batch(neighbours) };
        let losses = model.forward(&batch);
        check::<T>(objective, &golden.reals(&format!("loss.{objective}")), &[losses.total(&weights)]);
        model.backward(&batch);
        let compared = check_gradients(&golden, objective, &model);
        let stored = golden.file.names().filter(|name| name.starts_with(&format!("grad.{objective}."))).count();
        assert_eq!(compared, stored, "{objective}: gradients in the file that no parameter has");
    }
}

#[test]
fn every_objective_equals_pytorch_in_f32() {
    every_objective::<f32>(&Device::cpu(2).unwrap(), false);
}

/// The CPU's step is PyTorch's, and so is a device's: losses, and every gradient by name.
#[test]
fn every_objective_equals_pytorch_on_a_cuda_device() {
    let Some(device) = device() else { return };
    every_objective::<f32>(&device, false);
}

#[test]
fn every_objective_equals_pytorch_in_f64() {
    every_objective::<f64>(&Device::cpu(2).unwrap(), false);
}

#[test]
fn distributions_equal_pytorch() {
    let golden = Golden::open();
    let tuned = tuned(&golden, Tuning::full(), false, false);
    let mut model = Model::<f32>::new(&golden, scmmgpt_engine::model::cell_language::Purpose::inference(), &tuned, COUNTS);
    let (batch, genes) = (golden.batch(false), golden.size("genes"));
    let cells = model.workspace.project_cells(&model.model, &batch.cells).unwrap();
    let width = cells.len() / batch.cells.batch;
    for item in 0..batch.cells.batch {
        let list = &batch.expression.gene_ids[item * genes..][..genes];
        let said = model.workspace.decode_expression(&model.model, 1, &cells[item * width..][..width], None, list).unwrap();
        let counts = said.counts.unwrap();
        for (output, got) in [("log_mean", &counts.log_mean), ("zero_logit", &counts.zero_logit), ("log_theta", &counts.log_theta)] {
            let expected = &golden.reals(&format!("output.{output}"))[item * genes..][..genes];
            check::<f32>(output, expected, &got.iter().map(|&value| f64::from(value)).collect::<Vec<_>>());
        }
        for (at, value) in said.values.iter().enumerate() {
            let pi = 1.0 / (1.0 + (-f64::from(counts.zero_logit[at])).exp());
            let mean = (1.0 - pi) * f64::from(counts.log_mean[at]).exp();
            assert!((f64::from(*value) - (1.0 + mean).ln()).abs() < 1e-5);
        }
    }
}

#[test]
fn gradient_checkpointing_changes_nothing() {
    every_objective::<f32>(&Device::cpu(2).unwrap(), true);
}

#[test]
fn vectors_and_expression_equal_pytorch() {
    let golden = Golden::open();
    let tuned = tuned(&golden, Tuning::full(), false, false);
    let mut model = Model::<f32>::new(&golden, scmmgpt_engine::model::cell_language::Purpose::inference(), &tuned, ALL);
    let (batch, wide) = (golden.batch(true), |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>());
    let cells = model.workspace.project_cells(&model.model, &batch.cells).unwrap();
    check::<f32>("cells", &golden.reals("output.cells"), &wide(&cells));

    // A prompt ends with `</cell>`: what the training sequence has behind it changes nothing.
    let sequences = &batch.sequences;
    let texts: Vec<usize> = (0..sequences.batch).filter(|&item| !sequences.cell_first[item]).collect();
    let prompt = |&item: &usize| sequences.token_ids[item * sequences.seq_len..][..sequences.lengths[item] as usize - 1].to_vec();
    let prompts: Vec<Vec<u32>> = texts.iter().map(prompt).collect();
    let slots = model.workspace.slot_states(&model.model, &prompts).unwrap();
    check::<f32>("slots", &golden.reals("output.slots"), &wide(&slots));

    let (genes, width) = (golden.size("genes"), golden.size("queries") * model.model.language().config().hidden_size);
    for (output, neighbours) in [("prediction", false), ("prediction_neighbours", true)] {
        let expected = golden.reals(&format!("output.{output}"));
        for (at, &item) in texts.iter().enumerate() {
            let list = &batch.expression.gene_ids[item * genes..][..genes];
            let mut keys = slots[at * width..][..width].to_vec();
            let mut bias = vec![0.0; golden.size("queries")];
            let near = batch.neighbours.as_ref().filter(|near| neighbours && near.counts[at] > 0);
            if let Some(near) = near {
                let pooled = &near.pooled[at * near.count * golden.size("width")..][..near.count * golden.size("width")];
                keys.extend(model.workspace.project_pooled_cells(&model.model, pooled).unwrap());
                bias.extend(&near.bias[at * near.count..][..near.count]);
            }
            let bias = near.map(|_| bias.as_slice());
            let decoded = model.workspace.decode_expression(&model.model, 1, &keys, bias, list).unwrap();
            check::<f32>(output, &expected[(sequences.batch + at) * genes..][..genes], &wide(&decoded.values));
        }
    }
}

/// Losses without gradients are those of training; frozen parts have no gradients and change nothing else.
#[test]
fn evaluation_and_frozen_parts_give_the_same_losses() {
    let golden = Golden::open();
    let weights = LossWeights::default();
    let batch = golden.batch(true);
    let run = |mode: TuningMode, cell_encoder: bool, qformer: bool, training: bool| -> (Model<f32>, Losses) {
        let tuned = tuned(&golden, Tuning { mode, ..Tuning::full() }, cell_encoder, qformer);
        let purpose = scmmgpt_engine::model::cell_language::Purpose { training, ..purpose(weights) };
        let mut model = Model::new(&golden, purpose, &tuned, ALL);
        let losses = model.forward(&batch);
        model.backward(&batch);
        (model, losses)
    };
    let (all, losses) = run(TuningMode::Full, true, true, true);
    assert_eq!(run(TuningMode::Full, true, true, false).1, losses);
    const NEW: &str = "llm_model.model.embed_tokens.token_adapter.trainable_tokens_delta";
    type Learns = fn(bool, bool, bool) -> bool;
    let parts: [(&str, Learns); 6] = [
        ("encoder.embedding.weight", |_, cell_encoder, _| cell_encoder),
        ("ln_gene.weight", |_, _, qformer| qformer),
        ("Qformer.bert.encoder.layer.1.output_query.dense.weight", |_, _, qformer| qformer),
        ("llm_model.model.layers.1.mlp.down_proj.weight", |full, _, _| full),
        (NEW, |_, _, _| true),
        ("llm_proj.fc1.weight", |_, _, _| true),
    ];
    for (mode, cell_encoder, qformer) in [
        (TuningMode::Freeze, false, false),
        (TuningMode::Freeze, true, false),
        (TuningMode::Full, false, true),
        (TuningMode::Full, false, false),
    ] {
        let (model, same) = run(mode, cell_encoder, qformer, true);
        assert_eq!(same, losses);
        for (name, learns) in parts {
            match model.gradient(name) {
                Some(gradient) => assert_eq!(Some(gradient), all.gradient(name), "{name}"),
                None => assert!(!learns(mode == TuningMode::Full, cell_encoder, qformer), "{name} is frozen"),
            }
            assert_eq!(model.gradient(name).is_some(), learns(mode == TuningMode::Full, cell_encoder, qformer), "{name}");
        }
        // What cells do not pass never learns here.
        for name in ["cell_proj.weight", "Qformer.bert.encoder.layer.0.output.dense.weight", "matching_head.weight"] {
            assert!(model.gradient(name).is_none(), "{name}");
        }
    }
}
