//! Shared memory of a CTA: bytes, what was written, and who touched what since which barrier.
//!
//! Every access is stamped with its warp, its lane and the CTA's generation, a count of completed barriers. A warp knows, for every
//! other warp, below which generation its accesses are ordered before its own; a barrier moves that up for all that took part. Inside a
//! warp the same holds between `.sync` operations.

mod update;

use crate::error::Fault;

/// Who accesses, and what is ordered before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accessor<'a> {
    pub(crate) warp: u8,
    /// Count of the warp's own synchronising operations.
    pub(crate) sync: u32,
    /// The CTA's generation.
    pub(crate) generation: u32,
    /// For every warp: its accesses of generations below are ordered before this one.
    pub(crate) ordered: &'a [u32; 32],
}

/// What stands for a flight where an mbarrier lives.
const OBJECT: u16 = u16::MAX;
/// No lane: several of them.
const SEVERAL: u8 = 0xff;
/// Among a writer's bytes: it was an atomic, with which no other atomic races.
const ATOMIC: u8 = 0x80;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    /// Generation + 1; 0: never.
    generation: u32,
    sync: u32,
    warp: u8,
    lane: u8,
    bytes: u8,
}

/// A word's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shadow {
    writer: Stamp,
    /// The last one.
    reader: Stamp,
    /// Warps that have read.
    readers: u32,
    /// Owner of a copy in flight: 1 + warp * 32 + lane.
    flight: u16,
    /// Bytes that hold something.
    written: u8,
}

impl Shadow {
    /// Drops accesses that nothing can race with any more, so that they do not tell a line's words apart.
    fn forget(&mut self, past: u32) {
        if self.writer.generation <= past {
            self.writer = Stamp::default();
        }
        if self.reader.generation <= past {
            (self.reader, self.readers) = (Stamp::default(), 0);
        }
    }
}

/// Words of a line, which the widest access covers.
const LINE: usize = 4;

/// Shared memory of one CTA.
#[derive(Debug)]
pub(crate) struct Shared {
    words: Vec<u32>,
    shadow: Vec<Shadow>,
    /// Lines whose words have the same state, that of the first one; the others' shadows are stale.
    alike: Vec<bool>,
    /// For every word the generation + 1 in which each warp has read it last; only for kernels in which single warps order others.
    reads: Vec<[u32; 32]>,
    /// Whether the accesses at hand are of those that race with none of their like.
    pub(crate) strong: bool,
    bytes: u32,
    /// Accesses of generations below are ordered before all that are to come.
    pub(crate) past: u32,
    /// Addresses at or above this were never touched.
    pub(crate) peak: u32,
}

impl Shared {
    /// `apart`: whether every word keeps its state, and every warp's reads of it, for itself.
    pub(crate) fn new(bytes: u32, apart: bool) -> Shared {
        let lines = bytes.div_ceil(4 * LINE as u32) as usize;
        let words = LINE * lines;
        let reads = vec![[0; 32]; if apart { words } else { 0 }];
        let (shadow, alike) = (vec![Shadow::default(); words], vec![!apart; lines]);
        Shared { words: vec![u32::MAX; words], shadow, alike, reads, strong: false, bytes, past: 0, peak: 0 }
    }

    /// Forgets everything, for the next CTA.
    pub(crate) fn clear(&mut self) {
        let lines = self.peak.div_ceil(4 * LINE as u32) as usize;
        self.words[..LINE * lines].fill(u32::MAX);
        self.shadow[..LINE * lines].fill(Shadow::default());
        self.alike[..lines].fill(self.reads.is_empty());
        self.past = 0;
    }

    /// Checks that a range, whose size is a power of two, lies inside.
    #[inline]
    pub(crate) fn check(&self, address: u64, size: u32) -> Result<(), Fault> {
        if address >= u64::from(self.bytes) || u64::from(size) > u64::from(self.bytes) - address {
            return Err(Fault::Bounds { space: "shared", address, size });
        }
        if address & u64::from(size - 1) != 0 {
            return Err(Fault::Misaligned { space: "shared", address, alignment: size });
        }
        Ok(())
    }

