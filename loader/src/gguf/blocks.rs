//! How the numbers of a tensor are packed.

use half::{bf16, f16};

/// Weights of one block of the quantised types.
const BLOCK: usize = 32;

/// A storage type that can be read.
///
/// # Source
/// ggml `ggml-common.h` (block layouts), `ggml-quants.c` (`dequantize_row_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// 16-bit floating point with f32's exponent.
    Bf16,
    /// 32 weights in 34 bytes: f16 `d`, 32 signed bytes `q`; `w = d q`.
    Q8_0,
    /// 32 weights in 18 bytes: f16 `d`, 16 bytes; low nibbles are weights 0..16, high ones 16..32; `w = d (q - 8)`.
    Q4_0,
    /// 32 weights in 20 bytes: f16 `d`, f16 `m`, nibbles as in `Q4_0`; `w = d q + m`.
    Q4_1,
}

impl Storage {
    /// The type of a GGML number.
    pub(super) fn of(kind: u32) -> Option<Storage> {
        match kind {
            0 => Some(Storage::F32),
            1 => Some(Storage::F16),
            2 => Some(Storage::Q4_0),
            3 => Some(Storage::Q4_1),
            8 => Some(Storage::Q8_0),
            30 => Some(Storage::Bf16),
            _ => None,
        }
    }

    /// Weights a block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Storage::F32 => (1, 4),
            Storage::F16 | Storage::Bf16 => (1, 2),
            Storage::Q8_0 => (BLOCK, 34),
            Storage::Q4_0 => (BLOCK, 18),
            Storage::Q4_1 => (BLOCK, 20),
        }
    }

    /// The numbers of whole blocks.
    pub(super) fn expand(self, bytes: &[u8]) -> Vec<f32> {
        let (weights, size) = self.block();
        let mut numbers = Vec::with_capacity(bytes.len() / size * weights);
        for block in bytes.chunks_exact(size) {
            let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
            match self {
                Storage::F32 => numbers.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
                Storage::F16 => numbers.push(half(0)),
                Storage::Bf16 => numbers.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
                Storage::Q8_0 => {
                    let scale = half(0);
                    numbers.extend(block[2..].iter().map(|&byte| scale * f32::from(byte as i8)));
                }
                Storage::Q4_0 => {
                    let scale = half(0);
                    numbers.extend(nibbles(&block[2..]).map(|nibble| scale * (f32::from(nibble) - 8.0)));
                }
                Storage::Q4_1 => {
                    let (scale, least) = (half(0), half(2));
                    numbers.extend(nibbles(&block[4..]).map(|nibble| scale * f32::from(nibble) + least));
                }
            }
        }
        numbers
    }
}

/// The low halves of all bytes, then the high halves.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_expand_as_their_formulas_say() {
        let half = |value: f32| f16::from_f32(value).to_le_bytes();
        let codes: Vec<u8> = (0..16).map(|index| index | (15 - index) << 4).collect();
        let order = (0..16u8).chain((0..16u8).rev()).map(f32::from);

        let q4_0: Vec<u8> = half(0.5).into_iter().chain(codes.iter().copied()).collect();
        assert_eq!(Storage::Q4_0.expand(&q4_0), order.clone().map(|code| 0.5 * (code - 8.0)).collect::<Vec<_>>());
        let q4_1: Vec<u8> = half(0.25).into_iter().chain(half(-1.0)).chain(codes).collect();
        assert_eq!(Storage::Q4_1.expand(&q4_1), order.map(|code| 0.25 * code - 1.0).collect::<Vec<_>>());
        let bytes = (-16..16i8).map(|code| code as u8);
        let q8_0: Vec<u8> = half(2.0).into_iter().chain(bytes).collect();
        assert_eq!(Storage::Q8_0.expand(&q8_0), (-16..16).map(|code| 2.0 * code as f32).collect::<Vec<_>>());
        assert_eq!(Storage::Bf16.expand(&[0x80, 0x3F, 0, 0xC0]), [1.0, -2.0]);
        assert_eq!(Storage::F16.expand(&half(-0.375)), [-0.375]);
        assert_eq!(Storage::F32.expand(&1.5f32.to_le_bytes()), [1.5]);
    }
}
