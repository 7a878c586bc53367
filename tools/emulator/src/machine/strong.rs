//! `.relaxed`, `.acquire` and `.release` on shared memory: words by which single threads order each other. (On global memory such accesses
//! switch the check of races off: see [`Block::ordered`].)
//!
//! A release, or a relaxed write behind a fence, leaves with its word what is ordered before it; who reads the word strongly learns that.

use super::access::resolve;
use super::block::Block;
use super::execute::lanes_of;
use crate::error::Fault;
use crate::program::{Address, Op, Order, Where};

impl Block<'_> {
    /// A load or store that is not weak.
    #[cold]
    pub(super) fn strong(&mut self, warp: usize, active: u32, space: Where, at: Address, order: Order, op: &Op) -> Result<(), Fault> {
        if let Op::Store { .. } = op {
            self.synchronise(warp, active, space, at, order, true)?;
        }
        self.shared.strong = true;
        let outcome = match op {
            Op::Load { element, d, count, ordered, .. } => {
                self.load(warp, active, space, *element, &d[..usize::from(*count)], at, *ordered)
            }
            Op::Store { element, s, count, ordered, .. } => {
                self.store(warp, active, space, *element, &s[..usize::from(*count)], at, *ordered)
            }
            _ => Ok(()),
        };
        self.shared.strong = false;
        outcome?;
        match op {
            Op::Load { .. } => self.synchronise(warp, active, space, at, order, false),
            _ => Ok(()),
        }
    }

    /// What the words of an access order: those who read learn it, those who write add what is ordered before them.
    #[cold]
    pub(super) fn synchronise(
        &mut self,
        warp: usize,
        active: u32,
        space: Where,
        at: Address,
        order: Order,
        writes: bool,
    ) -> Result<(), Fault> {
        let addresses = self.addresses(warp, active, at)?;
        if writes {
            self.generation += 1;
        }
        for lane in lanes_of(active) {
            let (Where::Shared, address) = resolve(space, addresses[lane]) else { continue };
            let word = (address / 4) as u32;
            if let Some(clock) = self.words.get(&word) {
                self.warps[warp].learn(lane, clock);
            }
            if writes && (order == Order::Synchronising || self.warps[warp].fenced >> lane & 1 == 1) {
                let released = self.released(warp, lane, true);
                let clock = self.words.entry(word).or_insert([0; 32]);
                clock.iter_mut().zip(released).for_each(|(known, new)| *known = (*known).max(new));
            }
        }
        Ok(())
    }
}
