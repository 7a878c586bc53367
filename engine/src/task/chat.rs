//! Talking about a cell: its tokens stand in front, what was said follows.

use std::path::{Path, PathBuf};

use scmmgpt_loader::h5ad::AnnData;

use super::annotate::read;
use super::speech::{Speech, central_cells, each_batch};
use super::writer::Writer;
use crate::bundle::{Bundle, Language};
use crate::generate::answer::{Answer, Begun};
use crate::generate::{Dtype, GenerationConfig, Prompt};
use crate::{Error, Result};

/// What to talk about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The cells' file.
    pub cells: &'a Path,
    /// Where the expression stands, if not where it stood in training.
    pub layer: Option<&'a str>,
    /// Which cell.
    pub which: Which<'a>,
    /// What the language model computes in.
    pub dtype: Dtype,
}

/// Which cell of a file.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// The first with counts.
    First,
    /// By its name.
    Cell(&'a str),
    /// The most central of the cells that have this value in this column of `obs`.
    Group(&'a str, &'a str),
}

/// A conversation about a cell.
pub struct Chat<'a> {
    bundle: &'a Bundle,
    speech: Speech<'a>,
    writer: Writer,
    /// `[slots, hidden_size]`.
    rows: Vec<f32>,
    /// Everything that was said, the cell in front.
    tokens: Vec<u32>,
    /// Name of the cell.
    pub cell: String,
    turns: u64,
}

/// An answer in a conversation.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The answer.
    pub answer: Answer,
    /// Whether what was said before had to be forgotten: it filled the model's positions.
    pub forgot: bool,
}

/// Between two turns.
const BREAK: &str = "\n";

impl<'a> Chat<'a> {
    /// Reads the cell.
    ///
    /// # Errors
    /// `Texts` when there is no such cell or it has no counts; those of files and model.
    pub fn open(bundle: &'a Bundle, language: &'a Language, about: &About<'_>) -> Result<Chat<'a>> {
        bundle.device().enter(|| {
            let mut speech = Speech::new(language, None)?;
            let dataset = read(bundle, &[PathBuf::from(about.cells)], about.layer, None)?;
            let data = AnnData::open(about.cells)?;
            let names = data.obs_names()?;
            let empty = dataset.empty_rows();
            let filled = |row: &usize| empty.binary_search(row).is_err();
            let refuse = |reason: String| Error::Texts { reason: format!("{}: {reason}", about.cells.display()) };
            let row = match about.which {
                Which::First => (0..dataset.len()).find(filled).ok_or_else(|| refuse("no cell has a known gene".into()))?,
                Which::Cell(name) => {
                    let row = names.iter().position(|known| known == name).ok_or_else(|| refuse(format!("there is no cell `{name}`")))?;
                    Some(row).filter(filled).ok_or_else(|| refuse(format!("cell `{name}` has no known gene")))?
                }
                Which::Group(key, value) => {
                    let labels = data.obs(key)?.labels();
                    let members: Vec<usize> =
                        (0..dataset.len()).filter(|&row| labels[row].as_deref() == Some(value)).filter(filled).collect();
                    if members.is_empty() {
                        return Err(refuse(format!("no cell with counts has `{value}` in obs[\"{key}\"]")));
                    }
                    central_cells(bundle, &mut speech, &dataset, &[members], &mut |_| {})?[0]
                }
            };
            let mut rows = Vec::new();
            each_batch(bundle, &dataset, &[row], &mut |_| {}, &mut |cells, _| {
                rows = speech.project(cells)?;
                Ok(())
            })?;
            let writer = speech.writer(bundle, language.resolve(about.dtype), 1, speech.positions())?;
            Ok(Chat { bundle, speech, writer, rows, tokens: Vec::new(), cell: names[row].clone(), turns: 0 })
        })
    }

    /// Says something about the cell, and gives the answer; an empty text asks for its description, as in training. `on_text` gets the
    /// answer piece by piece.
    ///
    /// # Errors
    /// `Setting` for more than one beam, since an answer that may yet change cannot be shown, and as [`GenerationConfig::check`]; `Texts`
    /// for a text that leaves no room for an answer; those of the model and of `on_text`.
    pub fn say(&mut self, text: &str, config: &GenerationConfig, on_text: &mut (dyn FnMut(&str) -> Result<()> + Send)) -> Result<Turn> {
        config.check()?;
        if config.num_beams > 1 {
            let (key, value) = ("generate.num_beams".into(), config.num_beams.to_string());
            return Err(Error::Setting { key, value, expected: "1 in a conversation".into() });
        }
        let device = self.bundle.device().clone();
        device.enter(|| self.say_inside(text, config, on_text))
    }

    fn say_inside(&mut self, text: &str, config: &GenerationConfig, on_text: &mut (dyn FnMut(&str) -> Result<()> + Send)) -> Result<Turn> {
        let (language, capacity) = (self.speech.language, self.writer.capacity());
        let question = Some(text.trim()).filter(|text| !text.is_empty());
        let mut further = match question {
            Some(question) => language.tokenizer().encode(&format!("{BREAK}{question}{BREAK}"))?,
            None => language.tokenizer().encode(BREAK)?,
        };
        let forgot = !self.tokens.is_empty() && self.tokens.len() + further.len() >= capacity;
        if self.tokens.is_empty() || forgot {
            self.tokens.clear();
            further = language.pairs().cell_prompt(question)?;
            if further.len() >= capacity {
                let reason = format!("a prompt has {} tokens and leaves no room in the {capacity} of the model; shorten it", further.len());
                return Err(Error::Texts { reason });
            }
        }
        let begins = self.tokens.is_empty();
        self.tokens.extend(further);
        let read = if begins {
            let rows = self.speech.prompts(&self.rows).first().and_then(|prompt| prompt.rows);
            Prompt { tokens: &self.tokens, rows }
        } else {
            // The last token of the former answer may not have been read yet.
            Prompt::from(&self.tokens[self.writer.length()..])
        };
        let begun = Begun { history: &self.tokens, number: self.turns };
        let answers = self.writer.say(read, begins, self.speech.words(), begun, config, &mut |_, text| on_text(text));
        self.turns += 1;
        // After an error the conversation begins anew: what was cached may be only a part of it.
        let Some(answer) = answers.inspect_err(|_| self.tokens.clear())?.into_iter().next() else {
            return Err(Error::Texts { reason: "the model gave no answer".into() });
        };
        self.tokens.extend(&answer.tokens);
        Ok(Turn { answer, forgot })
    }
}
