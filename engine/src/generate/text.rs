//! Tokens to text while they come: whole characters only, and nothing of a text that ends the answer.

use scmmgpt_loader::language::LanguageTokenizer;

use crate::Result;

/// The text of an answer so far.
#[derive(Debug)]
pub(super) struct TextStream<'a> {
    tokenizer: &'a LanguageTokenizer,
    stop: &'a [String],
    tokens: Vec<u32>,
    /// Tokens from here are decoded again with each new one, for a token's text can depend on the one before it.
    window: usize,
    /// Tokens up to here are in `text`.
    read: usize,
    text: String,
    /// Bytes of `text` that were given away.
    given: usize,
    stopped: bool,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a LanguageTokenizer, stop: &'a [String]) -> Self {
        TextStream { tokenizer, stop, tokens: Vec::new(), window: 0, read: 0, text: String::new(), given: 0, stopped: false }
    }

    /// Adds a token; gives the text that is certain now.
    pub(super) fn push(&mut self, token: u32) -> Result<&str> {
        self.tokens.push(token);
        let known = self.tokenizer.decode(&self.tokens[self.window..self.read])?;
        let longer = self.tokenizer.decode(&self.tokens[self.window..])?;
        // The replacement character at the end is a character of which only the first bytes have come.
        if let Some(new) = longer.strip_prefix(&known).filter(|new| !new.is_empty() && !new.ends_with(char::REPLACEMENT_CHARACTER)) {
            self.text.push_str(new);
            (self.window, self.read) = (self.read, self.tokens.len());
            self.look_for_stop();
        }
        let certain = if self.stopped { self.text.len() } else { self.text.len() - self.beginning_of_stop() };
        Ok(self.give(certain))
    }

    /// Cuts the text at the first text that ends it.
    fn look_for_stop(&mut self) {
        let found = self.stop.iter().filter_map(|stop| self.text[self.given..].find(stop.as_str())).min();
        if let Some(at) = found {
            self.text.truncate(self.given + at);
            self.stopped = true;
        }
    }

    /// Bytes at the end of the text that may be the beginning of a text that ends it.
    fn beginning_of_stop(&self) -> usize {
        let rest = &self.text[self.given..];
        let begins = |from: &usize| self.stop.iter().any(|stop| stop.starts_with(&rest[*from..]));
        rest.char_indices().map(|(from, _)| from).find(begins).map_or(0, |from| rest.len() - from)
    }

    fn give(&mut self, to: usize) -> &str {
        let from = std::mem::replace(&mut self.given, to);
        &self.text[from..to]
    }

    /// Whether a text that ends the answer has come.
    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Gives the rest of the text: what was held back, and characters that did not become whole.
    pub(super) fn finish(&mut self) -> Result<&str> {
        if !self.stopped {
            let known = self.tokenizer.decode(&self.tokens[self.window..self.read])?;
            let longer = self.tokenizer.decode(&self.tokens[self.window..])?;
            self.text.push_str(longer.strip_prefix(&known).unwrap_or_default());
            self.read = self.tokens.len();
        }
        Ok(self.give(self.text.len()))
    }

    /// The tokens, and all of the text.
    pub(super) fn into_parts(self) -> (Vec<u32>, String) {
        (self.tokens, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> LanguageTokenizer {
        LanguageTokenizer::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/language_tokenizer.json")).unwrap()
    }

    fn stream(text: &str, stop: &[&str]) -> (Vec<String>, String, bool) {
        let tokenizer = tokenizer();
        let stop: Vec<String> = stop.iter().map(|text| text.to_string()).collect();
        let mut stream = TextStream::new(&tokenizer, &stop);
        let mut pieces = Vec::new();
        for token in tokenizer.encode(text).unwrap() {
            pieces.push(stream.push(token).unwrap().to_string());
            if stream.stopped() {
                break;
            }
        }
        pieces.push(stream.finish().unwrap().to_string());
        let stopped = stream.stopped();
        (pieces, stream.into_parts().1, stopped)
    }

    #[test]
    fn characters_come_whole() {
        let text = "T cell: 日本, Zürich, 🧬.";
        let tokens = tokenizer().encode(text).unwrap().len();
        assert!(tokens > text.chars().count() / 2);
        let (pieces, whole, _) = stream(text, &[]);
        assert_eq!((whole.as_str(), pieces.concat().as_str()), (text, text));
        assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)));
        assert!(pieces.iter().any(String::is_empty), "bytes of a character are held back");
    }

    #[test]
    fn nothing_of_a_stop_is_shown() {
        let text = "B cell.\nUser: more";
        for stop in [&["\nUser:"][..], &["nothing", "User:"], &[".", "\nUser:"]] {
            let (pieces, whole, stopped) = stream(text, stop);
            let end = stop.iter().filter_map(|stop| text.find(stop)).min().unwrap();
            assert!(stopped);
            assert_eq!((whole.as_str(), pieces.concat().as_str()), (&text[..end], &text[..end]));
        }
        // The beginning of a stop that does not come is shown in the end.
        let (pieces, _, stopped) = stream("B cell.\nUs", &["\nUser:"]);
        assert!(!stopped && pieces.concat() == "B cell.\nUs");
        assert!(pieces[..pieces.len() - 1].concat().len() < pieces.concat().len());
    }
}
