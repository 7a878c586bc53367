//! `mma.sync`: fragments and sums.
//!
//! With lane = 4 g + t, of m16n8k16: a0 (g, 2t..), a1 (g + 8, 2t..), a2 (g, 2t + 8..), a3 (g + 8, 2t + 8..); b0 (k = 2t.., n = g), b1
//! (k = 2t + 8.., n = g); c0, c1 (g, 2t..), c2, c3 (g + 8, 2t..). m16n8k8 of 16-bit types has a0, a1 and b0 only; of tf32 a0 (g, t), a1
//! (g + 8, t), a2 (g, t + 4), a3 (g + 8, t + 4), b0 (t, g), b1 (t + 4, g).
//!
//! # Source
//! PTX ISA, "Warp-level matrix instructions", fragments of `mma.m16n8k8` and `mma.m16n8k16`.

use super::MmaModel;
use super::format::{Rounding, bf16_to_f32, f16_to_f32, round_to, to_f16};
use crate::lanes::L32;
use crate::syntax::Type;

/// Elements of the operands and depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// F16, Bf16 or Tf32.
    pub(crate) element: Type,
    /// 8 or 16.
    pub(crate) depth: usize,
    /// Whether accumulators are pairs of f16.
    pub(crate) half: bool,
}

impl Shape {
    /// Registers of a, b, c.
    pub(crate) fn registers(self) -> [usize; 3] {
        let tf32 = self.element == Type::Tf32;
        [if self.depth == 16 || tf32 { 4 } else { 2 }, if self.depth == 16 || tf32 { 2 } else { 1 }, if self.half { 2 } else { 4 }]
    }
}

type Left = [[f32; 16]; 16];
type Right = [[f32; 8]; 16];
type Sum = [[f32; 8]; 16];

fn halves(element: Type, bits: u32) -> [f32; 2] {
    if element == Type::Bf16 {
        [bf16_to_f32(bits & 0xffff), f32::from_bits(bits & 0xffff_0000)]
    } else {
        [f16_to_f32(bits & 0xffff), f16_to_f32(bits >> 16)]
    }
}

/// `d = a b + c` for a warp; registers beyond a shape's are ignored.
pub(crate) fn multiply(shape: Shape, model: MmaModel, a: &[L32; 4], b: &[L32; 2], c: &[L32; 4]) -> [L32; 4] {
    let (mut left, mut right, mut sum) = ([[0.0; 16]; 16], [[0.0; 8]; 16], [[0.0; 8]; 16]);
    let [from_a, from_b, _] = shape.registers();
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for (register, values) in a[..from_a].iter().enumerate() {
            let (row, column) = (g + 8 * (register % 2), register / 2);
            if shape.element == Type::Tf32 {
                left[row][t + 4 * column] = f32::from_bits(values[lane] & !0x1fff);
            } else {
                let [low, high] = halves(shape.element, values[lane]);
                (left[row][2 * t + 8 * column], left[row][2 * t + 8 * column + 1]) = (low, high);
            }
        }
        for (register, values) in b[..from_b].iter().enumerate() {
            if shape.element == Type::Tf32 {
                right[t + 4 * register][g] = f32::from_bits(values[lane] & !0x1fff);
            } else {
                let [low, high] = halves(shape.element, values[lane]);
                (right[2 * t + 8 * register][g], right[2 * t + 8 * register + 1][g]) = (low, high);
            }
        }
        for row in 0..2 {
            let cells = if shape.half {
                halves(Type::F16, c[row][lane])
            } else {
                [f32::from_bits(c[2 * row][lane]), f32::from_bits(c[2 * row + 1][lane])]
            };
            (sum[g + 8 * row][2 * t], sum[g + 8 * row][2 * t + 1]) = (cells[0], cells[1]);
        }
    }
    match model {
        MmaModel::Sequential => {
            let add = twice!((left: &Left, right: &Right, sum: &mut Sum, depth: usize) -> () {
                for (row, sums) in left.iter().zip(sum.iter_mut()) {
                    for (factor, column) in row.iter().zip(right).take(depth) {
                        for (sum, value) in sums.iter_mut().zip(column) {
                            *sum = factor.mul_add(*value, *sum);
                        }
                    }
                }
            });
            add(&left, &right, &mut sum, shape.depth);
        }
        MmaModel::Exact => every(&left, &right, &mut sum, |terms, c| (terms.iter().sum::<f64>() + c) as f32, shape.depth, 16),
        MmaModel::Blocks => every(&left, &right, &mut sum, cut_off, shape.depth, 8),
    }
    let cells = |lane: usize, row: usize| {
        let (g, t) = (lane / 4, lane % 4);
        [sum[g + 8 * row][2 * t], sum[g + 8 * row][2 * t + 1]]
    };
    let whole = |register: usize| std::array::from_fn(|lane| cells(lane, register / 2)[register % 2].to_bits());
    let packed = |row: usize| {
        std::array::from_fn(|lane| {
            let [low, high] = cells(lane, row).map(|cell| to_f16(f64::from(cell), Rounding::Nearest));
            low | (high << 16)
        })
    };
    if shape.half { [packed(0), packed(1), [0; 32], [0; 32]] } else { [whole(0), whole(1), whole(2), whole(3)] }
}