    fn name(warp: u8, lane: u8) -> String {
        if lane == SEVERAL { format!("by warp {warp}") } else { format!("by warp {warp}, lane {lane}") }
    }

    #[inline]
    fn settled(shadow: &Shadow, address: u64) -> Result<(), Fault> {
        if shadow.flight == 0 { Ok(()) } else { Err(Self::unsettled(shadow.flight, address)) }
    }

    #[cold]
    fn unsettled(flight: u16, address: u64) -> Fault {
        if flight == OBJECT {
            return Fault::Mbarrier { address: address & !7, reason: "a plain access to its bytes while it lives".into() };
        }
        let owner = flight - 1;
        Fault::InFlight { address, owner: format!("warp {}, lane {}", owner / 32, owner % 32) }
    }

    /// Whether `stamp` is not ordered before an access of `lane`.
    fn concurrent(stamp: &Stamp, warp: u8, who: &Accessor<'_>, lane: u8) -> bool {
        if stamp.generation == 0 || stamp.generation - 1 < who.ordered[usize::from(warp)] {
            return false;
        }
        warp != who.warp || (stamp.sync == who.sync && stamp.lane != lane)
    }

    /// Applies `note` to the state of every word of an access, with the word's address and bytes; once for a whole line that is alike.
    #[inline]
    fn each(
        &mut self,
        address: u64,
        size: u32,
        note: impl Fn(&mut Shadow, Option<&mut [u32; 32]>, u64, u8) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let (index, line) = ((address / 4) as usize, (address / 4) as usize / LINE);
        if size as usize == 4 * LINE {
            let states = &mut self.shadow[index..index + LINE];
            if self.alike[line] {
                return note(&mut states[0], None, address, 15);
            }
            for (place, state) in states.iter_mut().enumerate() {
                state.forget(self.past);
                note(state, self.reads.get_mut(index + place), address + 4 * place as u64, 15)?;
            }
            self.alike[line] = self.reads.is_empty() && states[1..].iter().all(|state| *state == states[0]);
            return Ok(());
        }
        if self.alike[line] {
            let state = self.shadow[LINE * line];
            self.shadow[LINE * line..LINE * (line + 1)].fill(state);
            self.alike[line] = false;
        }
        let bytes = bytes_of(address, size) as u8;
        for (place, state) in self.shadow[index..].iter_mut().enumerate().take(size.div_ceil(4) as usize) {
            note(state, self.reads.get_mut(index + place), 4 * (index + place) as u64, bytes)?;
        }
        Ok(())
    }

    fn note_read(
        shadow: &mut Shadow,
        reads: Option<&mut [u32; 32]>,
        address: u64,
        bytes: u8,
        who: &Accessor<'_>,
        lane: u8,
    ) -> Result<(), Fault> {
        Self::settled(shadow, address)?;
        if shadow.written & bytes != bytes {
            return Err(Fault::UninitialisedMemory { space: "shared", address });
        }
        let writer = &shadow.writer;
        if writer.bytes & bytes != 0 && Self::concurrent(writer, writer.warp, who, lane) {
            let other = format!("a write {}", Self::name(writer.warp, writer.lane));
            return Err(Fault::Race { space: "shared", address, access: "read", other });
        }
        let reader = shadow.reader;
        let (generation, mine) = (who.generation + 1, 1u32 << who.warp);
        let others = shadow.readers & !mine;
        let last = |warp: u8| reads.as_ref().map_or(reader.generation, |reads| reads[usize::from(warp)]);
        let before = |warp: u8| last(warp) <= who.ordered[usize::from(warp)];
        // What the present generation has read is ordered before nobody, where generations are the CTA's.
        let ordered = others == 0 || ((reads.is_some() || reader.generation < generation) && warps_of(others).all(before));
        let alone = shadow.readers & mine == 0 || reader.sync != who.sync || reader.warp != who.warp || reader.generation != generation;
        if let Some(reads) = reads {
            reads[usize::from(who.warp)] = generation;
        }
        shadow.readers = if ordered { mine } else { shadow.readers | mine };
        shadow.reader = Stamp {
            generation,
            sync: who.sync,
            warp: who.warp,
            lane: if alone || reader.lane == lane { lane } else { SEVERAL },
            bytes: if ordered && alone { bytes } else { reader.bytes | bytes },
        };
        Ok(())
    }

