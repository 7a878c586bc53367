//! `ldmatrix`, `movmatrix`, `mma`, `wmma`.

use super::Decoder;
use crate::error::Result;
use crate::numeric::exact::Integers;
use crate::numeric::matrix::Shape;
use crate::program::{MmaIntegers, Op};
use crate::syntax::{Operand, Type};

impl Decoder<'_> {
    pub(super) fn matrix(&mut self, name: &str, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        let has = |part: &str| parts.contains(&part);
        match name {
            "ldmatrix" => {
                self.needs(75, 65)?;
                let [d, at] = self.exactly(operands)?;
                let (d, count) = self.targets(d)?;
                let stated = if has("x4") {
                    4
                } else if has("x2") {
                    2
                } else {
                    1
                };
                if !has("m8n8") || count != stated {
                    return self.unsupported();
                }
                Ok(Op::LoadMatrix { d, count, transposed: has("trans"), at: self.address(at)?.0 })
            }
            "movmatrix" => {
                self.needs(75, 78)?;
                let [d, s] = self.exactly(operands)?;
                Ok(Op::MoveMatrix { d: self.target(d)?, s: self.source(s, Type::B32)? })
            }
            "mma" => self.mma(parts, operands),
            _ => self.wmma(parts, operands),
        }
    }

    fn mma(&mut self, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        self.needs(80, 70)?;
        let types: Vec<Type> = parts.iter().filter_map(|part| Type::parse(part)).collect();
        let [to, element, right, sum] = types[..] else { return self.unsupported() };
        if to == Type::S32 {
            return self.mma_integers(parts, [to, element, right, sum], operands);
        }
        if parts.contains(&"m8n8k4") && types.iter().all(|element| *element == Type::F64) {
            let [d, a, b, c] = self.exactly(operands)?;
            let ((d, in_d), (a, in_a)) = (self.targets(d)?, self.sources::<1>(a, Type::F64)?);
            let ((b, in_b), (c, in_c)) = (self.sources::<1>(b, Type::F64)?, self.sources(c, Type::F64)?);
            if [in_d, in_a, in_b, in_c] != [2, 1, 1, 2] {
                return self.wrong(format!("`{}` takes 1, 1 and 2 registers", self.part));
            }
            return Ok(Op::MmaDoubles { d, a: a[0], b: b[0], c });
        }
        let depth = match parts.iter().find(|part| part.starts_with("m16n8")) {
            Some(&"m16n8k16") => 16,
            Some(&"m16n8k8") => 8,
            _ => return self.unsupported(),
        };
        let known = match element {
            Type::Bf16 => to == Type::F32,
            Type::F16 => matches!(to, Type::F32 | Type::F16),
            Type::Tf32 => to == Type::F32 && depth == 8,
            _ => false,
        };
        if !known || right != element || sum != to || parts.contains(&"sp") {
            return self.unsupported();
        }
        let shape = Shape { element, depth, half: to == Type::F16 };
        let [d, a, b, c] = self.exactly(operands)?;
        let ((d, in_d), (a, in_a)) = (self.targets(d)?, self.sources(a, Type::B32)?);
        let ((b, in_b), (c, in_c)) = (self.sources(b, Type::B32)?, self.sources(c, Type::F32)?);
        let [of_a, of_b, of_c] = shape.registers();
        if [in_d, in_a, in_b, in_c].map(usize::from) != [of_c, of_a, of_b, of_c] {
            return self.wrong(format!("`{}` takes {of_a}, {of_b} and {of_c} registers", self.part));
        }
        Ok(Op::Mma { shape, d, a, b, c })
    }

    fn mma_integers(&mut self, parts: &[&str], types: [Type; 4], operands: &[Operand]) -> Result<Op> {
        let has = |part: &str| parts.contains(&part);
        let depth = match (has("m16n8k16"), has("m16n8k32")) {
            (true, _) => 16,
            (_, true) => 32,
            _ => return self.unsupported(),
        };
        let [_, left, right, sum] = types;
        let bytes = [left, right].iter().all(|element| matches!(element, Type::S8 | Type::U8));
        if !bytes || sum != Type::S32 || has("sp") || !has("row") || !has("col") {
            return self.unsupported();
        }
        let [d, a, b, c] = self.exactly(operands)?;
        let ((d, in_d), (a, in_a)) = (self.targets(d)?, self.sources(a, Type::B32)?);
        let ((b, in_b), (c, in_c)) = (self.sources(b, Type::B32)?, self.sources(c, Type::S32)?);
        let of_a = depth as u8 / 8;
        if [in_d, in_a, in_b, in_c] != [4, of_a, of_a / 2, 4] {
            return self.wrong(format!("`{}` takes {of_a}, {} and 4 registers", self.part, of_a / 2));
        }
        let shape = Integers { depth, signed: [left.is_signed(), right.is_signed()], saturate: has("satfinite") };
        Ok(Op::MmaIntegers(Box::new(MmaIntegers { shape, d, a, b, c })))
    }
}
