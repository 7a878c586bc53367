//! `cp.async`: a copy is noted when it is started and made when it is waited for, as late as the rules allow.

use std::sync::atomic::{Ordering, fence};

use super::block::Block;
use super::execute::lanes_of;
use super::warp::Flight;
use crate::error::Fault;
use crate::program::{Instr, Op};

/// Which copies a wait is about.
struct Due {
    lanes: u32,
    /// Groups that may stay under way; `u32::MAX`: none, committed or not.
    left: u32,
    /// Groups that each lane has committed.
    groups: [u32; 32],
    /// That number where it is the same for all of them.
    alike: Option<u32>,
    /// Flights from this one on are not concerned.
    before: u32,
}

impl Due {
    /// Lanes of a flight that the wait is about.
    fn of(&self, flight: &Flight) -> u32 {
        let passed = |groups: u32| self.left == u32::MAX || flight.group + self.left < groups;
        let lanes = if flight.serial < self.before { flight.lanes & self.lanes } else { 0 };
        if let Some(groups) = self.alike {
            return if passed(groups) { lanes } else { 0 };
        }
        let passed = |lane: &usize| passed(self.groups[*lane]);
        lanes_of(lanes).filter(passed).fold(0u32, |mask, lane| mask | 1 << lane)
    }
}

impl Block<'_> {
    pub(super) fn asynchronous(&mut self, warp: usize, active: u32, instr: &Instr) -> Result<(), Fault> {
        match &instr.op {
            Op::CopyAsync { to, from, bytes, valid } => {
                let (to, from) = (self.addresses(warp, active, *to)?, self.addresses(warp, active, *from)?);
                let to = each!(lane, to[lane] % (1u64 << 32));
                let size = u32::from(*bytes);
                let valid = match valid {
                    Some(valid) => self.narrow(warp, active, *valid)?,
                    None => [size; 32],
                };
                let reads = lanes_of(active).filter(|lane| valid[*lane] > 0).fold(0u32, |mask, lane| mask | 1 << lane);
                if reads != 0 {
                    self.count_global(&from, reads, size);
                }
                self.count_shared(&to, active, size);
                for lane in lanes_of(active) {
                    let (target, source) = (to[lane], from[lane]);
                    self.shared.check(target, size)?;
                    if valid[lane] > size {
                        return Err(Fault::Illegal { reason: format!("cp.async of {size} bytes of which {} are valid", valid[lane]) });
                    }
                    if source & u64::from(size - 1) != 0 {
                        return Err(Fault::Misaligned { space: "global", address: source, alignment: size });
                    }
                    let found = self.grid.heap.find_near(source, u64::from(valid[lane]), &mut self.found);
                    if valid[lane] > 0 && found.is_none() {
                        return Err(Fault::Bounds { space: "global", address: source, size: valid[lane] });
                    }
                    if self.grid.config.checks {
                        let accessor = Block::accessor(&self.warps[warp], self.generation, lane as u8);
                        self.shared.begin_flight(target, size, &accessor, lane as u8)?;
                    }
                }
                let state = &mut self.warps[warp];
                let mut rest = active;
                // Lanes that have committed different numbers of groups fly apart.
                while rest != 0 {
                    let group = state.groups[rest.trailing_zeros() as usize];
                    let lanes = lanes_of(rest).filter(|lane| state.groups[*lane] == group).fold(0, |mask, lane| mask | 1 << lane);
                    state.flights.push(Flight { lanes, group, serial: state.started, to, from, bytes: size, valid });
                    rest &= !lanes;
                }
                state.started += 1;
            }
            Op::Commit => {
                for lane in lanes_of(active) {
                    self.warps[warp].groups[lane] += 1;
                }
            }
            Op::WaitGroups(left) => self.deliver(warp, active, *left)?,
            _ => {}
        }
        Ok(())
    }

    /// Makes the copies of all but the latest `left` groups of some lanes; `u32::MAX`: of every group, committed or not.
    pub(super) fn deliver(&mut self, warp: usize, lanes: u32, left: u32) -> Result<(), Fault> {
        let groups = self.warps[warp].groups;
        let first = groups[lanes.trailing_zeros() as usize % 32];
        let alike = lanes_of(lanes).all(|lane| groups[lane] == first).then_some(first);
        self.deliver_due(warp, &Due { lanes, left, groups, alike, before: u32::MAX })
    }

    /// Makes the copies that a lane has started before the warp's flight number `before`.
    pub(super) fn deliver_before(&mut self, warp: usize, lane: usize, before: u32) -> Result<(), Fault> {
        self.deliver_due(warp, &Due { lanes: 1 << lane, left: u32::MAX, groups: [0; 32], alike: Some(0), before })
    }

    fn deliver_due(&mut self, warp: usize, due: &Due) -> Result<(), Fault> {
        if self.warps[warp].flights.iter().all(|flight| due.of(flight) == 0) {
            return Ok(());
        }
        let mut flights = std::mem::take(&mut self.warps[warp].flights);
        let mut landing = || {
            self.announce_flights(&flights, due)?;
            flights.iter_mut().try_for_each(|flight| {
                let due = due.of(flight);
                flight.lanes &= !due;
                lanes_of(due).try_for_each(|lane| self.land(warp, flight, lane))
            })
        };
        let result = landing();
        flights.retain(|flight| flight.lanes != 0);
        self.warps[warp].flights = flights;
        result
    }

    /// Tells the CTAs on other threads what the due copies are going to read.
    fn announce_flights(&mut self, flights: &[Flight], due: &Due) -> Result<(), Fault> {
        if !self.grid.config.checks {
            return Ok(());
        }
        let who = self.global_accessor(false);
        let mut news = false;
        for flight in flights {
            for lane in lanes_of(due.of(flight)) {
                for (address, size) in flight.reads(lane) {
                    news |= self.allocation(address, size)?.announce(address, size as usize, who);
                }
            }
        }
        if news {
            fence(Ordering::SeqCst);
        }
        Ok(())
    }

    #[inline]
    fn land(&mut self, warp: usize, flight: &Flight, lane: usize) -> Result<(), Fault> {
        let (who, check) = (self.global_accessor(false), self.grid.config.checks);
        let mut words = [0u32; 4];
        for (address, size) in flight.reads(lane) {
            if size == 16 {
                self.allocation(address, size)?.load(address, size as usize, who, check, &mut words)?;
                continue;
            }
            let (at, mut read) = ((address - flight.from[lane]) as usize, [0; 4]);
            self.allocation(address, size)?.load(address, size as usize, who, check, &mut read)?;
            words[at / 4] |= read[0] << (8 * (at % 4));
        }
        let accessor = Block::accessor(&self.warps[warp], self.generation, lane as u8);
        self.shared.land(flight.to[lane], flight.bytes, &words, &accessor, lane as u8);
        Ok(())
    }
}
