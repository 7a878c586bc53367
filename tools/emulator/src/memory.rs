//! Device memory: allocations with gaps between them, and for every 4 bytes what has been written and by whom.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Fault, Result};

/// First device address: no host address looks like it.
const BASE: u64 = 0x00a0_0000_0000;
/// Addresses between two allocations that belong to nobody.
const GAP: u64 = 1 << 16;
/// Allocations start at multiples of this.
const ALIGNMENT: u64 = 512;

/// One allocation.
#[derive(Debug)]
pub(crate) struct Allocation {
    base: u64,
    size: u64,
    words: Box<[AtomicU32]>,
    /// Bit b of an entry: byte b of the word was written.
    written: Box<[AtomicU8]>,
    writers: Box<[AtomicU64]>,
    readers: Box<[AtomicU64]>,
}

/// Who touched a word: launch (24 bits), CTA (32 bits), bytes (4 bits).
fn stamp(launch: u32, cta: u32, bytes: u32) -> u64 {
    (u64::from(launch & 0xff_ffff) << 40) | (u64::from(cta) << 8) | u64::from(bytes)
}

fn launch_of(stamp: u64) -> u32 {
    (stamp >> 40) as u32
}

fn cta_of(stamp: u64) -> u32 {
    (stamp >> 8) as u32
}

/// In the place of a CTA: several of them.
const SEVERAL: u32 = u32::MAX;

/// Who accesses, in which launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accessor {
    pub(crate) launch: u32,
    pub(crate) cta: u32,
    /// Whether accesses are ordered by something that the check does not follow (atomics, fences).
    pub(crate) ordered: bool,
}

