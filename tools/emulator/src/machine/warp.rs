//! Registers and control state of a warp.

use std::collections::BTreeMap;

use crate::error::Fault;
use crate::lanes::{L32, L64, blend};
use crate::program::{Predicate, PredicateSrc, Program, Reg, Src};

/// Lanes that are together.
#[derive(Clone, Debug)]
pub(crate) struct Fragment {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    /// Where calls return to.
    pub(crate) stack: Vec<u32>,
    pub(crate) state: State,
    /// Tests of an mbarrier that failed, and other looks in vain at what someone else may change, since the CTA's last event.
    pub(crate) polls: u32,
    pub(crate) asks: u32,
    /// Which number that event had.
    pub(crate) since: u64,
    /// The mbarrier.
    pub(crate) object: u32,
}

impl Fragment {
    /// The state of one that has not looked at anything.
    pub(crate) fn new(pc: u32, mask: u32, stack: Vec<u32>) -> Fragment {
        Fragment { pc, mask, stack, state: State::Ready, polls: 0, asks: 0, since: 0, object: 0 }
    }

    /// Tests that failed since an event.
    pub(crate) fn polls(&self, events: u64) -> u32 {
        if self.since == events { self.polls } else { 0 }
    }

    /// How long it has waited for something since an event.
    pub(crate) fn waits(&self, events: u64) -> u32 {
        if self.since == events { self.polls + self.asks } else { 0 }
    }

    /// Notes that it looked in vain.
    pub(crate) fn look(&mut self, events: u64) {
        if self.since != events {
            (self.polls, self.asks, self.since) = (0, 0, events);
        }
        self.asks += 1;
    }
}

/// What a fragment is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// At a `.sync` operation that other lanes of its mask have not reached.
    Converging,
    /// At a barrier.
    Barrier(u8),
}

/// Copies that one instruction started and that were not delivered.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    /// Lanes whose copies are under way, all in the same of their groups, counted from 0.
    pub(crate) lanes: u32,
    pub(crate) group: u32,
    /// Its place among the flights that the warp has started.
    pub(crate) serial: u32,
    pub(crate) to: L64,
    pub(crate) from: L64,
    pub(crate) bytes: u32,
    /// Bytes of each lane's copy that are read; the others become 0.
    pub(crate) valid: L32,
}

impl Flight {
    /// Address and bytes of the accesses that fetch what is valid: all 16 bytes at once, else words, and the bytes of the last one.
    #[inline]
    pub(crate) fn reads(&self, lane: usize) -> impl Iterator<Item = (u64, u32)> {
        let (from, valid) = (self.from[lane], u64::from(self.valid[lane]));
        let (step, words) = if valid == 16 { (16, 16) } else { (4, valid & !3) };
        let whole = (0..words).step_by(step).map(move |at| (at, step as u32));
        whole.chain((words..valid).map(|at| (at, 1))).map(move |(at, size)| (from + at, size))
    }
}

/// What is not known of a register.
#[derive(Clone, Debug)]
pub(crate) struct Partly {
    /// Bits of each lane.
    pub(crate) bits: L64,
    /// The read of what nothing had written.
    pub(crate) origin: Fault,
}

/// A warp.
#[derive(Debug)]
pub(crate) struct Warp {
    pub(crate) index: u8,
    pub(crate) narrow: Vec<L32>,
    pub(crate) wide: Vec<L64>,
    pub(crate) predicates: Vec<u32>,
    /// Lanes of each register that were written.
    pub(crate) written: [Vec<u32>; 3],
    /// Registers that hold something of what nothing has written, by kind and slot; for lanes that were not written.
    pub(crate) partly: BTreeMap<(usize, u16), Partly>,
    pub(crate) carry: u32,
    pub(crate) fragments: Vec<Fragment>,
    /// Lanes that have not exited.
    pub(crate) live: u32,
    /// Count of synchronising operations.
    pub(crate) sync: u32,
    /// For every warp: accesses of generations below are ordered before this warp's.
    pub(crate) ordered: [u32; 32],
    /// The same for each lane, where lanes have learnt different things from mbarriers.
    pub(crate) learnt: Option<Box<[[u32; 32]; 32]>>,
    pub(crate) flights: Vec<Flight>,
    /// Flights that the warp has started.
    pub(crate) started: u32,
    /// Lanes that have executed a fence.
    pub(crate) fenced: u32,
    /// Groups that each lane has committed.
    pub(crate) groups: [u32; 32],
    pub(crate) local: Vec<u8>,
    pub(crate) local_written: Vec<bool>,
    pub(crate) frame: Vec<u8>,
}

