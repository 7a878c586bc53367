//! Sequences of a cell and its text, in both orders.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CellTokens, LanguageTokenizer};
use crate::batch::SampleKey;
use crate::random::{Purpose, Random};
use crate::text::{CellTexts, PAD_TO_MULTIPLE, TextError};
use crate::{Error, Result};

/// Label of a token that is not to be predicted.
pub const IGNORE: u32 = u32::MAX;

/// How cells and texts become sequences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairConfig {
    /// Most tokens of a sequence, the cell's included. Of a longer text the end is cut.
    pub max_length: usize,
    /// Probability that the cell comes first and its text is to be written, against text first and cell after it.
    pub cell_first: f64,
    /// Stands between a cell and the text that is to be written; `Describe this cell: `. Empty: nothing, as the authors.
    pub describe_prompt: String,
    /// Stands in front of a text that a cell is to be made of; `scRNA-seq of a `. Empty: nothing, as the authors.
    pub generate_prompt: String,
}

impl Default for PairConfig {
    fn default() -> PairConfig {
        PairConfig { max_length: 128, cell_first: 0.5, describe_prompt: String::new(), generate_prompt: String::new() }
    }
}

/// Which of cell and text comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    /// Drawn for each cell, anew in every epoch of training; a text that does not fit whole comes last.
    #[default]
    Drawn,
    /// Cell to text.
    CellFirst,
    /// Text to cell.
    TextFirst,
}

/// Cells and texts as padded token sequences, row-major.
///
/// | order | tokens | labels |
/// |---|---|---|
/// | cell first | bos, `<cell>`, slots, `</cell>`, (prompt), text, eos | text, eos |
/// | text first | bos, (prompt), text, `<cell>`, slots, `</cell>`, eos | `<cell>`, eos |
///
/// # Source
/// MODEL.md §4.4 with the repairs of §8, rows 13 and 15; scMMGPT `stage2_dm.py`, lines 20-112.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LanguageBatch {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each row, padding included: the longest sequence rounded up to a multiple of [`PAD_TO_MULTIPLE`].
    pub seq_len: usize,
    /// `[batch, seq_len]`: the sequence, then `[PAD]`.
    pub token_ids: Vec<u32>,
    /// `[batch]`: tokens without pads.
    pub lengths: Vec<u32>,
    /// `[batch, seq_len]`: the token that stands here where it is to be predicted from those before it, else [`IGNORE`].
    pub labels: Vec<u32>,
    /// `[batch]`: place of the first slot in its sequence; the others follow it.
    pub slots_at: Vec<u32>,
    /// `[batch]`: whether the cell comes first.
    pub cell_first: Vec<bool>,
    /// Texts whose end was cut.
    pub truncated: usize,
    /// `[batch]`: id of the passage, where the text is one.
    pub sources: Vec<Option<String>>,
}

/// Turns cells' texts into sequences.
#[derive(Debug, Clone)]
pub struct PairCollator {
    tokenizer: Arc<LanguageTokenizer>,
    tokens: CellTokens,
    config: PairConfig,
    describe_prompt: Vec<u32>,
}

