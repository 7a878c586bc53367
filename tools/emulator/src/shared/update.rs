//! Atomics on shared memory.

use super::{ATOMIC, Accessor, SEVERAL, Shadow, Shared, Stamp};
use crate::error::Fault;

impl Shared {
    /// Of several warps' atomics between two barriers the last one is remembered, and none behind a plain write that others may race with.
    fn note_update(
        shadow: &mut Shadow,
        reads: Option<&mut [u32; 32]>,
        address: u64,
        bytes: u8,
        who: &Accessor<'_>,
        lane: u8,
    ) -> Result<(), Fault> {
        Self::settled(shadow, address)?;
        if shadow.written == 0 {
            return Err(Fault::UninitialisedMemory { space: "shared", address });
        }
        let (writer, atomic) = (shadow.writer, shadow.writer.bytes & ATOMIC != 0);
        let other = if !atomic && writer.bytes & bytes != 0 && Self::concurrent(&writer, writer.warp, who, lane) {
            Some(format!("a write {}", Self::name(writer.warp, writer.lane)))
        } else if shadow.reader.bytes & bytes != 0 {
            Self::unordered_read(shadow, reads, who, lane)
        } else {
            None
        };
        if let Some(other) = other {
            return Err(Fault::Race { space: "shared", address, access: "atomic", other });
        }
        if !atomic && writer.generation == who.generation + 1 {
            return Ok(());
        }
        let also = atomic && writer.generation == who.generation + 1 && writer.warp == who.warp && writer.lane != lane;
        let lane = if also { SEVERAL } else { lane };
        shadow.writer = Stamp { generation: who.generation + 1, sync: who.sync, warp: who.warp, lane, bytes: bytes | ATOMIC };
        Ok(())
    }

    /// An atomic update: ordered with other atomics, a race with plain accesses that nothing orders.
    pub(crate) fn update(
        &mut self,
        address: u64,
        size: u32,
        update: impl Fn(u64) -> u64,
        who: &Accessor<'_>,
        lane: u8,
        check: bool,
    ) -> Result<u64, Fault> {
        let (index, shift) = ((address / 4) as usize, (address % 4) as u32);
        if check {
            self.each(address, size, |shadow, reads, address, bytes| Self::note_update(shadow, reads, address, bytes, who, lane))?;
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
}
