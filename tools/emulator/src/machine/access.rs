//! Loads, stores and atomics: addresses of 32 lanes to bytes, with checks and counts.

use std::sync::atomic::{Ordering, fence};

use super::block::Block;
use super::execute::lanes_of;
use crate::decode::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::error::Fault;
use crate::lanes::L64;
use crate::memory::{Accessor, Allocation};
use crate::program::{Address, Reg, Src, Where};
use crate::syntax::Type;

/// An address in the space that a generic one means.
pub(super) fn resolve(space: Where, address: u64) -> (Where, u64) {
    match space {
        Where::Generic if address >= LOCAL_WINDOW => (Where::Local, address - LOCAL_WINDOW),
        Where::Generic if address >= SHARED_WINDOW => (Where::Shared, address - SHARED_WINDOW),
        Where::Generic => (Where::Global, address),
        // A shared address may also be given in full.
        Where::Shared if address >= SHARED_WINDOW => (Where::Shared, address - SHARED_WINDOW),
        other => (other, address),
    }
}

/// Element `index` of an access, of `size` bytes.
#[inline]
fn element_of(words: &[u32; 4], index: usize, size: usize) -> u64 {
    match size {
        8 => u64::from(words[2 * index % 4]) | (u64::from(words[(2 * index + 1) % 4]) << 32),
        4 => u64::from(words[index % 4]),
        _ => {
            let at = index * size;
            u64::from((words[at / 4 % 4] >> (8 * (at % 4))) & ((1 << (8 * size)) - 1))
        }
    }
}

/// Extra passes over the banks that a request of lanes takes which move 128 bytes together: a pass serves one word of every bank.
fn extra_passes(addresses: &L64, lanes: u32, size: u32) -> u64 {
    let mut words: [[u32; 4]; 32] = [[u32::MAX; 4]; 32];
    let mut used = [0usize; 32];
    let mut most = 1;
    for lane in lanes_of(lanes) {
        for part in 0..(size / 4).max(1) {
            let word = (addresses[lane] / 4) as u32 + part;
            let bank = word as usize % 32;
            let seen = used[bank].min(4);
            if !words[bank][..seen].contains(&word) {
                if seen < 4 {
                    words[bank][seen] = word;
                }
                used[bank] += 1;
                most = most.max(used[bank]);
            }
        }
    }
    most as u64 - 1
}

/// Whether lanes of one pass stand in banks of their own, each over a whole number of words.
fn apart(addresses: &L64, lanes: u32, size: u32) -> bool {
    if size < 4 {
        return false;
    }
    let (shift, banks) = (size.trailing_zeros(), 128 / size);
    let mut seen = 0u32;
    for lane in lanes_of(lanes) {
        let bank = 1u32 << ((addresses[lane] >> shift) as u32 & (banks - 1));
        if seen & bank != 0 {
            return false;
        }
        seen |= bank;
    }
    true
}

impl<'a> Block<'a> {
    /// An address in shared memory.
    pub(super) fn shared_address(&self, space: Where, address: u64) -> Result<u64, Fault> {
        match resolve(space, address) {
            (Where::Shared, address) => Ok(address),
            _ => Err(Fault::Illegal { reason: format!("{address:#x} lies outside shared memory") }),
        }
    }

    pub(super) fn addresses(&self, warp: usize, active: u32, at: Address) -> Result<L64, Fault> {
        let state = &self.warps[warp];
        let special = |s| self.special(state.index, s);
        let moved = |base: u64| base.wrapping_add_signed(at.offset);
        Ok(match at.base {
            Src::N(_) => {
                let mut narrow = None;
                let base = state.narrow(at.base, active, self.grid.program, &mut narrow, &special)?;
                each!(lane, moved(u64::from(base[lane])))
            }
            base => {
                let mut wide = None;
                let base = state.wide(base, active, self.grid.program, &mut wide, &special)?;
                each!(lane, moved(base[lane]))
            }
        })
    }

    pub(super) fn global_accessor(&self, ordered: bool) -> Accessor {
        Accessor { launch: self.grid.number, cta: self.cta, ordered: self.ordered || ordered }
    }

