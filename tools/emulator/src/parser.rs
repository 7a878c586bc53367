//! Tokens to a tree. Every construct that is not understood is an error with its line.

mod body;

use crate::error::{Error, Result};
use crate::lexer::{Spanned, Token, tokens};
use crate::syntax::{Function, Initial, Space, Text, Type, Variable};

/// Nested vectors and initialisers deeper than this are refused rather than followed.
const DEPTH: usize = 16;

/// Parses a PTX text.
pub(crate) fn parse(text: &str) -> Result<Text> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0 };
    let mut found = Text::default();
    while parser.peek().is_some() {
        parser.item(&mut found)?;
    }
    if found.version == 0 || found.target == 0 {
        return Err(Error::Parse { line: 1, reason: "expected `.version` and `.target` before anything else".into() });
    }
    Ok(found)
}

struct Parser<'a> {
    tokens: &'a [Spanned],
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at).map(|spanned| &spanned.token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |spanned| spanned.line)
    }

    fn next(&mut self) -> Result<&'a Token> {
        let token = self.peek().ok_or_else(|| self.expected("more text"))?;
        self.at += 1;
        Ok(token)
    }

    fn expected(&self, what: &str) -> Error {
        let found = match self.peek() {
            None => "the end".into(),
            Some(Token::Word(word)) => format!("`{word}`"),
            Some(Token::Sign(sign)) => format!("`{sign}`"),
            Some(token) => format!("{token:?}"),
        };
        Error::Parse { line: self.line(), reason: format!("expected {what}, found {found}") }
    }

    fn sign(&mut self, sign: char) -> bool {
        let found = self.peek() == Some(&Token::Sign(sign));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: char) -> Result<()> {
        if self.sign(sign) { Ok(()) } else { Err(self.expected(&format!("`{sign}`"))) }
    }

    fn word(&mut self) -> Result<&'a str> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => Err(self.expected("a name")),
        }
    }

    fn integer(&mut self) -> Result<u64> {
        match self.peek() {
            Some(Token::Integer(value)) => {
                self.at += 1;
                Ok(*value)
            }
            _ => Err(self.expected("an integer")),
        }
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.peek().is_some() && self.line() == line {
            self.at += 1;
        }
    }

    fn skip_braces(&mut self) -> Result<()> {
        let mut depth = 0usize;
        loop {
            match self.next()? {
                Token::Sign('{') => depth += 1,
                Token::Sign('}') if depth <= 1 => return Ok(()),
                Token::Sign('}') => depth -= 1,
                _ => {}
            }
        }
    }

    fn item(&mut self, text: &mut Text) -> Result<()> {
        let line = self.line();
        match self.peek() {
            Some(Token::Word(word)) => match word.as_str() {
                ".version" => {
                    self.at += 1;
                    let value = match self.next()? {
                        Token::F64(bits) => f64::from_bits(*bits),
                        Token::Integer(value) => *value as f64,
                        _ => return Err(Error::Parse { line, reason: "expected a version such as 7.8".into() }),
                    };
                    text.version = (value * 10.0).round() as u32;
                }
                ".target" => {
                    self.at += 1;
                    let name = self.word()?;
                    let digits = name.trim_start_matches("sm_").trim_end_matches(|c: char| c.is_ascii_alphabetic());
                    text.target = digits
                        .parse()
                        .map_err(|_| Error::Parse { line, reason: format!("expected a target such as sm_80, found `{name}`") })?;
                    while self.sign(',') {
                        self.word()?;
                    }
                }
                ".address_size" => {
                    self.at += 1;
                    if self.integer()? != 64 {
                        return Err(Error::Unsupported { line, text: ".address_size other than 64".into() });
                    }
                }
                ".file" => self.skip_line(),
                ".section" => {
                    self.at += 1;
                    self.skip_braces()?;
                }
                ".visible" | ".extern" | ".weak" | ".common" => self.at += 1,
                ".entry" | ".func" => {
                    self.at += 1;
                    let function = self.function(word == ".entry", line)?;
                    text.functions.push(function);
                }
                ".global" | ".const" | ".shared" => {
                    let variables = self.variables()?;
                    text.variables.extend(variables);
                }
                ".pragma" => self.skip_statement()?,
                _ if word.starts_with('.') => return Err(Error::Unsupported { line, text: word.clone() }),
                _ => return Err(self.expected("a directive")),
            },
            _ => return Err(self.expected("a directive")),
        }
        Ok(())
    }

    fn skip_statement(&mut self) -> Result<()> {
        while *self.next()? != Token::Sign(';') {}
        Ok(())
    }

    fn function(&mut self, entry: bool, line: u32) -> Result<Function> {
        let returns = if !entry && self.sign('(') { self.params()? } else { Vec::new() };
        let name = self.word()?.to_string();
        let params = if self.sign('(') { self.params()? } else { Vec::new() };
        let mut function = Function { entry, name, returns, params, max_threads: None, required: false, body: None, line };
        loop {
            match self.peek() {
                Some(Token::Sign(';')) => {
                    self.at += 1;
                    return Ok(function);
                }
                Some(Token::Sign('{')) => {
                    self.at += 1;
                    function.body = Some(self.body()?);
                    return Ok(function);
                }
                Some(Token::Word(word)) => match word.as_str() {
                    ".maxntid" | ".reqntid" => {
                        self.at += 1;
                        let mut sizes = [1u32; 3];
                        for size in &mut sizes {
                            *size = self.integer()? as u32;
                            if !self.sign(',') {
                                break;
                            }
                        }
                        (function.max_threads, function.required) = (Some(sizes), word == ".reqntid");
                    }
                    ".minnctapersm" | ".maxnreg" | ".maxnctapersm" => {
                        self.at += 1;
                        self.integer()?;
                    }
                    ".noreturn" => self.at += 1,
                    ".pragma" => self.skip_statement()?,
                    _ => return Err(Error::Unsupported { line: self.line(), text: word.clone() }),
                },
                _ => return Err(self.expected("a function's body")),
            }
        }
    }

    fn params(&mut self) -> Result<Vec<Variable>> {
        let mut params = Vec::new();
        while !self.sign(')') {
            let line = self.line();
            match self.word()? {
                ".param" => {}
                ".reg" => return Err(Error::Unsupported { line, text: ".reg parameters of a function".into() }),
                _ => return Err(Error::Parse { line, reason: "expected `.param`".into() }),
            }
            params.push(self.variable(Space::Param, line)?);
            self.sign(',');
        }
        Ok(params)
    }

    /// `.space [.align n] .type name[n], name..;`
    fn variables(&mut self) -> Result<Vec<Variable>> {
        let line = self.line();
        let space = match self.word()? {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            word => return Err(Error::Unsupported { line, text: word.into() }),
        };
        let mut found = vec![self.variable(space, line)?];
        while self.sign(',') {
            let first = &found[0];
            let (align, element) = (first.align, first.element);
            found.push(self.named(space, align, element, line)?);
        }
        self.expect(';')?;
        Ok(found)
    }

    fn variable(&mut self, space: Space, line: u32) -> Result<Variable> {
        let (mut align, mut element, mut pointee) = (None, None, false);
        loop {
            match self.peek() {
                Some(Token::Word(word)) if word == ".align" => {
                    self.at += 1;
                    let value = self.integer()? as usize;
                    if !value.is_power_of_two() || value > 1 << 16 {
                        return Err(Error::Parse { line, reason: format!("an alignment of {value} is not a power of two") });
                    }
                    // After `.ptr` it is that of what the pointer points to.
                    align = if pointee { align } else { Some(value) };
                }
                Some(Token::Word(word)) if word == ".ptr" => {
                    self.at += 1;
                    pointee = true;
                }
                Some(Token::Word(word)) if word.starts_with('.') => {
                    self.at += 1;
                    match Type::parse(&word[1..]) {
                        Some(found) => element = Some(found),
                        // Parameter attributes say what a pointer points to.
                        None if matches!(word.as_str(), ".global" | ".shared" | ".const" | ".local") => {}
                        None => return Err(Error::Unsupported { line, text: word.clone() }),
                    }
                }
                _ => break,
            }
        }
        let element = element.ok_or_else(|| self.expected("a type"))?;
        self.named(space, align.unwrap_or(element.size()), element, line)
    }

    fn named(&mut self, space: Space, align: usize, element: Type, line: u32) -> Result<Variable> {
        let name = self.word()?.to_string();
        let mut count = Some(1u64);
        while self.sign('[') {
            count = match self.peek() {
                Some(Token::Integer(_)) => {
                    let size = self.integer()?;
                    count.and_then(|count| count.checked_mul(size))
                }
                _ => None,
            };
            self.expect(']')?;
        }
        let mut initial = Vec::new();
        if self.sign('=') {
            self.initial(&mut initial, 0)?;
        }
        Ok(Variable { space, name, element, count, align, initial, line })
    }

    fn initial(&mut self, values: &mut Vec<Initial>, depth: usize) -> Result<()> {
        if depth > DEPTH {
            return Err(self.expected("a shallower initial value"));
        }
        if self.sign('{') {
            while !self.sign('}') {
                self.initial(values, depth + 1)?;
                self.sign(',');
            }
            return Ok(());
        }
        let negative = self.sign('-');
        let value = match self.next()? {
            Token::Integer(value) if negative => Initial::Integer(value.wrapping_neg()),
            Token::Integer(value) => Initial::Integer(*value),
            Token::F32(bits) => Initial::Bits32(*bits ^ (u32::from(negative) << 31)),
            Token::F64(bits) => Initial::Float(f64::from_bits(*bits) * if negative { -1.0 } else { 1.0 }),
            // Addresses of variables are generic ones already.
            Token::Word(word) if word == "generic" && self.sign('(') => {
                let name = self.word()?.to_string();
                self.expect(')')?;
                let offset = if self.sign('+') { self.integer()? as i64 } else { 0 };
                Initial::Address(name, offset)
            }
            Token::Word(name) => {
                let offset = if self.sign('+') { self.integer()? as i64 } else { 0 };
                Initial::Address(name.clone(), offset)
            }
            _ => return Err(self.expected("a value")),
        };
        values.push(value);
        Ok(())
    }
}
