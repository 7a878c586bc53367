//! One CTA: its warps take turns; fragments of a warp run, meet and wait; barriers release.

use super::mbarrier::Object;
use super::warp::{State, Warp};
use super::{Grid, Random};
use std::collections::BTreeMap;

use crate::count::Counters;
use crate::error::{Error, Fault, Place, Result};
use crate::lanes::L64;
use crate::program::{Instr, Reg, Special, Src, Vote};
use crate::shared::{Accessor, Shared};

/// Instructions that a warp runs before another one may.
const TURN: usize = 64;
/// Choices among fragments of which the first ones go round.
const FAIR: u32 = 1024;
/// Looks in vain after which a CTA is believed to wait for another one.
const ASKS: u32 = 64;
/// Barriers of a CTA.
const BARRIERS: usize = 16;

/// A barrier that is filling.
#[derive(Clone, Debug, Default)]
pub(super) struct Barrier {
    /// Warps that have arrived.
    pub(super) arrived: u32,
    /// Those of them that wait.
    pub(super) waiting: u32,
    /// Threads that it was asked to wait for; 0: all.
    pub(super) threads: u32,
    /// Result of `bar.red`: votes so far.
    pub(super) votes: Vec<(u8, Vote, Reg, u32, u32)>,
}

/// What comes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// The next one.
    Next,
    /// The next one, after a look at what others do.
    Pause,
    /// Control has been moved already.
    Moved,
    /// Not now: the fragment waits where it is.
    Wait,
}

/// A CTA at work.
pub(super) struct Block<'a> {
    pub(super) grid: &'a Grid<'a>,
    pub(super) warps: Vec<Warp>,
    pub(super) shared: Shared,
    pub(super) barriers: Vec<Barrier>,
    /// Live mbarriers by their place in shared memory.
    pub(super) objects: BTreeMap<u32, Object>,
    /// What words of shared memory order before those who read them.
    pub(super) words: BTreeMap<u32, [u32; 32]>,
    /// Completed barriers and arrivals at mbarriers.
    pub(super) generation: u32,
    /// What may have let others go on: writes, arrivals, exits.
    pub(super) events: u64,
    /// What `nanosleep` has added to the clock.
    pub(super) slept: u64,
    /// What the CTA has printed.
    pub(super) printed: Vec<u8>,
    pub(super) counters: Counters,
    pub(super) random: Random,
    pub(super) cta: u32,
    pub(super) cta_id: [u32; 3],
    /// Whether global accesses are ordered by atomics or fences from here on.
    pub(super) ordered: bool,
    /// The allocation that was accessed last.
    pub(super) found: usize,
    /// The fragment at work.
    current: usize,
    /// Looks at what other threads may change since the last event, and the number of that event.
    asked: u32,
    asked_since: u64,
    /// Choices among fragments.
    picks: u32,
    /// A warp has left a barrier or a fragment has moved: worth another look.
    pub(super) progress: bool,
}

