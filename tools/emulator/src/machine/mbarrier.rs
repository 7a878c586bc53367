//! `mbarrier` objects: arrivals, of threads and of their copies, phases, and what they order.
//!
//! Every arrival begins a generation: a waiter of the phase is ordered behind what the arriving warp has done in the generations below.
//! A thread's copies arrive as late as they may: when nothing else is missing and someone asks. An object whose phase cannot end any more
//! is found when all that the CTA's threads do is to ask for it.
//!
//! # Source
//! PTX ISA, "Parallel synchronization and communication instructions: mbarrier".

use std::collections::VecDeque;

use super::block::{Block, Flow};
use super::execute::lanes_of;
use super::warp::State;
use crate::error::Fault;
use crate::program::{Mbarrier, MbarrierKind};

/// Threads that an object can wait for at the most.
const MOST: u32 = (1 << 20) - 1;
/// Tests in vain by everyone after which nobody is believed to do anything else.
const PATIENCE: u32 = 10_000;

/// A live object.
#[derive(Debug)]
pub(super) struct Object {
    /// Arrivals that a phase takes.
    expected: u32,
    /// Those that the present phase still waits for.
    pending: u32,
    /// Number of the present phase.
    phase: u32,
    /// What the arrivals of the present phase order before its waiters, by warp.
    gathered: [u32; 32],
    /// What those of the phases before have.
    complete: [u32; 32],
    /// Arrivals by copies that are under way.
    copies: VecDeque<Copies>,
}

/// An arrival that comes with a thread's copies.
#[derive(Clone, Copy, Debug)]
struct Copies {
    warp: usize,
    lane: usize,
    /// The flights that the warp has started before.
    before: u32,
}

impl Object {
    /// State as an arrival returns it: the phase above the pending count.
    fn state(&self) -> u64 {
        u64::from(self.phase) << 32 | u64::from(self.pending)
    }

    /// Takes `count` arrivals, behind what is ordered before them.
    fn take(&mut self, address: u64, count: u32, ordered: &[u32; 32]) -> Result<(), Fault> {
        if count > self.pending {
            let reason = format!("{count} arrivals where its phase waits for {} of {}", self.pending, self.expected);
            return Err(Fault::Mbarrier { address, reason });
        }
        self.gathered.iter_mut().zip(ordered).for_each(|(known, new)| *known = (*known).max(*new));
        self.pending -= count;
        if self.pending == 0 {
            self.phase = self.phase.wrapping_add(1);
            self.pending = self.expected;
            let gathered = std::mem::take(&mut self.gathered);
            self.complete.iter_mut().zip(gathered).for_each(|(known, new)| *known = (*known).max(new));
        }
        Ok(())
    }
}

fn wrong<T>(address: u64, reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Mbarrier { address, reason: reason.into() })
}

