//! `args.json`: what a released scGPT folder says of its sizes, and of how cells became its tokens.

use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use crate::{Error, Result};

const ARGUMENTS: &str = "args.json";
const VOCABULARY: &str = "vocab.json";

/// The fields that decide how the weights are used; scGPT's file has many more, of its own training.
#[derive(Debug, Deserialize)]
struct Arguments {
    embsize: Option<u32>,
    nheads: Option<u32>,
    d_hid: Option<u32>,
    nlayers: Option<u32>,
    n_layers_cls: Option<u32>,
    dropout: Option<f64>,
    n_bins: Option<u32>,
    max_seq_len: Option<u32>,
    pad_value: Option<f64>,
    mask_value: Option<f64>,
    input_style: Option<String>,
    input_emb_style: Option<String>,
}

/// Where `init` names a folder with an `args.json`, gives every setting that the configuration leaves open the value that the
/// checkpoint was trained with: sizes under `[model]`, binning and special values under `[data.tokens]`, and the folder's `vocab.json`.
/// `<cls>` carries `pad_value`, as in scGPT's pre-training.
///
/// # Errors
/// `Io`; `ConfigSyntax` when the file is not scGPT's; `Setting` when its cells were fed in a way that this encoder has not.
/// # Source
/// scGPT `examples/pretrain.py` (arguments), `scgpt/tokenizer` (`input_style`).
pub(crate) fn complete(table: &mut Table) -> Result<()> {
    let Some(folder) = table.get("init").and_then(Value::as_str).map(|init| Path::new(init).to_path_buf()) else { return Ok(()) };
    let file = folder.join(ARGUMENTS);
    if !file.is_file() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&file).map_err(|source| Error::Io { action: "read", path: file.clone(), source })?;
    let syntax = |reason: String| Error::ConfigSyntax { file: file.clone(), reason };
    let arguments: Arguments = serde_json::from_str(&text).map_err(|error| syntax(error.to_string()))?;
    if let Some(style) = arguments.input_emb_style.filter(|style| style != "continuous") {
        let expected = format!("{} says input_emb_style, and this encoder reads \"continuous\" values only", file.display());
        return Err(Error::Setting { key: "init".into(), value: style, expected });
    }
    let integer = |value: Option<u32>| value.map(|value| Value::Integer(value.into()));
    let real = |value: Option<f64>| value.map(Value::Float);
    let model = [
        ("hidden_size", integer(arguments.embsize)),
        ("num_attention_heads", integer(arguments.nheads)),
        ("intermediate_size", integer(arguments.d_hid)),
        ("num_hidden_layers", integer(arguments.nlayers)),
        ("classifier_layers", integer(arguments.n_layers_cls)),
        ("hidden_dropout_prob", real(arguments.dropout)),
    ];
    fill(section(table, "model", &file)?, model);
    let data = section(table, "data", &file)?;
    let vocabulary = folder.join(VOCABULARY);
    if vocabulary.is_file() {
        fill(data, [("vocabulary", Some(Value::String(vocabulary.display().to_string())))]);
    }
    let tokens = section(data, "tokens", &file)?;
    if !tokens.contains_key("value_mode") {
        let mode = match arguments.input_style.as_deref() {
            Some("binned") => Some("binned"),
            Some("log_normed") => Some("log1p"),
            None => None,
            Some(other) => {
                let expected =
                    format!("set it to raw, log1p or binned: {} says input_style {other:?}, which is none of them", file.display());
                return Err(Error::Setting { key: "data.tokens.value_mode".into(), value: "missing".into(), expected });
            }
        };
        fill(tokens, [("value_mode", mode.map(|mode| Value::String(mode.into())))]);
    }
    let values = [
        ("n_bins", integer(arguments.n_bins)),
        ("max_seq_len", integer(arguments.max_seq_len)),
        ("pad_value", real(arguments.pad_value)),
        ("cls_value", real(arguments.pad_value)),
        ("mask_value", real(arguments.mask_value)),
    ];
    fill(tokens, values);
    Ok(())
}

/// The section of this name, made when it is absent.
fn section<'a>(table: &'a mut Table, name: &str, file: &Path) -> Result<&'a mut Table> {
    let not_one = || Error::ConfigSyntax { file: file.into(), reason: format!("`{name}` of the configuration is a value, not a section") };
    table.entry(name).or_insert_with(|| Value::Table(Table::new())).as_table_mut().ok_or_else(not_one)
}

/// Sets the keys that are absent.
fn fill<const N: usize>(table: &mut Table, values: [(&str, Option<Value>); N]) {
    for (key, value) in values {
        if let Some(value) = value {
            table.entry(key).or_insert(value);
        }
    }
}