impl Warp {
    pub(crate) fn new(program: &Program) -> Warp {
        let (local, frame) = (32 * program.local_bytes as usize, 32 * program.frame_bytes as usize);
        Warp {
            index: 0,
            narrow: vec![[0; 32]; program.narrow.len()],
            wide: vec![[0; 32]; program.wide.len()],
            predicates: vec![0; program.predicates.len()],
            written: [vec![0; program.narrow.len()], vec![0; program.wide.len()], vec![0; program.predicates.len()]],
            partly: BTreeMap::new(),
            carry: 0,
            fragments: Vec::new(),
            live: 0,
            sync: 0,
            ordered: [0; 32],
            learnt: None,
            flights: Vec::new(),
            started: 0,
            fenced: 0,
            groups: [0; 32],
            local: vec![0xff; local],
            local_written: vec![false; local],
            frame: vec![0; frame],
        }
    }

    /// Back to the start of a CTA.
    pub(crate) fn reset(&mut self, index: u8, lanes: u32) {
        self.index = index;
        self.written.iter_mut().for_each(|kind| kind.fill(0));
        self.partly.clear();
        self.fragments.clear();
        self.fragments.push(Fragment::new(0, lanes, Vec::new()));
        self.live = lanes;
        self.sync = 0;
        self.ordered = [0; 32];
        self.learnt = None;
        self.flights.clear();
        (self.started, self.fenced) = (0, 0);
        self.groups = [0; 32];
        self.local_written.fill(false);
    }

    /// For every warp: its accesses of generations below are ordered before those of a lane.
    #[inline]
    pub(crate) fn ordered_before(&self, lane: u8) -> &[u32; 32] {
        match &self.learnt {
            None => &self.ordered,
            Some(learnt) => &learnt[usize::from(lane) % 32],
        }
    }

    /// A lane learns what is ordered before it.
    pub(crate) fn learn(&mut self, lane: usize, news: &[u32; 32]) {
        let learnt = self.learnt.get_or_insert_with(|| Box::new([self.ordered; 32]));
        learnt[lane].iter_mut().zip(news).for_each(|(known, new)| *known = (*known).max(*new));
    }

    /// Lanes that meet tell each other.
    pub(crate) fn share(&mut self, lanes: u32) {
        let Some(learnt) = &mut self.learnt else { return };
        let mut all = self.ordered;
        let members = (0..32).filter(|lane| lanes >> lane & 1 == 1);
        for lane in members.clone() {
            all.iter_mut().zip(learnt[lane]).for_each(|(known, new)| *known = (*known).max(new));
        }
        members.for_each(|lane| learnt[lane] = all);
        if lanes & self.live == self.live {
            (self.ordered, self.learnt) = (all, None);
        }
    }

    #[cold]
    fn unwritten(&self, kind: usize, slot: u16, program: &Program) -> Fault {
        self.origin(kind, slot, program)
    }

    /// The read, of a register or of memory that nothing had written, of which a register holds something.
    pub(crate) fn origin(&self, kind: usize, slot: u16, program: &Program) -> Fault {
        let names = [&program.narrow, &program.wide, &program.predicates][kind];
        match self.partly.get(&(kind, slot)) {
            Some(partly) => partly.origin.clone(),
            None => Fault::UninitialisedRegister { register: names[usize::from(slot)].clone() },
        }
    }

    /// Bits of a register that depend on what nothing has written.
    pub(crate) fn undefined(&self, kind: usize, slot: u16) -> L64 {
        let (written, partly) = (self.written[kind][usize::from(slot)], self.partly.get(&(kind, slot)));
        each!(lane, if written >> lane & 1 == 1 { 0 } else { partly.map_or(u64::MAX, |partly| partly.bits[lane]) })
    }

    fn check(&self, kind: usize, slot: u16, mask: u32, program: &Program) -> Result<(), Fault> {
        if self.written[kind][usize::from(slot)] & mask == mask { Ok(()) } else { Err(self.unwritten(kind, slot, program)) }
    }

