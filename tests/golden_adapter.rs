//! Adapters of the language model against PEFT: its files read, logits and the gradient of every adapter and new token row equal, in f32
//! and in f64, at once and through the cache; ours merged, taken out again, written, and opened by PEFT itself where there is one.
//!
//! The file comes from `tools/golden/make_adapter_golden.py`.

mod driver;
#[path = "language/golden.rs"]
mod golden;

use std::path::Path;
use std::process::Command;

use golden::{Golden, base_model, check, wide};
use scmmgpt_engine::Error;
use scmmgpt_engine::config::{LoraConfig, PROJECTIONS, Tuning, TuningMode};
use scmmgpt_engine::generate::Generator;
use scmmgpt_engine::layer::{Dims, Dropout};
use scmmgpt_engine::model::adapter_files;
use scmmgpt_engine::model::language_model::LanguageModel;
use scmmgpt_engine::weights::{ParameterPlan, Parameters};
use scmmgpt_kernels::int8_gemm;
use scmmgpt_kernels::runtime::{Device, Float, Real, Stream};
use scmmgpt_loader::checkpoint::Checkpoint;
use scmmgpt_loader::language::LanguageFiles;
use serde_json::Value;

const VARIANTS: [&str; 2] = ["qv_tied", "all_untied"];

/// A base model in files, and PEFT's adapter for it in files.
struct Fixture {
    base: tempfile::TempDir,
    adapter: tempfile::TempDir,
    files: LanguageFiles,
}

