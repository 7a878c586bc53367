//! Operands: what a register, a number or an address means for a type.

use super::{Decoder, Symbol};
use crate::error::Result;
use crate::numeric::format::{Rounding, to_bf16, to_f16};
use crate::program::{Address, Predicate, PredicateSrc, Reg, Special, Src};
use crate::syntax::{Operand, Type};

/// The special register of a name.
fn special(name: &str) -> Option<Special> {
    let axis = |suffix: &str| match suffix {
        ".x" => Some(0),
        ".y" => Some(1),
        ".z" => Some(2),
        _ => None,
    };
    for (prefix, make) in
        [("%tid", Special::Tid as fn(usize) -> Special), ("%ntid", Special::Ntid), ("%ctaid", Special::Ctaid), ("%nctaid", Special::Nctaid)]
    {
        if let Some(axis) = name.strip_prefix(prefix).and_then(axis) {
            return Some(make(axis));
        }
    }
    Some(match name {
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::Nwarp,
        "%smid" => Special::Smid,
        "%nsmid" => Special::Nsmid,
        "%gridid" => Special::Gridid,
        "%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo" => Special::Clock,
        "%lanemask_eq" => Special::MaskEq,
        "%lanemask_lt" => Special::MaskLt,
        "%lanemask_le" => Special::MaskLe,
        "%lanemask_gt" => Special::MaskGt,
        "%lanemask_ge" => Special::MaskGe,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        _ => return None,
    })
}