    /// A narrow value of every lane; those of `mask` must have been written.
    #[inline]
    pub(crate) fn narrow<'a>(
        &'a self,
        s: Src,
        mask: u32,
        program: &Program,
        buffer: &'a mut Option<L32>,
        special: &impl Fn(Src) -> L64,
    ) -> Result<&'a L32, Fault> {
        let values = match s {
            Src::N(slot) => {
                self.check(0, slot, mask, program)?;
                return Ok(&self.narrow[usize::from(slot)]);
            }
            Src::W(slot) => {
                self.check(1, slot, mask, program)?;
                let wide = &self.wide[usize::from(slot)];
                each!(lane, wide[lane] as u32)
            }
            Src::P(slot) => {
                self.check(2, slot, mask, program)?;
                let bits = self.predicates[usize::from(slot)];
                each!(lane, bits >> lane & 1)
            }
            Src::Imm(value) => [value as u32; 32],
            Src::Special(_) => {
                let wide = special(s);
                each!(lane, wide[lane] as u32)
            }
        };
        Ok(buffer.insert(values))
    }

    /// A wide value of every lane; narrow registers are extended with zeros.
    #[inline]
    pub(crate) fn wide<'a>(
        &'a self,
        s: Src,
        mask: u32,
        program: &Program,
        buffer: &'a mut Option<L64>,
        special: &impl Fn(Src) -> L64,
    ) -> Result<&'a L64, Fault> {
        let values = match s {
            Src::W(slot) => {
                self.check(1, slot, mask, program)?;
                return Ok(&self.wide[usize::from(slot)]);
            }
            Src::N(slot) => {
                self.check(0, slot, mask, program)?;
                let narrow = &self.narrow[usize::from(slot)];
                each!(lane, u64::from(narrow[lane]))
            }
            Src::P(slot) => {
                self.check(2, slot, mask, program)?;
                let bits = self.predicates[usize::from(slot)];
                each!(lane, u64::from(bits >> lane & 1))
            }
            Src::Imm(value) => [value; 32],
            Src::Special(_) => special(s),
        };
        Ok(buffer.insert(values))
    }

    /// Lanes in which a predicate holds.
    #[inline]
    pub(crate) fn holds(&self, (slot, negated): Predicate, mask: u32, program: &Program) -> Result<u32, Fault> {
        self.check(2, slot, mask, program)?;
        let bits = self.predicates[usize::from(slot)];
        Ok(if negated { !bits } else { bits })
    }

    pub(crate) fn predicate(&self, source: PredicateSrc, mask: u32, program: &Program) -> Result<u32, Fault> {
        match source {
            PredicateSrc::Constant(value) => Ok(if value { u32::MAX } else { 0 }),
            PredicateSrc::Register(slot, negated) => self.holds((slot, negated), mask, program),
        }
    }

    #[inline]
    pub(crate) fn put_narrow(&mut self, d: Reg, mask: u32, values: &L32) {
        match d {
            Reg::N(slot) => {
                let slot = usize::from(slot);
                self.written[0][slot] |= mask;
                let register = &mut self.narrow[slot];
                *register = if mask == u32::MAX { *values } else { blend(mask, values, register) };
            }
            Reg::W(_) => self.put_wide(d, mask, &each!(lane, u64::from(values[lane]))),
            Reg::P(_) | Reg::Sink => {}
        }
    }

    #[inline]
    pub(crate) fn put_wide(&mut self, d: Reg, mask: u32, values: &L64) {
        match d {
            Reg::W(slot) => {
                let slot = usize::from(slot);
                self.written[1][slot] |= mask;
                let register = &mut self.wide[slot];
                *register = if mask == u32::MAX { *values } else { blend(mask, values, register) };
            }
            Reg::N(_) => self.put_narrow(d, mask, &each!(lane, values[lane] as u32)),
            Reg::P(_) | Reg::Sink => {}
        }
    }

    #[inline]
    pub(crate) fn put_predicate(&mut self, d: Reg, mask: u32, bits: u32) {
        if let Reg::P(slot) = d {
            let slot = usize::from(slot);
            self.written[2][slot] |= mask;
            let register = &mut self.predicates[slot];
            *register = (*register & !mask) | (bits & mask);
        }
    }
}
