//! A language model's text tokenizer: a Hugging Face `tokenizer.json`, or what a GGUF file says of the same.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, Tokenizer};

use super::LanguageError;
use crate::gguf::Gguf;
use crate::text::TextError;
use crate::{Error, Result, tokenizer};

const FILE: &str = "tokenizer.json";
/// GGUF's number for a token that is never spelled from text.
const CONTROL: i64 = 3;

/// Text to token ids and back.
#[derive(Clone, Debug)]
pub struct LanguageTokenizer {
    inner: Tokenizer,
}

impl LanguageTokenizer {
    /// Opens a folder with `tokenizer.json`, that file, or a `.gguf` file with a byte-level tokenizer.
    ///
    /// # Errors
    /// `Io`, `Json`, `Gguf`, and `Language` when it is no tokenizer or one that cannot be rebuilt.
    pub fn open(path: impl AsRef<Path>) -> Result<LanguageTokenizer> {
        let path = path.as_ref();
        let (file, mut fields) = if path.extension().is_some_and(|extension| extension == "gguf") {
            (path.to_path_buf(), from_gguf(&Gguf::open(path)?)?)
        } else {
            let file = if path.is_dir() { path.join(FILE) } else { path.to_path_buf() };
            let text = std::fs::read(&file).map_err(|source| Error::Io { action: "read", path: file.clone(), source })?;
            let json = |source| Error::Json { path: file.clone(), what: "tokenizer", source };
            let fields: Map<String, Value> = serde_json::from_slice(&text).map_err(json)?;
            (file, fields)
        };
        // Tokens in front of and behind a text, padding and truncation are the caller's.
        for entry in ["padding", "truncation", "post_processor"] {
            fields.insert(entry.into(), Value::Null);
        }
        let refuse = |error: tokenizers::Error| LanguageError::Tokenizer { path: file.clone(), reason: error.to_string() };
        let mut inner = Tokenizer::from_bytes(Value::Object(fields).to_string()).map_err(refuse)?;
        // A special token is written by the program alone: in a text its characters are characters.
        inner.set_encode_special_tokens(true);
        Ok(LanguageTokenizer { inner })
    }

    /// Number of tokens, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token by its exact text, for example `<|im_start|>`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Writes a `tokenizer.json` that [`open`](Self::open) and Hugging Face's libraries read, atomically.
    ///
    /// # Errors
    /// `Io`.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        tokenizer::save(&self.inner, path.as_ref())
    }

    /// Every token with its id.
    pub(super) fn tokens(&self) -> Vec<(String, u32)> {
        self.inner.get_vocab(true).into_iter().collect()
    }

    /// Adds tokens that no text spells, behind the others; those that exist keep their ids.
    pub(super) fn add_special(&mut self, tokens: Vec<String>) -> Result<()> {
        let tokens = tokens.into_iter().map(|token| AddedToken::from(token, true));
        self.inner.add_special_tokens(tokens).map_err(|error| TextError::Encode { reason: error.to_string() })?;
        Ok(())
    }

    /// The ids of a text, without any special token.
    ///
    /// # Errors
    /// `Text` when the tokenizer refuses it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|error| TextError::Encode { reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of token ids, special tokens left out.
    ///
    /// # Errors
    /// `Text` when the tokenizer refuses them.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|error| TextError::Encode { reason: error.to_string() }.into())
    }
}

/// The entries of a `tokenizer.json` for a GGUF file's byte-level tokenizer.
fn from_gguf(file: &Gguf) -> Result<Map<String, Value>> {
    let refuse = |reason: String| LanguageError::Tokenizer { path: file.path().into(), reason };
    let (model, split) = (file.text("tokenizer.ggml.model")?, file.text("tokenizer.ggml.pre")?);
    if model != "gpt2" || split != "smollm" {
        let reason = format!("tokenizers of kind {model:?} with splitter {split:?} cannot be rebuilt; put the model's {FILE} in a folder");
        return Err(refuse(reason).into());
    }
    let tokens = file.texts("tokenizer.ggml.tokens")?;
    let kinds = file.integers("tokenizer.ggml.token_type")?;
    if kinds.len() != tokens.len() {
        return Err(refuse(format!("{} tokens have {} kinds", tokens.len(), kinds.len())).into());
    }
    let vocabulary: Map<String, Value> = tokens.iter().zip(0u32..).map(|(token, id)| (token.clone(), id.into())).collect();
    if vocabulary.len() != tokens.len() {
        return Err(refuse("a token occurs twice".into()).into());
    }
    let special = |((token, kind), id): ((&String, &i64), u32)| {
        let flags = json!({"id": id, "content": token, "special": true, "normalized": false, "lstrip": false, "rstrip": false, "single_word": false});
        (*kind == CONTROL).then_some(flags)
    };
    let added: Vec<Value> = tokens.iter().zip(kinds).zip(0u32..).filter_map(special).collect();
    let bytes = |prefix: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
    let whole = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, bytes(false)]},
        "decoder": bytes(true),
        "model": {"type": "BPE", "vocab": vocabulary, "merges": file.texts("tokenizer.ggml.merges")?},
    });
    match whole {
        Value::Object(fields) => Ok(fields),
        _ => Err(refuse("it has no entries".into()).into()),
    }
}