impl Allocation {
    fn new(base: u64, size: u64) -> Allocation {
        let words = size.div_ceil(4) as usize;
        Allocation {
            base,
            size,
            words: (0..words).map(|_| AtomicU32::new(u32::MAX)).collect(),
            written: (0..words).map(|_| AtomicU8::new(0)).collect(),
            writers: (0..words).map(|_| AtomicU64::new(0)).collect(),
            readers: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn holds(&self, address: u64, size: u64) -> bool {
        address >= self.base && address - self.base <= self.size && size <= self.size - (address - self.base)
    }

    fn describe(other: u64, kind: &str) -> String {
        match cta_of(other) {
            SEVERAL => format!("{kind}s by several CTAs"),
            cta => format!("a {kind} by CTA number {cta}"),
        }
    }

    /// The words of an access and the bits of their bytes.
    fn span(&self, address: u64, size: usize) -> (std::ops::Range<usize>, u32) {
        let (index, byte) = (((address - self.base) / 4) as usize, (address - self.base) % 4);
        (index..index + size.div_ceil(4), if size < 4 { ((1 << size) - 1) << byte } else { 15 })
    }

    /// Notes a read that is about to come. Where this returns true a fence must stand between the note and the read, so that of a reader
    /// and a writer on two threads at least one sees the other.
    pub(crate) fn announce(&self, address: u64, size: usize, who: Accessor) -> bool {
        let (span, bytes) = self.span(address, size);
        let mine = stamp(who.launch, who.cta, bytes);
        let mut news = false;
        for reader in &self.readers[span] {
            let before = reader.load(Ordering::Relaxed);
            let after = match (launch_of(before) == launch_of(mine), cta_of(before)) {
                (false, _) => mine,
                (true, cta) if cta == who.cta => before | u64::from(bytes),
                (true, SEVERAL) => before,
                (true, _) => stamp(who.launch, SEVERAL, 15),
            };
            if after != before {
                reader.store(after, Ordering::Relaxed);
                news = true;
            }
        }
        news
    }

    /// A word of which `bytes` are read, and which was announced.
    #[inline]
    fn read_word(&self, index: usize, bytes: u32, who: Accessor, check: bool) -> std::result::Result<u32, Fault> {
        if check {
            let address = self.base + 4 * index as u64;
            if u32::from(self.written[index].load(Ordering::Relaxed)) & bytes != bytes {
                return Err(Fault::UninitialisedMemory { space: "global", address });
            }
            let writer = self.writers[index].load(Ordering::SeqCst);
            let foreign = writer as u32 & bytes != 0 && launch_of(writer) == who.launch & 0xff_ffff && cta_of(writer) != who.cta;
            if foreign && !who.ordered && cta_of(writer) != SEVERAL {
                return Err(Fault::Race { space: "global", address, access: "read", other: Self::describe(writer, "write") });
            }
        }
        Ok(self.words[index].load(Ordering::Relaxed))
    }

    fn note_write(&self, index: usize, bytes: u32, who: Accessor) -> std::result::Result<(), Fault> {
        let address = self.base + 4 * index as u64;
        let mine = stamp(who.launch, who.cta, bytes);
        let before = self.writers[index].load(Ordering::Relaxed);
        let same_launch = launch_of(before) == launch_of(mine);
        let merged = match (same_launch, cta_of(before) == who.cta) {
            (false, _) => mine,
            (true, true) => before | u64::from(bytes),
            (true, false) => stamp(who.launch, SEVERAL, bytes | (before as u32 & 15)),
        };
        // What stands there already needs no second announcement.
        let before = if merged == before { before } else { self.writers[index].swap(merged, Ordering::SeqCst) };
        let same_launch = launch_of(before) == launch_of(mine);
        let foreign = same_launch && cta_of(before) != who.cta && cta_of(before) != SEVERAL && before as u32 & bytes != 0;
        if foreign && !who.ordered {
            return Err(Fault::Race { space: "global", address, access: "write", other: Self::describe(before, "write") });
        }
        let reader = self.readers[index].load(Ordering::SeqCst);
        let foreign = launch_of(reader) == launch_of(mine) && cta_of(reader) != who.cta && reader as u32 & bytes != 0;
        if foreign && !who.ordered {
            return Err(Fault::Race { space: "global", address, access: "write", other: Self::describe(reader, "read") });
        }
        Ok(())
    }

    fn write_word(&self, index: usize, value: u32, bytes: u32, who: Option<Accessor>) -> std::result::Result<(), Fault> {
        if let Some(who) = who {
            self.note_write(index, bytes, who)?;
        }
        if bytes == 15 {
            self.words[index].store(value, Ordering::Relaxed);
        } else {
            let mask = byte_mask(bytes);
            let merge = |old| Some((old & !mask) | (value & mask));
            let _ = self.words[index].fetch_update(Ordering::Relaxed, Ordering::Relaxed, merge);
        }
        if u32::from(self.written[index].load(Ordering::Relaxed)) & bytes != bytes {
            self.written[index].fetch_or(bytes as u8, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads `size` (1, 2, 4, 8 or 16) bytes at a multiple of `size` as words. Checked reads were announced.
    #[inline]
    pub(crate) fn load(
        &self,
        address: u64,
        size: usize,
        who: Accessor,
        check: bool,
        words: &mut [u32; 4],
    ) -> std::result::Result<(), Fault> {
        let (span, bytes) = self.span(address, size);
        if size < 4 {
            let shift = 8 * bytes.trailing_zeros();
            words[0] = (self.read_word(span.start, bytes, who, check)? >> shift) & ((1 << (8 * size)) - 1);
            return Ok(());
        }
        for (word, index) in words.iter_mut().zip(span) {
            *word = self.read_word(index, 15, who, check)?;
        }
        Ok(())
    }

    /// Writes `size` bytes at a multiple of `size`.
    pub(crate) fn store(&self, address: u64, size: usize, words: [u32; 4], who: Accessor, check: bool) -> std::result::Result<(), Fault> {
        let (index, shift) = (((address - self.base) / 4) as usize, ((address - self.base) % 4) as u32);
        let who = check.then_some(who);
        if size < 4 {
            return self.write_word(index, words[0] << (8 * shift), ((1 << size) - 1) << shift, who);
        }
        for (place, word) in words.iter().enumerate().take(size / 4) {
            self.write_word(index + place, *word, 15, who)?;
        }
        Ok(())
    }

    /// Replaces 4 or 8 bytes by `update` of them in one step and returns what was there. 8 bytes are one step because programs with
    /// atomics run their CTAs one after the other.
    pub(crate) fn update(&self, address: u64, size: usize, update: impl Fn(u64) -> u64) -> std::result::Result<u64, Fault> {
        let (index, shift) = (((address - self.base) / 4) as usize, ((address - self.base) % 4) as u32);
        let count = size.div_ceil(4);
        for place in 0..count {
            let bytes = if size < 4 { ((1u8 << size) - 1) << shift } else { 15 };
            if self.written[index + place].load(Ordering::Relaxed) & bytes != bytes {
                return Err(Fault::UninitialisedMemory { space: "global", address });
            }
        }
        if size == 8 {
            let [low, high] = [0, 1].map(|place| u64::from(self.words[index + place].load(Ordering::Relaxed)));
            let old = low | (high << 32);
            let new = update(old);
            self.words[index].store(new as u32, Ordering::Relaxed);
            self.words[index + 1].store((new >> 32) as u32, Ordering::Relaxed);
            return Ok(old);
        }
        let mask = byte_mask(if size < 4 { ((1 << size) - 1) << shift } else { 15 });
        let merge = |old: u32| {
            let value = u64::from((old & mask) >> (8 * shift));
            Some((old & !mask) | (((update(value) as u32) << (8 * shift)) & mask))
        };
        let old = self.words[index].fetch_update(Ordering::AcqRel, Ordering::Acquire, merge).unwrap_or(0);
        Ok(u64::from((old & mask) >> (8 * shift)))
    }
}

fn byte_mask(bytes: u32) -> u32 {
    (0..4).fold(0, |mask, byte| mask | (((bytes >> byte) & 1) * (0xff << (8 * byte))))
}

/// All allocations.
#[derive(Debug)]
pub(crate) struct Memory {
    capacity: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By base, ascending.
    allocations: Vec<Arc<Allocation>>,
    used: u64,
    next: u64,
}

impl Memory {
    pub(crate) fn new(capacity: u64) -> Memory {
        Memory { capacity, state: Mutex::new(State { next: BASE, ..State::default() }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New bytes, unwritten. Addresses are never used twice, so that a stale pointer is found.
    pub(crate) fn allocate(&self, bytes: u64) -> Result<u64> {
        let mut state = self.lock();
        let free = self.capacity - state.used;
        if bytes > free {
            return Err(Error::OutOfMemory { requested: bytes, free });
        }
        let base = state.next;
        state.next = (base + bytes.max(1) + GAP).next_multiple_of(ALIGNMENT);
        state.used += bytes;
        state.allocations.push(Arc::new(Allocation::new(base, bytes)));
        Ok(base)
    }

    pub(crate) fn free(&self, address: u64) -> Result<()> {
        let mut state = self.lock();
        match state.allocations.binary_search_by_key(&address, |allocation| allocation.base) {
            Ok(at) => {
                let gone = state.allocations.remove(at);
                state.used -= gone.size;
                Ok(())
            }
            Err(_) => Err(Error::HostAccess { address, size: 0 }),
        }
    }

    /// Free and total bytes.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        (self.capacity - self.lock().used, self.capacity)
    }

    /// The allocations as they are now.
    pub(crate) fn snapshot(&self) -> Heap {
        Heap { allocations: self.lock().allocations.clone() }
    }

    fn host(&self, address: u64, size: u64) -> Result<Arc<Allocation>> {
        self.snapshot().find(address, size).cloned().ok_or(Error::HostAccess { address, size })
    }

    /// Bytes from the host.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let allocation = self.host(address, bytes.len() as u64)?;
        let start = (address - allocation.base) as usize;
        for (word, values) in grouped(start, bytes.len()) {
            if let Ok(whole) = <[u8; 4]>::try_from(&bytes[values.clone()]) {
                allocation.words[word].store(u32::from_le_bytes(whole), Ordering::Relaxed);
                allocation.written[word].store(15, Ordering::Relaxed);
                continue;
            }
            let (mut value, mut mask) = (0, 0);
            for at in values {
                let byte = (start + at) % 4;
                value |= u32::from(bytes[at]) << (8 * byte);
                mask |= 1 << byte;
            }
            let _ = allocation.write_word(word, value, mask, None);
        }
        Ok(())
    }

    /// Bytes to the host; unwritten ones are 0xff.
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let allocation = self.host(address, bytes.len() as u64)?;
        let start = (address - allocation.base) as usize;
        for (word, values) in grouped(start, bytes.len()) {
            let value = allocation.words[word].load(Ordering::Relaxed);
            if values.len() == 4 {
                bytes[values].copy_from_slice(&value.to_le_bytes());
                continue;
            }
            for at in values {
                bytes[at] = (value >> (8 * ((start + at) % 4))) as u8;
            }
        }
        Ok(())
    }

    /// Bytes inside the device; what was unwritten stays so.
    pub(crate) fn copy(&self, to: u64, from: u64, count: u64) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let (target, source) = (self.host(to, count)?, self.host(from, count)?);
        let (at, start) = ((to - target.base) as usize, (from - source.base) as usize);
        let byte = |at: usize| {
            let shift = at % 4;
            let written = source.written[at / 4].load(Ordering::Relaxed) >> shift & 1;
            ((source.words[at / 4].load(Ordering::Relaxed) >> (8 * shift)) & 0xff, u32::from(written))
        };
        let bytes: Vec<_> = (start..start + count as usize).map(byte).collect();
        for (word, values) in grouped(at, bytes.len()) {
            let (mut value, mut mask) = (0, 0);
            for place in values {
                let byte = (at + place) % 4;
                value |= bytes[place].0 << (8 * byte);
                mask |= bytes[place].1 << byte;
            }
            let _ = target.write_word(word, value, mask, None);
        }
        Ok(())
    }
}

/// The bytes of a range by the word that they lie in.
fn grouped(start: usize, length: usize) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    (start / 4..(start + length).div_ceil(4)).map(move |word| {
        let (first, end) = ((4 * word).max(start), (4 * word + 4).min(start + length));
        (word, first - start..end - start)
    })
}

/// The allocations that a launch may touch.
#[derive(Clone, Debug)]
pub(crate) struct Heap {
    allocations: Vec<Arc<Allocation>>,
}

impl Heap {
    /// The allocation that holds all of a range.
    pub(crate) fn find(&self, address: u64, size: u64) -> Option<&Arc<Allocation>> {
        self.find_near(address, size, &mut 0)
    }

    /// The same, beginning with the allocation that was found last.
    #[inline]
    pub(crate) fn find_near(&self, address: u64, size: u64, last: &mut usize) -> Option<&Arc<Allocation>> {
        if let Some(allocation) = self.allocations.get(*last)
            && allocation.holds(address, size)
        {
            return Some(allocation);
        }
        let after = self.allocations.partition_point(|allocation| allocation.base <= address);
        *last = after.checked_sub(1)?;
        let allocation = self.allocations.get(*last)?;
        allocation.holds(address, size).then_some(allocation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_gaps_and_stale_pointers() {
        let memory = Memory::new(1 << 20);
        let (first, second) = (memory.allocate(10).unwrap(), memory.allocate(100).unwrap());
        memory.write(first + 1, &[1, 2, 3, 4, 5, 6]).unwrap();
        let mut bytes = [0; 8];
        memory.read(first, &mut bytes).unwrap();
        assert_eq!(bytes, [0xff, 1, 2, 3, 4, 5, 6, 0xff]);
        memory.copy(second + 3, first, 8).unwrap();
        memory.read(second + 4, &mut bytes[..6]).unwrap();
        assert_eq!(bytes[..6], [1, 2, 3, 4, 5, 6]);
        assert!(memory.write(first + 8, &[0; 3]).is_err());
        assert!(memory.read(second - 1, &mut bytes).is_err());
        memory.free(first).unwrap();
        assert!(memory.read(first, &mut bytes).is_err());
        assert!(memory.free(first).is_err());
        assert!(memory.allocate(1 << 20).is_err());
        assert_eq!(memory.sizes().0, (1 << 20) - 100);
    }

    #[test]
    fn ctas_that_share_words_are_found() {
        let allocation = Allocation::new(BASE, 64);
        let who = |cta| Accessor { launch: 3, cta, ordered: false };
        let load = |address, size, who| {
            allocation.announce(address, size, who);
            let mut words = [0; 4];
            allocation.load(address, size, who, true, &mut words).map(|()| words)
        };
        allocation.store(BASE, 4, [7; 4], who(1), true).unwrap();
        assert_eq!(load(BASE, 4, who(1)).unwrap()[0], 7);
        assert!(matches!(load(BASE, 4, who(2)), Err(Fault::Race { .. })));
        assert!(matches!(allocation.store(BASE, 4, [7; 4], who(2), true), Err(Fault::Race { .. })));
        // Neighbouring halves of a word are no conflict.
        allocation.store(BASE + 8, 2, [1; 4], who(1), true).unwrap();
        allocation.store(BASE + 10, 2, [2; 4], who(2), true).unwrap();
        let later = Accessor { launch: 4, cta: 9, ordered: false };
        assert_eq!(load(BASE + 8, 4, later).unwrap()[0], 0x0002_0001);
        assert!(matches!(load(BASE + 16, 4, later), Err(Fault::UninitialisedMemory { .. })));
        let mut other = who(5);
        load(BASE + 8, 4, who(5)).unwrap_or_default();
        other.cta = 6;
        assert!(matches!(allocation.store(BASE + 8, 4, [0; 4], other, true), Err(Fault::Race { .. })));
        // Every half that a CTA has read counts, not the first alone.
        allocation.store(BASE + 12, 4, [0; 4], Accessor { launch: 2, cta: 0, ordered: false }, true).unwrap();
        load(BASE + 12, 2, who(5)).unwrap();
        load(BASE + 14, 2, who(5)).unwrap();
        assert!(matches!(allocation.store(BASE + 14, 2, [0; 4], other, true), Err(Fault::Race { .. })));
    }
}