impl Decoder<'_> {
    /// A register that is written.
    pub(super) fn target(&self, operand: &Operand) -> Result<Reg> {
        match operand {
            Operand::Sink => Ok(Reg::Sink),
            Operand::Name(name) => match self.find(name) {
                Some(Symbol::Register(register)) => Ok(register),
                _ => self.wrong(format!("`{name}` is not a register")),
            },
            _ => self.wrong("expected a register"),
        }
    }

    /// A value of a type.
    pub(super) fn source(&self, operand: &Operand, element: Type) -> Result<Src> {
        let narrow = |value: f64| match element {
            Type::F32 | Type::Tf32 => u64::from((value as f32).to_bits()),
            Type::F16 => u64::from(to_f16(value, Rounding::Nearest)),
            Type::Bf16 => u64::from(to_bf16(value, Rounding::Nearest)),
            _ => value.to_bits(),
        };
        Ok(match operand {
            Operand::Integer(value) if element.is_float() && element != Type::Tf32 => Src::Imm(narrow(*value as i64 as f64)),
            Operand::Integer(value) => Src::Imm(*value),
            Operand::F32(bits) if matches!(element, Type::F64 | Type::F16 | Type::Bf16) => {
                Src::Imm(narrow(f64::from(f32::from_bits(*bits))))
            }
            Operand::F32(bits) => Src::Imm(u64::from(*bits)),
            Operand::F64(bits) => Src::Imm(narrow(f64::from_bits(*bits))),
            Operand::Name(name) if name == "WARP_SZ" => Src::Imm(32),
            Operand::Name(name) => match (self.find(name), special(name)) {
                (Some(Symbol::Register(register)), _) => self.read(register)?,
                (Some(symbol), _) => Src::Imm(address_of(symbol)),
                (None, Some(special)) => Src::Special(special),
                _ if name.starts_with("%envreg") => return self.refuse(format!("{name} (barriers of a whole grid)")),
                _ if name.starts_with("%reserved_smem") => return self.refuse(format!("{name} (tiles of more than a warp)")),
                _ => return self.wrong(format!("`{name}` is not declared")),
            },
            Operand::Offset(name, offset) => match self.find(name) {
                Some(Symbol::Register(_)) | None => return self.wrong(format!("`{name}` is not a variable")),
                Some(symbol) => Src::Imm(address_of(symbol).wrapping_add_signed(*offset)),
            },
            _ => return self.wrong("expected a register or a number"),
        })
    }

    pub(super) fn read(&self, register: Reg) -> Result<Src> {
        Ok(match register {
            Reg::N(slot) => Src::N(slot),
            Reg::W(slot) => Src::W(slot),
            Reg::P(slot) => Src::P(slot),
            Reg::Sink => return self.wrong("`_` cannot be read"),
        })
    }

    /// A predicate, negated or not.
    pub(super) fn predicate(&self, operand: &Operand) -> Result<Predicate> {
        let (name, negated) = match operand {
            Operand::Name(name) => (name, false),
            Operand::Not(name) => (name, true),
            _ => return self.wrong("expected a predicate"),
        };
        match self.find(name) {
            Some(Symbol::Register(Reg::P(slot))) => Ok((slot, negated)),
            _ => self.wrong(format!("`{name}` is not a predicate")),
        }
    }

    pub(super) fn predicate_source(&self, operand: &Operand) -> Result<PredicateSrc> {
        Ok(match operand {
            Operand::Integer(value) => PredicateSrc::Constant(*value != 0),
            _ => {
                let (slot, negated) = self.predicate(operand)?;
                PredicateSrc::Register(slot, negated)
            }
        })
    }

    /// The elements of `{..}`, or the one operand itself.
    pub(super) fn elements<'o>(&self, operand: &'o Operand) -> &'o [Operand] {
        match operand {
            Operand::Vector(elements) => elements,
            single => std::slice::from_ref(single),
        }
    }

    pub(super) fn targets<const N: usize>(&self, operand: &Operand) -> Result<([Reg; N], u8)> {
        let elements = self.elements(operand);
        if elements.len() > N {
            return self.unsupported();
        }
        let mut found = [Reg::Sink; N];
        for (place, element) in found.iter_mut().zip(elements) {
            *place = self.target(element)?;
        }
        Ok((found, elements.len() as u8))
    }

    pub(super) fn sources<const N: usize>(&self, operand: &Operand, element: Type) -> Result<([Src; N], u8)> {
        let elements = self.elements(operand);
        if elements.len() > N {
            return self.unsupported();
        }
        let mut found = [Src::Imm(0); N];
        for (place, operand) in found.iter_mut().zip(elements) {
            *place = self.source(operand, element)?;
        }
        Ok((found, elements.len() as u8))
    }

    /// `[..]`, and whether it names a parameter of the entry or a place in the frame.
    pub(super) fn address(&self, operand: &Operand) -> Result<(Address, Option<Symbol>)> {
        let Operand::Address(base, offset) = operand else { return self.wrong("expected an address in brackets") };
        let (base, symbol) = match base {
            None => (Src::Imm(0), None),
            Some(name) => match self.find(name) {
                Some(Symbol::Register(register)) => (self.read(register)?, None),
                Some(symbol) => (Src::Imm(address_of(symbol)), Some(symbol)),
                None => return self.wrong(format!("`{name}` is not declared")),
            },
        };
        Ok((Address { base, offset: *offset }, symbol))
    }

    /// An operand that must be there.
    pub(super) fn nth<'o>(&self, operands: &'o [Operand], index: usize) -> Result<&'o Operand> {
        match operands.get(index) {
            Some(operand) => Ok(operand),
            None => self.wrong(format!("`{}` takes more than {index} operands", self.part)),
        }
    }

    /// Exactly `N` operands.
    pub(super) fn exactly<'o, const N: usize>(&self, operands: &'o [Operand]) -> Result<&'o [Operand; N]> {
        match operands.try_into() {
            Ok(operands) => Ok(operands),
            Err(_) => self.wrong(format!("`{}` takes {N} operands, found {}", self.part, operands.len())),
        }
    }

    /// The last part that is a type.
    pub(super) fn element(&self, parts: &[&str]) -> Result<Type> {
        match parts.iter().rev().find_map(|part| Type::parse(part)) {
            Some(element) => Ok(element),
            None => self.unsupported(),
        }
    }
}

fn address_of(symbol: Symbol) -> u64 {
    match symbol {
        Symbol::Shared(at) | Symbol::Local(at) | Symbol::Param(at) | Symbol::Frame(at) => u64::from(at),
        Symbol::Global(address) => address,
        Symbol::Register(_) => 0,
    }
}