impl<'a> Block<'a> {
    pub(super) fn new(grid: &'a Grid<'a>) -> Block<'a> {
        let warps = grid.threads.div_ceil(32) as usize;
        Block {
            grid,
            warps: (0..warps).map(|_| Warp::new(grid.program)).collect(),
            shared: Shared::new(grid.shared_bytes, grid.program.has_mbarriers),
            barriers: vec![Barrier::default(); BARRIERS],
            objects: BTreeMap::new(),
            words: BTreeMap::new(),
            generation: 0,
            events: 0,
            slept: 0,
            printed: Vec::new(),
            counters: Counters::default(),
            random: Random::new(0),
            cta: 0,
            cta_id: [0; 3],
            ordered: false,
            found: 0,
            current: 0,
            asked: 0,
            asked_since: 0,
            picks: FAIR / 2,
            progress: false,
        }
    }

    /// Notes a look at what other threads may change.
    pub(super) fn ask(&mut self, warp: usize) {
        let events = self.events;
        if let Some(fragment) = self.warps[warp].fragments.get_mut(self.current) {
            fragment.look(events);
        }
        if self.asked_since != self.events {
            (self.asked, self.asked_since) = (0, self.events);
        }
        self.asked += 1;
    }

    /// Starts CTA number `cta`.
    pub(super) fn begin(&mut self, cta: u64) {
        let [x, y, _] = self.grid.launch.grid.map(u64::from);
        self.cta = cta as u32;
        self.cta_id = [(cta % x) as u32, (cta / x % y) as u32, (cta / (x * y)) as u32];
        self.random = Random::new(self.grid.config.seed ^ cta.wrapping_mul(0xd134_2543_de82_ef95));
        self.shared.clear();
        self.objects.clear();
        self.words.clear();
        (self.generation, self.events, self.slept) = (0, 0, 0);
        (self.ordered, self.picks) = (false, FAIR / 2);
        (self.asked, self.asked_since) = (0, 0);
        self.barriers.fill(Barrier::default());
        self.counters = Counters { ctas: 1, ..Counters::default() };
        for (index, warp) in self.warps.iter_mut().enumerate() {
            let lanes = (self.grid.threads - 32 * index as u32).min(32);
            warp.reset(index as u8, if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 });
        }
    }

    /// Runs the CTA for a share of about so many warp instructions; whether it has come to its end.
    pub(super) fn advance(&mut self, share: u64) -> Result<bool> {
        let until = self.counters.total().saturating_add(share);
        while self.warps.iter().any(|warp| warp.live != 0) {
            self.progress = false;
            let first = self.random.below(self.warps.len());
            for turn in 0..self.warps.len() {
                let warp = (first + turn) % self.warps.len();
                self.turn(warp)?;
            }
            if !self.progress {
                return Err(self.stuck());
            }
            if self.counters.total() > self.grid.config.budget {
                let executed = self.counters.total();
                return Err(self.fault(0, 0, 0, Fault::Endless { executed }));
            }
            if self.counters.total() > until || self.asked >= ASKS {
                self.asked = 0;
                return Ok(false);
            }
        }
        self.counters.shared_peak = self.shared.peak;
        Ok(true)
    }

    /// Runs a warp until it waits, ends, or has had its turn.
    fn turn(&mut self, warp: usize) -> Result<()> {
        let turn = if self.grid.config.seed == 0 { TURN } else { 1 + self.random.below(TURN) };
        for _ in 0..turn {
            let Some(fragment) = self.pick(warp) else { return Ok(()) };
            self.progress = true;
            let pc = self.warps[warp].fragments[fragment].pc;
            self.current = fragment;
            let mut result = self.step(warp, fragment);
            if let Err(fault @ (Fault::UninitialisedRegister { .. } | Fault::UninitialisedMemory { space: "shared" | "local", .. })) =
                result
            {
                result = self.with_undefined(warp, fragment, fault);
            }
            match result {
                Ok(Flow::Next) => self.warps[warp].fragments[fragment].pc = pc + 1,
                Ok(Flow::Pause) => {
                    self.warps[warp].fragments[fragment].pc = pc + 1;
                    self.merge(warp);
                    return Ok(());
                }
                Ok(Flow::Moved | Flow::Wait) => {}
                Err(fault) => {
                    let mask = self.warps[warp].fragments.get(fragment).map_or(0, |fragment| fragment.mask);
                    return Err(self.fault(warp, pc, mask.trailing_zeros().min(31), fault));
                }
            }
            if self.warps[warp].fragments.len() > 1 {
                self.merge(warp);
            }
        }
        Ok(())
    }

    /// The fragment to run next: of those that have not polled in vain the lowest in the text, or any under a seed.
    fn pick(&mut self, warp: usize) -> Option<usize> {
        let fragments = &self.warps[warp].fragments;
        if let [only] = fragments.as_slice() {
            return (only.state == State::Ready).then_some(0);
        }
        let ready = |(_, fragment): &(usize, &super::warp::Fragment)| fragment.state == State::Ready;
        // Lanes that wait for others in a loop must not keep those from going on.
        self.picks = self.picks.wrapping_add(1);
        let for_others = self.picks % FAIR < FAIR / 16;
        if for_others || (self.grid.config.seed != 0 && self.random.below(4) == 0) {
            let count = fragments.iter().enumerate().filter(ready).count().max(1);
            let choice = if for_others { (self.picks / FAIR) as usize % count } else { self.random.below(count) };
            return self.warps[warp].fragments.iter().enumerate().filter(ready).nth(choice).map(|(index, _)| index);
        }
        fragments
            .iter()
            .enumerate()
            .filter(ready)
            .min_by_key(|(_, fragment)| (fragment.waits(self.events), fragment.pc))
            .map(|(index, _)| index)
    }

    /// Fragments at the same place become one.
    fn merge(&mut self, warp: usize) {
        let fragments = &mut self.warps[warp].fragments;
        let mut index = 0;
        while index < fragments.len() {
            let mut other = index + 1;
            while other < fragments.len() {
                let (a, b) = (&fragments[index], &fragments[other]);
                let blocked = |state| matches!(state, State::Barrier(_));
                if a.pc == b.pc && a.stack == b.stack && !blocked(a.state) && !blocked(b.state) {
                    let gone = fragments.swap_remove(other);
                    fragments[index].mask |= gone.mask;
                    fragments[index].state = State::Ready;
                } else {
                    other += 1;
                }
            }
            index += 1;
        }
    }

    /// Whether the lanes of `members` are all here; if others can still come, the fragment waits for them.
    pub(super) fn together(&mut self, warp: usize, fragment: usize, active: u32, members: u32) -> std::result::Result<bool, Fault> {
        let complete = self.complete(warp, fragment, active, members)?;
        if !complete {
            self.warps[warp].fragments[fragment].state = State::Converging;
        }
        Ok(complete)
    }

    /// Whether the lanes of `members` are all here.
    pub(super) fn complete(&self, warp: usize, fragment: usize, active: u32, members: u32) -> std::result::Result<bool, Fault> {
        let state = &self.warps[warp];
        let here = state.fragments[fragment].mask;
        if active & !members != 0 {
            return Err(Fault::Divergence { reason: format!("lanes {:#010x} execute it but its mask is {members:#010x}", active) });
        }
        if members & !state.live != 0 && members & !self.existing(warp) == 0 {
            let gone = members & !state.live;
            return Err(Fault::Divergence { reason: format!("its mask {members:#010x} names lanes {gone:#010x}, which have exited") });
        }
        let needed = members & state.live;
        if needed & !active == 0 {
            return Ok(true);
        }
        if needed & !active & here != 0 {
            let reason = format!("lanes {:#010x} of its mask {members:#010x} pass by it, predicated off", needed & !active & here);
            return Err(Fault::Divergence { reason });
        }
        Ok(false)
    }

    /// Lanes that the launch gave a warp.
    fn existing(&self, warp: usize) -> u32 {
        let lanes = (self.grid.threads - 32 * warp as u32).min(32);
        if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 }
    }

    /// Opens every barrier that is full.
    pub(super) fn release(&mut self) -> std::result::Result<(), Fault> {
        for id in 0..BARRIERS {
            let barrier = &self.barriers[id];
            if barrier.arrived == 0 {
                continue;
            }
            let alive = self.warps.iter().filter(|warp| warp.live != 0).fold(0u32, |mask, warp| mask | 1 << warp.index);
            let full = match barrier.threads {
                0 => barrier.arrived & alive == alive,
                threads => barrier.arrived.count_ones() * 32 >= threads,
            };
            if !full {
                continue;
            }
            let (arrived, waiting) = (barrier.arrived, barrier.waiting);
            if barrier.threads != 0 && arrived.count_ones() * 32 > barrier.threads {
                let reason = format!("barrier {id} waits for {} threads and {} have come", barrier.threads, arrived.count_ones() * 32);
                return Err(Fault::Barrier { reason });
            }
            let mut ordered = [0u32; 32];
            for warp in self.warps.iter().filter(|warp| arrived >> warp.index & 1 == 1) {
                for (sum, one) in ordered.iter_mut().zip(warp.ordered) {
                    *sum = (*sum).max(one);
                }
                ordered[usize::from(warp.index)] = self.generation + 1;
            }
            self.generation += 1;
            self.events += 1;
            self.counters.barriers += 1;
            let votes = std::mem::take(&mut self.barriers[id]).votes;
            self.vote(votes);
            for warp in self.warps.iter_mut().filter(|warp| waiting >> warp.index & 1 == 1) {
                warp.ordered = ordered;
                warp.sync += 1;
                for fragment in &mut warp.fragments {
                    if fragment.state == State::Barrier(id as u8) {
                        fragment.state = State::Ready;
                    }
                }
            }
            let count = self.warps.len();
            let known = self.warps.iter().filter(|warp| warp.live != 0).map(|warp| warp.ordered[..count].iter().min());
            self.shared.past = known.min().flatten().copied().unwrap_or(0);
            self.progress = true;
        }
        Ok(())
    }

    fn vote(&mut self, votes: Vec<(u8, Vote, Reg, u32, u32)>) {
        let count: u32 = votes.iter().map(|(.., lanes, yes)| (lanes & yes).count_ones()).sum();
        let all = votes.iter().all(|(.., lanes, yes)| lanes & !yes == 0);
        for (warp, kind, d, lanes, _) in votes {
            let warp = &mut self.warps[usize::from(warp)];
            match kind {
                Vote::Popc => warp.put_narrow(d, lanes, &[count; 32]),
                Vote::All => warp.put_predicate(d, lanes, if all { u32::MAX } else { 0 }),
                _ => warp.put_predicate(d, lanes, if count > 0 { u32::MAX } else { 0 }),
            }
        }
    }

    /// Lanes leave for good.
    pub(super) fn exit(&mut self, warp: usize, fragment: usize, lanes: u32) -> std::result::Result<(), Fault> {
        if self.warps[warp].flights.iter().any(|flight| lanes & flight.lanes != 0) {
            self.counters.copies_left += u64::from(self.unattended(warp, lanes));
            self.deliver(warp, lanes, u32::MAX)?;
        }
        self.events += 1;
        let state = &mut self.warps[warp];
        state.live &= !lanes;
        state.fragments[fragment].mask &= !lanes;
        if state.fragments[fragment].mask == 0 {
            state.fragments.swap_remove(fragment);
        }
        // Whoever waited for these lanes looks again.
        for fragment in &mut state.fragments {
            if fragment.state == State::Converging {
                fragment.state = State::Ready;
            }
        }
        self.release()
    }

    /// Who a warp is for shared memory.
    #[inline]
    pub(super) fn accessor(warp: &Warp, generation: u32, lane: u8) -> Accessor<'_> {
        Accessor { warp: warp.index, sync: warp.sync, generation, ordered: warp.ordered_before(lane) }
    }

    #[cold]
    pub(super) fn special(&self, warp: u8, s: Src) -> L64 {
        let Src::Special(special) = s else { return [0; 32] };
        let (grid, cta) = (self.grid, self.cta_id);
        let all = |value: u32| [u64::from(value); 32];
        let [x, y, _] = grid.launch.block;
        let thread = |lane: usize| u32::from(warp) * 32 + lane as u32;
        match special {
            Special::Tid(axis) => std::array::from_fn(|lane| {
                let thread = thread(lane);
                u64::from([thread % x, thread / x % y, thread / (x * y)][axis])
            }),
            Special::Ntid(axis) => all(grid.launch.block[axis]),
            Special::Ctaid(axis) => all(cta[axis]),
            Special::Nctaid(axis) => all(grid.launch.grid[axis]),
            Special::Lane => std::array::from_fn(|lane| lane as u64),
            Special::Warp => all(u32::from(warp)),
            Special::Nwarp => all(grid.threads.div_ceil(32)),
            Special::Smid | Special::Gridid => all(0),
            Special::Nsmid => all(1),
            Special::Clock => [self.counters.total() + self.slept; 32],
            Special::MaskEq => std::array::from_fn(|lane| 1 << lane),
            Special::MaskLt => std::array::from_fn(|lane| (1 << lane) - 1),
            Special::MaskLe => std::array::from_fn(|lane| (2 << lane) - 1),
            Special::MaskGt => std::array::from_fn(|lane| u64::from(u32::MAX) & !((2 << lane) - 1)),
            Special::MaskGe => std::array::from_fn(|lane| u64::from(u32::MAX) & !((1 << lane) - 1)),
            Special::DynamicShared => all(grid.launch.dynamic_shared),
            Special::TotalShared => all(grid.shared_bytes),
        }
    }

    pub(super) fn place(&self, warp: usize, pc: u32, lane: u32) -> Place {
        let program = self.grid.program;
        let line = program.code.get(pc as usize).map_or(0, |instr: &Instr| instr.line);
        Place { kernel: program.name.clone(), line, text: program.text(line), cta: self.cta_id, warp: warp as u32, lane }
    }

    fn fault(&self, warp: usize, pc: u32, lane: u32, fault: Fault) -> Error {
        Error::Kernel { place: Box::new(self.place(warp, pc, lane)), fault }
    }

    /// It does nothing but look at what no other CTA changes either.
    pub(super) fn waits_for_others(&self) -> Error {
        let fragments = self.warps.iter().flat_map(|warp| warp.fragments.iter().map(move |fragment| (usize::from(warp.index), fragment)));
        let places: Vec<(Place, u32)> = fragments
            .map(|(warp, fragment)| (self.place(warp, fragment.pc, fragment.mask.trailing_zeros().min(31)), fragment.mask))
            .collect();
        let lines =
            places.iter().map(|(place, mask)| format!("warp {}, lanes {mask:#010x}, line {} `{}`", place.warp, place.line, place.text));
        let waiting = format!("all CTAs that have begun wait for memory to change; this one: {}", lines.collect::<Vec<_>>().join("; "));
        let place = places.first().map_or_else(|| self.place(0, 0, 0), |(place, _)| place.clone());
        Error::Kernel { place: Box::new(place), fault: Fault::Deadlock { waiting } }
    }

    /// Nothing has moved: lanes that never meet, or a barrier that never fills.
    fn stuck(&self) -> Error {
        let mut waiting = Vec::new();
        let mut first = None;
        for (index, warp) in self.warps.iter().enumerate() {
            for fragment in &warp.fragments {
                // A barrier has moved its fragments on already.
                let (pc, what) = match fragment.state {
                    State::Barrier(id) => (fragment.pc - 1, format!("at barrier {id}")),
                    _ => (fragment.pc, "for lanes of its mask".into()),
                };
                let place = self.place(index, pc, fragment.mask.trailing_zeros().min(31));
                waiting.push(format!("warp {index}, lanes {:#010x}, line {} `{}`, waits {what}", fragment.mask, place.line, place.text));
                if first.is_none() || fragment.state == State::Converging {
                    first = Some((place, fragment.state, fragment.mask));
                }
            }
        }
        let waiting = waiting.join("; ");
        let (place, state, mask) = first.unwrap_or((self.place(0, 0, 0), State::Ready, 0));
        let fault = if state == State::Converging {
            Fault::Divergence { reason: format!("only lanes {mask:#010x} reach it: {waiting}") }
        } else {
            Fault::Deadlock { waiting }
        };
        Error::Kernel { place: Box::new(place), fault }
    }
}
