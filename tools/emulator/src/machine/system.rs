//! What the driver does for kernels: printing, and ending them where an `assert` does not hold.

use super::block::Block;
use super::execute::lanes_of;
use crate::device::PRINTED;
use crate::error::Fault;
use crate::print::{Value, format};
use crate::program::{Special, Src, System, Where};

/// Bytes of a string at the most.
const STRING: usize = 1 << 16;

impl Block<'_> {
    #[cold]
    pub(super) fn system(&mut self, warp: usize, active: u32, system: &System) -> Result<(), Fault> {
        for lane in lanes_of(active) {
            match *system {
                System::Assert { expression, file, line, function } => {
                    let [expression, file, function] = [expression, file, function].map(|place| self.frame_string(warp, lane, place));
                    let thread = [0, 1, 2].map(|axis| self.special(warp as u8, Src::Special(Special::Tid(axis)))[lane] as u32);
                    let line = self.value(warp, lane, Where::Frame, u64::from(line), 4)? as u32;
                    let (expression, file, function) = (expression?, file?, function?);
                    return Err(Fault::Assertion { expression, file, line, function, block: self.cta_id, thread });
                }
                System::Print { format: text, arguments, result } => {
                    let at = self.value(warp, lane, Where::Frame, u64::from(text), 8)?;
                    let mut next = self.value(warp, lane, Where::Frame, u64::from(arguments), 8)?;
                    let text = self.string(warp, lane, at)?;
                    let mut read = |value: Value| {
                        let size = if matches!(value, Value::Int) { 4 } else { 8 };
                        let place = next.next_multiple_of(size);
                        next = place + size;
                        let bits = self.value(warp, lane, Where::Generic, place, size as u32)?;
                        let string = if value == Value::Text && bits != 0 { self.string(warp, lane, bits)? } else { Vec::new() };
                        Ok((bits, string))
                    };
                    let (printed, count) = format(&text, &mut read)?;
                    self.printed.extend(printed);
                    // Of endless printing the end is kept.
                    if self.printed.len() > 2 * PRINTED {
                        let above = self.printed.len() - PRINTED;
                        self.printed.drain(..above);
                    }
                    if let Some(place) = result {
                        self.put(warp, 1 << lane, Where::Frame, &[u64::from(place); 32], 4, &[[count, 0, 0, 0]; 32], false)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// `size` bytes of a lane.
    fn value(&mut self, warp: usize, lane: usize, space: Where, address: u64, size: u32) -> Result<u64, Fault> {
        let words = self.fetch(warp, 1 << lane, space, &[address; 32], size, false)?[lane];
        Ok(u64::from(words[0]) | if size == 8 { u64::from(words[1]) << 32 } else { 0 })
    }

    fn string(&mut self, warp: usize, lane: usize, address: u64) -> Result<Vec<u8>, Fault> {
        let mut text = Vec::new();
        while text.len() < STRING {
            match self.value(warp, lane, Where::Generic, address.wrapping_add(text.len() as u64), 1)? as u8 {
                0 => return Ok(text),
                byte => text.push(byte),
            }
        }
        Err(Fault::Illegal { reason: format!("the string at {address:#x} has no end within {STRING} bytes") })
    }

    /// A string by its address in the frame.
    fn frame_string(&mut self, warp: usize, lane: usize, place: u32) -> Result<String, Fault> {
        let address = self.value(warp, lane, Where::Frame, u64::from(place), 8)?;
        Ok(String::from_utf8_lossy(&self.string(warp, lane, address)?).into_owned())
    }
}