    /// A read that an access of `lane` would race with.
    fn unordered_read(shadow: &Shadow, reads: Option<&mut [u32; 32]>, who: &Accessor<'_>, lane: u8) -> Option<String> {
        let reader = &shadow.reader;
        let last = |warp: u8| match &reads {
            Some(reads) if warp != reader.warp => Stamp { generation: reads[usize::from(warp)], ..*reader },
            _ => *reader,
        };
        let races = |warp: &u8| (*warp != who.warp || *warp == reader.warp) && Self::concurrent(&last(*warp), *warp, who, lane);
        let warp = warps_of(shadow.readers).find(races)?;
        Some(format!("a read {}", Self::name(warp, if warp == reader.warp { reader.lane } else { SEVERAL })))
    }

    /// `same`: the bytes hold already what is written. Compilers let several warps write what all of them know, with no order between.
    fn note_write(
        shadow: &mut Shadow,
        reads: Option<&mut [u32; 32]>,
        address: u64,
        bytes: u8,
        who: &Accessor<'_>,
        lane: u8,
        same: bool,
    ) -> Result<(), Fault> {
        Self::settled(shadow, address)?;
        let writer = shadow.writer;
        if !same && writer.bytes & bytes != 0 && Self::concurrent(&writer, writer.warp, who, lane) {
            let other = format!("a write {}", Self::name(writer.warp, writer.lane));
            return Err(Fault::Race { space: "shared", address, access: "write", other });
        }
        if shadow.reader.bytes & bytes != 0
            && let Some(other) = Self::unordered_read(shadow, reads, who, lane)
        {
            return Err(Fault::Race { space: "shared", address, access: "write", other });
        }
        let plain = writer.bytes & ATOMIC == 0;
        let merged = plain && writer.generation == who.generation + 1 && writer.warp == who.warp && writer.sync == who.sync;
        shadow.writer = Stamp {
            generation: who.generation + 1,
            sync: who.sync,
            warp: who.warp,
            lane: if merged && writer.bytes & bytes == 0 { SEVERAL } else { lane },
            bytes: if merged { writer.bytes | bytes } else { bytes },
        };
        shadow.written |= bytes;
        Ok(())
    }

    /// An access that leaves no trace for others to race with.
    #[cold]
    fn note_strong(shadow: &mut Shadow, address: u64, bytes: u8, writes: bool) -> Result<(), Fault> {
        Self::settled(shadow, address)?;
        if writes {
            shadow.written |= bytes;
        } else if shadow.written & bytes != bytes {
            return Err(Fault::UninitialisedMemory { space: "shared", address });
        }
        Ok(())
    }

    /// Reads `size` bytes at a checked address.
    #[inline]
    pub(crate) fn load(
        &mut self,
        address: u64,
        size: u32,
        who: &Accessor<'_>,
        lane: u8,
        check: bool,
        words: &mut [u32; 4],
    ) -> Result<(), Fault> {
        let (index, shift) = ((address / 4) as usize, (address % 4) as u32);
        if check && self.strong {
            self.each(address, size, |shadow, _, address, bytes| Self::note_strong(shadow, address, bytes, false))?;
        } else if check {
            self.each(address, size, |shadow, reads, address, bytes| Self::note_read(shadow, reads, address, bytes, who, lane))?;
        }
        match size {
            16 => words.copy_from_slice(&self.words[index..index + 4]),
            8 => words[..2].copy_from_slice(&self.words[index..index + 2]),
            4 => words[0] = self.words[index],
            _ => words[0] = (self.words[index] >> (8 * shift)) & ((1 << (8 * size)) - 1),
        }
        Ok(())
    }