impl Block<'_> {
    #[cold]
    pub(super) fn mbarrier(&mut self, warp: usize, fragment: usize, active: u32, operation: &Mbarrier) -> Result<Flow, Fault> {
        let Mbarrier { kind, space, at, d, s, ordered } = operation;
        let (addresses, operands) = (self.addresses(warp, active, *at)?, self.wide(warp, active, *s)?);
        if !matches!(kind, MbarrierKind::Test { .. }) {
            self.generation += 1;
            self.events += 1;
        }
        let (mut states, mut passed) = ([0; 32], 0u32);
        for lane in lanes_of(active) {
            let address = self.shared_address(*space, addresses[lane])?;
            self.shared.check(address, 8)?;
            match kind {
                MbarrierKind::Initialise => self.initialise(warp, lane, address, operands[lane])?,
                _ => {
                    if !self.objects.contains_key(&(address as u32)) {
                        return wrong(address, "there is none: nothing has initialised it, or it was invalidated");
                    }
                    let accessor = Block::accessor(&self.warps[warp], self.generation, lane as u8);
                    self.shared.claimed_before(address, &accessor, lane as u8)?;
                }
            }
            match *kind {
                MbarrierKind::Initialise => {}
                MbarrierKind::Invalidate => {
                    self.objects.remove(&(address as u32));
                    let accessor = Block::accessor(&self.warps[warp], self.generation, lane as u8);
                    self.shared.give_back(address, &accessor, lane as u8, self.grid.config.checks)?;
                }
                MbarrierKind::Arrive { drop, completes } => {
                    let count = u32::try_from(operands[lane]).unwrap_or(u32::MAX);
                    if count == 0 || count > MOST {
                        return wrong(address, format!("{count} arrivals; between 1 and {MOST} are possible"));
                    }
                    let released = self.released(warp, lane, *ordered);
                    let Some(object) = self.objects.get_mut(&(address as u32)) else { continue };
                    if !completes && count >= object.pending {
                        let reason = format!("{count} arrivals that must not complete its phase, which waits for {}", object.pending);
                        return wrong(address, reason);
                    }
                    states[lane] = object.state();
                    if drop {
                        object.expected = object.expected.saturating_sub(count);
                    }
                    object.take(address, count, &released)?;
                }
                MbarrierKind::ArriveAfterCopies { increments } => {
                    let before = self.warps[warp].started;
                    let Some(object) = self.objects.get_mut(&(address as u32)) else { continue };
                    object.pending += u32::from(increments);
                    if object.pending > MOST {
                        return wrong(address, format!("its phase would wait for more than {MOST} arrivals"));
                    }
                    object.copies.push_back(Copies { warp, lane, before });
                }
                MbarrierKind::Test { parity } => {
                    let done = self.test(address, operands[lane], parity)?;
                    passed |= u32::from(done) << lane;
                    if done && *ordered {
                        let complete = self.objects.get(&(address as u32)).map_or([0; 32], |object| object.complete);
                        self.warps[warp].learn(lane, &complete);
                    }
                }
            }
        }
        match kind {
            MbarrierKind::Test { .. } => self.warps[warp].put_predicate(*d, active, passed),
            _ => self.warps[warp].put_wide(*d, active, &states),
        }
        let failed = active & !passed;
        if !matches!(kind, MbarrierKind::Test { .. }) || failed == 0 {
            return Ok(Flow::Next);
        }
        self.poll(warp, fragment, addresses[failed.trailing_zeros() as usize % 32])?;
        Ok(Flow::Pause)
    }

    fn initialise(&mut self, warp: usize, lane: usize, address: u64, count: u64) -> Result<(), Fault> {
        if count == 0 || count > u64::from(MOST) {
            return wrong(address, format!("a count of {count}; between 1 and {MOST} are possible"));
        }
        if self.objects.contains_key(&(address as u32)) {
            return wrong(address, "initialised again while it lives");
        }
        let accessor = Block::accessor(&self.warps[warp], self.generation, lane as u8);
        self.shared.claim(address, &accessor, lane as u8, self.grid.config.checks)?;
        let count = count as u32;
        let object = Object { expected: count, pending: count, phase: 0, gathered: [0; 32], complete: [0; 32], copies: VecDeque::new() };
        self.objects.insert(address as u32, object);
        Ok(())
    }

    /// What an arrival of a lane orders before the waiters: what the lane knows, and what its warp has done so far.
    pub(super) fn released(&self, warp: usize, lane: usize, ordered: bool) -> [u32; 32] {
        if !ordered {
            return [0; 32];
        }
        let mut released = *self.warps[warp].ordered_before(lane as u8);
        released[warp] = self.generation;
        released
    }

    /// Whether a phase is over; if only copies are missing they arrive now.
    fn test(&mut self, address: u64, operand: u64, parity: bool) -> Result<bool, Fault> {
        let over = |object: &Object| match parity {
            true => u64::from(object.phase & 1) != operand & 1,
            false => u64::from(object.phase) != operand >> 32,
        };
        let at = address as u32;
        if let Some(object) = self.objects.get(&at)
            && !parity
            && object.phase.wrapping_sub((operand >> 32) as u32) > 1
        {
            let reason = format!("a state of phase {} where phase {} is present: more came than its count", operand >> 32, object.phase);
            return wrong(address, reason);
        }
        while let Some(object) = self.objects.get_mut(&at) {
            if over(object) {
                return Ok(true);
            }
            if (object.copies.len() as u32) < object.pending {
                return Ok(false);
            }
            let Some(Copies { warp, lane, before }) = object.copies.pop_front() else { return Ok(false) };
            self.deliver_before(warp, lane, before)?;
            self.generation += 1;
            self.events += 1;
            let released = self.released(warp, lane, true);
            if let Some(object) = self.objects.get_mut(&at) {
                object.take(address, 1, &released)?;
            }
        }
        Ok(false)
    }

    /// Whether lanes that exit leave copies that no mbarrier waits for.
    pub(super) fn unattended(&self, warp: usize, lanes: u32) -> bool {
        let attended = |lane: usize, serial: u32| {
            let mut copies = self.objects.values().flat_map(|object| &object.copies);
            copies.any(|copies| (copies.warp, copies.lane) == (warp, lane) && serial < copies.before)
        };
        let flights = &self.warps[warp].flights;
        flights.iter().any(|flight| lanes_of(flight.lanes & lanes).any(|lane| !attended(lane, flight.serial)))
    }

    /// Notes a test in vain. When nobody has done anything else for long, nobody ever will.
    fn poll(&mut self, warp: usize, fragment: usize, address: u64) -> Result<(), Fault> {
        let events = self.events;
        let own = &mut self.warps[warp].fragments[fragment];
        own.look(events);
        (own.polls, own.asks, own.object) = (own.polls + 1, own.asks - 1, address as u32);
        if own.polls < PATIENCE {
            return Ok(());
        }
        let all = || self.warps.iter().flat_map(|warp| warp.fragments.iter().map(move |fragment| (warp.index, fragment)));
        if all().any(|(_, fragment)| fragment.state == State::Ready && fragment.polls(events) < PATIENCE / 2) {
            return Ok(());
        }
        let waiting = all().map(|(warp, fragment)| {
            let what = match (fragment.state, self.objects.get(&fragment.object)) {
                (State::Barrier(id), _) => format!("barrier {id}"),
                (State::Converging, _) => "lanes of its mask".into(),
                (_, Some(Object { pending, expected, .. })) => {
                    format!("the mbarrier at {:#x}, at which {pending} of {expected} are missing", fragment.object)
                }
                _ => "an mbarrier".into(),
            };
            format!("warp {warp}, lanes {:#010x}, waits for {what}", fragment.mask)
        });
        Err(Fault::Deadlock { waiting: waiting.collect::<Vec<_>>().join("; ") })
    }
}
