//! One instruction of one fragment.

use super::block::{Block, Flow};
use super::warp::Fragment;
use crate::error::Fault;
use crate::integer::{insert32, insert64};
use crate::lanes::{L32, L64, Lanes, blend};
use crate::numeric::matrix;
use crate::program::{Carry, Instr, Logic, Op, Order, Reg, Src};

/// Reads operands of a warp: `narrow!(block, warp, mask, source => name)`.
macro_rules! operand {
    ($kind:ident, $block:expr, $warp:expr, $mask:expr, $source:expr, $buffer:expr) => {{
        let warp = &$block.warps[$warp];
        let special = |s| $block.special(warp.index, s);
        warp.$kind($source, $mask, $block.grid.program, &mut $buffer, &special)?
    }};
}

impl Block<'_> {
    pub(super) fn narrow(&self, warp: usize, mask: u32, s: Src) -> Result<L32, Fault> {
        let mut buffer = None;
        Ok(*operand!(narrow, self, warp, mask, s, buffer))
    }

    pub(super) fn wide(&self, warp: usize, mask: u32, s: Src) -> Result<L64, Fault> {
        let mut buffer = None;
        Ok(*operand!(wide, self, warp, mask, s, buffer))
    }

    /// Executes the instruction at a fragment's place.
    pub(super) fn step(&mut self, warp: usize, fragment: usize) -> Result<Flow, Fault> {
        let program = self.grid.program;
        let Fragment { pc, mask, .. } = self.warps[warp].fragments[fragment];
        let Some(instr) = program.code.get(pc as usize) else {
            return Err(Fault::Illegal { reason: "control runs past the end of the code".into() });
        };
        let active = match instr.guard {
            None => mask,
            Some(guard) => mask & self.warps[warp].holds(guard, mask, program)?,
        };
        self.counters.instructions[instr.class as usize] += 1;
        if let Op::Branch { target } = instr.op {
            return Ok(self.branch(warp, fragment, active, target));
        }
        if active == 0 {
            return Ok(Flow::Next);
        }
        self.execute(warp, fragment, active, instr)
    }

    fn branch(&mut self, warp: usize, fragment: usize, taken: u32, target: u32) -> Flow {
        let fragments = &mut self.warps[warp].fragments;
        let here = &mut fragments[fragment];
        if taken == 0 {
            return Flow::Next;
        }
        if taken == here.mask {
            here.pc = target;
            return Flow::Moved;
        }
        self.counters.divergent_branches += 1;
        here.mask &= !taken;
        let stack = here.stack.clone();
        fragments.push(Fragment::new(target, taken, stack));
        Flow::Next
    }

    /// `brx.idx`: lanes of one index go on together.
    #[cold]
    fn branch_by_table(&mut self, warp: usize, fragment: usize, active: u32, index: Src, targets: &[u32]) -> Result<Flow, Fault> {
        let indices = self.narrow(warp, active, index)?;
        let own = self.part(warp, fragment, active);
        let mut rest = active;
        while rest != 0 {
            let choice = indices[rest.trailing_zeros() as usize];
            let Some(&target) = targets.get(choice as usize) else {
                return Err(Fault::Illegal { reason: format!("brx.idx by index {choice} in a list of {} targets", targets.len()) });
            };
            let same = lanes_of(rest).filter(|lane| indices[*lane] == choice).fold(0, |mask, lane| mask | 1 << lane);
            rest &= !same;
            let fragments = &mut self.warps[warp].fragments;
            if rest == 0 {
                (fragments[own].mask, fragments[own].pc) = (same, target);
            } else {
                self.counters.divergent_branches += 1;
                let mut others = fragments[own].clone();
                (others.mask, others.pc) = (same, target);
                fragments.push(others);
            }
        }
        Ok(Flow::Moved)
    }

    /// The clock moves on by what the lanes sleep.
    #[cold]
    fn sleep(&mut self, warp: usize, active: u32, time: Src) -> Result<(), Fault> {
        let times = self.narrow(warp, active, time)?;
        self.slept += lanes_of(active).map(|lane| u64::from(times[lane])).max().unwrap_or(0);
        Ok(())
    }

    pub(super) fn execute(&mut self, warp: usize, fragment: usize, active: u32, instr: &Instr) -> Result<Flow, Fault> {
        match &instr.op {
            Op::Nop => {}
            Op::Lanes { f, d, s } => self.lanes(warp, active, *f, *d, s)?,
            Op::Move { d, s } => match d {
                Reg::W(_) => {
                    let values = self.wide(warp, active, *s)?;
                    self.warps[warp].put_wide(*d, active, &values);
                }
                _ => {
                    let values = self.narrow(warp, active, *s)?;
                    self.warps[warp].put_narrow(*d, active, &values);
                }
            },
            Op::Pack { d, s, count, bits } => {
                let mut packed = [0u64; 32];
                for (place, s) in s.iter().enumerate().take(usize::from(*count)) {
                    let part = self.wide(warp, active, *s)?;
                    let low = (1u64 << bits) - 1;
                    for (packed, part) in packed.iter_mut().zip(part) {
                        *packed |= (part & low) << (usize::from(*bits) * place);
                    }
                }
                self.warps[warp].put_wide(*d, active, &packed);
            }
            Op::Unpack { d, s, count: 2, bits: 16 } => {
                let whole = self.narrow(warp, active, *s)?;
                self.warps[warp].put_narrow(d[0], active, &each!(lane, whole[lane] & 0xffff));
                self.warps[warp].put_narrow(d[1], active, &each!(lane, whole[lane] >> 16));
            }
            Op::Unpack { d, s, count, bits } => {
                let whole = self.wide(warp, active, *s)?;
                for (place, d) in d.iter().enumerate().take(usize::from(*count)) {
                    let part = whole.map(|value| (value >> (usize::from(*bits) * place)) & ((1u64 << bits) - 1));
                    self.warps[warp].put_wide(*d, active, &part);
                }
            }
            Op::Convert { c, d, s } => {
                let values = self.wide(warp, active, *s)?;
                let mut results = [0; 32];
                for lane in lanes_of(active) {
                    results[lane] = c.apply(values[lane]);
                    // A register wider than the result takes its sign along.
                    if c.to.is_signed() && c.to.size() < 8 {
                        let shift = 64 - 8 * c.to.size();
                        results[lane] = (((results[lane] << shift) as i64) >> shift) as u64;
                        if c.to.size() == 2 && !matches!(d, Reg::W(_)) {
                            results[lane] &= 0xffff;
                        }
                    }
                }
                self.warps[warp].put_wide(*d, active, &results);
            }
            Op::ConvertPair { c, d, s } => {
                let (high, low) = (self.narrow(warp, active, s[0])?, self.narrow(warp, active, s[1])?);
                let mut results = [0; 32];
                for lane in lanes_of(active) {
                    results[lane] = ((c.apply(u64::from(high[lane])) as u32) << 16) | c.apply(u64::from(low[lane])) as u32;
                }
                self.warps[warp].put_narrow(*d, active, &results);
            }
            Op::Compare { f, p, q, s, with } => {
                let mut bits = match f {
                    Lanes::C32(f) => {
                        let (mut a, mut b) = (None, None);
                        f(operand!(narrow, self, warp, active, s[0], a), operand!(narrow, self, warp, active, s[1], b))
                    }
                    Lanes::C64(f) => {
                        let (mut a, mut b) = (None, None);
                        f(operand!(wide, self, warp, active, s[0], a), operand!(wide, self, warp, active, s[1], b))
                    }
                    _ => 0,
                };
                let mut opposite = !bits;
                if let Some((logic, other)) = with {
                    let other = self.warps[warp].holds(*other, active, self.grid.program)?;
                    (bits, opposite) = (combine(*logic, bits, other), combine(*logic, opposite, other));
                }
                self.warps[warp].put_predicate(*p, active, bits);
                self.warps[warp].put_predicate(*q, active, opposite);
            }
            Op::Select { d, s, p } => {
                let bits = self.warps[warp].holds(*p, active, self.grid.program)?;
                // Only the chosen side is read.
                if let Reg::N(_) = d {
                    let (mut a, mut b) = (None, None);
                    let a = operand!(narrow, self, warp, active & bits, s[0], a);
                    let chosen = blend(bits, a, operand!(narrow, self, warp, active & !bits, s[1], b));
                    self.warps[warp].put_narrow(*d, active, &chosen);
                    return Ok(Flow::Next);
                }
                let (a, b) = (self.wide(warp, active & bits, s[0])?, self.wide(warp, active & !bits, s[1])?);
                self.warps[warp].put_wide(*d, active, &blend(bits, &a, &b));
            }
            Op::Predicates { logic, d, s, negate } => {
                let a = self.warps[warp].predicate(s[0], active, self.grid.program)?;
                let bits = match logic {
                    None => a,
                    Some(logic) => combine(*logic, a, self.warps[warp].predicate(s[1], active, self.grid.program)?),
                };
                self.warps[warp].put_predicate(Reg::P(*d), active, if *negate { !bits } else { bits });
            }
            Op::Lop3 { d, s, table } => {
                let [a, b, c] = [self.narrow(warp, active, s[0])?, self.narrow(warp, active, s[1])?, self.narrow(warp, active, s[2])?];
                let result = std::array::from_fn(|lane| {
                    (0..8).filter(|row| table >> row & 1 == 1).fold(0, |result, row| {
                        let pick = |value: u32, bit: u32| if row >> bit & 1 == 1 { value } else { !value };
                        result | (pick(a[lane], 2) & pick(b[lane], 1) & pick(c[lane], 0))
                    })
                });
                self.warps[warp].put_narrow(*d, active, &result);
            }
            Op::Insert { d, s, wide } => {
                let (at, length) = (self.narrow(warp, active, s[2])?, self.narrow(warp, active, s[3])?);
                let (a, b) = (self.wide(warp, active, s[0])?, self.wide(warp, active, s[1])?);
                let result = std::array::from_fn(|lane| match wide {
                    true => insert64(a[lane], b[lane], at[lane], length[lane]),
                    false => u64::from(insert32(a[lane] as u32, b[lane] as u32, at[lane], length[lane])),
                });
                self.warps[warp].put_wide(*d, active, &result);
            }
            Op::Carry { kind, d, s } => self.carry(warp, active, *kind, *d, s)?,
            Op::Mma { shape, d, a, b, c } => {
                if !self.together(warp, fragment, active, u32::MAX)? {
                    return Ok(Flow::Wait);
                }
                let mut buffers = [const { None }; 10];
                let mut registers = [&[0; 32]; 10];
                for ((values, s), buffer) in registers.iter_mut().zip(a.iter().chain(b).chain(c)).zip(&mut buffers) {
                    *values = operand!(narrow, self, warp, active, *s, *buffer);
                }
                let [a0, a1, a2, a3, b0, b1, c @ ..] = registers;
                let results = matrix::multiply(*shape, self.grid.config.numerics.mma, [a0, a1, a2, a3], [b0, b1], c);
                for (d, values) in d.iter().zip(&results) {
                    self.warps[warp].put_narrow(*d, active, values);
                }
            }
            Op::Load { space, at, order: order @ (Order::Relaxed | Order::Synchronising), .. }
            | Op::Store { space, at, order: order @ (Order::Relaxed | Order::Synchronising), .. } => {
                self.strong(warp, active, *space, *at, *order, &instr.op)?;
            }
            Op::Load { space, element, d, count, at, ordered, .. } => {
                self.load(warp, active, *space, *element, &d[..usize::from(*count)], *at, *ordered)?;
            }
            Op::Store { space, element, s, count, at, ordered, .. } => {
                self.store(warp, active, *space, *element, &s[..usize::from(*count)], *at, *ordered)?;
            }
            Op::Atomic { space, kind, element, d, at, s, order } => {
                if self.grid.program.has_mbarriers {
                    self.synchronise(warp, active, *space, *at, *order, true)?;
                }
                self.atomic(warp, active, *space, *kind, *element, *d, *at, s)?;
            }
            Op::CopyAsync { .. } | Op::Commit | Op::WaitGroups(_) => self.asynchronous(warp, active, instr)?,
            Op::MmaIntegers(_)
            | Op::MmaDoubles { .. }
            | Op::LoadMatrix { .. }
            | Op::MoveMatrix { .. }
            | Op::Wmma(_)
            | Op::Shuffle { .. }
            | Op::Vote { .. }
            | Op::Match { .. }
            | Op::Reduce { .. }
            | Op::ActiveMask { .. }
            | Op::Barrier { .. }
            | Op::WarpBarrier { .. } => return self.exchange(warp, fragment, active, instr),
            Op::Mbarrier(operation) => return self.mbarrier(warp, fragment, active, operation),
            Op::System(system) => self.system(warp, active, system)?,
            Op::Sleep(time) => {
                self.sleep(warp, active, *time)?;
                return Ok(Flow::Pause);
            }
            Op::Fence => {
                self.ordered = true;
                self.warps[warp].fenced |= active;
            }
            Op::Branch { .. } => {}
            Op::BranchTable { index, targets } => return self.branch_by_table(warp, fragment, active, *index, targets),
            Op::Call { target } => {
                let pc = self.warps[warp].fragments[fragment].pc;
                let here = self.part(warp, fragment, active);
                let fragment = &mut self.warps[warp].fragments[here];
                if fragment.stack.len() > 64 {
                    return Err(Fault::Illegal { reason: "calls nest deeper than 64".into() });
                }
                fragment.stack.push(pc + 1);
                fragment.pc = *target;
                return Ok(Flow::Moved);
            }
            Op::Return => {
                if self.warps[warp].fragments[fragment].stack.is_empty() {
                    return self.leave(warp, fragment, active);
                }
                let here = self.part(warp, fragment, active);
                let fragment = &mut self.warps[warp].fragments[here];
                fragment.pc = fragment.stack.pop().unwrap_or(0);
                return Ok(Flow::Moved);
            }
            Op::Exit => return self.leave(warp, fragment, active),
            Op::Trap => return Err(Fault::Illegal { reason: "the kernel has trapped".into() }),
        }
        Ok(Flow::Next)
    }

    /// Cuts the active lanes off into a fragment of their own; the others go on after the instruction. Returns the active one's index.
    fn part(&mut self, warp: usize, fragment: usize, active: u32) -> usize {
        let fragments = &mut self.warps[warp].fragments;
        if fragments[fragment].mask == active {
            return fragment;
        }
        let mut own = fragments[fragment].clone();
        own.mask = active;
        fragments[fragment].mask &= !active;
        fragments[fragment].pc += 1;
        fragments.push(own);
        fragments.len() - 1
    }

    fn leave(&mut self, warp: usize, fragment: usize, active: u32) -> Result<Flow, Fault> {
        let everyone = self.warps[warp].fragments[fragment].mask == active;
        if !everyone {
            self.warps[warp].fragments[fragment].pc += 1;
        }
        self.exit(warp, fragment, active)?;
        Ok(Flow::Moved)
    }

    #[inline]
    fn lanes(&mut self, warp: usize, active: u32, f: Lanes, d: Reg, s: &[Src; 3]) -> Result<(), Fault> {
        let (mut n0, mut n1, mut n2) = (None, None, None);
        let (mut w0, mut w1, mut w2) = (None, None, None);
        let program = self.grid.program;
        let state = &self.warps[warp];
        let special = |s| self.special(state.index, s);
        let (narrow, wide) = match f {
            Lanes::N1(f) => (Some(f(state.narrow(s[0], active, program, &mut n0, &special)?)), None),
            Lanes::N2(f) => {
                let a = state.narrow(s[0], active, program, &mut n0, &special)?;
                (Some(f(a, state.narrow(s[1], active, program, &mut n1, &special)?)), None)
            }
            Lanes::N3(f) => {
                let a = state.narrow(s[0], active, program, &mut n0, &special)?;
                let b = state.narrow(s[1], active, program, &mut n1, &special)?;
                (Some(f(a, b, state.narrow(s[2], active, program, &mut n2, &special)?)), None)
            }
            Lanes::W1(f) => (None, Some(f(state.wide(s[0], active, program, &mut w0, &special)?))),
            Lanes::W2(f) => {
                let a = state.wide(s[0], active, program, &mut w0, &special)?;
                (None, Some(f(a, state.wide(s[1], active, program, &mut w1, &special)?)))
            }
            Lanes::W3(f) => {
                let a = state.wide(s[0], active, program, &mut w0, &special)?;
                let b = state.wide(s[1], active, program, &mut w1, &special)?;
                (None, Some(f(a, b, state.wide(s[2], active, program, &mut w2, &special)?)))
            }
            Lanes::C32(_) | Lanes::C64(_) => (None, None),
        };
        if let Some(values) = narrow {
            self.warps[warp].put_narrow(d, active, &values);
        }
        if let Some(values) = wide {
            self.warps[warp].put_wide(d, active, &values);
        }
        Ok(())
    }

    fn carry(&mut self, warp: usize, active: u32, kind: Carry, d: Reg, s: &[Src; 3]) -> Result<(), Fault> {
        let (a, b) = (self.wide(warp, active, s[0])?, self.wide(warp, active, s[1])?);
        let c = if kind.multiply.is_some() { self.wide(warp, active, s[2])? } else { [0; 32] };
        let (before, mut after, mut results) = (self.warps[warp].carry, 0u32, [0u64; 32]);
        let bits = if kind.wide { 64 } else { 32 };
        let low = if kind.wide { u64::MAX } else { u64::from(u32::MAX) };
        for lane in 0..32 {
            let carry = u128::from(kind.reads && before >> lane & 1 == 1);
            let (left, right) = match kind.multiply {
                None => (u128::from(a[lane] & low), u128::from(b[lane] & low)),
                Some(high) => {
                    let signed = |value: u64| i64::from(value as u32 as i32) as u64;
                    let [x, y] = [a[lane], b[lane]].map(|value| if kind.signed { signed(value) } else { value & low });
                    let product = x.wrapping_mul(y);
                    (u128::from(if high { (product >> 32) & low } else { product & low }), u128::from(c[lane] & low))
                }
            };
            let sum = if kind.subtract { left.wrapping_sub(right).wrapping_sub(carry) } else { left + right + carry };
            results[lane] = sum as u64 & low;
            after |= ((sum >> bits) as u32 & 1) << lane;
        }
        if kind.writes {
            let state = &mut self.warps[warp];
            state.carry = (state.carry & !active) | (after & active);
        }
        self.warps[warp].put_wide(d, active, &results);
        Ok(())
    }
}

fn combine(logic: Logic, a: u32, b: u32) -> u32 {
    match logic {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// The lanes of a mask, ascending.
pub(super) fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(lane)
    })
}
