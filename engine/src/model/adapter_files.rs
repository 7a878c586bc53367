//! Adapters in PEFT's files: `adapter_config.json` and `adapter_model.safetensors`, with the rows of new tokens as PEFT keeps trained
//! rows of a table (`trainable_token_indices`). PEFT opens them beside the base model, once its token table has as many rows
//! (`model.resize_token_embeddings(n)`).

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use scmmgpt_kernels::runtime::{Float, Real, Stream};
use scmmgpt_loader::checkpoint::{self, Checkpoint};
use scmmgpt_loader::language::LanguageConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::language_model::{LanguageModel, in_files};
use crate::bundle::{read_json, write_json};
use crate::config::{LoraConfig, PROJECTIONS, Tuning, TuningMode};
use crate::weights::{Declared, Parameters};
use crate::{Error, Result};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts in front of the base model's names.
const PREFIX: &str = "base_model.model.";

/// The entries that say what the adapter computes.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    peft_type: String,
    task_type: Option<String>,
    base_model_name_or_path: Option<String>,
    #[serde(default)]
    inference_mode: bool,
    r: usize,
    lora_alpha: f64,
    lora_dropout: f32,
    target_modules: Value,
    #[serde(default)]
    trainable_token_indices: Option<BTreeMap<String, Vec<usize>>>,
    bias: String,
    /// Everything else. Entries that are null, false or empty change nothing.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Entries beyond those of [`File`] that change nothing here, whatever they say: they concern saving, starting values, or methods that
/// other entries would have to switch on.
const HARMLESS: [&str; 7] =
    ["auto_mapping", "init_lora_weights", "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config"];

/// How a model must be declared to read the adapter in `folder`; the base model's sizes decide which tokens are new.
///
/// # Errors
/// `Io`, `Json`; `Adapter`, listing every entry that cannot be read.
pub fn tuning(folder: &Path, config: &LanguageConfig) -> Result<Tuning> {
    let file: File = read_json(&folder.join(CONFIG))?;
    let mut problems = Vec::new();
    if file.peft_type != "LORA" {
        problems.push(format!("peft_type is {:?}: only \"LORA\" can be read", file.peft_type));
    }
    if file.bias != "none" {
        problems.push(format!("bias is {:?}: expected \"none\"", file.bias));
    }
    for (entry, value) in &file.others {
        let empty = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            _ => false,
        };
        if !empty && !HARMLESS.contains(&entry.as_str()) {
            problems.push(format!("{entry} is {value}: nothing like it is built"));
        }
    }
    let target_modules: Option<Vec<String>> = serde_json::from_value(file.target_modules.clone()).ok();
    let mut target_modules = target_modules.unwrap_or_else(|| {
        problems.push(format!("target_modules is {}: expected a list of names", file.target_modules));
        Vec::new()
    });
    for module in target_modules.iter().filter(|module| !PROJECTIONS.contains(&module.as_str())) {
        problems.push(format!("target_modules has {module:?}: the projections are {}", PROJECTIONS.join(", ")));
    }
    // PEFT keeps a set, in any order.
    target_modules.sort_by_key(|module| PROJECTIONS.iter().position(|projection| projection == module));
    let mut new_tokens = 0;
    for (table, tokens) in file.trainable_token_indices.iter().flatten() {
        new_tokens = tokens.len();
        let behind = config.vocab_size..config.vocab_size + new_tokens;
        if !["embed_tokens", "lm_head"].contains(&table.as_str()) || !tokens.iter().copied().eq(behind.clone()) {
            problems.push(format!("trainable_token_indices of {table} are not the {new_tokens} tokens from {} on", behind.start));
        }
    }
    let lora = LoraConfig { r: file.r, lora_alpha: file.lora_alpha, lora_dropout: file.lora_dropout, target_modules };
    if problems.is_empty() {
        lora.check("adapter")?;
        return Ok(Tuning { mode: TuningMode::Lora, lora, new_tokens, ..Tuning::default() });
    }
    Err(Error::Adapter { folder: folder.into(), problems })
}

