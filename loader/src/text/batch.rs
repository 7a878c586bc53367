//! Padded batches of texts.

use std::collections::HashMap;
use std::sync::Arc;

use super::TextError;
use super::classes::Classes;
use crate::tokenizer::TextTokenizer;
use crate::{Error, Result};

/// Texts as padded token sequences, row-major.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextBatch {
    /// Texts.
    pub batch: usize,
    /// Tokens of each row, padding included: the longest text rounded up to a multiple of [`PAD_TO_MULTIPLE`].
    pub seq_len: usize,
    /// `[batch, seq_len]`: `[CLS]`, the text, `[SEP]`, then `[PAD]`.
    pub token_ids: Vec<u32>,
    /// `[batch]`: tokens including `[CLS]` and `[SEP]`, without pads.
    pub lengths: Vec<u32>,
    /// `[batch]`: texts of equal number are the same text or describe the same class of cells, so never each other's negatives.
    pub classes: Vec<u32>,
    /// `[batch]`: id of the passage, where the text is one.
    pub sources: Vec<Option<String>>,
    /// Texts whose end was cut.
    pub truncated: usize,
}

/// Sequences are padded to a multiple of this.
pub const PAD_TO_MULTIPLE: usize = 8;

/// Turns texts into batches.
#[derive(Debug, Clone)]
pub struct TextCollator {
    tokenizer: Arc<TextTokenizer>,
    max_length: usize,
}

impl TextCollator {
    /// A collator that cuts texts at `max_length` tokens, `[CLS]` and `[SEP]` included. The padded length may exceed it, up to the
    /// next multiple of [`PAD_TO_MULTIPLE`].
    ///
    /// # Errors
    /// `Setting` for a `max_length` below 3.
    pub fn new(tokenizer: Arc<TextTokenizer>, max_length: usize) -> Result<TextCollator> {
        if max_length < 3 {
            let expected = "at least 3: [CLS], a token, [SEP]";
            return Err(Error::Setting { setting: "max_length", got: max_length.to_string(), expected });
        }
        Ok(TextCollator { tokenizer, max_length })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<TextTokenizer> {
        &self.tokenizer
    }

    /// Most tokens of a text.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The batch of these texts, in this order; a row depends on its own text alone, but for the padding.
    ///
    /// `classes` (`[texts]`) are the classes of cells that the texts describe; without them every text is its own class. Where a text
    /// occurs under two classes they become one, under the smaller number.
    ///
    /// # Errors
    /// `EmptyBatch`; `Text` for an empty text or another number of classes.
    pub fn collate<S: AsRef<str>>(&self, texts: &[S], classes: Option<&[u32]>) -> Result<TextBatch> {
        if texts.is_empty() {
            return Err(Error::EmptyBatch);
        }
        let own: Vec<u32>;
        let classes = match classes {
            Some(classes) => classes,
            None => {
                own = (0..texts.len() as u32).collect();
                &own
            }
        };
        if classes.len() != texts.len() {
            return Err(TextError::ClassCount { texts: texts.len(), classes: classes.len() }.into());
        }
        let encoded = texts.iter().map(|text| self.tokenizer.encode(text.as_ref(), self.max_length)).collect::<Result<Vec<_>>>()?;
        let longest = encoded.iter().map(|encoding| encoding.ids.len()).max().unwrap_or_default();
        let seq_len = longest.next_multiple_of(PAD_TO_MULTIPLE);
        let mut token_ids = Vec::with_capacity(texts.len() * seq_len);
        for encoding in &encoded {
            token_ids.extend(&encoding.ids);
            token_ids.resize(token_ids.len().next_multiple_of(seq_len), self.tokenizer.pad());
        }
        let mut joined = Classes::default();
        let mut first: HashMap<&[u32], u32> = HashMap::new();
        for (encoding, &class) in encoded.iter().zip(classes) {
            joined.join(class, *first.entry(&encoding.ids).or_insert(class));
        }
        Ok(TextBatch {
            batch: texts.len(),
            seq_len,
            token_ids,
            lengths: encoded.iter().map(|encoding| encoding.ids.len() as u32).collect(),
            classes: classes.iter().map(|&class| joined.of(class)).collect(),
            sources: vec![None; texts.len()],
            truncated: encoded.iter().filter(|encoding| encoding.truncated).count(),
        })
    }
}
