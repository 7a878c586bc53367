//! `cp.async`: a copy is noted when it is started and made when it is waited for, as late as the rules allow.

use super::block::Block;
use super::execute::lanes_of;
use super::warp::Flight;
use crate::error::Fault;
use crate::memory::Accessor;
use crate::program::{Instr, Op};

impl Block<'_> {
    pub(super) fn asynchronous(&mut self, warp: usize, active: u32, instr: &Instr) -> Result<(), Fault> {
        match &instr.op {
            Op::CopyAsync { to, from, bytes, valid } => {
                let (to, from) = (self.addresses(warp, active, *to)?, self.addresses(warp, active, *from)?);
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
                    let (target, source) = (to[lane] % (1 << 32), from[lane]);
                    self.shared.check(target, size)?;
                    if valid[lane] > size {
                        return Err(Fault::Illegal { reason: format!("cp.async of {size} bytes of which {} are valid", valid[lane]) });
                    }
                    if !source.is_multiple_of(u64::from(size)) {
                        return Err(Fault::Misaligned { space: "global", address: source, alignment: size });
                    }
                    if valid[lane] > 0 && self.grid.heap.find(source, u64::from(valid[lane])).is_none() {
                        return Err(Fault::Bounds { space: "global", address: source, size: valid[lane] });
                    }
                    if self.grid.config.checks {
                        let accessor = Block::accessor(&self.warps[warp], self.generation);
                        self.shared.begin_flight(target, size, &accessor, lane as u8)?;
                    }
                    let state = &mut self.warps[warp];
                    let flight = Flight {
                        lane: lane as u8,
                        group: state.groups[lane],
                        to: target,
                        from: source,
                        bytes: *bytes,
                        valid: valid[lane] as u8,
                    };
                    state.flights.push(flight);
                }
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
        let flights = std::mem::take(&mut self.warps[warp].flights);
        let groups = self.warps[warp].groups;
        let due = |flight: &Flight| {
            let lane = usize::from(flight.lane);
            lanes >> lane & 1 == 1 && (left == u32::MAX || flight.group + left < groups[lane])
        };
        let who = Accessor { launch: self.grid.number, cta: self.cta, ordered: self.ordered };
        let check = self.grid.config.checks;
        let mut kept = Vec::with_capacity(flights.len());
        for flight in flights {
            if !due(&flight) {
                kept.push(flight);
                continue;
            }
            let (valid, bytes) = (usize::from(flight.valid), usize::from(flight.bytes));
            for at in (0..bytes).step_by(4) {
                let mut value = 0;
                if at < valid {
                    let (address, size) = (flight.from + at as u64, (valid - at).min(4));
                    let Some(allocation) = self.grid.heap.find(address, size as u64) else {
                        return Err(Fault::Bounds { space: "global", address, size: size as u32 });
                    };
                    // Odd counts of valid bytes are read one by one.
                    if size == 4 {
                        value = allocation.load(address, 4, who, check)?[0];
                    } else {
                        for byte in 0..size {
                            value |= allocation.load(address + byte as u64, 1, who, check)?[0] << (8 * byte);
                        }
                    }
                }
                let accessor = Block::accessor(&self.warps[warp], self.generation);
                self.shared.land(flight.to + at as u64, value, &accessor, flight.lane);
            }
        }
        self.warps[warp].flights = kept;
        Ok(())
    }
}