fn fixture(golden: &Golden, variant: &str) -> Fixture {
    let (base, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = base_model(base.path(), variant.ends_with("_tied"));
    golden.write(&format!("adapter.{variant}."), &adapter.path().join("adapter_model.safetensors"));
    std::fs::write(adapter.path().join("adapter_config.json"), &golden.file.metadata()[&format!("config.{variant}")]).unwrap();
    Fixture { base, adapter, files }
}

struct Loaded<T: Float> {
    model: LanguageModel<T>,
    parameters: Parameters<T>,
    stream: Stream,
}

fn declare<T: Float>(device: &Device, files: &LanguageFiles, tuning: &Tuning, trainable: bool) -> Loaded<T> {
    let mut plan = ParameterPlan::new(trainable);
    // Below a name, as inside a larger model.
    let model = plan.under("llm", |plan| LanguageModel::declare(plan, files.config(), 64, tuning));
    let parameters = plan.allocate(device).unwrap();
    let stream = Stream::new(device, 0).unwrap();
    model.load(&parameters, &stream, files, 7).unwrap();
    model.refresh(&stream).unwrap();
    Loaded { model, parameters, stream }
}

fn with_adapter<T: Float>(device: &Device, fixture: &Fixture, trainable: bool) -> Loaded<T> {
    let tuning = adapter_files::tuning(fixture.adapter.path(), fixture.files.config()).unwrap();
    let loaded = declare(device, &fixture.files, &tuning, trainable);
    loaded.model.load_adapter(&loaded.parameters, &loaded.stream, fixture.adapter.path()).unwrap();
    loaded
}

fn equals_peft<T: Float>(device: &Device) {
    let golden = Golden::open("adapter_tiny");
    let batch = golden.batch();
    for variant in VARIANTS {
        let fixture = fixture(&golden, variant);
        let Loaded { model, parameters, .. } = with_adapter::<T>(device, &fixture, true);
        let mut workspace = model.workspace(device, Dims { batch: 1, seq_len: 4 }, true).unwrap();
        let loss = workspace.loss(&model, &batch, Some(1.0)).unwrap();
        check("loss", &golden.reals(&format!("loss.{variant}")), &[loss]);
        let learning: Vec<_> = parameters.declared().iter().filter(|declared| declared.parameter.gradient.is_some()).collect();
        for declared in &learning {
            let key = format!("grad.{variant}.base_model.model.{}", declared.name.strip_prefix("llm.").unwrap());
            check(&key, &golden.reals(&key), &wide(workspace.stream.fetch(declared.parameter.gradient.unwrap()).unwrap()));
        }
        let stored = golden.file.names().filter(|name| name.starts_with(&format!("grad.{variant}."))).count();
        assert_eq!(stored, learning.len(), "{variant}: gradients in the file that no parameter has");
    }
}

#[test]
fn losses_and_gradients_equal_peft_in_f32() {
    equals_peft::<f32>(&Device::cpu(2).unwrap());
}

#[test]
fn losses_and_gradients_equal_peft_in_f64() {
    equals_peft::<f64>(&Device::cpu(2).unwrap());
}

/// The logits after each sequence, `[sequences, vocabulary]`, of which `cached` tokens come one by one.
fn last_logits<T: Float>(device: &Device, model: &LanguageModel<T>, golden: &Golden, cached: usize) -> Vec<T> {
    let batch = golden.batch();
    let mut all = Vec::new();
    for (ids, &length) in batch.token_ids.chunks(batch.seq_len).zip(&batch.lengths) {
        let ids = &ids[..length as usize];
        let (prompt, rest) = ids.split_at(ids.len().saturating_sub(cached).max(1));
        let mut generator = Generator::new(model, device, 1, 32).unwrap();
        generator.prefill(model, &[prompt.into()]).unwrap();
        for &token in rest {
            generator.decode(model, &[token]).unwrap();
        }
        all.extend(generator.logits().unwrap());
    }
    all
}

fn logits_equal_peft<T: Float>(device: &Device) {
    let golden = Golden::open("adapter_tiny");
    for variant in VARIANTS {
        let fixture = fixture(&golden, variant);
        let Loaded { mut model, parameters, stream } = with_adapter::<T>(device, &fixture, false);
        let expected = golden.reals(&format!("logits.{variant}"));
        for cached in [0, 1, 4, 10] {
            check(&format!("{cached} tokens from the cache"), &expected, &wide(last_logits(device, &model, &golden, cached)));
        }
        let (beside, weights) = (last_logits(device, &model, &golden, 4), parameters.fetch(&stream).unwrap());
        let merged = model.merge(&stream).unwrap();
        let changed = parameters.fetch(&stream).unwrap().iter().zip(&weights).filter(|(now, before)| now != before).count();
        assert_eq!(changed, model.config().num_hidden_layers * model.tuning().lora.target_modules.len(), "projections that changed");
        check("merged", &expected, &wide(last_logits(device, &model, &golden, 4)));
        model.unmerge(&stream, merged).unwrap();
        assert!(parameters.fetch(&stream).unwrap() == weights, "unmerging left something in the weights");
        assert!(last_logits(device, &model, &golden, 4) == beside);
    }
}

#[test]
fn logits_equal_peft_beside_the_cache_and_merged_in_f32() {
    logits_equal_peft::<f32>(&Device::cpu(2).unwrap());
}

#[test]
fn losses_gradients_and_logits_equal_peft_on_a_cuda_device() {
    let Some(device) = driver::device() else { return };
    equals_peft::<f32>(&device);
    logits_equal_peft::<f32>(&device);
}

#[test]
fn logits_equal_peft_beside_the_cache_and_merged_in_f64() {
    logits_equal_peft::<f64>(&Device::cpu(2).unwrap());
}

/// A copy is made of the files' weights, whether or not the model has read them, and of PEFT's adapters.
#[test]
fn copies_hold_the_adapters_and_need_no_weights_in_memory() {
    let (golden, device) = (Golden::open("adapter_tiny"), Device::cpu(2).unwrap());
    for variant in VARIANTS {
        let fixture = fixture(&golden, variant);
        let Loaded { model, parameters, stream } = with_adapter::<f32>(&device, &fixture, false);
        let files = Some(&fixture.files);
        // In the model's own memory nothing is left of the base model.
        let tuning = Tuning { load_in_8bit: true, ..model.tuning().clone() };
        let mut plan = ParameterPlan::new(false);
        let empty = plan.under("llm", |plan| LanguageModel::<f32>::declare(plan, fixture.files.config(), 64, &tuning));
        let nothing = plan.allocate(&device).unwrap();
        empty.load_adapter(&nothing, &stream, fixture.adapter.path()).unwrap();
        let copy = |model: &LanguageModel<f32>, parameters, int8, files| {
            let (copy, _parameters) = model.converted::<f32>(parameters, &stream, int8, files).unwrap();
            wide(last_logits(&device, &copy, &golden, 4))
        };
        let expected = golden.reals(&format!("logits.{variant}"));
        check("copy", &expected, &copy(&model, &parameters, false, None));
        check("copy of files", &expected, &copy(&empty, &nothing, false, files));
        assert_eq!(copy(&model, &parameters, true, None), copy(&empty, &nothing, true, files), "{variant} in int8");
    }
}

/// With a frozen base in int8 adapters learn what they would beside those weights in f32.
fn int8_base_equals_its_rounded_weights(device: &Device) {
    let golden = Golden::open("adapter_tiny");
    let batch = golden.batch();
    for variant in VARIANTS {
        let fixture = fixture(&golden, variant);
        let plain = with_adapter::<f32>(device, &fixture, true);
        let projection = |name: &str| PROJECTIONS.iter().any(|module| name.ends_with(&format!("{module}.weight")));
        let rounded = |name: &str, shape: &[usize]| {
            let values = fixture.files.to_f32(name.strip_prefix("llm.").unwrap(), shape)?;
            let (words, scales) = int8_gemm::quantize(&values, shape[1]);
            let integers =
                words.chunks(int8_gemm::words(shape[1])).map(|row| row.iter().flat_map(|word| word.to_le_bytes()).take(shape[1]));
            Ok(integers.zip(scales).flat_map(|(row, scale)| row.map(move |byte| f32::from(byte as i8) * scale)).collect())
        };
        plain.parameters.load_from(&plain.stream, &projection, rounded).unwrap();
        let tuning = Tuning { load_in_8bit: true, ..plain.model.tuning().clone() };
        let quantized = declare::<f32>(device, &fixture.files, &tuning, true);
        quantized.model.load_adapter(&quantized.parameters, &quantized.stream, fixture.adapter.path()).unwrap();
        let [expected, got] = [&plain, &quantized].map(|loaded| {
            let mut workspace = loaded.model.workspace(device, Dims { batch: 1, seq_len: 4 }, true).unwrap();
            let mut results = vec![("loss".to_string(), vec![workspace.loss(&loaded.model, &batch, Some(1.0)).unwrap()])];
            for declared in loaded.parameters.declared() {
                let gradient = declared.parameter.gradient.map(|gradient| wide(workspace.stream.fetch(gradient).unwrap()));
                results.extend(gradient.map(|gradient| (declared.name.clone(), gradient)));
            }
            results
        });
        assert!(expected.len() == got.len() && got.len() > 8, "{variant}: {} results", got.len());
        assert!(expected[0].1 != golden.reals(&format!("loss.{variant}")), "the weights were rounded");
        for ((name, expected), (same, got)) in expected.iter().zip(&got) {
            assert_eq!(name, same);
            check(name, expected, got);
        }
    }
}

#[test]
fn adapters_learn_beside_a_base_in_int8() {
    int8_base_equals_its_rounded_weights(&Device::cpu(2).unwrap());
    if let Some(device) = driver::device() {
        int8_base_equals_its_rounded_weights(&device);
    }
}

fn every_projection(lora_dropout: f32) -> Tuning {
    let target_modules = PROJECTIONS.map(String::from).into();
    Tuning { lora: LoraConfig { r: 5, lora_alpha: 9.0, lora_dropout, target_modules }, new_tokens: 3, ..Tuning::default() }
}

#[test]
fn an_adapter_starts_as_the_identity_and_dropout_counts_its_numbers() {
    let (golden, device) = (Golden::open("adapter_tiny"), Device::cpu(2).unwrap());
    let (batch, folder) = (golden.batch(), tempfile::tempdir().unwrap());
    let files = base_model(folder.path(), false);
    let frozen = declare::<f32>(&device, &files, &Tuning { mode: TuningMode::Freeze, ..every_projection(0.0) }, false);
    let adapted = declare::<f32>(&device, &files, &every_projection(0.0), false);
    for cached in [0, 3] {
        let (ours, base) = (last_logits(&device, &adapted.model, &golden, cached), last_logits(&device, &frozen.model, &golden, cached));
        assert!(ours.iter().zip(&base).all(|(ours, base)| ours.to_bits() == base.to_bits()), "B = 0 changed a bit");
    }

    // With dropout the same step has the same loss, kept activations or not, and another step has another.
    let losses = |gradient_checkpointing: bool, step: u64| {
        let tuning = Tuning { gradient_checkpointing, ..every_projection(0.4) };
        let Loaded { model, parameters, stream } = declare::<f32>(&device, &files, &tuning, true);
        fill(&parameters, &stream);
        let mut workspace = model.workspace(&device, Dims { batch: 1, seq_len: 4 }, true).unwrap();
        workspace.dropout = Some(Dropout::new(0.0, 3, step));
        let loss = workspace.loss(&model, &batch, Some(1.0)).unwrap();
        let gradients = parameters.declared().iter().filter_map(|declared| declared.parameter.gradient);
        (loss, gradients.map(|gradient| stream.fetch(gradient).unwrap()).collect::<Vec<_>>())
    };
    assert!(losses(false, 1) == losses(true, 1), "gradient checkpointing changed a bit");
    assert_ne!(losses(false, 1).0, losses(false, 2).0);
}

/// Gives every B numbers, so that adapters matter.
fn fill<T: Float>(parameters: &Parameters<T>, stream: &Stream) {
    for declared in parameters.declared().iter().filter(|declared| declared.name.ends_with("lora_B.weight")) {
        let tensor = declared.parameter.value;
        let value = |index: usize| T::from_acc(T::Acc::of(0.2 * (1.7 * index as f64).sin()));
        stream.upload(tensor, &(0..tensor.len()).map(value).collect::<Vec<T>>()).unwrap();
    }
}

/// Finite differences in f64, with dropout.
#[test]
fn gradients_with_dropout_are_those_of_the_loss() {
    let (golden, device) = (Golden::open("adapter_tiny"), Device::cpu(2).unwrap());
    let (batch, folder) = (golden.batch(), tempfile::tempdir().unwrap());
    let files = base_model(folder.path(), true);
    let Loaded { model, parameters, stream } = declare::<f64>(&device, &files, &every_projection(0.3), true);
    fill(&parameters, &stream);
    let mut workspace = model.workspace(&device, Dims { batch: 1, seq_len: 4 }, true).unwrap();
    workspace.dropout = Some(Dropout::new(0.0, 5, 1));
    workspace.loss(&model, &batch, Some(1.0)).unwrap();
    let learning: Vec<_> = parameters.declared().iter().filter(|declared| declared.parameter.gradient.is_some()).cloned().collect();
    assert_eq!(learning.len(), 2 * 2 * PROJECTIONS.len() + 1);
    let gradients: Vec<Vec<f64>> = learning.iter().map(|one| stream.fetch(one.parameter.gradient.unwrap()).unwrap()).collect();
    for (one, gradient) in learning.iter().zip(gradients) {
        let values = stream.fetch(one.parameter.value).unwrap();
        for at in [0, values.len() / 2, values.len() - 1] {
            let mut loss_at = |shift: f64| {
                let mut moved = values.clone();
                moved[at] += shift;
                stream.upload(one.parameter.value, &moved).unwrap();
                workspace.loss(&model, &batch, Some(0.0)).unwrap()
            };
            let step = 1e-5;
            let expected = (loss_at(step) - loss_at(-step)) / (2.0 * step);
            loss_at(0.0);
            let close = (gradient[at] - expected).abs() <= 1e-7 + 1e-5 * expected.abs();
            assert!(close, "{}[{at}]: gradient {}, by differences {expected}", one.name, gradient[at]);
        }
    }
}

#[test]
fn files_are_those_of_peft_and_come_back() {
    let (golden, device) = (Golden::open("adapter_tiny"), Device::cpu(1).unwrap());
    for variant in VARIANTS {
        let fixture = fixture(&golden, variant);
        let Loaded { model, parameters, stream } = with_adapter::<f32>(&device, &fixture, false);
        let ours = tempfile::tempdir().unwrap();
        model.save_adapter(&parameters, &stream, ours.path(), None).unwrap();
        let open = |folder: &Path| Checkpoint::open(folder.join("adapter_model.safetensors")).unwrap();
        let (written, theirs) = (open(ours.path()), open(fixture.adapter.path()));
        assert!(written.names().eq(theirs.names()), "{variant}: other tensors than PEFT's");
        for name in theirs.names() {
            assert_eq!(written.view(name).unwrap(), theirs.view(name).unwrap(), "{variant}: {name}");
        }
        let config = |folder: &Path| -> Value {
            serde_json::from_str(&std::fs::read_to_string(folder.join("adapter_config.json")).unwrap()).unwrap()
        };
        let (written, theirs) = (config(ours.path()), config(fixture.adapter.path()));
        for (entry, value) in written.as_object().unwrap() {
            let same = value == &theirs[entry] || value.as_f64().is_some_and(|value| Some(value) == theirs[entry].as_f64());
            let sorted = |value: &Value| {
                let mut names: Vec<String> = value.as_array().into_iter().flatten().map(Value::to_string).collect();
                names.sort();
                names
            };
            assert!(same || entry == "target_modules" && sorted(value) == sorted(&theirs[entry]), "{variant}: {entry} is {value}");
        }
        assert_eq!(&adapter_files::tuning(ours.path(), model.config()).unwrap(), model.tuning());
    }
}

#[test]
fn an_adapter_of_another_model_is_refused_with_every_reason() {
    let (golden, device) = (Golden::open("adapter_tiny"), Device::cpu(1).unwrap());
    let fixture = fixture(&golden, "qv_tied");
    let refused = |result: Result<(), Error>, reasons: &[&str]| match result {
        Err(Error::Adapter { problems, .. }) => {
            for reason in reasons {
                assert!(problems.iter().any(|problem| problem.contains(reason)), "{reason:?} is not among {problems:#?}");
            }
            assert_eq!(problems.len(), reasons.len(), "{problems:#?}");
        }
        other => panic!("{other:?}"),
    };
    // Another rank, other projections, other factor: every setting, and every tensor of the file and of the model.
    let target_modules = ["q_proj", "o_proj"].map(String::from).into();
    let lora = LoraConfig { r: 2, lora_alpha: 8.0, lora_dropout: 0.0, target_modules };
    let other = declare::<f32>(&device, &fixture.files, &Tuning { lora, new_tokens: 3, ..Tuning::default() }, false);
    let before = other.parameters.fetch(&other.stream).unwrap();
    let names = |projection: &str, matrix: &str| [0, 1].map(|layer| format!("layers.{layer}.self_attn.{projection}.lora_{matrix}.weight"));
    let tensors: Vec<String> =
        ["q_proj", "o_proj", "v_proj"].iter().flat_map(|projection| ["A", "B"].map(|matrix| names(projection, matrix))).flatten().collect();
    let settings = ["r is 4, and 2", "lora_alpha is 12, and 8", "target_modules is"];
    let reasons: Vec<&str> = settings.into_iter().chain(tensors.iter().map(String::as_str)).collect();
    refused(other.model.load_adapter(&other.parameters, &other.stream, fixture.adapter.path()), &reasons);
    assert!(other.parameters.fetch(&other.stream).unwrap() == before, "a refused adapter changed weights");

    let path = fixture.adapter.path().join("adapter_config.json");
    let original: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let tuning_with = |changes: &[(&str, Value)]| {
        let mut config = original.clone();
        changes.iter().for_each(|(entry, value)| config[*entry] = value.clone());
        std::fs::write(&path, config.to_string()).unwrap();
        adapter_files::tuning(fixture.adapter.path(), fixture.files.config()).map(drop)
    };
    let changes = [
        ("peft_type", "IA3".into()),
        ("use_dora", true.into()),
        ("rank_pattern", serde_json::json!({"q_proj": 2})),
        ("target_modules", serde_json::json!(["q_proj", "query_key_value"])),
        ("trainable_token_indices", serde_json::json!({"embed_tokens": [3]})),
    ];
    refused(tuning_with(&changes), &["peft_type", "use_dora", "rank_pattern", "query_key_value", "trainable_token_indices"]);
    refused(tuning_with(&[("target_modules", "all-linear".into())]), &["expected a list of names"]);
    assert!(matches!(tuning_with(&[("r", 0.into())]), Err(Error::Setting { .. })));
    assert!(matches!(tuning_with(&[("r", "many".into())]), Err(Error::Json { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(adapter_files::tuning(fixture.adapter.path(), fixture.files.config()), Err(Error::Io { .. })));
}

/// PEFT opens what we write and computes the same logits. Needs a Python with peft, named by `SCMMGPT_PYTHON`.
#[test]
fn peft_opens_our_adapter() {
    let python = std::env::var_os("SCMMGPT_PYTHON")
        .filter(|python| Command::new(python).args(["-c", "import peft"]).output().is_ok_and(|output| output.status.success()));
    let Some(python) = python else {
        println!("NOT RUN: SCMMGPT_PYTHON does not name a Python with peft");
        return;
    };
    let (golden, device) = (Golden::open("adapter_tiny"), Device::cpu(1).unwrap());
    for variant in VARIANTS {
        let fixture = fixture(&golden, variant);
        let Loaded { model, parameters, stream } = declare::<f32>(&device, &fixture.files, &every_projection(0.1), false);
        fill(&parameters, &stream);
        let ours = tempfile::tempdir().unwrap();
        model.save_adapter(&parameters, &stream, ours.path(), None).unwrap();
        let batch = golden.batch();
        let sequences = batch.token_ids.chunks(batch.seq_len).zip(&batch.lengths).map(|(ids, &length)| &ids[..length as usize]);
        let ids = serde_json::to_string(&sequences.collect::<Vec<_>>()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/open_adapter.py");
        let mut command = Command::new(&python);
        command.arg(script).args([fixture.base.path(), ours.path()]).arg(ids);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}", text(&output.stderr));
        for complaint in ["UserWarning", "missing", "unexpected", "mismatch"] {
            assert!(!text(&output.stderr).contains(complaint), "{}", text(&output.stderr));
        }
        let expected: Vec<f64> = serde_json::from_str(&text(&output.stdout)).unwrap();
        check(variant, &expected, &wide(last_logits(&device, &model, &golden, 0)));
    }
}
