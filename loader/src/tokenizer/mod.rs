//! Text to token ids: BERT's WordPiece, as Hugging Face files describe it.
//!
//! Truncation and padding that such a file asks for are switched off: [`TextTokenizer::encode`] truncates to the length that its caller
//! gives, and the text collator pads a batch to its longest text.

mod open;

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use tokenizers::{AddedToken, ModelWrapper, Tokenizer};

use crate::atomic::AtomicFile;
use crate::text::TextError;
use crate::{Error, Result};

/// Fills a batch up.
pub const PAD: &str = "[PAD]";
/// Stands for what the vocabulary cannot spell.
pub const UNKNOWN: &str = "[UNK]";
/// In front of every text; its output is the text embedding.
pub const CLS: &str = "[CLS]";
/// After every text.
pub const SEP: &str = "[SEP]";
/// In front of a text that is to be written rather than read.
pub const DECODER_START: &str = "[DEC]";

/// A WordPiece tokenizer with BERT's special tokens.
///
/// # Source
/// Devlin et al. 2019; `[DEC]` as in LAVIS `blip2.py`, `init_tokenizer`.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    inner: Tokenizer,
    vocab_size: usize,
    pad: u32,
    cls: u32,
    sep: u32,
    decoder_start: u32,
}

/// One text as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// `[CLS]`, the text, `[SEP]`.
    pub ids: Vec<u32>,
    /// Whether the end of the text did not fit.
    pub truncated: bool,
}

impl TextTokenizer {
    /// Opens a `vocab.txt` (one token a line), a `tokenizer.json`, or a folder with one of them (`tokenizer.json` first).
    ///
    /// A `vocab.txt` is lower-cased and stripped of accents as in bert-base-uncased, unless a `tokenizer_config.json` beside it says
    /// otherwise. `[DEC]` is appended as the last token where it is absent.
    ///
    /// # Errors
    /// `Io`; `Json` for a broken configuration; `Text` when the file is no WordPiece tokenizer, lacks a special token, names a token
    /// twice, or leaves gaps between ids.
    pub fn open(path: impl AsRef<Path>) -> Result<TextTokenizer> {
        let file = open::locate(path.as_ref())?;
        let mut inner = open::read(&file)?;
        let missing = |token: &&str| inner.token_to_id(token).is_none();
        let tokens: Vec<&'static str> = [PAD, UNKNOWN, CLS, SEP].into_iter().filter(missing).collect();
        if !tokens.is_empty() {
            return Err(TextError::MissingSpecial { path: file, tokens }.into());
        }
        let specials = [PAD, UNKNOWN, CLS, SEP, DECODER_START].map(|token| AddedToken::from(token, true));
        inner.add_special_tokens(specials).map_err(|error| not_tokenizer(&file, &error.to_string()))?;
        // A special token is written by the program alone: in a text its characters are characters.
        inner.set_encode_special_tokens(true);
        TextTokenizer::new(inner, file)
    }

    fn new(inner: Tokenizer, path: PathBuf) -> Result<TextTokenizer> {
        let mut tokens: Vec<(u32, String)> = inner.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        tokens.sort_unstable();
        if let Some((expected, (id, token))) = (0u32..).zip(&tokens).find(|(expected, (id, _))| expected != id) {
            return Err(TextError::TokenIds { path, token: token.clone(), id: *id, expected }.into());
        }
        let ids: HashMap<&str, u32> = tokens.iter().map(|(id, token)| (token.as_str(), *id)).collect();
        let special = |token| ids.get(token).copied().unwrap_or_default();
        let (pad, cls, sep, decoder_start) = (special(PAD), special(CLS), special(SEP), special(DECODER_START));
        Ok(TextTokenizer { inner, vocab_size: tokens.len(), pad, cls, sep, decoder_start })
    }

    /// Writes a `tokenizer.json` that [`open`](Self::open) and Hugging Face's libraries read, atomically.
    ///
    /// # Errors
    /// `Io`.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        save(&self.inner, path.as_ref())
    }

    /// Number of tokens: the rows of the embedding table.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Id of `[PAD]`.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Id of `[CLS]`.
    pub fn cls(&self) -> u32 {
        self.cls
    }

    /// Id of `[SEP]`.
    pub fn sep(&self) -> u32 {
        self.sep
    }

    /// Id of `[DEC]`.
    pub fn decoder_start(&self) -> u32 {
        self.decoder_start
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// `[CLS]`, the text's tokens, `[SEP]`: at most `max_length` in all. Of a longer text the end is cut; `[SEP]` stays.
    ///
    /// # Errors
    /// `Text` for a text without any token; `Setting` for a `max_length` below 3.
    pub fn encode(&self, text: &str, max_length: usize) -> Result<Encoding> {
        if max_length < 3 {
            let expected = "at least 3: [CLS], a token, [SEP]";
            return Err(Error::Setting { setting: "max_length", got: max_length.to_string(), expected });
        }
        let pieces = self.inner.encode_fast(text, false).map_err(|error| TextError::Encode { reason: error.to_string() })?;
        let pieces = pieces.get_ids();
        if pieces.is_empty() {
            return Err(TextError::Empty.into());
        }
        let kept = pieces.len().min(max_length - 2);
        let mut ids = Vec::with_capacity(kept + 2);
        ids.push(self.cls);
        ids.extend(&pieces[..kept]);
        ids.push(self.sep);
        Ok(Encoding { ids, truncated: kept < pieces.len() })
    }
}

/// Writes a `tokenizer.json`, atomically.
pub(crate) fn save(inner: &Tokenizer, path: &Path) -> Result<()> {
    let io_error = |source| Error::Io { action: "write", path: path.into(), source };
    let json = inner.to_string(false).map_err(|error| io_error(std::io::Error::other(error)))?;
    let mut file = AtomicFile::create(path)?;
    file.write_all(json.as_bytes()).map_err(io_error)?;
    file.commit()
}

/// The model must be WordPiece: any other splits texts in ways that the text branch was not made for.
fn check_model(inner: &Tokenizer, path: &Path) -> Result<()> {
    match inner.get_model() {
        ModelWrapper::WordPiece(_) => Ok(()),
        ModelWrapper::BPE(_) => Err(not_tokenizer(path, "it holds a byte-pair (BPE) model")),
        ModelWrapper::WordLevel(_) => Err(not_tokenizer(path, "it holds a word-level model")),
        ModelWrapper::Unigram(_) => Err(not_tokenizer(path, "it holds a unigram model")),
    }
}

fn not_tokenizer(path: &Path, reason: &str) -> Error {
    TextError::NotTokenizer { path: path.into(), reason: reason.to_owned() }.into()
}
