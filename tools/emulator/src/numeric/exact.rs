//! `mma.sync` of 8-bit integers (m16n8k16, m16n8k32) and of f64 (m8n8k4), whose sums leave little or nothing open.
//!
//! With lane = 4 g + t, of integers: a0 (g, 4 t..), a1 (g + 8, 4 t..), a2 and a3 the same 16 columns on; b0 (k = 4 t.., n = g), b1 16 rows
//! on; c0, c1 (g, 2 t..), c2, c3 (g + 8, 2 t..). Of f64: a (g, t), b (t, g), c0, c1 (g, 2 t..).
//!
//! # Source
//! PTX ISA, fragments of `mma.m16n8k16` with integers, `mma.m16n8k32` and `mma.m8n8k4` with f64.

use crate::lanes::{L32, L64};

/// Integers: depth, signs of a and b, and whether sums stop at the ends of s32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integers {
    /// 16 or 32.
    pub(crate) depth: usize,
    pub(crate) signed: [bool; 2],
    pub(crate) saturate: bool,
}

fn byte(word: u32, index: usize, signed: bool) -> i64 {
    let byte = (word >> (8 * index)) as u8;
    if signed { i64::from(byte as i8) } else { i64::from(byte) }
}

/// `d = a b + c`; registers beyond a shape's are ignored.
pub(crate) fn multiply_integers(shape: Integers, a: &[L32; 4], b: &[L32; 2], c: &[L32; 4]) -> [L32; 4] {
    let mut d = [[0; 32]; 4];
    for (register, d) in d.iter_mut().enumerate() {
        for (lane, sum) in d.iter_mut().enumerate() {
            let (row, half, column) = (lane / 4, register / 2, 2 * (lane % 4) + register % 2);
            let mut total = i64::from(c[register][lane] as i32);
            for k in 0..shape.depth {
                let (side, t) = (k / 16, k / 4 % 4);
                let left = byte(a[half + 2 * side][4 * row + t], k % 4, shape.signed[0]);
                total += left * byte(b[side][4 * column + t], k % 4, shape.signed[1]);
            }
            *sum = if shape.saturate { total.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32 } else { total as u32 };
        }
    }
    d
}

/// `d = a b + c`, one fused step a product, in the order of k.
pub(crate) fn multiply_doubles(a: &L64, b: &L64, c: &[L64; 2]) -> [L64; 2] {
    std::array::from_fn(|register| {
        std::array::from_fn(|lane| {
            let (row, column) = (lane / 4, 2 * (lane % 4) + register);
            let term = |sum: f64, k: usize| f64::from_bits(a[4 * row + k]).mul_add(f64::from_bits(b[4 * column + k]), sum);
            (0..4).fold(f64::from_bits(c[register][lane]), term).to_bits()
        })
    })
}