impl PairCollator {
    /// A collator; `tokens` are those of the tokenizer.
    ///
    /// # Errors
    /// `Setting` when a setting is outside its range, or `max_length` has no room for a cell, a prompt and a token of text.
    pub fn new(tokenizer: Arc<LanguageTokenizer>, tokens: CellTokens, config: PairConfig) -> Result<PairCollator> {
        if !(0.0..=1.0).contains(&config.cell_first) {
            return Err(Error::Setting { setting: "cell_first", got: config.cell_first.to_string(), expected: "0 to 1" });
        }
        let describe_prompt = tokenizer.encode(&config.describe_prompt)?;
        let generate_prompt = tokenizer.encode(&config.generate_prompt)?;
        let longest = describe_prompt.len().max(generate_prompt.len());
        if config.max_length < tokens.slots + 4 + longest + 1 {
            let expected = "at least bos, <cell>, the slots, </cell>, the prompt, a token of text and eos";
            return Err(Error::Setting { setting: "max_length", got: config.max_length.to_string(), expected });
        }
        Ok(PairCollator { tokenizer, tokens, config, describe_prompt })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<LanguageTokenizer> {
        &self.tokenizer
    }

    /// Ids of the special tokens.
    pub fn tokens(&self) -> CellTokens {
        self.tokens
    }

    /// The settings.
    pub fn config(&self) -> &PairConfig {
        &self.config
    }

    /// The batch of these cells' texts, in this order; a row depends on its own cell and `key` alone, but for the padding.
    ///
    /// # Errors
    /// `EmptyBatch`; as [`CellTexts::draw`]; `Text` for an empty text.
    pub fn collate(&self, texts: &CellTexts, rows: &[usize], key: SampleKey, direction: Direction) -> Result<LanguageBatch> {
        let mut batch = LanguageBatch { batch: rows.len(), ..LanguageBatch::default() };
        let mut sequences = Vec::with_capacity(rows.len());
        for &row in rows {
            let text = texts.draw(row, key)?;
            let sequence = self.sequence(&text.text, self.order(row, key, direction))?;
            batch.truncated += usize::from(sequence.truncated);
            batch.lengths.push(sequence.ids.len() as u32);
            batch.slots_at.push(sequence.slots_at as u32);
            batch.cell_first.push(sequence.cell_first);
            batch.sources.push(text.source);
            sequences.push(sequence);
        }
        let longest = sequences.iter().map(|sequence| sequence.ids.len()).max().ok_or(Error::EmptyBatch)?;
        batch.seq_len = longest.next_multiple_of(PAD_TO_MULTIPLE);
        for (row, sequence) in (1..).zip(sequences) {
            batch.token_ids.extend(sequence.ids);
            batch.token_ids.resize(row * batch.seq_len, self.tokens.pad);
            batch.labels.extend(sequence.labels);
            batch.labels.resize(row * batch.seq_len, IGNORE);
        }
        Ok(batch)
    }

    /// The beginning of a sequence in which a cell is to be described or talked about: bos, `<cell>`, slots, `</cell>`, and the text
    /// between cell and answer: `question`, or else the prompt of the settings.
    ///
    /// # Errors
    /// `Text` when the tokenizer refuses the question.
    pub fn cell_prompt(&self, question: Option<&str>) -> Result<Vec<u32>> {
        let words = question.map_or_else(|| Ok(self.describe_prompt.clone()), |text| self.tokenizer.encode(text))?;
        Ok([self.tokens.bos].into_iter().chain(self.tokens.block()).chain(words).collect())
    }

    /// The sequence in whose slots a cell is to be made of a text: bos, prompt and text, `<cell>`, slots, `</cell>`.
    ///
    /// # Errors
    /// `Text` for an empty text.
    pub fn text_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let words = self.words(text)?;
        Ok([self.tokens.bos].into_iter().chain(words).chain(self.tokens.block()).collect())
    }

    /// Prompt and text in front of a cell.
    fn words(&self, text: &str) -> Result<Vec<u32>> {
        if text.trim().is_empty() {
            return Err(TextError::Empty.into());
        }
        self.tokenizer.encode(&format!("{}{text}", self.config.generate_prompt))
    }

    /// Whether the cell must come first (`Some(true)`), must come last, or comes last unless its text would be cut (`None`).
    fn order(&self, row: usize, key: SampleKey, direction: Direction) -> Option<bool> {
        match direction {
            Direction::CellFirst => Some(true),
            Direction::TextFirst => Some(false),
            Direction::Drawn => {
                let epoch = if key.training { key.epoch } else { 0 };
                let cell_first = Random::new(key.seed, Purpose::Direction, epoch, row as u64).uniform() < self.config.cell_first;
                cell_first.then_some(true)
            }
        }
    }

    fn sequence(&self, text: &str, order: Option<bool>) -> Result<Sequence> {
        let CellTokens { bos, eos, open, slots, .. } = self.tokens;
        // Besides the text: bos, the cell's block, eos.
        let room = self.config.max_length - slots - 4;
        let mut words = self.words(text)?;
        let cell_first = order.unwrap_or(words.len() > room);
        let mut ids = vec![bos];
        let kept = if cell_first {
            words = self.tokenizer.encode(text)?;
            ids.extend(self.tokens.block().chain(self.describe_prompt.iter().copied()));
            room - self.describe_prompt.len()
        } else {
            room
        };
        let truncated = words.len() > kept;
        words.truncate(kept);
        let mut labels = vec![IGNORE; ids.len()];
        let slots_at = if cell_first {
            labels.extend(&words);
            ids.extend(words);
            2
        } else {
            ids.extend(words);
            let slots_at = ids.len() + 1;
            ids.extend(self.tokens.block());
            labels.resize(slots_at - 1, IGNORE);
            labels.push(open);
            labels.resize(ids.len(), IGNORE);
            slots_at
        };
        ids.push(eos);
        labels.push(eos);
        Ok(Sequence { ids, labels, slots_at, cell_first, truncated })
    }
}

/// One row of a batch, before padding.
struct Sequence {
    ids: Vec<u32>,
    labels: Vec<u32>,
    slots_at: usize,
    cell_first: bool,
    truncated: bool,
}
