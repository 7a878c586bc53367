//! Sentences with places for what is known of a cell.

use std::collections::BTreeSet;

use super::TextError;
use crate::Result;

/// A sentence with fields in braces, `{cell_type}`, and parts in brackets, `[ From {tissue}.]`, that are left out when one of their
/// fields is unknown. `{{`, `}}`, `[[` and `]]` are the characters themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    optional: bool,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(String),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// `Text` for unpaired or nested signs, a field without a name, or no field at all.
    pub fn parse(source: &str) -> Result<Template> {
        let refused = |at: usize, problem| TextError::Template { template: source.to_owned(), position: at, problem };
        let mut parts = vec![Part { optional: false, pieces: Vec::new() }];
        let mut letters = source.chars().enumerate().peekable();
        while let Some((at, letter)) = letters.next() {
            let optional = parts.last().is_some_and(|part| part.optional);
            let doubled = "{}[]".contains(letter) && letters.next_if(|&(_, next)| next == letter).is_some();
            match letter {
                '{' if !doubled => {
                    let name: String =
                        std::iter::from_fn(|| letters.next_if(|&(_, next)| !"{}[]".contains(next))).map(|(_, letter)| letter).collect();
                    if letters.next_if(|&(_, next)| next == '}').is_none() {
                        return Err(refused(at, "`{` without its `}`").into());
                    }
                    if name.trim().is_empty() {
                        return Err(refused(at, "a field without a name").into());
                    }
                    push(&mut parts, Piece::Field(name.trim().to_owned()));
                }
                '}' if !doubled => return Err(refused(at, "`}` without its `{`").into()),
                '[' if !doubled && optional => return Err(refused(at, "`[` inside `[ ]`").into()),
                ']' if !doubled && !optional => return Err(refused(at, "`]` without its `[`").into()),
                '[' | ']' if !doubled => parts.push(Part { optional: letter == '[', pieces: Vec::new() }),
                _ => push(&mut parts, Piece::Text(letter.to_string())),
            }
        }
        if parts.last().is_some_and(|part| part.optional) {
            return Err(refused(source.chars().count(), "`[` without its `]`").into());
        }
        let template = Template { source: source.to_owned(), parts };
        if template.fields(true).is_empty() && template.fields(false).is_empty() {
            return Err(refused(0, "no field: every cell would have the same text").into());
        }
        Ok(template)
    }

    /// The template as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Names of the fields inside (`optional`) or outside brackets.
    pub(super) fn fields(&self, optional: bool) -> BTreeSet<&str> {
        let pieces = self.parts.iter().filter(|part| part.optional == optional).flat_map(|part| &part.pieces);
        pieces.filter_map(|piece| if let Piece::Field(name) = piece { Some(name.as_str()) } else { None }).collect()
    }

    /// The text with these values; the name of a field outside brackets that has none is the error.
    pub(super) fn render<'v>(&self, value: &dyn Fn(&str) -> Option<std::borrow::Cow<'v, str>>) -> std::result::Result<String, &str> {
        let mut text = String::new();
        for part in &self.parts {
            let start = text.len();
            for piece in &part.pieces {
                match piece {
                    Piece::Text(piece) => text.push_str(piece),
                    Piece::Field(name) => match value(name) {
                        Some(value) => text.push_str(&value),
                        None if part.optional => {
                            text.truncate(start);
                            break;
                        }
                        None => return Err(name),
                    },
                }
            }
        }
        Ok(text.trim().to_owned())
    }
}

/// Adds a piece to the last part; texts run together.
fn push(parts: &mut [Part], piece: Piece) {
    let Some(Part { pieces, .. }) = parts.last_mut() else { return };
    match (pieces.last_mut(), piece) {
        (Some(Piece::Text(text)), Piece::Text(more)) => text.push_str(&more),
        (_, piece) => pieces.push(piece),
    }
}
