//! The cell-text model against PyTorch: four passes, every loss and every parameter gradient by name, in f32 and in f64.
//!
//! The file comes from `tools/golden/make_qformer_golden.py`; its parameters have the names of scMMGPT's stage-1 checkpoint.

use scmmgpt_engine::config::TextPooling;
use scmmgpt_engine::model::cell_text::{Contrast, Draw, LossWeights, Losses, Purpose, Side};
use scmmgpt_engine::weights::Declared;
use scmmgpt_kernels::runtime::{Device, Float};
use scmmgpt_kernels::testing::{Tolerance, compare};

use super::setup::{Golden, Model, purpose, wide};

/// Within 1e-5 of each value and of the tensor's largest in f32, within 1e-6 in f64. A gradient that is zero in theory (a key's bias)
/// may carry rounding.
fn check<T: Float>(what: &str, reference: &[f32], got: &[f64]) {
    let reference: Vec<f64> = reference.iter().map(|&value| f64::from(value)).collect();
    let largest = reference.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let (relative, rounding) = if T::NAME == "f64" { (1e-6, 1e-12) } else { (1e-5, 1e-6) };
    compare(what, &reference, got, Tolerance::new(relative * largest + rounding, relative)).unwrap();
}

fn check_gradients<T: Float>(golden: &Golden, objective: &str, model: &Model<T>) {
    let mut compared = 0;
    for declared in model.parameters.declared() {
        let gradient = wide(model.workspace.stream.fetch(declared.parameter.gradient.unwrap()).unwrap());
        let key = format!("grad.{objective}.{}", declared.name);
        if golden.file.contains(&key) {
            check::<T>(&key, &golden.reals(&key), &gradient);
            compared += 1;
        } else {
            assert!(golden.zero_gradients().contains(&format!("{objective}.{}", declared.name)), "{key} is not in the file");
            check::<T>(&key, &vec![0.0; gradient.len()], &gradient);
        }
    }
    let stored = golden.file.names().filter(|name| name.starts_with(&format!("grad.{objective}."))).count();
    assert_eq!(compared, stored, "{objective}: gradients in the file that no parameter has");
}

/// Rows of a pass with those of padding set to 0, as the file has them.
fn real_rows(rows: Vec<f64>, lengths: &[u32], rows_of_item: usize) -> Vec<f64> {
    let width = rows.len() / (lengths.len() * rows_of_item);
    let is_real = |row: usize| row % rows_of_item < lengths[row / rows_of_item] as usize;
    rows.into_iter().enumerate().map(|(at, value)| if is_real(at / width) { value } else { 0.0 }).collect()
}

fn run<T: Float>(golden: &Golden, purpose: Purpose) -> (Model<T>, Losses) {
    let mut model = Model::<T>::new(golden, purpose);
    let losses = model.losses(golden, golden.draw());
    model.workspace.backward(&model.model, golden.draw(), 1.0).unwrap();
    (model, losses)
}

