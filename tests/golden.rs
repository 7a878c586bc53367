//! The cell encoder against PyTorch: outputs, every loss and every parameter gradient by name, in f32 and in f64.
//!
//! The files come from `tools/golden/make_encoder_golden.py`; their metadata name the script, its seed and PyTorch's version.

use std::path::PathBuf;

use scmmgpt_engine::config::{CellEmbedding, ModelConfig};
use scmmgpt_engine::layer::Dims;
use scmmgpt_engine::model::cell_model::{CellModel, Heads, LossWeights, Losses, Purpose, Workspace};
use scmmgpt_engine::weights::{ParameterPlan, Parameters};
use scmmgpt_kernels::runtime::{Device, Float, Real, Stream};
use scmmgpt_kernels::testing::{Tolerance, compare};
use scmmgpt_loader::batch::CellBatch;
use scmmgpt_loader::checkpoint::{self, Checkpoint};
use serde_json::Value;

struct Golden {
    file: Checkpoint,
    config: Value,
}

impl Golden {
    fn open(name: &str) -> Golden {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
        let file = Checkpoint::open(path).unwrap();
        let config = serde_json::from_str(&file.metadata()["config"]).unwrap();
        Golden { file, config }
    }

    fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap() as usize
    }

    fn model_config(&self, cell_embedding: CellEmbedding) -> ModelConfig {
        ModelConfig {
            hidden_size: self.size("width"),
            num_hidden_layers: self.size("layers"),
            num_attention_heads: self.size("heads"),
            intermediate_size: self.size("d_hid"),
            vocab_size: self.size("vocabulary"),
            hidden_dropout_prob: 0.0,
            cell_embedding,
            ..ModelConfig::default()
        }
    }

    fn reals(&self, name: &str) -> Vec<f32> {
        self.file.to_f32(name).unwrap()
    }

    fn integers(&self, name: &str) -> Vec<i32> {
        self.file.view(name).unwrap().bytes.chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn batch(&self) -> CellBatch {
        let unsigned = |name: &str| self.integers(name).into_iter().map(|value| value as u32).collect::<Vec<_>>();
        CellBatch {
            batch: self.size("batch"),
            seq_len: self.size("seq_len"),
            gene_ids: unsigned("input.gene_ids"),
            values: self.reals("input.values"),
            targets: self.reals("input.targets"),
            target_mask: self.reals("input.target_mask"),
            lengths: unsigned("input.lengths"),
            known_lengths: unsigned("input.known_lengths"),
            labels: self.integers("input.labels"),
            rows: vec![0; self.size("batch")],
        }
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

/// The same weights under the other names that scGPT checkpoints have used, and with tensors missing.
#[test]
fn every_key_layout_loads_and_missing_tensors_are_listed_together() {
    let golden = Golden::open("encoder_tiny.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let plain = golden.parameters(folder.path());
    let renamed = |name: &str, rename: &dyn Fn(&str) -> Option<String>| {
        let names: Vec<(String, String)> = plain.names().filter_map(|old| Some((old.to_string(), rename(old)?))).collect();
        let views = names.iter().map(|(old, new)| {
            let view = plain.view(old).unwrap();
            (new.as_str(), view.dtype, view.shape, view.bytes)
        });
        let path = folder.path().join(name);
        checkpoint::write(&path, views, &Default::default()).unwrap();
        Checkpoint::open(path).unwrap()
    };
    let pytorch = |name: &str| name.replace("Wqkv.weight", "in_proj_weight").replace("Wqkv.bias", "in_proj_bias");
    let wrapped = |name: &str| name.replace("self_attn.", "self_attn._impl.");
    let layouts = [
        renamed("a.safetensors", &|name| Some(name.into())),
        renamed("b.safetensors", &|name| Some(pytorch(name))),
        renamed("c.safetensors", &|name| Some(wrapped(name))),
        renamed("d.safetensors", &|name| Some(format!("module.{}", pytorch(name)))),
    ];
    let device = Device::cpu(1).unwrap();
    let stream = Stream::new(&device, 0).unwrap();
    let declare = || {
        let mut plan = ParameterPlan::<f32>::new(false);
        let heads = Heads { classes: golden.size("classes"), expression: true, mvc: true, gene_linear: false };
        CellModel::declare(&mut plan, &golden.model_config(CellEmbedding::Cls), heads, 0);
        plan.allocate(&device).unwrap()
    };
    for layout in layouts {
        let parameters = declare();
        parameters.load(&stream, &layout).unwrap();
        for tensor in parameters.fetch(&stream).unwrap() {
            let name = format!("param.{}", tensor.name);
            assert!(tensor.values == golden.reals(&name), "{name} of {}", layout.path().display());
        }
    }
    let lacking = renamed("e.safetensors", &|name| (!name.contains("layers.1.") && !name.contains("decoder.fc.4")).then(|| name.into()));
    let error = declare().load(&stream, &lacking).unwrap_err().to_string();
    for name in ["layers.1.self_attn.Wqkv.weight", "layers.1.norm2.bias", "decoder.fc.4.weight"] {
        assert!(error.contains(name), "{error}");
    }
}

struct Run<T: Float> {
    parameters: Parameters<T>,
    workspace: Workspace<T>,
    losses: Losses,
}

fn run<T: Float>(golden: &Golden, weights: LossWeights, pooling: CellEmbedding, generative: bool, batch: &CellBatch) -> Run<T> {
    run_of(golden, weights, &golden.model_config(pooling), generative, batch)
}

fn run_of<T: Float>(golden: &Golden, weights: LossWeights, config: &ModelConfig, generative: bool, batch: &CellBatch) -> Run<T> {
    let device = Device::cpu(2).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut plan = ParameterPlan::<T>::new(true);
    let heads = Heads { classes: golden.size("classes"), expression: true, mvc: true, gene_linear: false };
    let model = CellModel::declare(&mut plan, config, heads, golden.size("pad") as u32);
    let parameters = plan.allocate(&device).unwrap();
    parameters.load(&Stream::new(&device, 0).unwrap(), &golden.parameters(folder.path())).unwrap();
    let purpose = Purpose { training: true, dropout: false, generative, weights, label_smoothing: 0.0, classify: false };
    let dims = Dims { batch: batch.batch, seq_len: batch.seq_len };
    let mut workspace = model.workspace(&device, dims, purpose).unwrap();
    model.refresh(&workspace.stream).unwrap();
    let losses = workspace.forward(&model, batch, None).unwrap();
    workspace.backward(&model, None, 1.0).unwrap();
    Run { parameters, workspace, losses }
}

fn wide<T: Float>(values: Vec<T>) -> Vec<f64> {
    values.into_iter().map(|value| value.to_acc().f64()).collect()
}

/// 1e-5 of the tensor's largest value, and of each value.
fn tolerance(reference: &[f64]) -> Tolerance {
    let largest = reference.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    Tolerance::new(1e-5 * largest.max(1.0), 1e-5)
}

fn check(what: &str, reference: &[f32], got: &[f64]) {
    let reference: Vec<f64> = reference.iter().map(|&value| f64::from(value)).collect();
    compare(what, &reference, got, tolerance(&reference)).unwrap();
}

fn check_gradients<T: Float>(golden: &Golden, objective: &str, run: &Run<T>) {
    let mut compared = 0;
    for declared in run.parameters.declared() {
        let gradient = wide(run.workspace.stream.fetch(declared.parameter.gradient.unwrap()).unwrap());
        let key = format!("grad.{objective}.{}", declared.name);
        if golden.file.contains(&key) {
            check(&key, &golden.reals(&key), &gradient);
            compared += 1;
        } else {
            assert!(golden.file.metadata()["zero_grads"].contains(&format!("{objective}.{}", declared.name)), "{key} is not in the file");
            // A gradient that is exactly zero in theory may carry rounding, for example that of a bias before a softmax.
            check(&key, &vec![0.0; gradient.len()], &gradient);
        }
    }
    let stored = golden.file.names().filter(|name| name.starts_with(&format!("grad.{objective}."))).count();
    assert_eq!(compared, stored, "{objective}: gradients in the file that no parameter has");
}

/// Rows of real tokens; the file holds 0 elsewhere.
fn real_rows(hidden: Vec<f64>, batch: &CellBatch, width: usize) -> Vec<f64> {
    let is_real = |token: usize| token % batch.seq_len < batch.lengths[token / batch.seq_len] as usize;
    hidden.into_iter().enumerate().map(|(at, value)| if is_real(at / width) { value } else { 0.0 }).collect()
}

fn generative_batch(golden: &Golden) -> CellBatch {
    let mut batch = golden.batch();
    for token in 0..batch.gene_ids.len() {
        let (cell, at) = (token / batch.seq_len, (token % batch.seq_len) as u32);
        batch.target_mask[token] = f32::from(u8::from(at >= batch.known_lengths[cell] && at < batch.lengths[cell]));
    }
    batch
}

fn every_objective<T: Float>() {
    let golden = Golden::open("encoder_tiny.safetensors");
    let loss = |name: &str| golden.reals(&format!("loss.{name}"));
    let none = LossWeights::default();
    let batch = golden.batch();
    let width = golden.size("width");

    let masked = run::<T>(&golden, LossWeights { expression: 1.0, ..none }, CellEmbedding::Cls, false, &batch);
    check("masked loss", &loss("masked"), &[masked.losses.expression]);
    check("hidden", &golden.reals("output.hidden"), &real_rows(wide(masked.workspace.hidden().unwrap()), &batch, width));
    check_gradients(&golden, "masked", &masked);

    let mvc = run::<T>(&golden, LossWeights { mvc: 1.0, ..none }, CellEmbedding::Cls, false, &batch);
    check("mvc loss", &loss("mvc"), &[mvc.losses.mvc]);
    check_gradients(&golden, "mvc", &mvc);

    // These read every value: nothing is hidden.
    let open = CellBatch { target_mask: vec![0.0; batch.values.len()], ..golden.batch() };
    let poolings = [
        (CellEmbedding::Cls, "classification", "cls"),
        (CellEmbedding::Weighted, "classification_weighted", "weighted"),
        (CellEmbedding::Mean, "", "mean"),
    ];
    for (pooling, objective, name) in poolings {
        let run = run::<T>(&golden, LossWeights { classification: 1.0, ..none }, pooling, false, &open);
        check(name, &golden.reals(&format!("output.cell_embedding.{name}")), &wide(run.workspace.cell_embeddings().unwrap()));
        if !objective.is_empty() {
            check(objective, &loss(objective), &[run.losses.classification]);
            check("logits", &golden.reals(&format!("output.{objective}.logits")), &wide(run.workspace.logits().unwrap()));
            check_gradients(&golden, objective, &run);
        }
    }

    let batch = generative_batch(&golden);
    for (objective, generated_out_proj) in [("generative", true), ("generative_quirk", false)] {
        let config = ModelConfig { generated_out_proj, ..golden.model_config(CellEmbedding::Cls) };
        let run = run_of::<T>(&golden, LossWeights { expression: 1.0, mvc: 1.0, ..none }, &config, true, &batch);
        check(objective, &loss(objective), &[run.losses.expression + run.losses.mvc]);
        let hidden = real_rows(wide(run.workspace.hidden().unwrap()), &batch, width);
        check(objective, &golden.reals(&format!("output.{objective}.hidden")), &hidden);
        check_gradients(&golden, objective, &run);
    }
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
fn joint_and_generative_at_width_64_equal_pytorch() {
    let golden = Golden::open("encoder_64.safetensors");
    let weights = LossWeights { classification: 0.25, expression: 1.0, mvc: 0.5 };
    let joint = run::<f32>(&golden, weights, CellEmbedding::Cls, false, &golden.batch());
    check("joint loss", &golden.reals("loss.joint"), &[joint.losses.total(&weights)]);
    check_gradients(&golden, "joint", &joint);
    let weights = LossWeights { classification: 0.0, expression: 1.0, mvc: 1.0 };
    let generative = run::<f32>(&golden, weights, CellEmbedding::Cls, true, &generative_batch(&golden));
    check("generative loss", &golden.reals("loss.generative"), &[generative.losses.total(&weights)]);
    check_gradients(&golden, "generative", &generative);
}
