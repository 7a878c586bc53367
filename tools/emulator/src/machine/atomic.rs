//! Atomics.

use std::cell::Cell;

use super::access::resolve;
use super::block::Block;
use super::execute::lanes_of;
use crate::error::Fault;
use crate::numeric::format::{Rounding, canonical, f16_to_f32, to_f16};
use crate::program::{Address, Atomic, Reg, Src, Where};
use crate::syntax::Type;

impl Block<'_> {
    #[expect(clippy::too_many_arguments, reason = "fields of one instruction")]
    pub(super) fn atomic(
        &mut self,
        warp: usize,
        active: u32,
        space: Where,
        kind: Atomic,
        element: Type,
        d: Reg,
        at: Address,
        s: &[Src; 2],
    ) -> Result<(), Fault> {
        let addresses = self.addresses(warp, active, at)?;
        let (b, c) = (self.wide(warp, active, s[0])?, self.wide(warp, active, s[1])?);
        let size = element.size() as u32;
        let (mut before, changed) = ([0u64; 32], Cell::new(false));
        for lane in lanes_of(active) {
            let (space, address) = resolve(space, addresses[lane]);
            let update = |old: u64| {
                let new = updated(kind, element, old, b[lane], c[lane]);
                changed.set(changed.get() | (new != old));
                new
            };
            before[lane] = match space {
                Where::Shared => {
                    self.shared.check(address, size)?;
                    let who = Block::accessor(&self.warps[warp], self.generation, lane as u8);
                    self.shared.update(address, size, update, &who, lane as u8, self.grid.config.checks)?
                }
                Where::Global | Where::Generic => self.allocation(address, size)?.update(address, size as usize, update)?,
                _ => return Err(Fault::Illegal { reason: "an atomic on memory that no other thread sees".into() }),
            };
        }
        if space == Where::Global {
            self.count_global(&addresses, active, size);
        }
        if changed.get() {
            self.events += 1;
        } else {
            self.ask(warp);
        }
        self.ordered |= space != Where::Shared;
        self.warps[warp].put_wide(d, active, &before);
        Ok(())
    }
}

/// What an atomic leaves in memory.
fn updated(kind: Atomic, element: Type, old: u64, b: u64, c: u64) -> u64 {
    let bits = 8 * element.size() as u32;
    let low = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let signed = |value: u64| ((value << (64 - bits)) as i64) >> (64 - bits);
    match (kind, element) {
        (Atomic::Add, Type::F32) => u64::from(canonical(f32::from_bits(old as u32) + f32::from_bits(b as u32))),
        (Atomic::Add, Type::F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (Atomic::Add, Type::F16x2 | Type::F16) => {
            let add = |shift: u32| {
                let half = |bits: u64| f64::from(f16_to_f32((bits >> shift) as u32 & 0xffff));
                u64::from(to_f16(half(old) + half(b), Rounding::Nearest)) << shift
            };
            if element == Type::F16 { add(0) } else { add(0) | add(16) }
        }
        (Atomic::Add, _) => old.wrapping_add(b) & low,
        (Atomic::Min, _) if element.is_signed() => signed(old).min(signed(b)) as u64 & low,
        (Atomic::Max, _) if element.is_signed() => signed(old).max(signed(b)) as u64 & low,
        (Atomic::Min, _) => old.min(b & low),
        (Atomic::Max, _) => old.max(b & low),
        (Atomic::And, _) => old & b,
        (Atomic::Or, _) => old | (b & low),
        (Atomic::Xor, _) => old ^ (b & low),
        (Atomic::Exchange, _) => b & low,
        (Atomic::Compare, _) => {
            if old == b & low {
                c & low
            } else {
                old
            }
        }
        (Atomic::Increment, _) => {
            if old >= b & low {
                0
            } else {
                old + 1
            }
        }
        (Atomic::Decrement, _) => {
            if old == 0 || old > b & low {
                b & low
            } else {
                old - 1
            }
        }
    }
}