fn every_objective<T: Float>() {
    let golden = Golden::open();
    let loss = |name: &str| golden.reals(&format!("loss.{name}"));
    let none = LossWeights { contrastive: 0.0, matching: 0.0, captioning: 0.0 };
    let texts = golden.texts();
    let (queries, seq_len) = (golden.size("queries"), texts.seq_len);

    let (model, losses) = run::<T>(&golden, purpose(LossWeights { contrastive: 1.0, ..none }));
    check::<T>("contrastive loss", &loss("contrastive"), &[losses.contrastive]);
    check::<T>("cells", &golden.reals("output.cells"), &wide(model.workspace.hidden(Side::Cells).unwrap()));
    let hidden = real_rows(wide(model.workspace.hidden(Side::Texts).unwrap()), &texts.lengths, seq_len);
    check::<T>("texts", &golden.reals("output.texts"), &hidden);
    check_gradients(&golden, "contrastive", &model);

    let (model, losses) = run::<T>(&golden, purpose(LossWeights { matching: 1.0, ..none }));
    check::<T>("matching loss", &loss("matching"), &[losses.matching]);
    let negatives = golden.config["negatives"].as_array().unwrap().iter().map(|text| text.as_u64().unwrap() as usize);
    let chosen = negatives.enumerate().flat_map(|(own, other)| [own, other]);
    let lengths: Vec<u32> = chosen.map(|text| queries as u32 + texts.lengths[text]).collect();
    let hidden = real_rows(wide(model.workspace.hidden(Side::Matching).unwrap()), &lengths, queries + seq_len);
    check::<T>("matching", &golden.reals("output.matching"), &hidden);
    check_gradients(&golden, "matching", &model);

    let (model, losses) = run::<T>(&golden, purpose(LossWeights { captioning: 1.0, ..none }));
    check::<T>("captioning loss", &loss("captioning"), &[losses.captioning]);
    let hidden = real_rows(wide(model.workspace.hidden(Side::Captioning).unwrap()), &texts.lengths, seq_len);
    check::<T>("captioning", &golden.reals("output.captioning"), &hidden);
    check_gradients(&golden, "captioning", &model);

    let weights = LossWeights { contrastive: 0.5, matching: 2.0, captioning: 0.25 };
    let contrast = Contrast { group: 2, symmetric: false, mask_same_class: false };
    let (model, losses) = run::<T>(&golden, Purpose { contrast, ..purpose(weights) });
    check::<T>("joint loss", &loss("joint"), &[losses.total(&weights)]);
    check_gradients(&golden, "joint", &model);
}

#[test]
fn every_objective_equals_pytorch_in_f32() {
    every_objective::<f32>();
}

#[test]
fn every_objective_equals_pytorch_in_f64() {
    every_objective::<f64>();
}

#[test]
fn embeddings_and_match_scores_equal_pytorch() {
    let golden = Golden::open();
    let mut model = Model::<f32>::new(&golden, Purpose { training: false, ..purpose(LossWeights::default()) });
    let (cells, texts) = (golden.cells(), golden.texts());
    let of_cells = model.workspace.embed_cells(&model.model, &cells).unwrap();
    check::<f32>("cell embeddings", &golden.reals("output.cell_embeddings"), &wide(of_cells));
    let of_texts = model.workspace.embed_texts(&model.model, &texts).unwrap();
    check::<f32>("text embeddings", &golden.reals("output.text_embeddings"), &wide(of_texts));
    let scores = model.workspace.match_scores(&model.model, &cells, &texts).unwrap();
    let negatives = golden.config["negatives"].as_array().unwrap().iter().map(|text| text.as_u64().unwrap() as usize);
    let pairs = negatives.enumerate().flat_map(|(cell, other)| [(cell, cell), (cell, other)]);
    for ((cell, text), logits) in pairs.zip(golden.reals("output.matching.logits").chunks_exact(2)) {
        let expected = 1.0 / (1.0 + (logits[0] - logits[1]).exp());
        check::<f32>("match score", &[expected], &[f64::from(scores[cell * texts.batch + text])]);
    }
}

/// Losses without gradients are those of training; a frozen encoder has no gradients and changes nothing else.
#[test]
fn evaluation_and_a_frozen_encoder_give_the_same_losses() {
    let golden = Golden::open();
    let weights = LossWeights { contrastive: 1.0, matching: 1.0, captioning: 1.0 };
    let (tuned, trained) = run::<f32>(&golden, purpose(weights));
    let mut evaluated = Model::<f32>::new(&golden, Purpose { training: false, ..purpose(weights) });
    assert_eq!(evaluated.losses(&golden, golden.draw()), trained);
    let mut frozen = Model::<f32>::with(&golden, purpose(weights), [0.0; 3], false);
    assert_eq!(frozen.losses(&golden, golden.draw()), trained);
    frozen.workspace.backward(&frozen.model, golden.draw(), 1.0).unwrap();
    let is_encoder =
        |name: &str| ["encoder.", "value_encoder.", "flag_encoder.", "transformer_encoder."].iter().any(|part| name.starts_with(part));
    for declared in frozen.parameters.declared() {
        assert_eq!(declared.parameter.gradient.is_none(), is_encoder(&declared.name), "{}", declared.name);
    }
    for name in ["ln_gene.weight", "query_tokens", "Qformer.bert.encoder.layer.0.crossattention.self.key.weight"] {
        let gradient = |model: &Model<f32>| {
            let gradient = model.parameters.named(name).unwrap().parameter.gradient.unwrap();
            model.workspace.stream.fetch(gradient).unwrap()
        };
        assert_eq!(gradient(&frozen), gradient(&tuned), "{name}");
    }
}

