//! `wmma`: whole matrices to and from memory, and their products.

use super::Decoder;
use crate::error::Result;
use crate::numeric::tile::{Part, Tile};
use crate::program::{Op, Src, Where, Wmma, WmmaProduct};
use crate::syntax::{Operand, Type};

/// m, n and k of a shape's name.
fn shape(name: &str) -> Option<[usize; 3]> {
    Some(match name {
        "m16n16k16" => [16, 16, 16],
        "m32n8k16" => [32, 8, 16],
        "m8n32k16" => [8, 32, 16],
        "m16n16k8" => [16, 16, 8],
        "m8n8k4" => [8, 8, 4],
        _ => return None,
    })
}

/// Whether a fragment may have elements of a type.
fn fits(part: Part, shape: [usize; 3], element: Type) -> bool {
    let of_sums = part == Part::Sum;
    match shape {
        [16, 16, 8] => element == if of_sums { Type::F32 } else { Type::Tf32 },
        [8, 8, 4] => element == Type::F64,
        _ if of_sums => matches!(element, Type::F16 | Type::F32 | Type::S32),
        _ => matches!(element, Type::F16 | Type::Bf16 | Type::S8 | Type::U8),
    }
}

/// Whether sums of products of a type may have another one.
fn sums(element: Type, sum: Type) -> bool {
    match element {
        Type::F16 => matches!(sum, Type::F16 | Type::F32),
        Type::Bf16 | Type::Tf32 => sum == Type::F32,
        Type::F64 => sum == Type::F64,
        _ => sum == Type::S32,
    }
}

impl Decoder<'_> {
    pub(super) fn wmma(&mut self, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        let has = |part: &str| parts.contains(&part);
        let Some(shape) = parts.iter().find_map(|part| shape(part)) else { return self.unsupported() };
        let known = ["load", "store", "mma", "a", "b", "c", "d", "sync", "aligned", "row", "col", "global", "shared", "shared::cta"];
        let understood = |part: &str| known.contains(&part) || self::shape(part).is_some() || Type::parse(part).is_some();
        if parts.iter().any(|part| !understood(part) && !matches!(*part, "satfinite" | "rn")) {
            return self.unsupported();
        }
        let types: Vec<Type> = parts.iter().filter_map(|part| Type::parse(part)).collect();
        let rows = match parts.iter().find(|part| matches!(**part, "row" | "col")) {
            Some(layout) => *layout == "row",
            None => return self.unsupported(),
        };
        let space = if has("global") {
            Where::Global
        } else if has("shared") || has("shared::cta") {
            Where::Shared
        } else {
            Where::Generic
        };
        if has("mma") {
            return self.wmma_product(parts, shape, &types, operands);
        }
        let part = match (has("a"), has("b")) {
            (true, _) => Part::A,
            (_, true) => Part::B,
            _ => Part::Sum,
        };
        let [element] = types[..] else { return self.unsupported() };
        if !fits(part, shape, element) {
            return self.unsupported();
        }
        if matches!(element, Type::Bf16 | Type::Tf32 | Type::F64) {
            self.needs(80, 70)?;
        }
        let tile = Tile { part, shape, element };
        let stride = match operands.get(2) {
            Some(operand) => self.source(operand, Type::U32)?,
            // Packed matrices.
            None => Src::Imm(tile.sizes()[usize::from(rows)] as u64),
        };
        let (first, second) = (self.nth(operands, 0)?, self.nth(operands, 1)?);
        let (wmma, count) = if has("load") {
            let ((d, count), (at, _)) = (self.targets(first)?, self.address(second)?);
            (Wmma::Load { tile, rows, d, at, stride, space }, count)
        } else {
            let ((at, _), (s, count)) = (self.address(first)?, self.sources(second, element)?);
            (Wmma::Store { tile, rows, s, at, stride, space }, count)
        };
        self.counted(tile, count)?;
        Ok(Op::Wmma(Box::new(wmma)))
    }

    fn counted(&self, tile: Tile, count: u8) -> Result<()> {
        match tile.registers() {
            expected if expected == usize::from(count) => Ok(()),
            expected => self.wrong(format!("`{}` takes a fragment of {expected} registers, found {count}", self.part)),
        }
    }

    fn wmma_product(&mut self, parts: &[&str], shape: [usize; 3], types: &[Type], operands: &[Operand]) -> Result<Op> {
        // f16 inputs name only the types of d and c.
        let (to, left, right, from) = match *types {
            [to, from] => (to, Type::F16, Type::F16, from),
            [to, left, right, from] => (to, left, right, from),
            _ => return self.unsupported(),
        };
        let saturate = parts.contains(&"satfinite");
        let bytes = matches!(left, Type::S8 | Type::U8) && matches!(right, Type::S8 | Type::U8);
        let agree = (left == right || bytes) && sums(left, to) && sums(left, from);
        let apart = fits(Part::A, shape, left) && fits(Part::Sum, shape, to);
        if !agree || !apart || (saturate && !bytes) || (parts.contains(&"rn") && left != Type::F64) {
            return self.unsupported();
        }
        if matches!(left, Type::Bf16 | Type::Tf32 | Type::F64) {
            self.needs(80, 70)?;
        }
        let tile = |part, element| Tile { part, shape, element };
        let tiles = [tile(Part::A, left), tile(Part::B, right), tile(Part::Sum, from), tile(Part::Sum, to)];
        let [d, a, b, c] = self.exactly(operands)?;
        let (d, of_d) = self.targets(d)?;
        let (a, of_a) = self.sources(a, left)?;
        let (b, of_b) = self.sources(b, right)?;
        let (c, of_c) = self.sources(c, from)?;
        for (tile, count) in tiles.iter().zip([of_a, of_b, of_c, of_d]) {
            self.counted(*tile, count)?;
        }
        Ok(Op::Wmma(Box::new(Wmma::Multiply(Box::new(WmmaProduct { tiles, saturate, d, a, b, c })))))
    }
}
