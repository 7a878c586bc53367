//! From files to a tokenizer that neither truncates nor pads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{Tokenizer, decoders};

use super::{UNKNOWN, check_model, not_tokenizer};
use crate::text::TextError;
use crate::{Error, Result};

const JSON_NAME: &str = "tokenizer.json";
const VOCAB_NAME: &str = "vocab.txt";
const CONFIG_NAME: &str = "tokenizer_config.json";

/// The file that `path` means: itself, or what stands in it.
pub(super) fn locate(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.into());
    }
    let candidates = [JSON_NAME, VOCAB_NAME].map(|name| path.join(name));
    let found = candidates.into_iter().find(|file| file.is_file());
    found.ok_or_else(|| not_tokenizer(path, "the folder holds neither tokenizer.json nor vocab.txt"))
}

/// Reads a file by its name: `.json`, or else a list of tokens.
pub(super) fn read(path: &Path) -> Result<Tokenizer> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    if is_json { from_json(path, &bytes) } else { from_vocabulary(path, &bytes) }
}

fn from_json(path: &Path, bytes: &[u8]) -> Result<Tokenizer> {
    let json_error = |source| Error::Json { path: path.into(), what: "tokenizer", source };
    let mut json: serde_json::Value = serde_json::from_slice(bytes).map_err(json_error)?;
    let fields = json.as_object_mut().filter(|fields| fields.contains_key("model"));
    let Some(fields) = fields else {
        return Err(not_tokenizer(path, "it has no entry `model`"));
    };
    // The released MiniLM tokenizer pads every text to 128 tokens. Special tokens are ours to add, too.
    for entry in ["padding", "truncation", "post_processor"] {
        fields.insert(entry.to_owned(), serde_json::Value::Null);
    }
    let tokenizer = Tokenizer::from_bytes(json.to_string()).map_err(|error| not_tokenizer(path, &error.to_string()))?;
    check_model(&tokenizer, path)?;
    Ok(tokenizer)
}

/// What a `tokenizer_config.json` can say about the texts' normal form; Hugging Face's defaults.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct NormalForm {
    do_lower_case: bool,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: bool,
}

impl Default for NormalForm {
    fn default() -> NormalForm {
        NormalForm { do_lower_case: true, strip_accents: None, tokenize_chinese_chars: true }
    }
}

fn from_vocabulary(path: &Path, bytes: &[u8]) -> Result<Tokenizer> {
    let text = std::str::from_utf8(bytes).map_err(|_| not_tokenizer(path, "it is not text"))?;
    let mut first = HashMap::new();
    for (line, token) in (1..).zip(text.lines()) {
        if let Some(first) = first.insert(token.trim_end(), line) {
            let (path, token) = (path.into(), token.trim_end().to_owned());
            return Err(TextError::DuplicateToken { path, token, first, second: line }.into());
        }
    }
    let form = normal_form(&path.with_file_name(CONFIG_NAME))?;
    let refused = |error: tokenizers::Error| not_tokenizer(path, &error.to_string());
    let vocabulary = WordPiece::read_bytes(bytes).map_err(refused)?;
    let model = WordPiece::builder().vocab(vocabulary).unk_token(UNKNOWN.to_owned()).build().map_err(refused)?;
    let mut tokenizer = Tokenizer::new(model);
    let normalizer = BertNormalizer::new(true, form.tokenize_chinese_chars, form.strip_accents, form.do_lower_case);
    tokenizer.with_normalizer(Some(normalizer)).map_err(refused)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer)).with_decoder(Some(decoders::wordpiece::WordPiece::default()));
    Ok(tokenizer)
}

fn normal_form(path: &Path) -> Result<NormalForm> {
    match std::fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: path.into(), what: "tokenizer configuration", source })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(NormalForm::default()),
        Err(source) => Err(Error::Io { action: "read", path: path.into(), source }),
    }
}
