//! Loads, stores, atomics, asynchronous copies and address conversions.

use super::{Decoder, Symbol};
use crate::error::Result;
use crate::program::{Atomic, Op, Order, Src, Where};
use crate::syntax::{Operand, Type};

/// Generic addresses of shared memory start here.
pub(crate) const SHARED_WINDOW: u64 = 0x0100_0000_0000;
/// Generic addresses of local memory start here.
pub(crate) const LOCAL_WINDOW: u64 = 0x0200_0000_0000;

/// The state space that an instruction names.
pub(super) fn space(parts: &[&str]) -> Where {
    parts
        .iter()
        .find_map(|part| {
            Some(match part.split("::").next().unwrap_or_default() {
                "global" | "const" => Where::Global,
                "shared" => Where::Shared,
                "local" => Where::Local,
                "param" => Where::Param,
                _ => return None,
            })
        })
        .unwrap_or(Where::Generic)
}

impl Decoder<'_> {
    pub(super) fn memory(&mut self, name: &str, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        let has = |part: &str| parts.contains(&part);
        match name {
            "ld" | "ldu" => {
                let element = self.element(parts)?;
                let [d, at] = self.exactly(operands)?;
                let (d, count) = self.targets(d)?;
                let (at, symbol) = self.address(at)?;
                let space = self.placed(space(parts), symbol);
                let ordered = has("acquire") || has("volatile") || has("relaxed");
                self.atomics |= ordered && matches!(space, Where::Global | Where::Generic);
                Ok(Op::Load { space, element, d, count, at, ordered, order: self.order(parts, space) })
            }
            "st" => {
                let element = self.element(parts)?;
                let [at, s] = self.exactly(operands)?;
                let (s, count) = self.sources(s, element)?;
                let (at, symbol) = self.address(at)?;
                let space = self.placed(space(parts), symbol);
                let ordered = has("release") || has("volatile") || has("relaxed");
                Ok(Op::Store { space, element, s, count, at, ordered, order: self.order(parts, space) })
            }
            "atom" | "red" => self.atomic(name == "red", parts, operands),
            "cp" => self.copy(parts, operands),
            "cvta" => {
                let [d, s] = self.exactly(operands)?;
                let (d, s) = (self.target(d)?, self.source(s, Type::U64)?);
                let zero = Src::Imm(0);
                let f = match (space(parts), has("to")) {
                    (Where::Global | Where::Param, _) => return Ok(Op::Move { d, s }),
                    (Where::Shared, false) => w1!(|a: u64| a.wrapping_add(SHARED_WINDOW)),
                    (Where::Shared, true) => w1!(|a: u64| a.wrapping_sub(SHARED_WINDOW)),
                    (Where::Local, false) => w1!(|a: u64| a.wrapping_add(LOCAL_WINDOW)),
                    (Where::Local, true) => w1!(|a: u64| a.wrapping_sub(LOCAL_WINDOW)),
                    _ => return self.unsupported(),
                };
                Ok(Op::Lanes { f, d, s: [s, zero, zero] })
            }
            "isspacep" => {
                let [p, s] = self.exactly(operands)?;
                let s = self.source(s, Type::U64)?;
                let f = match space(parts) {
                    Where::Shared => c64!(|a: u64, _b: u64| (SHARED_WINDOW..LOCAL_WINDOW).contains(&a)),
                    Where::Local => c64!(|a: u64, _b: u64| a >= LOCAL_WINDOW),
                    Where::Global => c64!(|a: u64, _b: u64| a < SHARED_WINDOW),
                    _ => return self.unsupported(),
                };
                Ok(Op::Compare { f, p: self.target(p)?, q: crate::program::Reg::Sink, s: [s, s], with: None })
            }
            _ => Ok(Op::Nop),
        }
    }

    /// `.param` means the entry's parameters, a frame, or, by a register, an address of neither.
    fn placed(&self, space: Where, symbol: Option<Symbol>) -> Where {
        match (space, symbol) {
            (Where::Param, Some(Symbol::Frame(_))) => Where::Frame,
            (Where::Param, _) if !self.in_entry => Where::Frame,
            _ => space,
        }
    }

    fn atomic(&mut self, is_reduction: bool, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        let element = self.element(parts)?;
        let kind = parts.iter().find_map(|part| {
            Some(match *part {
                "add" => Atomic::Add,
                "min" => Atomic::Min,
                "max" => Atomic::Max,
                "and" => Atomic::And,
                "or" => Atomic::Or,
                "xor" => Atomic::Xor,
                "exch" => Atomic::Exchange,
                "cas" => Atomic::Compare,
                "inc" => Atomic::Increment,
                "dec" => Atomic::Decrement,
                _ => return None,
            })
        });
        let Some(kind) = kind else { return self.unsupported() };
        let (d, rest) =
            if is_reduction { (crate::program::Reg::Sink, operands) } else { (self.target(self.nth(operands, 0)?)?, &operands[1..]) };
        let expected = if kind == Atomic::Compare { 3 } else { 2 };
        if rest.len() != expected || matches!(rest[1], Operand::Vector(_)) {
            return self.unsupported();
        }
        let float = element.is_float() || matches!(element, Type::F16x2 | Type::Bf16x2);
        let brain = matches!(element, Type::Bf16 | Type::Bf16x2);
        if !matches!(element.size(), 2 | 4 | 8) || (float && (kind != Atomic::Add || brain)) {
            return self.unsupported();
        }
        let (at, _) = self.address(&rest[0])?;
        let mut s = [Src::Imm(0); 2];
        for (place, operand) in s.iter_mut().zip(&rest[1..]) {
            *place = self.source(operand, element)?;
        }
        let space = space(parts);
        self.atomics |= space != Where::Shared;
        Ok(Op::Atomic { space, kind, element, d, at, s, order: self.order(parts, space) })
    }

    fn order(&mut self, parts: &[&str], space: Where) -> Order {
        let order = match parts.iter().find(|part| matches!(**part, "relaxed" | "acquire" | "release" | "acq_rel")) {
            None => Order::Weak,
            Some(&"relaxed") => Order::Relaxed,
            Some(_) => Order::Synchronising,
        };
        self.mbarriers |= order != Order::Weak && matches!(space, Where::Shared | Where::Generic);
        order
    }

    fn copy(&mut self, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        let has = |part: &str| parts.contains(&part);
        if !has("async") || has("bulk") {
            return self.unsupported();
        }
        if has("mbarrier") {
            return self.mbarrier_after_copies(parts, operands);
        }
        self.needs(80, 70)?;
        if has("commit_group") {
            return Ok(Op::Commit);
        }
        if has("wait_all") {
            return Ok(Op::WaitGroups(u32::MAX));
        }
        if has("wait_group") {
            return match operands {
                [Operand::Integer(count)] => Ok(Op::WaitGroups((*count).min(1 << 20) as u32)),
                _ => self.wrong("cp.async.wait_group takes one number"),
            };
        }
        let (Some(to), Some(from), Some(Operand::Integer(bytes))) = (operands.first(), operands.get(1), operands.get(2)) else {
            return self.wrong("cp.async takes two addresses and a number of bytes");
        };
        let fits = if has("cg") { *bytes == 16 } else { matches!(bytes, 4 | 8 | 16) };
        if !fits {
            return self.wrong(format!("cp.async cannot copy {bytes} bytes"));
        }
        let valid = match operands.get(3) {
            Some(operand) => Some(self.source(operand, Type::U32)?),
            None => None,
        };
        Ok(Op::CopyAsync { to: self.address(to)?.0, from: self.address(from)?.0, bytes: *bytes as u8, valid })
    }
}
