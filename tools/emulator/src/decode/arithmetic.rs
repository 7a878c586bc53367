//! Instructions that compute: lane functions, conversions, comparisons, moves.

use super::Decoder;
use crate::error::Result;
use crate::lanes::Lanes;
use crate::numeric::convert::Conversion;
use crate::numeric::format::{Rounding, f32_to_bf16};
use crate::numeric::{approximate, float};
use crate::program::{Carry, Logic, Op, Reg, Src};
use crate::syntax::{Operand, Type};

impl Decoder<'_> {
    pub(super) fn arithmetic(&mut self, name: &str, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        match name {
            "mov" => return self.moves(parts, operands),
            "cvt" => return self.convert(parts, operands),
            "setp" => return self.compare(parts, operands),
            "set" => return self.set(parts, operands),
            "slct" => {
                let types: Vec<Type> = parts.iter().filter_map(|part| Type::parse(part)).collect();
                let [element, by @ (Type::S32 | Type::F32)] = types[..] else { return self.unsupported() };
                let [d, a, b, c] = self.exactly(operands)?;
                let s = [self.source(a, element)?, self.source(b, element)?];
                let p = self.hidden(parts, by, self.source(c, by)?, Src::Imm(0), "ge", None)?;
                return Ok(Op::Select { d: self.target(d)?, s, p });
            }
            "dp4a" | "dp2a" => {
                let [d, a, b, c] = self.exactly(operands)?;
                let Some(f) = crate::integer::dots(name, parts) else { return self.unsupported() };
                let s = [self.source(a, Type::B32)?, self.source(b, Type::B32)?, self.source(c, Type::B32)?];
                return Ok(Op::Lanes { f, d: self.target(d)?, s });
            }
            "selp" => {
                let element = self.element(parts)?;
                let [d, a, b, p] = self.exactly(operands)?;
                let s = [self.source(a, element)?, self.source(b, element)?];
                return Ok(Op::Select { d: self.target(d)?, s, p: self.predicate(p)? });
            }
            "testp" => {
                let [p, a] = self.exactly(operands)?;
                let element = self.element(parts)?;
                let Some(f) = parts.first().and_then(|name| float::test(name, element)) else { return self.unsupported() };
                let a = self.source(a, element)?;
                return Ok(Op::Compare { f, p: self.target(p)?, q: Reg::Sink, s: [a, a], with: None });
            }
            "lop3" => {
                let [d, a, b, c, table] = self.exactly(operands)?;
                let Operand::Integer(table) = table else { return self.wrong("the table of lop3 must be a number") };
                let s = [self.source(a, Type::B32)?, self.source(b, Type::B32)?, self.source(c, Type::B32)?];
                return Ok(Op::Lop3 { d: self.target(d)?, s, table: *table as u8 });
            }
            "bfi" => {
                let element = self.element(parts)?;
                let [d, a, b, at, length] = self.exactly(operands)?;
                let [a, b] = [self.source(a, element)?, self.source(b, element)?];
                let s = [a, b, self.source(at, Type::U32)?, self.source(length, Type::U32)?];
                return Ok(Op::Insert { d: self.target(d)?, s, wide: element.size() == 8 });
            }
            "and" | "or" | "xor" | "not" if parts.contains(&"pred") => {
                let (d, _) = self.predicate(self.nth(operands, 0)?)?;
                let a = self.predicate_source(self.nth(operands, 1)?)?;
                if name == "not" {
                    return Ok(Op::Predicates { logic: None, d, s: [a, a], negate: true });
                }
                let b = self.predicate_source(self.nth(operands, 2)?)?;
                return Ok(Op::Predicates { logic: logic(name), d, s: [a, b], negate: false });
            }
            _ => {}
        }
        if matches!(name, "addc" | "subc" | "madc") || parts.contains(&"cc") {
            return self.carry(name, parts, operands);
        }
        let element = self.element(parts)?;
        if matches!(element, Type::Bf16 | Type::Bf16x2) && matches!(name, "add" | "sub" | "mul") {
            self.needs(90, 78)?;
        }
        let modifiers: Vec<&str> = parts.iter().copied().filter(|part| Type::parse(part) != Some(element)).collect();
        // What a modifier that nobody knows would change must not be left out.
        if modifiers.iter().any(|part| !MODIFIERS.contains(part)) || (modifiers.contains(&"sat") && !saturates(name, element)) {
            return self.unsupported();
        }
        let Some(f) = self.lane_function(name, &modifiers, element) else { return self.unsupported() };
        let count = match f {
            Lanes::N1(_) | Lanes::W1(_) => 1,
            Lanes::N2(_) | Lanes::W2(_) => 2,
            _ => 3,
        };
        if operands.len() != count + 1 {
            return self.wrong(format!("`{}` takes {} operands, found {}", self.part, count + 1, operands.len()));
        }
        let mut s = [Src::Imm(0); 3];
        for (place, operand) in s.iter_mut().zip(&operands[1..]) {
            *place = self.source(operand, element)?;
            // Narrow values are widened as their type says before a wide function reads them.
            if let (Src::Imm(value), Type::S32) = (&mut *place, element) {
                *value = i64::from(*value as i32) as u64;
            }
        }
        Ok(Op::Lanes { f, d: self.target(&operands[0])?, s })
    }

    fn lane_function(&self, name: &str, modifiers: &[&str], element: Type) -> Option<Lanes> {
        let ftz = modifiers.contains(&"ftz");
        let approx = modifiers.contains(&"approx");
        if element == Type::F32 && (approx || (name == "div" && modifiers.contains(&"full"))) {
            return match name {
                "div" => Some(approximate::divide(ftz, self.context.numerics.approx)),
                _ => approximate::lanes(name, ftz, self.context.numerics.approx),
            };
        }
        float::lanes(name, modifiers, element).or_else(|| crate::integer::lanes(name, modifiers, element))
    }

    fn carry(&self, name: &str, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        let element = self.element(parts)?;
        let multiply = name.starts_with("mad").then_some(parts.contains(&"hi"));
        let kind = Carry {
            subtract: name.starts_with("sub"),
            multiply,
            signed: element.is_signed(),
            reads: name.ends_with('c'),
            writes: parts.contains(&"cc"),
            wide: element.size() == 8,
        };
        if operands.len() != if multiply.is_some() { 4 } else { 3 } || (kind.wide && multiply.is_some()) {
            return self.unsupported();
        }
        let mut s = [Src::Imm(0); 3];
        for (place, operand) in s.iter_mut().zip(&operands[1..]) {
            *place = self.source(operand, element)?;
        }
        Ok(Op::Carry { kind, d: self.target(&operands[0])?, s })
    }

    fn moves(&mut self, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        let element = self.element(parts)?;
        let [d, s] = self.exactly(operands)?;
        let whole = 8 * element.size();
        Ok(match (d, s) {
            (Operand::Vector(_), _) => {
                let (d, count) = self.targets(d)?;
                if count < 2 {
                    return self.unsupported();
                }
                Op::Unpack { d, s: self.source(s, element)?, count, bits: (whole / usize::from(count.max(1))) as u8 }
            }
            (_, Operand::Vector(elements)) => {
                let part = match whole / elements.len().max(1) {
                    8 => Type::B8,
                    16 => Type::B16,
                    32 => Type::B32,
                    _ => return self.unsupported(),
                };
                let (s, count) = self.sources(s, part)?;
                if count == 2 && part == Type::B16 {
                    let f = n2!(|low: u32, high: u32| (low & 0xffff) | (high << 16));
                    return Ok(Op::Lanes { f, d: self.target(d)?, s: [s[0], s[1], s[2]] });
                }
                Op::Pack { d: self.target(d)?, s, count, bits: 8 * part.size() as u8 }
            }
            _ if element == Type::Pred => {
                let (d, _) = self.predicate(d)?;
                let s = self.predicate_source(s)?;
                Op::Predicates { logic: None, d, s: [s, s], negate: false }
            }
            _ => Op::Move { d: self.target(d)?, s: self.source(s, element)? },
        })
    }

    fn convert(&mut self, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        let types: Vec<Type> = parts.iter().filter_map(|part| Type::parse(part)).collect();
        let [to, from] = types[..] else { return self.unsupported() };
        if types.iter().any(|element| matches!(element, Type::Pred | Type::B128)) {
            return self.unsupported();
        }
        let rounding = parts.iter().find(|part| Rounding::parse(part).is_some());
        let has = |part: &str| parts.contains(&part);
        let mut c = Conversion {
            to,
            from,
            mode: rounding.and_then(|part| Rounding::parse(part)),
            integral: rounding.is_some_and(|part| part.ends_with('i')),
            ftz: has("ftz"),
            sat: has("sat"),
            relu: has("relu"),
        };
        if matches!(to, Type::F16x2 | Type::Bf16x2) {
            let [d, a, b] = self.exactly(operands)?;
            c.to = if to == Type::F16x2 { Type::F16 } else { Type::Bf16 };
            let s = [self.source(a, from)?, self.source(b, from)?];
            let d = self.target(d)?;
            if to == Type::Bf16x2 && !c.relu && c.mode == Some(Rounding::Nearest) {
                return Ok(Op::Lanes { f: n2!(|a: u32, b: u32| (f32_to_bf16(a) << 16) | f32_to_bf16(b)), d, s: [s[0], s[1], Src::Imm(0)] });
            }
            return Ok(Op::ConvertPair { c, d, s });
        }
        let [d, s] = self.exactly(operands)?;
        let (d, s) = (self.target(d)?, self.source(s, from)?);
        let lanes = match (to, from) {
            (Type::U64 | Type::S64, Type::U32) => Some(w1!(|a: u64| u64::from(a as u32))),
            (Type::U64 | Type::S64, Type::S32) => Some(w1!(|a: u64| i64::from(a as i32) as u64)),
            (Type::U32 | Type::S32, Type::U64 | Type::S64) if !c.sat => Some(n1!(|a: u32| a)),
            (Type::F32, Type::U32) if c.mode == Some(Rounding::Nearest) => Some(n1!(|a: u32| (a as f32).to_bits())),
            (Type::F32, Type::S32) if c.mode == Some(Rounding::Nearest) => Some(n1!(|a: u32| (a as i32 as f32).to_bits())),
            (Type::F32, Type::Bf16) if !c.sat => Some(n1!(|a: u32| a << 16)),
            (Type::Bf16, Type::F32) if c.mode == Some(Rounding::Nearest) && !c.relu => Some(n1!(f32_to_bf16)),
            _ => None,
        };
        Ok(match lanes {
            Some(f) => Op::Lanes { f, d, s: [s, Src::Imm(0), Src::Imm(0)] },
            None => Op::Convert { c, d, s },
        })
    }

    /// A predicate of its own for a comparison that the text writes no predicate of.
    fn hidden(
        &mut self,
        parts: &[&str],
        element: Type,
        a: Src,
        b: Src,
        name: &str,
        with: Option<(Logic, (u16, bool))>,
    ) -> Result<(u16, bool)> {
        let found = float::compare(name, parts, element).or_else(|| crate::integer::compare(name, element));
        let (Some(f), p) = (found, self.register("%compared", Type::Pred)?) else { return self.unsupported() };
        self.emit(Op::Compare { f, p, q: Reg::Sink, s: [a, b], with }, self.guard);
        let Reg::P(slot) = p else { return self.unsupported() };
        Ok((slot, false))
    }

    /// The upper half of a pair.
    fn upper(&mut self, s: Src) -> Result<Src> {
        let half = self.register("%upper", Type::B32)?;
        self.emit(Op::Lanes { f: n1!(|a: u32| a >> 16), d: half, s: [s, Src::Imm(0), Src::Imm(0)] }, self.guard);
        self.read(half)
    }

    /// `set`: ones, or 1.0 of the result's type, where a comparison holds.
    fn set(&mut self, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        let types: Vec<Type> = parts.iter().filter_map(|part| Type::parse(part)).collect();
        let ([to, from], Some(name)) = (&types[..], parts.first()) else { return self.unsupported() };
        let pair = matches!(from, Type::F16x2 | Type::Bf16x2);
        let yes: u64 = match (to, pair) {
            (Type::U32 | Type::S32, false) => 0xffff_ffff,
            (Type::U16 | Type::S16, false) | (Type::U32 | Type::S32, true) => 0xffff,
            (Type::F32, false) => 0x3f80_0000,
            (Type::F16, false) | (Type::F16x2, true) => 0x3c00,
            (Type::Bf16, false) | (Type::Bf16x2, true) => 0x3f80,
            _ => return self.unsupported(),
        };
        let with = match (parts.iter().find_map(|part| logic(part)), operands.get(3)) {
            (Some(logic), Some(operand)) => Some((logic, self.predicate(operand)?)),
            (None, None) => None,
            _ => return self.wrong(format!("`{}` has {} operands", self.part, operands.len())),
        };
        let (a, b) = (self.source(self.nth(operands, 1)?, *from)?, self.source(self.nth(operands, 2)?, *from)?);
        let d = self.target(&operands[0])?;
        let p = self.hidden(parts, *from, a, b, name, with)?;
        if !pair {
            return Ok(Op::Select { d, s: [Src::Imm(yes), Src::Imm(0)], p });
        }
        let (a, b) = (self.upper(a)?, self.upper(b)?);
        let q = self.hidden(parts, *from, a, b, name, with)?;
        let (low, high) = (self.register("%low", Type::B32)?, self.register("%high", Type::B32)?);
        self.emit(Op::Select { d: low, s: [Src::Imm(yes), Src::Imm(0)], p }, self.guard);
        self.emit(Op::Select { d: high, s: [Src::Imm(yes << 16), Src::Imm(0)], p: q }, self.guard);
        Ok(Op::Lanes { f: n2!(|a: u32, b: u32| a | b), d, s: [self.read(low)?, self.read(high)?, Src::Imm(0)] })
    }

    fn compare(&mut self, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        let element = self.element(parts)?;
        let Some(name) = parts.first() else { return self.unsupported() };
        let found = float::compare(name, parts, element).or_else(|| crate::integer::compare(name, element));
        let Some(f) = found else { return self.unsupported() };
        let combine = parts.iter().find_map(|part| logic(part));
        if operands.len() != if combine.is_some() { 4 } else { 3 } {
            return self.wrong(format!("`{}` has {} operands", self.part, operands.len()));
        }
        let (p, q) = match &operands[0] {
            Operand::Pair(p, q) => (self.target(p)?, self.target(q)?),
            p => (self.target(p)?, Reg::Sink),
        };
        let s = [self.source(&operands[1], element)?, self.source(&operands[2], element)?];
        let with = match combine {
            Some(logic) => Some((logic, self.predicate(&operands[3])?)),
            None => None,
        };
        if matches!(element, Type::F16x2 | Type::Bf16x2) {
            // p is of the lower halves, q of the upper ones.
            let halves = [self.upper(s[0])?, self.upper(s[1])?];
            self.emit(Op::Compare { f, p, q: Reg::Sink, s, with }, self.guard);
            return Ok(Op::Compare { f, p: q, q: Reg::Sink, s: halves, with });
        }
        Ok(Op::Compare { f, p, q, s, with })
    }
}

/// Modifiers of lane functions that are understood.
const MODIFIERS: [&str; 25] = [
    "rn", "rz", "rm", "rp", "ftz", "sat", "approx", "full", "lo", "hi", "wide", "relu", "NaN", "noftz", "wrap", "clamp", "l", "r",
    "shiftamt", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16",
];

/// Whether `.sat` is known of an instruction.
fn saturates(name: &str, element: Type) -> bool {
    match element {
        Type::S32 => matches!(name, "add" | "sub"),
        Type::F32 | Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2 => matches!(name, "add" | "sub" | "mul" | "fma" | "mad"),
        _ => false,
    }
}

fn logic(name: &str) -> Option<Logic> {
    Some(match name {
        "and" => Logic::And,
        "or" => Logic::Or,
        "xor" => Logic::Xor,
        _ => return None,
    })
}
