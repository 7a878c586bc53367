//! Shared memory of a CTA: bytes, what was written, and who touched what since which barrier.
//!
//! Every access is stamped with its warp, its lane and the CTA's generation, a count of completed barriers. A warp knows, for every
//! other warp, below which generation its accesses are ordered before its own; a barrier moves that up for all that took part. Inside a
//! warp the same holds between `.sync` operations.

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

/// No lane: several of them.
const SEVERAL: u8 = 0xff;

#[derive(Clone, Copy, Debug, Default)]
struct Stamp {
    /// Generation + 1; 0: never.
    generation: u32,
    sync: u32,
    /// Warps (readers only).
    warps: u32,
    warp: u8,
    lane: u8,
    bytes: u8,
}

/// A word's state.
#[derive(Clone, Copy, Debug, Default)]
struct Shadow {
    written: u8,
    /// Owner of a copy in flight: 1 + warp * 32 + lane.
    flight: u16,
    writer: Stamp,
    reader: Stamp,
}

/// Shared memory of one CTA.
#[derive(Debug)]
pub(crate) struct Shared {
    words: Vec<u32>,
    shadow: Vec<Shadow>,
    bytes: u32,
    /// Addresses at or above this were touched; for the peak.
    pub(crate) peak: u32,
}

impl Shared {
    pub(crate) fn new(bytes: u32) -> Shared {
        let words = bytes.div_ceil(4) as usize;
        Shared { words: vec![u32::MAX; words], shadow: vec![Shadow::default(); words], bytes, peak: 0 }
    }

    /// Forgets everything, for the next CTA.
    pub(crate) fn clear(&mut self) {
        self.words.fill(u32::MAX);
        self.shadow.fill(Shadow::default());
    }

    /// Checks that a range lies inside.
    pub(crate) fn check(&self, address: u64, size: u32) -> Result<(), Fault> {
        if address + u64::from(size) > u64::from(self.bytes) {
            return Err(Fault::Bounds { space: "shared", address, size });
        }
        if !address.is_multiple_of(u64::from(size)) {
            return Err(Fault::Misaligned { space: "shared", address, alignment: size });
        }
        Ok(())
    }

    fn name(warp: u8, lane: u8) -> String {
        if lane == SEVERAL { format!("by warp {warp}") } else { format!("by warp {warp}, lane {lane}") }
    }

    fn settled(shadow: &Shadow, address: u64) -> Result<(), Fault> {
        if shadow.flight == 0 {
            return Ok(());
        }
        let owner = shadow.flight - 1;
        Err(Fault::InFlight { address, owner: format!("warp {}, lane {}", owner / 32, owner % 32) })
    }

    /// Whether `stamp` is not ordered before an access of `lane`.
    fn concurrent(stamp: &Stamp, warp: u8, who: &Accessor<'_>, lane: u8) -> bool {
        if stamp.generation == 0 || stamp.generation - 1 < who.ordered[usize::from(warp)] {
            return false;
        }
        warp != who.warp || (stamp.sync == who.sync && stamp.lane != lane)
    }

    fn note_read(&mut self, index: usize, bytes: u8, who: &Accessor<'_>, lane: u8) -> Result<(), Fault> {
        let address = 4 * index as u64;
        let shadow = &mut self.shadow[index];
        Self::settled(shadow, address)?;
        if shadow.written & bytes != bytes {
            return Err(Fault::UninitialisedMemory { space: "shared", address });
        }
        let writer = shadow.writer;
        if writer.bytes & bytes != 0 && Self::concurrent(&writer, writer.warp, who, lane) {
            let other = format!("a write {}", Self::name(writer.warp, writer.lane));
            return Err(Fault::Race { space: "shared", address, access: "read", other });
        }
        let reader = &mut shadow.reader;
        let (generation, mine) = (who.generation + 1, 1u32 << who.warp);
        let old = reader.warps & !mine;
        let ordered = (0..32).all(|warp| old >> warp & 1 == 0 || reader.generation <= who.ordered[warp as usize]);
        let alone = reader.warps & mine == 0 || reader.sync != who.sync || reader.warp != who.warp || reader.generation != generation;
        *reader = Stamp {
            generation,
            sync: who.sync,
            warps: if ordered { mine } else { reader.warps | mine },
            warp: who.warp,
            lane: if alone || reader.lane == lane { lane } else { SEVERAL },
            bytes: if ordered && alone { bytes } else { reader.bytes | bytes },
        };
        Ok(())
    }

    fn note_write(&mut self, index: usize, bytes: u8, who: &Accessor<'_>, lane: u8) -> Result<(), Fault> {
        let address = 4 * index as u64;
        let shadow = &mut self.shadow[index];
        Self::settled(shadow, address)?;
        let writer = shadow.writer;
        if writer.bytes & bytes != 0 && Self::concurrent(&writer, writer.warp, who, lane) {
            let other = format!("a write {}", Self::name(writer.warp, writer.lane));
            return Err(Fault::Race { space: "shared", address, access: "write", other });
        }
        let reader = shadow.reader;
        if reader.bytes & bytes != 0 {
            for warp in (0..32u8).filter(|warp| reader.warps >> warp & 1 == 1) {
                let own = warp == reader.warp;
                if (warp != who.warp || own) && Self::concurrent(&reader, warp, who, lane) {
                    let other = format!("a read {}", Self::name(warp, if own { reader.lane } else { SEVERAL }));
                    return Err(Fault::Race { space: "shared", address, access: "write", other });
                }
            }
        }
        let merged = writer.generation == who.generation + 1 && writer.warp == who.warp && writer.sync == who.sync;
        shadow.writer = Stamp {
            generation: who.generation + 1,
            sync: who.sync,
            warps: 0,
            warp: who.warp,
            lane: if merged && writer.bytes & bytes == 0 { SEVERAL } else { lane },
            bytes: if merged { writer.bytes | bytes } else { bytes },
        };
        shadow.written |= bytes;
        Ok(())
    }

