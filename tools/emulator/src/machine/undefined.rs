//! Instructions that read registers, or a CTA's or a thread's own memory, which nothing has written.
//!
//! Compilers and libraries let such values run through computations whose outcome does not depend on them: a byte that nobody selects, a half that is
//! cut off. So a computation is made for several values of the bits that are not known, and the bits of its result that change are not
//! known either. What uses them (an address, a stored byte, a predicate, an exchange, a matrix) is the mistake, and is reported as the
//! read that it comes from.

use super::block::{Block, Flow};
use super::warp::Partly;
use crate::error::Fault;
use crate::lanes::L64;
use crate::program::{Instr, Op, PredicateSrc, Reg, Src};

/// Values that unknown bits are tried with.
const TRIALS: u64 = 16;

/// Registers that a computation reads, and those that it writes; none for instructions that do something else.
fn registers(op: &Op) -> Option<(Vec<Src>, Vec<Reg>)> {
    Some(match op {
        Op::Lanes { d, s, .. } => (s.to_vec(), vec![*d]),
        Op::Move { d, s } | Op::Convert { d, s, .. } => (vec![*s], vec![*d]),
        Op::Pack { d, s, .. } | Op::Insert { d, s, .. } => (s.to_vec(), vec![*d]),
        Op::Unpack { d, s, .. } => (vec![*s], d.to_vec()),
        Op::ConvertPair { d, s, .. } => (s.to_vec(), vec![*d]),
        Op::Select { d, s, p } => (vec![s[0], s[1], Src::P(p.0)], vec![*d]),
        Op::Compare { p, q, s, with, .. } => {
            let with = with.map_or(Src::Imm(0), |(_, (slot, _))| Src::P(slot));
            (vec![s[0], s[1], with], vec![*p, *q])
        }
        Op::Predicates { d, s, .. } => {
            let read = |s: &PredicateSrc| match s {
                PredicateSrc::Register(slot, _) => Src::P(*slot),
                PredicateSrc::Constant(_) => Src::Imm(0),
            };
            (s.iter().map(read).collect(), vec![Reg::P(*d)])
        }
        Op::Lop3 { d, s, .. } => (s.to_vec(), vec![*d]),
        _ => return None,
    })
}

/// Kind and slot of a register.
fn source(s: &Src) -> Option<(usize, u16)> {
    match s {
        Src::N(slot) => Some((0, *slot)),
        Src::W(slot) => Some((1, *slot)),
        Src::P(slot) => Some((2, *slot)),
        _ => None,
    }
}

fn target(d: &Reg) -> Option<(usize, u16)> {
    match d {
        Reg::N(slot) => Some((0, *slot)),
        Reg::W(slot) => Some((1, *slot)),
        Reg::P(slot) => Some((2, *slot)),
        Reg::Sink => None,
    }
}

