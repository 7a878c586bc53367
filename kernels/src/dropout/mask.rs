//! The mask itself, shared with the kernels that drop out inside a larger loop.

use crate::runtime::Real;
use crate::runtime::philox::Site;
use crate::vectorize;
use crate::{Error, Result};

/// Which elements of a tensor are kept, and what they are multiplied by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask {
    site: Site,
    /// Of 65536: a 16-bit number below it drops its element.
    threshold: u32,
    scale: f64,
}

/// Elements that one call of Philox decides: its 128 bits in slices of 16.
const ELEMENTS: u64 = 8;
/// Calls made at a time, so that each step of a round is one vector instruction.
const BLOCKS: usize = 16;
/// Elements decided at a time.
const GROUP: usize = BLOCKS * ELEMENTS as usize;

impl Mask {
    /// # Errors
    /// `Argument` when the probability is not in `[0, 1)`.
    pub(crate) fn new(op: &'static str, probability: f32, site: Site) -> Result<Mask> {
        if !(0.0..1.0).contains(&probability) {
            let value = f64::from(probability);
            return Err(Error::Argument { op, argument: "probability", value, expected: "at least 0 and below 1" });
        }
        let probability = f64::from(probability);
        Ok(Mask { site, threshold: (probability * 65536.0).round() as u32, scale: 1.0 / (1.0 - probability) })
    }

    pub(crate) fn site(self) -> Site {
        self.site
    }

    pub(crate) fn threshold(self) -> u32 {
        self.threshold
    }

    pub(crate) fn scale(self) -> f64 {
        self.scale
    }

    /// The factors of elements `start..start + out.len()`: 0 or `1 / (1 - p)`.
    pub(crate) fn factors<A: Real>(self, out: &mut [A], start: usize) {
        if self.threshold == 0 {
            return out.fill(A::of(self.scale));
        }
        let mut start = start as u64;
        let mut rest = out;
        while !rest.is_empty() {
            let skip = (start % GROUP as u64) as usize;
            let (group, tail) = rest.split_at_mut((GROUP - skip).min(rest.len()));
            group_factors(group, self, start / GROUP as u64 * BLOCKS as u64, skip);
            start += group.len() as u64;
            rest = tail;
        }
    }
}

vectorize! {
    /// Factors of the elements from `skip` on of the group whose first Philox block is `block`.
    fn group_factors<A: Real>(out: &mut [A], mask: Mask, block: u64, skip: usize) {
        let slices = slices(mask.site, block);
        let (threshold, scale) = (mask.threshold, A::of(mask.scale));
        for (out, slice) in out.iter_mut().zip(&slices[skip..]) {
            *out = if u32::from(*slice) < threshold { A::ZERO } else { scale };
        }
    }
}

/// The 16-bit slices of `BLOCKS` Philox calls in order: word by word, the lower half first.
#[inline(always)]
fn slices(site: Site, block: u64) -> [u16; GROUP] {
    let mut slices = [0; GROUP];
    for (index, slices) in slices.chunks_exact_mut(ELEMENTS as usize).enumerate() {
        let words = site.words(block + index as u64);
        for (pair, word) in slices.chunks_exact_mut(2).zip(words) {
            (pair[0], pair[1]) = (word as u16, (word >> 16) as u16);
        }
    }
    slices
}