    /// Reads `size` bytes at a checked address.
    pub(crate) fn load(&mut self, address: u64, size: u32, who: &Accessor<'_>, lane: u8, check: bool) -> Result<[u32; 4], Fault> {
        let (index, shift) = ((address / 4) as usize, (address % 4) as u32);
        let mut words = [0; 4];
        for (place, word) in words.iter_mut().enumerate().take(size.div_ceil(4) as usize) {
            if check {
                let bytes = if size < 4 { ((1u32 << size) - 1) << shift } else { 15 };
                self.note_read(index + place, bytes as u8, who, lane)?;
            }
            *word = self.words[index + place];
        }
        if size < 4 {
            words[0] = (words[0] >> (8 * shift)) & ((1 << (8 * size)) - 1);
        }
        Ok(words)
    }

    /// Writes `size` bytes at a checked address. Lanes of one instruction may write the same value to the same place.
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
        for (place, value) in words.iter().enumerate().take(size.div_ceil(4) as usize) {
            let bytes = if size < 4 { ((1u32 << size) - 1) << shift } else { 15 };
            let mask = (0..4).fold(0u32, |mask, byte| mask | (((bytes >> byte) & 1) * (0xff << (8 * byte))));
            let value = (value << (8 * shift)) & mask;
            if check {
                self.note_write(index + place, bytes as u8, who, lane)?;
            }
            let word = &mut self.words[index + place];
            *word = (*word & !mask) | value;
        }
        self.peak = self.peak.max(address as u32 + size);
        Ok(())
    }

    /// An atomic update: ordered with other atomics, a race with plain accesses that nothing orders.
    pub(crate) fn update(&mut self, address: u64, size: u32, update: impl Fn(u64) -> u64) -> Result<u64, Fault> {
        let (index, shift) = ((address / 4) as usize, (address % 4) as u32);
        for place in 0..size.div_ceil(4) as usize {
            let shadow = &self.shadow[index + place];
            Self::settled(shadow, address)?;
            if shadow.written == 0 {
                return Err(Fault::UninitialisedMemory { space: "shared", address });
            }
        }
        if size == 8 {
            let old = u64::from(self.words[index]) | (u64::from(self.words[index + 1]) << 32);
            let new = update(old);
            (self.words[index], self.words[index + 1]) = (new as u32, (new >> 32) as u32);
            return Ok(old);
        }
        let mask = if size == 4 { u32::MAX } else { 0xffff << (8 * shift) };
        let old = u64::from((self.words[index] & mask) >> (8 * shift));
        let word = &mut self.words[index];
        *word = (*word & !mask) | (((update(old) as u32) << (8 * shift)) & mask);
        Ok(old)
    }

    /// Marks the target of an asynchronous copy.
    pub(crate) fn begin_flight(&mut self, address: u64, size: u32, who: &Accessor<'_>, lane: u8) -> Result<(), Fault> {
        for index in (address / 4) as usize..((address + u64::from(size)) / 4) as usize {
            let address = 4 * index as u64;
            let shadow = self.shadow[index];
            Self::settled(&shadow, address)?;
            let reader = shadow.reader;
            for warp in (0..32u8).filter(|warp| reader.warps >> warp & 1 == 1) {
                let own = warp == reader.warp;
                if (warp != who.warp || own) && Self::concurrent(&reader, warp, who, lane) {
                    let other = format!("a read {}", Self::name(warp, if own { reader.lane } else { SEVERAL }));
                    return Err(Fault::Race { space: "shared", address, access: "asynchronous copy", other });
                }
            }
            let writer = shadow.writer;
            if Self::concurrent(&writer, writer.warp, who, lane) {
                let other = format!("a write {}", Self::name(writer.warp, writer.lane));
                return Err(Fault::Race { space: "shared", address, access: "asynchronous copy", other });
            }
            self.shadow[index].flight = 1 + u16::from(who.warp) * 32 + u16::from(lane);
        }
        Ok(())
    }

    /// Delivers one word of an asynchronous copy.
    pub(crate) fn land(&mut self, address: u64, value: u32, who: &Accessor<'_>, lane: u8) {
        let index = (address / 4) as usize;
        self.words[index] = value;
        let writer = Stamp { generation: who.generation + 1, sync: who.sync, warps: 0, warp: who.warp, lane, bytes: 15 };
        self.shadow[index] = Shadow { written: 15, flight: 0, writer, reader: Stamp::default() };
        self.peak = self.peak.max(address as u32 + 4);
    }
}