/// Applies `add` to every element's products, `block` of them at a time.
fn every(left: &Left, right: &Right, sum: &mut Sum, add: impl Fn(&[f64], f64) -> f32, depth: usize, block: usize) {
    for (row, sums) in left.iter().zip(sum) {
        for (column, sum) in sums.iter_mut().enumerate() {
            for first in (0..depth).step_by(block) {
                let end = (first + block).min(depth);
                let mut terms = [0.0f64; 16];
                for k in first..end {
                    terms[k - first] = f64::from(row[k]) * f64::from(right[k][column]);
                }
                *sum = add(&terms[..end - first], f64::from(*sum));
            }
        }
    }
}

/// The sum of terms that were first cut off 25 bits below the largest one's leading bit.
fn cut_off(terms: &[f64], c: f64) -> f32 {
    let largest = terms.iter().fold(c.abs(), |largest, term| largest.max(term.abs()));
    if largest == 0.0 || !largest.is_finite() {
        return (terms.iter().sum::<f64>() + c) as f32;
    }
    let unit = 2f64.powi((largest.log2().floor() as i32 - 25).max(-1000));
    let cut = |term: f64| (term / unit).trunc() * unit;
    let total = terms.iter().map(|&term| cut(term)).sum::<f64>() + cut(c);
    round_to(total, 24, -126, 127, Rounding::Zero) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A warp's registers of a matrix whose element (row, column) is known, and the product's, against plain loops.
    #[test]
    fn products_of_integers_are_exact_in_every_model() {
        for element in [Type::Bf16, Type::F16, Type::Tf32] {
            for depth in if element == Type::Tf32 { vec![8] } else { vec![8, 16] } {
                let shape = Shape { element, depth, half: false };
                let (x, y) = (|i: usize, k: usize| ((i * 3 + k * 5) % 7) as f32 - 3.0, |k: usize, j: usize| ((k * 2 + j) % 5) as f32 - 2.0);
                let bits = |value: f32| match element {
                    Type::Bf16 => value.to_bits() >> 16,
                    _ => to_f16(f64::from(value), Rounding::Nearest),
                };
                let (mut a, mut b, mut c) = ([[0u32; 32]; 4], [[0u32; 32]; 2], [[0u32; 32]; 4]);
                for lane in 0..32 {
                    let (g, t) = (lane / 4, lane % 4);
                    for register in 0..4 {
                        let (row, half) = (g + 8 * (register % 2), register / 2);
                        a[register][lane] = match element {
                            Type::Tf32 => x(row, t + 4 * half).to_bits(),
                            _ => bits(x(row, 2 * t + 8 * half)) | (bits(x(row, 2 * t + 8 * half + 1)) << 16),
                        };
                        c[register][lane] = (register as f32).to_bits();
                    }
                    for (register, values) in b.iter_mut().enumerate() {
                        values[lane] = match element {
                            Type::Tf32 => y(t + 4 * register, g).to_bits(),
                            _ => bits(y(2 * t + 8 * register, g)) | (bits(y(2 * t + 8 * register + 1, g)) << 16),
                        };
                    }
                }
                for model in [MmaModel::Sequential, MmaModel::Exact, MmaModel::Blocks] {
                    let d = multiply(shape, model, &a, &b, &c);
                    for (register, values) in d.iter().enumerate() {
                        for (lane, bits) in values.iter().enumerate() {
                            let (i, j) = (lane / 4 + 8 * (register / 2), 2 * (lane % 4) + register % 2);
                            let expected: f32 = (0..depth).map(|k| x(i, k) * y(k, j)).sum::<f32>() + register as f32;
                            assert_eq!(f32::from_bits(*bits), expected, "{element:?} {depth} {model:?} ({i}, {j})");
                        }
                    }
                }
            }
        }
    }
}