impl<T: Float> LanguageModel<T> {
    /// The parameters that an adapter's files hold, with their names there.
    fn adapter<'a>(&self, parameters: &'a Parameters<T>) -> Vec<(String, &'a Declared<T>)> {
        let named = |declared: &'a Declared<T>| {
            let name = declared.name.strip_prefix(self.prefix()).filter(|name| !in_files(name))?;
            Some((format!("{PREFIX}{name}"), declared))
        };
        parameters.declared().iter().filter_map(named).collect()
    }

    /// Writes the adapter's files into an existing folder; `base_model` is what PEFT should open below it, a path or a hub's name.
    ///
    /// # Errors
    /// `Incapable` when the mode is not `lora`; those of the files.
    pub fn save_adapter(&self, parameters: &Parameters<T>, stream: &Stream, folder: &Path, base_model: Option<&str>) -> Result<()> {
        let Some(lora) = self.tuning().adapters() else {
            return Err(Error::Incapable { task: "save an adapter", reason: "it has none: its tuning mode is not `lora`".into() });
        };
        let mut tensors = Vec::new();
        for (name, declared) in self.adapter(parameters) {
            let values = stream.fetch(declared.parameter.value)?;
            let values: Vec<f32> = values.into_iter().map(|value| value.to_acc().f64() as f32).collect();
            tensors.push((name, declared.parameter.value.shape().to_vec(), values));
        }
        let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        let views = tensors.iter().map(|(name, shape, values)| (name.as_str(), Dtype::F32, shape.as_slice(), bytemuck::cast_slice(values)));
        checkpoint::write(folder.join(WEIGHTS), views, &metadata)?;
        let config = self.config();
        let new: Vec<usize> = (config.vocab_size..self.vocab_size()).collect();
        let tables = if config.tie_word_embeddings { &["embed_tokens"][..] } else { &["embed_tokens", "lm_head"][..] };
        let rows = tables.iter().map(|table| (table.to_string(), new.clone())).collect();
        let file = File {
            peft_type: "LORA".into(),
            task_type: Some("CAUSAL_LM".into()),
            base_model_name_or_path: base_model.map(String::from),
            inference_mode: true,
            r: lora.r,
            lora_alpha: lora.lora_alpha,
            lora_dropout: lora.lora_dropout,
            target_modules: lora.target_modules.clone().into(),
            trainable_token_indices: (!new.is_empty()).then_some(rows),
            bias: "none".into(),
            others: BTreeMap::new(),
        };
        write_json(&folder.join(CONFIG), &file)
    }

    /// Reads the adapter in `folder`. The model keeps its own dropout.
    ///
    /// # Errors
    /// `Adapter` for the adapter of another model, listing every setting that differs and every tensor that is missing, mis-shaped or
    /// unknown; nothing is loaded then. Those of [`tuning`] and of the files.
    pub fn load_adapter(&self, parameters: &Parameters<T>, stream: &Stream, folder: &Path) -> Result<()> {
        let theirs = tuning(folder, self.config())?;
        let none = LoraConfig { target_modules: Vec::new(), ..LoraConfig::default() };
        let ours = self.tuning().adapters().unwrap_or(&none);
        let mut problems = Vec::new();
        let mut compare = |entry: &str, theirs: String, ours: String| {
            if theirs != ours {
                problems.push(format!("{entry} is {theirs}, and {ours} in the model"));
            }
        };
        let sorted = |modules: &[String]| {
            let mut modules = modules.to_vec();
            modules.sort();
            format!("{modules:?}")
        };
        compare("r", theirs.lora.r.to_string(), ours.r.to_string());
        compare("lora_alpha", theirs.lora.lora_alpha.to_string(), ours.lora_alpha.to_string());
        compare("target_modules", sorted(&theirs.lora.target_modules), sorted(&ours.target_modules));
        compare("the number of new tokens", theirs.new_tokens.to_string(), self.tuning().new_tokens.to_string());
        let checkpoint = Checkpoint::open(folder.join(WEIGHTS))?;
        let wanted = self.adapter(parameters);
        for (name, declared) in &wanted {
            let expected = declared.parameter.value.shape();
            match checkpoint.view(name) {
                Ok(view) if *view.shape == *expected => {}
                Ok(view) => problems.push(format!("tensor `{name}` is {:?}, and {expected:?} in the model", view.shape)),
                Err(_) => problems.push(format!("tensor `{name}` is missing")),
            }
        }
        let unknown = checkpoint.names().filter(|name| !wanted.iter().any(|(wanted, _)| wanted == name));
        problems.extend(unknown.map(|name| format!("tensor `{name}` has no place in the model")));
        if !problems.is_empty() {
            return Err(Error::Adapter { folder: folder.into(), problems });
        }
        for (name, declared) in &wanted {
            let values = checkpoint.to_f32(name)?.into_iter().map(|value| T::from_acc(T::Acc::of(f64::from(value))));
            stream.upload(declared.parameter.value, &values.collect::<Vec<T>>())?;
        }
        Ok(())
    }
}
