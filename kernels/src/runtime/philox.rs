//! Philox 4x32-10: a counter-based generator, the same on every device.
//!
//! # Source
//! Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.3; constants and test vectors of its
//! reference implementation Random123.

/// Names one stream of random numbers: which run, which step, which place in the model.
///
/// The key is the seed; the counter is (block of four words, step, site). Two sites or two steps never share numbers, and nothing
/// depends on the order in which they are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The run's seed.
    pub seed: u64,
    /// Optimizer or generation step; the low 32 bits count.
    pub step: u64,
    /// The place in the model, for example the index of a dropout layer.
    pub site: u32,
}

impl Site {
    /// Words `4 * block .. 4 * block + 4` of the stream; `block` has 64 bits.
    #[inline(always)]
    pub fn words(self, block: u64) -> [u32; 4] {
        let counter = [block as u32, (block >> 32) as u32, self.step as u32, self.site];
        philox4x32(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }
}

/// Ten rounds over a 128-bit counter and a 64-bit key.
#[inline(always)]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(second >> 32) as u32 ^ counter[1] ^ key[0], second as u32, (first >> 32) as u32 ^ counter[3] ^ key[1], first as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// A word as a number in [0, 1): its upper 24 bits, exact in f32.
#[inline(always)]
pub fn uniform(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Two words as a pair of independent standard normal numbers (Box-Muller, in f64).
pub fn normal(first: u32, second: u32) -> (f32, f32) {
    let radius = (-2.0 * ((f64::from(first) + 1.0) / 4_294_967_296.0).ln()).sqrt();
    let angle = std::f64::consts::TAU * f64::from(second) / 4_294_967_296.0;
    ((radius * angle.cos()) as f32, (radius * angle.sin()) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox4x32(pi, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn uniform_stays_below_one() {
        assert_eq!(uniform(0), 0.0);
        assert!(uniform(u32::MAX) < 1.0);
    }
}
