//! Bodies of functions: statements, instructions, operands.

use super::{DEPTH, Parser};
use crate::error::{Error, Result};
use crate::lexer::Token;
use crate::syntax::{Instruction, Operand, Statement, Type};

impl Parser<'_> {
    pub(super) fn body(&mut self) -> Result<Vec<Statement>> {
        let (mut statements, mut depth) = (Vec::new(), 0usize);
        loop {
            let line = self.line();
            match self.peek() {
                Some(Token::Sign('{')) => {
                    self.at += 1;
                    depth += 1;
                    statements.push(Statement::Open);
                }
                Some(Token::Sign('}')) => {
                    self.at += 1;
                    if depth == 0 {
                        return Ok(statements);
                    }
                    depth -= 1;
                    statements.push(Statement::Close);
                }
                Some(Token::Sign(';')) => self.at += 1,
                Some(Token::Sign('@')) => {
                    let instruction = self.instruction()?;
                    statements.push(Statement::Instruction(instruction));
                }
                Some(Token::Word(word)) => match word.as_str() {
                    ".reg" => {
                        self.at += 1;
                        let element = self.word()?;
                        statements.push(self.registers(element, line)?);
                    }
                    // `.reg.b16` without a space between.
                    _ if word.starts_with(".reg.") => {
                        self.at += 1;
                        statements.push(self.registers(&word[4..], line)?);
                    }
                    ".loc" | ".file" => self.skip_line(),
                    ".pragma" | ".callprototype" => self.skip_statement()?,
                    ".branchtargets" => statements.push(self.targets(line)?),
                    ".shared" | ".local" | ".param" | ".const" | ".global" => {
                        statements.extend(self.variables()?.into_iter().map(Statement::Variable));
                    }
                    _ if self.tokens.get(self.at + 1).map(|t| &t.token) == Some(&Token::Sign(':')) => {
                        self.at += 2;
                        statements.push(Statement::Label(word.clone(), line));
                    }
                    _ if word.starts_with('.') => return Err(Error::Unsupported { line, text: word.clone() }),
                    _ => {
                        let instruction = self.instruction()?;
                        statements.push(Statement::Instruction(instruction));
                    }
                },
                _ => return Err(self.expected("an instruction")),
            }
        }
    }

    /// Labels of a `.branchtargets`, in order; its own label stands before it.
    fn targets(&mut self, line: u32) -> Result<Statement> {
        self.at += 1;
        let mut labels = vec![self.word()?.to_string()];
        while self.sign(',') {
            labels.push(self.word()?.to_string());
        }
        self.expect(';')?;
        Ok(Statement::Targets(labels, line))
    }

    fn registers(&mut self, word: &str, line: u32) -> Result<Statement> {
        let element = Type::parse(word.trim_start_matches('.')).ok_or_else(|| Error::Unsupported { line, text: word.into() })?;
        let mut names = Vec::new();
        loop {
            let name = self.word()?.to_string();
            let count = if self.sign('<') {
                let count = self.integer()?;
                self.expect('>')?;
                if count > 1 << 16 {
                    return Err(Error::Parse { line, reason: format!("{count} registers are more than 65536") });
                }
                Some(count as u32)
            } else {
                None
            };
            names.push((name, count));
            if !self.sign(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(Statement::Registers(element, names, line))
    }

    fn instruction(&mut self) -> Result<Instruction> {
        let line = self.line();
        let guard = if self.sign('@') {
            let negated = self.sign('!');
            Some((self.word()?.to_string(), negated))
        } else {
            None
        };
        let parts = self.word()?.split('.').map(str::to_string).collect();
        let mut operands = Vec::new();
        while !self.sign(';') {
            operands.push(self.operand(0)?);
            if !self.sign(',') && self.peek() != Some(&Token::Sign(';')) {
                return Err(self.expected("`,` or `;`"));
            }
        }
        Ok(Instruction { line, guard, parts, operands })
    }

    fn list(&mut self, end: char, depth: usize) -> Result<Vec<Operand>> {
        let mut operands = Vec::new();
        while !self.sign(end) {
            operands.push(self.operand(depth + 1)?);
            if !self.sign(',') && self.peek() != Some(&Token::Sign(end)) {
                return Err(self.expected("`,`"));
            }
        }
        Ok(operands)
    }

    /// `+ n`, `- n`, `+ -n`, or nothing.
    fn offset(&mut self) -> Result<i64> {
        let mut sign = 1i64;
        if self.sign('-') {
            sign = -1;
        } else if !self.sign('+') {
            return Ok(0);
        }
        if self.sign('-') {
            sign = -sign;
        }
        Ok(sign.wrapping_mul(self.integer()? as i64))
    }

    fn operand(&mut self, depth: usize) -> Result<Operand> {
        if depth > DEPTH {
            return Err(self.expected("shallower operands"));
        }
        let token = self.next()?;
        Ok(match token {
            Token::Word(word) if word == "_" => Operand::Sink,
            Token::Word(word) => {
                if self.sign('|') {
                    let second = self.operand(depth + 1)?;
                    return Ok(Operand::Pair(Box::new(Operand::Name(word.clone())), Box::new(second)));
                }
                match self.peek() {
                    Some(Token::Sign('+' | '-')) => Operand::Offset(word.clone(), self.offset()?),
                    _ => Operand::Name(word.clone()),
                }
            }
            Token::Integer(value) => Operand::Integer(*value),
            Token::F32(bits) => Operand::F32(*bits),
            Token::F64(bits) => Operand::F64(*bits),
            Token::Sign('-') => match self.next()? {
                Token::Integer(value) => Operand::Integer(value.wrapping_neg()),
                Token::F64(bits) => Operand::F64(bits ^ (1 << 63)),
                Token::F32(bits) => Operand::F32(bits ^ (1 << 31)),
                _ => return Err(self.expected("a number after `-`")),
            },
            Token::Sign('!') => Operand::Not(self.word()?.to_string()),
            Token::Sign('[') => {
                let operand = match self.peek() {
                    Some(Token::Word(word)) => {
                        self.at += 1;
                        Operand::Address(Some(word.clone()), self.offset()?)
                    }
                    _ => Operand::Address(None, self.integer()? as i64),
                };
                if self.peek() == Some(&Token::Sign(',')) {
                    return Err(Error::Unsupported {
                        line: self.line(),
                        text: "coordinates in an address (textures, surfaces, tensors)".into(),
                    });
                }
                self.expect(']')?;
                operand
            }
            Token::Sign('{') => Operand::Vector(self.list('}', depth)?),
            Token::Sign('(') => Operand::Group(self.list(')', depth)?),
            _ => {
                self.at -= 1;
                return Err(self.expected("an operand"));
            }
        })
    }
}