    /// Writes `size` bytes at a checked address.
    #[inline]
    pub(crate) fn store(
        &mut self,
        address: u64,
        size: u32,
        words: [u32; 4],
        who: &Accessor<'_>,
        lane: u8,
        check: bool,
    ) -> Result<(), Fault> {
        let (index, shift) = ((address / 4) as usize, (address % 4) as u32);
        if check && self.strong {
            self.each(address, size, |shadow, _, address, bytes| Self::note_strong(shadow, address, bytes, true))?;
        } else if check {
            let same = match size {
                4 | 8 | 16 => self.words[index..index + size as usize / 4] == words[..size as usize / 4],
                _ => (self.words[index] >> (8 * shift)) & ((1 << (8 * size)) - 1) == words[0],
            };
            self.each(address, size, |shadow, reads, address, bytes| Self::note_write(shadow, reads, address, bytes, who, lane, same))?;
        }
        match size {
            16 => self.words[index..index + 4].copy_from_slice(&words),
            8 => self.words[index..index + 2].copy_from_slice(&words[..2]),
            4 => self.words[index] = words[0],
            _ => {
                let mask = ((1 << (8 * size)) - 1) << (8 * shift);
                let word = &mut self.words[index];
                *word = (*word & !mask) | ((words[0] << (8 * shift)) & mask);
            }
        }
        self.peak = self.peak.max(address as u32 + size);
        Ok(())
    }

    /// Marks the target of an asynchronous copy.
    pub(crate) fn begin_flight(&mut self, address: u64, size: u32, who: &Accessor<'_>, lane: u8) -> Result<(), Fault> {
        self.each(address, size, |shadow, reads, address, _| {
            Self::settled(shadow, address)?;
            let writer = &shadow.writer;
            let race = if let Some(other) = Self::unordered_read(shadow, reads, who, lane) {
                other
            } else if Self::concurrent(writer, writer.warp, who, lane) {
                format!("a write {}", Self::name(writer.warp, writer.lane))
            } else {
                shadow.flight = 1 + u16::from(who.warp) * 32 + u16::from(lane);
                return Ok(());
            };
            Err(Fault::Race { space: "shared", address, access: "asynchronous copy", other: race })
        })
    }

    /// Makes an mbarrier of eight bytes: plain accesses are wrong from here on.
    pub(crate) fn claim(&mut self, address: u64, who: &Accessor<'_>, lane: u8, check: bool) -> Result<(), Fault> {
        self.store(address, 8, [0; 4], who, lane, check)?;
        self.each(address, 8, |shadow, _, _, _| {
            shadow.flight = OBJECT;
            Ok(())
        })
    }

    /// Gives its bytes back, which hold nothing then.
    pub(crate) fn give_back(&mut self, address: u64, who: &Accessor<'_>, lane: u8, check: bool) -> Result<(), Fault> {
        self.each(address, 8, |shadow, _, _, _| {
            shadow.flight = 0;
            Ok(())
        })?;
        self.store(address, 8, [u32::MAX; 4], who, lane, check)?;
        self.each(address, 8, |shadow, _, _, _| {
            shadow.written = 0;
            Ok(())
        })
    }

    /// Whether an mbarrier was made before an operation of `lane` on it.
    pub(crate) fn claimed_before(&self, address: u64, who: &Accessor<'_>, lane: u8) -> Result<(), Fault> {
        match self.shadow.get((address / 4) as usize) {
            Some(Shadow { writer, .. }) if Self::concurrent(writer, writer.warp, who, lane) => {
                let other = format!("its initialisation {}", Self::name(writer.warp, writer.lane));
                Err(Fault::Race { space: "shared", address, access: "operation on an mbarrier", other })
            }
            _ => Ok(()),
        }
    }

