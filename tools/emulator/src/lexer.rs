//! PTX text to tokens.

use crate::error::{Error, Result};

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// A name, with its leading `%`, `$`, `_` or `.` and all `.part`s and `::` inside: `ld.global.f32`, `%tid.x`, `.visible`.
    Word(String),
    /// An integer, as 64 bits.
    Integer(u64),
    /// Bits of a 32-bit float literal.
    F32(u32),
    /// Bits of a 64-bit float literal.
    F64(u64),
    /// A string without its quotes.
    Text(String),
    /// One of `, ; : { } [ ] ( ) @ ! | + - < > = *`.
    Sign(char),
}

/// A token and its line, from 1.
#[derive(Clone, Debug)]
pub(crate) struct Spanned {
    pub(crate) token: Token,
    pub(crate) line: u32,
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// Cuts a text into tokens.
pub(crate) fn tokens(text: &str) -> Result<Vec<Spanned>> {
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1u32);
    let mut found = Vec::new();
    while let Some(&c) = bytes.get(at) {
        let next = bytes.get(at + 1).copied().unwrap_or(0);
        match c {
            b'\n' => {
                line += 1;
                at += 1;
            }
            _ if c.is_ascii_whitespace() || c == 0 => at += 1,
            b'/' if next == b'/' => at += bytes[at..].iter().position(|&c| c == b'\n').unwrap_or(bytes.len() - at),
            b'/' if next == b'*' => {
                let Some(end) = text[at + 2..].find("*/") else {
                    return Err(Error::Parse { line, reason: "a comment has no end".into() });
                };
                line += text[at..at + 2 + end].matches('\n').count() as u32;
                at += end + 4;
            }
            b'"' => {
                let Some(end) = text[at + 1..].find('"') else {
                    return Err(Error::Parse { line, reason: "a string has no end".into() });
                };
                found.push(Spanned { token: Token::Text(text[at + 1..at + 1 + end].to_string()), line });
                at += end + 2;
            }
            _ if c.is_ascii_digit() => {
                let (token, length) = number(&bytes[at..], line)?;
                found.push(Spanned { token, line });
                at += length;
            }
            _ if is_word(c) => {
                let start = at;
                while at < bytes.len() && (is_word(bytes[at]) || (bytes[at] == b':' && bytes.get(at + 1) == Some(&b':'))) {
                    at += if bytes[at] == b':' { 2 } else { 1 };
                }
                found.push(Spanned { token: Token::Word(text[start..at].to_string()), line });
            }
            b',' | b';' | b':' | b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'@' | b'!' | b'|' | b'+' | b'-' | b'<' | b'>' | b'=' | b'*' => {
                found.push(Spanned { token: Token::Sign(char::from(c)), line });
                at += 1;
            }
            _ => {
                let character = text[at..].chars().next().unwrap_or('?');
                return Err(Error::Parse { line, reason: format!("unexpected character {character:?}") });
            }
        }
    }
    Ok(found)
}

/// A number at the start of `bytes` and its length.
fn number(bytes: &[u8], line: u32) -> Result<(Token, usize)> {
    let wrong = |digits: &str| Error::Parse { line, reason: format!("`{digits}` is not a number") };
    let length = bytes.iter().position(|c| !c.is_ascii_alphanumeric() && *c != b'.').unwrap_or(bytes.len());
    let mut digits = String::from_utf8_lossy(&bytes[..length]).into_owned();
    let kind = bytes.get(1).copied().unwrap_or(0).to_ascii_lowercase();
    if bytes[0] == b'0' && matches!(kind, b'f' | b'd') && length > 2 {
        let bits = u64::from_str_radix(&digits[2..], 16).map_err(|_| wrong(&digits))?;
        return Ok((if kind == b'f' { Token::F32(bits as u32) } else { Token::F64(bits) }, length));
    }
    if digits.contains('.') || (kind != b'x' && digits.contains(['e', 'E'])) {
        // An exponent's sign is not alphanumeric.
        let mut end = length;
        if digits.ends_with(['e', 'E']) && matches!(bytes.get(end), Some(b'+' | b'-')) {
            let more = bytes[end + 1..].iter().position(|c| !c.is_ascii_digit()).unwrap_or(bytes.len() - end - 1);
            end += 1 + more;
            digits = String::from_utf8_lossy(&bytes[..end]).into_owned();
        }
        let value: f64 = digits.parse().map_err(|_| wrong(&digits))?;
        return Ok((Token::F64(value.to_bits()), end));
    }
    let plain = digits.trim_end_matches(['U', 'u']);
    let (radix, plain) = match kind {
        b'x' => (16, &plain[2..]),
        b'b' => (2, &plain[2..]),
        _ if plain.len() > 1 && plain.starts_with('0') => (8, &plain[1..]),
        _ => (10, plain),
    };
    let value = u64::from_str_radix(plain, radix).map_err(|_| wrong(&digits))?;
    Ok((Token::Integer(value), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_numbers_and_signs() {
        let tokens = tokens("ld.global.L2::128B.f32 %f1, [%rd2+0x10]; // end\nmov.f32 %f2, 0f3F800000;\n1.5e-3 017 7U").unwrap();
        let words: Vec<_> = tokens.iter().map(|t| t.token.clone()).collect();
        assert_eq!(words[0], Token::Word("ld.global.L2::128B.f32".into()));
        assert_eq!(words[6], Token::Integer(16));
        assert!(words.contains(&Token::F32(0x3f80_0000)));
        assert!(words.contains(&Token::F64(1.5e-3f64.to_bits())));
        assert_eq!(words[words.len() - 2..], [Token::Integer(15), Token::Integer(7)]);
        assert_eq!(tokens.last().unwrap().line, 3);
        assert!(super::tokens("mov \u{1F600}").is_err());
        assert!(super::tokens("/* never").is_err());
        assert!(super::tokens("0xZZ").is_err());
    }
}
