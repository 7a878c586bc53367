//! The tokens that stand for a cell between words.

use std::path::Path;

use super::{LanguageConfig, LanguageError, LanguageTokenizer};
use crate::Result;

const PAD: &str = "[PAD]";
const OPEN: &str = "<cell>";
const CLOSE: &str = "</cell>";

/// Ids of the special tokens of sequences with cells.
///
/// # Source
/// MODEL.md §4.1; scMMGPT `blip2_llama.py`, lines 207-226.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellTokens {
    /// In front of every sequence.
    pub bos: u32,
    /// Behind every whole sequence.
    pub eos: u32,
    /// Fills a batch up.
    pub pad: u32,
    /// `<cell>`, in front of the slots.
    pub open: u32,
    /// `<cell_00000>`; the others follow it.
    pub first_slot: u32,
    /// Slots of a cell: the query tokens of the Q-Former.
    pub slots: usize,
    /// `</cell>`, behind the slots.
    pub close: u32,
}

impl CellTokens {
    /// `<cell>`, the slots, `</cell>`.
    pub fn block(&self) -> impl ExactSizeIterator<Item = u32> + use<> {
        let (open, first, close, slots) = (self.open, self.first_slot, self.close, self.slots as u32);
        (0..self.slots + 2).map(move |place| match place as u32 {
            0 => open,
            place if place <= slots => first + place - 1,
            _ => close,
        })
    }
}

impl LanguageTokenizer {
    /// Adds `[PAD]`, `<cell>`, `<cell_00000>` .. and `</cell>`, in this order, behind the `config.vocab_size` rows of the model's table.
    /// A token that exists keeps its id. Rows of the table without a token become `<reserved_ID>`, so that new tokens get new rows.
    ///
    /// # Errors
    /// `Setting` for no slots; `Language` when the model names no token that begins or ends a sequence, when the tokenizer is of a
    /// larger model, or when it has been given another number of slots before.
    pub fn with_cell_tokens(mut self, config: &LanguageConfig, slots: usize) -> Result<(LanguageTokenizer, CellTokens)> {
        if slots == 0 || slots > 99_999 {
            return Err(crate::Error::Setting { setting: "slots", got: slots.to_string(), expected: "1 to 99999 tokens a cell" });
        }
        let absent = |field| LanguageError::field(Path::new("config.json"), field, "absent", "sequences with cells need it");
        let bos = config.bos_token_id.ok_or_else(|| absent("bos_token_id"))?;
        let eos = config.eos_token_ids.first().copied().ok_or_else(|| absent("eos_token_id"))?;
        let names: Vec<String> = [PAD.into(), OPEN.into()].into_iter().chain((0..slots).map(slot)).chain([CLOSE.into()]).collect();
        let refuse = |reason: String| LanguageError::Tokenizer { path: "tokenizer.json".into(), reason };

        let rows = config.vocab_size as u32;
        let known = self.tokens();
        if let Some((token, id)) = known.iter().find(|(token, id)| *id >= rows && !names.contains(token)) {
            return Err(
                refuse(format!("token {token:?} has id {id}, but the model has {rows} rows, or was trained with more slots")).into()
            );
        }
        if !known.iter().any(|(_, id)| *id >= rows) {
            let next = known.iter().map(|(_, id)| id + 1).max().unwrap_or(0);
            self.add_special((next..rows).map(|id| format!("<reserved_{id}>")).collect())?;
        }
        self.add_special(names)?;
        let id = |token: &str| self.id(token).ok_or_else(|| refuse(format!("it does not take the token {token:?}")));
        let tokens = CellTokens { bos, eos, pad: id(PAD)?, open: id(OPEN)?, first_slot: id(&slot(0))?, slots, close: id(CLOSE)? };
        for (index, expected) in (0..slots).zip(tokens.first_slot..) {
            let found = id(&slot(index))?;
            if found != expected {
                return Err(refuse(format!("{:?} has id {found}, expected {expected}: it was made for fewer slots", slot(index))).into());
            }
        }
        Ok((self, tokens))
    }
}

fn slot(index: usize) -> String {
    format!("<cell_{index:05}>")
}