/// Bits for a trial: none, all, or any.
fn pattern(trial: u64, register: usize, lane: usize) -> u64 {
    match trial {
        0 => 0,
        1 => u64::MAX,
        _ => {
            let mut word = (trial << 32 | (register as u64) << 8 | lane as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            word = (word ^ (word >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word ^ (word >> 32)
        }
    }
}

/// A register as it was.
struct Saved {
    register: (usize, u16),
    values: L64,
    written: u32,
    undefined: L64,
}

impl Block<'_> {
    /// Executes an instruction that a read of what nothing has written has stopped; a fault if it uses what is not known.
    #[cold]
    pub(super) fn with_undefined(&mut self, warp: usize, fragment: usize, fault: Fault) -> Result<Flow, Fault> {
        let program = self.grid.program;
        let here = &self.warps[warp].fragments[fragment];
        let (mask, Some(instr)) = (here.mask, program.code.get(here.pc as usize)) else { return Err(fault) };
        let active = match instr.guard {
            None => mask,
            Some(guard) => mask & self.warps[warp].holds(guard, mask, program)?,
        };
        if let Op::Load { .. } = &instr.op {
            return self.load_partly(warp, active, &instr.op, fault);
        }
        if let Op::Store { element, s, count, .. } = &instr.op {
            return self.store_defined_bits(warp, fragment, active, instr, element.size(), &s[..usize::from(*count)], fault);
        }
        let Some((sources, targets)) = registers(&instr.op) else { return Err(fault) };
        let sources = self.save(warp, sources.iter().filter_map(source));
        let targets: Vec<(usize, u16)> = targets.iter().filter_map(target).collect();
        let before: Vec<u32> = targets.iter().map(|(kind, slot)| self.warps[warp].written[*kind][usize::from(*slot)]).collect();
        let first = sources.iter().find(|saved| (0..32).any(|lane| active >> lane & 1 == 1 && saved.undefined[lane] != 0));
        let Some(origin) = first.map(|saved| self.warps[warp].origin(saved.register.0, saved.register.1, program)) else {
            return Err(fault);
        };
        let mut results: Vec<(L64, L64)> = Vec::new();
        let mut outcome = Ok(Flow::Next);
        for trial in 0..TRIALS {
            for (index, saved) in sources.iter().enumerate() {
                let tried =
                    each!(lane, (saved.values[lane] & !saved.undefined[lane]) | (pattern(trial, index, lane) & saved.undefined[lane]));
                self.set(warp, saved.register, &tried, u32::MAX);
            }
            outcome = self.execute(warp, fragment, active, instr);
            if outcome.is_err() {
                break;
            }
            let now = targets.iter().map(|target| self.get(warp, *target));
            match trial {
                0 => results = now.map(|values| (values, [0; 32])).collect(),
                _ => results.iter_mut().zip(now).for_each(|((first, unknown), values)| {
                    unknown.iter_mut().zip(first.iter().zip(values)).for_each(|(unknown, (first, value))| *unknown |= first ^ value);
                }),
            }
        }
        for saved in &sources {
            self.set(warp, saved.register, &saved.values, saved.written);
        }
        outcome?;
        if matches!(instr.op, Op::Compare { .. }) {
            // Trials seldom meet the one value that a comparison may be about.
            let depends = |lane: usize| sources.iter().any(|saved| saved.register.0 < 2 && saved.undefined[lane] != 0);
            results.iter_mut().for_each(|(_, unknown)| (0..32).for_each(|lane| unknown[lane] |= u64::from(depends(lane))));
        }
        for ((target, written), (values, unknown)) in targets.into_iter().zip(before).zip(results) {
            self.write_partly(warp, active, target, written, &values, &unknown, &origin);
        }
        Ok(Flow::Next)
    }

    /// A plain load, lane by lane: those that find nothing know nothing.
    fn load_partly(&mut self, warp: usize, active: u32, op: &Op, fault: Fault) -> Result<Flow, Fault> {
        let Op::Load { space, element, d, count, at, ordered: false, .. } = op else { return Err(fault) };
        let unknown = |(kind, slot): (usize, u16)| self.warps[warp].written[kind][usize::from(slot)] & active != active;
        if source(&at.base).is_some_and(unknown) {
            return Err(fault);
        }
        let d = &d[..usize::from(*count)];
        for lane in (0..32).map(|lane| 1 << lane).filter(|lane| active & lane != 0) {
            match self.load(warp, lane, *space, *element, d, *at, false) {
                Err(origin @ Fault::UninitialisedMemory { space: "shared" | "local", .. }) => {
                    for target in d.iter().filter_map(target) {
                        let (written, values) = (self.warps[warp].written[target.0][usize::from(target.1)], self.get(warp, target));
                        self.write_partly(warp, lane, target, written, &values, &[u64::MAX; 32], &origin);
                    }
                }
                outcome => outcome?,
            }
        }
        Ok(Flow::Next)
    }

    fn save(&self, warp: usize, registers: impl Iterator<Item = (usize, u16)>) -> Vec<Saved> {
        let mut saved: Vec<Saved> = Vec::new();
        for register in registers {
            if saved.iter().all(|other| other.register != register) {
                let (written, undefined) =
                    (self.warps[warp].written[register.0][usize::from(register.1)], self.warps[warp].undefined(register.0, register.1));
                saved.push(Saved { register, values: self.get(warp, register), written, undefined });
            }
        }
        saved
    }

    fn get(&self, warp: usize, (kind, slot): (usize, u16)) -> L64 {
        match kind {
            0 => self.warps[warp].narrow[usize::from(slot)].map(u64::from),
            1 => self.warps[warp].wide[usize::from(slot)],
            _ => each!(lane, u64::from(self.warps[warp].predicates[usize::from(slot)] >> lane & 1)),
        }
    }

    fn set(&mut self, warp: usize, (kind, slot): (usize, u16), values: &L64, written: u32) {
        let (state, slot) = (&mut self.warps[warp], usize::from(slot));
        match kind {
            0 => state.narrow[slot] = values.map(|value| value as u32),
            1 => state.wide[slot] = *values,
            _ => state.predicates[slot] = values.iter().enumerate().fold(0, |bits, (lane, value)| bits | ((*value & 1) as u32) << lane),
        }
        state.written[kind][slot] = written;
    }

    /// Gives the active lanes of a register a result of which some bits are not known.
    #[expect(clippy::too_many_arguments, reason = "fields of one result")]
    fn write_partly(&mut self, warp: usize, active: u32, target: (usize, u16), written: u32, values: &L64, unknown: &L64, origin: &Fault) {
        let mut bits = self.warps[warp].undefined(target.0, target.1);
        let mut all = self.get(warp, target);
        let mut defined = 0u32;
        for lane in (0..32).filter(|lane| active >> lane & 1 == 1) {
            (bits[lane], all[lane]) = (unknown[lane], values[lane]);
            defined |= u32::from(unknown[lane] == 0) << lane;
        }
        self.set(warp, target, &all, (written & !active) | defined);
        self.warps[warp].partly.insert(target, Partly { bits, origin: origin.clone() });
    }

    /// A store that is narrower than its registers and whose bits are all known.
    #[expect(clippy::too_many_arguments, reason = "fields of one instruction")]
    fn store_defined_bits(
        &mut self,
        warp: usize,
        fragment: usize,
        active: u32,
        instr: &Instr,
        size: usize,
        s: &[Src],
        fault: Fault,
    ) -> Result<Flow, Fault> {
        let sources = self.save(warp, s.iter().filter_map(source));
        let stored = if size < 8 { (1u64 << (8 * size)) - 1 } else { u64::MAX };
        let unknown = |saved: &Saved| (0..32).any(|lane| active >> lane & 1 == 1 && saved.undefined[lane] & stored != 0);
        let missing = |saved: &Saved| active & !saved.written != 0;
        if sources.iter().any(unknown) || !sources.iter().any(missing) {
            return Err(fault);
        }
        for saved in &sources {
            self.set(warp, saved.register, &saved.values, u32::MAX);
        }
        let outcome = self.execute(warp, fragment, active, instr);
        for saved in &sources {
            self.set(warp, saved.register, &saved.values, saved.written);
        }
        outcome
    }
}