#[test]
fn threads_change_no_byte() {
    let golden = Golden::open();
    let weights = LossWeights { contrastive: 0.7, matching: 1.3, captioning: 0.4 };
    let draw = Draw { dropout: true, ..golden.draw() };
    let results = [1, 3].map(|threads| {
        let device = Device::cpu(threads).unwrap();
        let mut model = Model::<f32>::on(&device, &golden, Purpose { dropout: true, ..purpose(weights) }, [0.2, 0.15, 0.25], true);
        let losses = model.losses(&golden, draw);
        model.workspace.backward(&model.model, draw, 1.0).unwrap();
        let gradient = |declared: &Declared<f32>| model.workspace.stream.fetch(declared.parameter.gradient.unwrap()).unwrap();
        (losses, model.parameters.declared().iter().map(gradient).collect::<Vec<_>>())
    });
    assert_eq!(results[0], results[1]);
}

/// The slope of the loss along a direction is the product of direction and gradient, under dropout and in every part of the model.
#[test]
fn gradients_hold_under_dropout() {
    check_slopes(&Golden::open());
    check_slopes(&Golden { text_pooling: TextPooling::Mean, ..Golden::open() });
}

fn check_slopes(golden: &Golden) {
    let weights = LossWeights { contrastive: 0.7, matching: 1.3, captioning: 0.4 };
    let draw = Draw { dropout: true, ..golden.draw() };
    let mut model = Model::<f64>::with(golden, Purpose { dropout: true, ..purpose(weights) }, [0.2, 0.15, 0.25], true);
    let plain = model.losses(golden, golden.draw());
    let dropped = model.losses(golden, draw);
    assert!(plain.contrastive != dropped.contrastive && plain.matching != dropped.matching && plain.captioning != dropped.captioning);
    model.workspace.backward(&model.model, draw, 1.0).unwrap();
    assert_eq!(model.losses(golden, draw), dropped);

    let parts = ["encoder.", "transformer_encoder.", "ln_gene", "query_tokens", "embeddings", "crossattention", "attention.self", "_query"];
    for part in
        parts.into_iter().chain(["output.dense", "intermediate", "LayerNorm", "_proj", "matching_head", "cls.predictions", "temperature"])
    {
        let chosen: Vec<_> = model.parameters.declared().iter().filter(|declared| declared.name.contains(part)).cloned().collect();
        assert!(!chosen.is_empty(), "{part}");
        let fetch = |tensor| model.workspace.stream.fetch(tensor).unwrap();
        let before: Vec<Vec<f64>> = chosen.iter().map(|declared| fetch(declared.parameter.value)).collect();
        let gradients: Vec<Vec<f64>> = chosen.iter().map(|declared| fetch(declared.parameter.gradient.unwrap())).collect();
        let direction = |tensor: usize, at: usize| ((tensor * 7919 + at * 104_729) % 2003) as f64 / 1001.0 - 1.0;
        let of_tensor = |(tensor, gradient): (usize, &Vec<f64>)| -> f64 {
            gradient.iter().enumerate().map(|(at, value)| value * direction(tensor, at)).sum()
        };
        let slope: f64 = gradients.iter().enumerate().map(of_tensor).sum();
        let mut at = |step: f64| {
            for (tensor, (declared, values)) in chosen.iter().zip(&before).enumerate() {
                let moved: Vec<f64> = values.iter().enumerate().map(|(at, value)| value + step * direction(tensor, at)).collect();
                model.workspace.stream.upload(declared.parameter.value, &moved).unwrap();
            }
            model.model.refresh(&model.workspace.stream).unwrap();
            model.losses(golden, draw).total(&weights)
        };
        let step = 1e-6;
        let measured = (at(step) - at(-step)) / (2.0 * step);
        at(0.0);
        assert!(
            (measured - slope).abs() <= 1e-6 * (1.0 + slope.abs()),
            "{part}: {measured} along the direction, the gradient says {slope}"
        );
    }
}