    #[inline]
    pub(super) fn allocation(&mut self, address: u64, size: u32) -> Result<&'a Allocation, Fault> {
        if address & u64::from(size - 1) != 0 {
            return Err(Fault::Misaligned { space: "global", address, alignment: size });
        }
        match self.grid.heap.find_near(address, u64::from(size), &mut self.found) {
            Some(allocation) => Ok(allocation),
            None => Err(Fault::Bounds { space: "global", address, size }),
        }
    }

    /// Tells the CTAs on other threads what is going to be read.
    fn announce(&mut self, addresses: &L64, active: u32, size: u32, who: Accessor) -> Result<(), Fault> {
        let mut news = false;
        for lane in lanes_of(active) {
            if let (Where::Global | Where::Generic, address) = resolve(Where::Generic, addresses[lane]) {
                news |= self.allocation(address, size)?.announce(address, size as usize, who);
            }
        }
        if news {
            fence(Ordering::SeqCst);
        }
        Ok(())
    }

    /// Sectors that a request of `size` bytes a lane touches.
    pub(super) fn count_global(&mut self, addresses: &L64, active: u32, size: u32) {
        let mut sectors = [u64::MAX; 32];
        let (mut count, mut distinct, mut ascending) = (0, 0, true);
        for lane in lanes_of(active) {
            let sector = addresses[lane] / 32;
            if count > 0 {
                ascending &= sectors[count - 1] <= sector;
                distinct += u64::from(sectors[count - 1] != sector);
            }
            sectors[count] = sector;
            count += 1;
        }
        if !ascending {
            let sectors = &mut sectors[..count];
            sectors.sort_unstable();
            distinct = sectors.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64;
        }
        distinct += u64::from(count > 0);
        let bytes = u64::from(size) * count as u64;
        self.counters.global_requests += 1;
        self.counters.global_sectors += distinct;
        self.counters.global_sectors_least += bytes.div_ceil(32).min(distinct);
        self.counters.global_bytes += bytes;
    }

    /// Bank conflicts of a request: lanes go in groups that move 128 bytes, and every group takes as many passes as the busiest bank
    /// has different words.
    pub(super) fn count_shared(&mut self, addresses: &L64, active: u32, size: u32) {
        let group = (128 / size.max(4)) as usize;
        for first in (0..32).step_by(group) {
            let lanes = active & ((((1u64 << group) - 1) << first) as u32);
            if lanes != 0 && !apart(addresses, lanes, size) {
                self.counters.bank_conflicts += extra_passes(addresses, lanes, size);
            }
        }
        self.counters.shared_requests += 1;
    }

    #[expect(clippy::too_many_arguments, reason = "fields of one instruction")]
    pub(super) fn load(
        &mut self,
        warp: usize,
        active: u32,
        space: Where,
        element: Type,
        d: &[Reg],
        at: Address,
        ordered: bool,
    ) -> Result<(), Fault> {
        let addresses = self.addresses(warp, active, at)?;
        let size = (element.size() * d.len()) as u32;
        let words = self.fetch(warp, active, space, &addresses, size, ordered)?;
        for (index, d) in d.iter().enumerate() {
            if element.size() == 4 && (!element.is_signed() || matches!(d, Reg::N(_))) {
                self.warps[warp].put_narrow(*d, active, &each!(lane, words[lane][index % 4]));
                continue;
            }
            let mut values = each!(lane, element_of(&words[lane], index, element.size()));
            if element.is_signed() && element.size() < 8 {
                let shift = 64 - 8 * element.size();
                let wide = matches!(d, Reg::W(_));
                for value in &mut values {
                    *value = (((*value << shift) as i64) >> shift) as u64;
                    if element.size() == 2 && !wide {
                        *value &= 0xffff_ffff;
                    }
                }
            }
            self.warps[warp].put_wide(*d, active, &values);
        }
        Ok(())
    }

    /// The `size` bytes of every active lane, as words.
    pub(super) fn fetch(
        &mut self,
        warp: usize,
        active: u32,
        space: Where,
        addresses: &L64,
        size: u32,
        ordered: bool,
    ) -> Result<[[u32; 4]; 32], Fault> {
        if !matches!(size, 1 | 2 | 4 | 8 | 16) {
            return Err(Fault::Illegal { reason: format!("an access of {size} bytes") });
        }
        let check = self.grid.config.checks;
        if space == Where::Global {
            self.count_global(addresses, active, size);
        } else if space == Where::Shared {
            self.count_shared(addresses, active, size);
        }
        if ordered {
            self.ask(warp);
        }
        let who = self.global_accessor(ordered);
        if check && matches!(space, Where::Global | Where::Generic) {
            self.announce(addresses, active, size, who)?;
        }
        let mut fetched = [[0; 4]; 32];
        for lane in lanes_of(active) {
            let (space, address) = resolve(space, addresses[lane]);
            let words = &mut fetched[lane];
            match space {
                Where::Global | Where::Generic => self.allocation(address, size)?.load(address, size as usize, who, check, words)?,
                Where::Shared => self.fetch_shared(warp, lane, address, size, words)?,
                Where::Param => {
                    let params = &self.grid.launch.params;
                    let bytes = usize::try_from(address).ok().and_then(|start| params.get(start..)?.get(..size as usize));
                    *words = words_of(bytes.ok_or(Fault::Bounds { space: "param", address, size })?);
                }
                Where::Local | Where::Frame => {
                    let (bytes, name) = self.private(warp, space);
                    let range = private_range(bytes, name, lane, address, size)?;
                    let state = &self.warps[warp];
                    if space == Where::Local && check && !state.local_written[range.clone()].iter().all(|written| *written) {
                        return Err(Fault::UninitialisedMemory { space: name, address });
                    }
                    *words = words_of(if space == Where::Local { &state.local[range] } else { &state.frame[range] });
                }
            }
        }
        Ok(fetched)
    }

    /// The bytes of one lane out of shared memory.
    #[inline]
    pub(super) fn fetch_shared(&mut self, warp: usize, lane: usize, address: u64, size: u32, words: &mut [u32; 4]) -> Result<(), Fault> {
        let (_, address) = resolve(Where::Shared, address);
        self.shared.check(address, size)?;
        let accessor = Block::accessor(&self.warps[warp], self.generation, lane as u8);
        self.shared.load(address, size, &accessor, lane as u8, self.grid.config.checks, words)
    }

    /// A thread's own bytes and their name.
    fn private(&self, warp: usize, space: Where) -> (usize, &'static str) {
        match space {
            Where::Local => (self.warps[warp].local.len() / 32, "local"),
            _ => (self.warps[warp].frame.len() / 32, "frame"),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "fields of one instruction")]
    pub(super) fn store(
        &mut self,
        warp: usize,
        active: u32,
        space: Where,
        element: Type,
        s: &[Src],
        at: Address,
        ordered: bool,
    ) -> Result<(), Fault> {
        let addresses = self.addresses(warp, active, at)?;
        let size = element.size();
        let mut words = [[0u32; 4]; 32];
        for (index, s) in s.iter().enumerate() {
            if size == 4 {
                for (words, value) in words.iter_mut().zip(self.narrow(warp, active, *s)?) {
                    words[index % 4] = value;
                }
                continue;
            }
            let values = self.wide(warp, active, *s)?;
            for (words, value) in words.iter_mut().zip(values) {
                match size {
                    8 => (words[2 * index % 4], words[(2 * index + 1) % 4]) = (value as u32, (value >> 32) as u32),
                    _ => {
                        let at = index * size;
                        words[at / 4 % 4] |= (value as u32 & ((1 << (8 * size)) - 1)) << (8 * (at % 4));
                    }
                }
            }
        }
        self.put(warp, active, space, &addresses, (size * s.len()) as u32, &words, ordered)
    }

    /// Writes `size` bytes for every active lane.
    #[expect(clippy::too_many_arguments, reason = "fields of one access")]
    pub(super) fn put(
        &mut self,
        warp: usize,
        active: u32,
        space: Where,
        addresses: &L64,
        size: u32,
        words: &[[u32; 4]; 32],
        ordered: bool,
    ) -> Result<(), Fault> {
        if !matches!(size, 1 | 2 | 4 | 8 | 16) {
            return Err(Fault::Illegal { reason: format!("an access of {size} bytes") });
        }
        let check = self.grid.config.checks;
        if space == Where::Global {
            self.count_global(addresses, active, size);
        } else if space == Where::Shared {
            self.count_shared(addresses, active, size);
        }
        let who = self.global_accessor(ordered);
        self.events += u64::from(!matches!(space, Where::Local | Where::Frame));
        let rising = active == u32::MAX && addresses.is_sorted_by(|one, next| one < next);
        for lane in lanes_of(active) {
            let (space, address) = resolve(space, addresses[lane]);
            match space {
                Where::Global | Where::Generic => self.allocation(address, size)?.store(address, size as usize, words[lane], who, check)?,
                Where::Shared => {
                    self.shared.check(address, size)?;
                    // Lanes that agree are no race. Those whose addresses rise cannot meet.
                    let earlier = || lanes_of(active & ((1 << lane) - 1)).find(|other| addresses[*other] == addresses[lane]);
                    let agreed = check && !rising && earlier().is_some_and(|other| words[other] == words[lane]);
                    if !agreed {
                        let accessor = Block::accessor(&self.warps[warp], self.generation, lane as u8);
                        self.shared.store(address, size, words[lane], &accessor, lane as u8, check)?;
                    }
                }
                Where::Param => return Err(Fault::Illegal { reason: "the entry's parameters cannot be written".into() }),
                Where::Local | Where::Frame => {
                    let (bytes, name) = self.private(warp, space);
                    let range = private_range(bytes, name, lane, address, size)?;
                    let state = &mut self.warps[warp];
                    let source: Vec<u8> = words[lane].iter().flat_map(|word| word.to_le_bytes()).take(size as usize).collect();
                    if space == Where::Local {
                        state.local_written[range.clone()].fill(true);
                        state.local[range].copy_from_slice(&source);
                    } else {
                        state.frame[range].copy_from_slice(&source);
                    }
                }
            }
        }
        Ok(())
    }
}