    /// Delivers `size` bytes (4, 8 or 16) of an asynchronous copy.
    pub(crate) fn land(&mut self, address: u64, size: u32, words: &[u32; 4], who: &Accessor<'_>, lane: u8) {
        let (index, count) = ((address / 4) as usize, size as usize / 4);
        let writer = Stamp { generation: who.generation + 1, sync: who.sync, warp: who.warp, lane, bytes: 15 };
        let landed = Shadow { writer, written: 15, ..Shadow::default() };
        if count == LINE && self.reads.is_empty() {
            self.alike[index / LINE] = true;
            self.shadow[index] = landed;
        } else {
            // Its flight has told the line's words apart.
            self.shadow[index..index + count].fill(landed);
        }
        self.words[index..index + count].copy_from_slice(&words[..count]);
        self.peak = self.peak.max(address as u32 + size);
    }
}

/// The bytes of its (first) word that an access touches, as bits.
fn bytes_of(address: u64, size: u32) -> u32 {
    if size < 4 { ((1 << size) - 1) << (address % 4) } else { 15 }
}

/// The warps of a mask, ascending.
fn warps_of(mask: u32) -> impl Iterator<Item = u8> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let warp = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (warp < 32).then_some(warp as u8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random accesses of four warps between barriers of all or two of them: what is said of lines as wholes, and forgotten, is what is
    /// said of each word for itself.
    #[test]
    fn lines_say_what_their_words_would() {
        let mut state = 7u64;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let (mut races, mut clean) = (0, 0);
        for _ in 0..400 {
            let (mut lines, mut words) = (Shared::new(96, false), Shared::new(96, false));
            let (mut generation, mut ordered, mut sync) = (0, [[0u32; 32]; 4], [0u32; 4]);
            for address in (0..96).step_by(16) {
                let who = Accessor { warp: 0, sync: 0, generation, ordered: &ordered[0] };
                for shared in [&mut lines, &mut words] {
                    shared.store(address, 16, [1; 4], &who, 0, true).unwrap();
                }
            }
            for _ in 0..40 {
                for (line, alike) in words.shadow.chunks_mut(LINE).zip(&mut words.alike).filter(|(_, alike)| **alike) {
                    line.fill(line[0]);
                    *alike = false;
                }
                if below(4) == 0 {
                    let members = if below(3) == 0 { 2 } else { 4 };
                    let mut after = [0u32; 32];
                    for known in &ordered[..members] {
                        (0..4).for_each(|other| after[other] = after[other].max(known[other]));
                    }
                    generation += 1;
                    after[..members].fill(generation);
                    ordered[..members].fill(after);
                    sync[..members].iter_mut().for_each(|sync| *sync += 1);
                    lines.past = ordered.iter().map(|known| *known[..4].iter().min().unwrap()).min().unwrap();
                    continue;
                }
                let (warp, lane, size) = (below(4) as usize, below(2) as u8, 1 << below(5));
                let address = below(96 / size) * size;
                let who = Accessor { warp: warp as u8, sync: sync[warp], generation, ordered: &ordered[warp] };
                let kind = below(3);
                let access = |shared: &mut Shared| match kind {
                    0 => shared.store(address, size as u32, [2; 4], &who, lane, true),
                    1 if size >= 4 => shared
                        .begin_flight(address, size as u32, &who, lane)
                        .map(|()| shared.land(address, size as u32, &[3; 4], &who, lane)),
                    _ => shared.load(address, size as u32, &who, lane, true, &mut [0; 4]),
                };
                let (ours, expected) = (access(&mut lines), access(&mut words));
                assert_eq!(ours, expected);
                if ours.is_err() {
                    races += 1;
                    break;
                }
                clean += 1;
            }
        }
        assert!(races > 100 && clean > 400, "{races} races, {clean} other accesses");
    }
}