fn words_of(bytes: &[u8]) -> [u32; 4] {
    let mut words = [0; 4];
    for (at, byte) in bytes.iter().enumerate() {
        words[at / 4] |= u32::from(*byte) << (8 * (at % 4));
    }
    words
}

/// Where a lane's private bytes stand.
fn private_range(bytes: usize, space: &'static str, lane: usize, address: u64, size: u32) -> Result<std::ops::Range<usize>, Fault> {
    if address.checked_add(u64::from(size)).is_none_or(|end| end > bytes as u64) {
        return Err(Fault::Bounds { space, address, size });
    }
    if !address.is_multiple_of(u64::from(size)) {
        return Err(Fault::Misaligned { space, address, alignment: size });
    }
    let start = lane * bytes + address as usize;
    Ok(start..start + size as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told apart by position has no extra pass, and the other way round where no two lanes share a word.
    #[test]
    fn lanes_apart_take_one_pass() {
        for size in [4u32, 8, 16] {
            let lanes = 128 / size as u64;
            let (mut apart_ones, mut others) = (0, 0);
            for trial in 0..500u64 {
                let uneven = if trial % 3 == 0 { 0 } else { trial };
                let addresses: L64 = each!(lane, (lane as u64 * (1 + trial % 8) + uneven * (lane as u64 % 3)) % 512 * u64::from(size));
                let mask = ((1u64 << lanes) - 1) as u32;
                let passes = extra_passes(&addresses, mask, size);
                if apart(&addresses, mask, size) {
                    apart_ones += 1;
                    assert_eq!(passes, 0, "size {size}, trial {trial}");
                } else {
                    others += 1;
                    let mut distinct: Vec<u64> = addresses[..lanes as usize].to_vec();
                    distinct.sort_unstable();
                    distinct.dedup();
                    assert!(passes > 0 || distinct.len() < lanes as usize, "size {size}, trial {trial}");
                }
            }
            assert!(apart_ones > 10 && others > 100, "size {size}: {apart_ones}, {others}");
        }
    }
}
