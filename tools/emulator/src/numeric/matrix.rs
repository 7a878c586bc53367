//! `mma.sync`: fragments and sums.
//!
//! With lane = 4 g + t, of m16n8k16: a0 (g, 2t..), a1 (g + 8, 2t..), a2 (g, 2t + 8..), a3 (g + 8, 2t + 8..); b0 (k = 2t.., n = g), b1
//! (k = 2t + 8.., n = g); c0, c1 (g, 2t..), c2, c3 (g + 8, 2t..). m16n8k8 of 16-bit types has a0, a1 and b0 only; of tf32 a0 (g, t), a1
//! (g + 8, t), a2 (g, t + 4), a3 (g + 8, t + 4), b0 (t, g), b1 (t + 4, g).
//!
//! # Source
//! PTX ISA, "Warp-level matrix instructions", fragments of `mma.m16n8k8` and `mma.m16n8k16`.

use super::MmaModel;
use super::format::{Rounding, f16_to_f32, round_to, to_f16};
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

/// Registers of a or b, those of 16-bit types unfolded into planes of their two halves: lane `4 g + t` of plane `folds * register + f`
/// holds element `folds * t + f` of row (of b: column) g of what is an 8 x `4 * folds` part of the matrix.
#[inline(always)]
fn unfold<const N: usize>(element: Type, registers: &[&L32]) -> [L32; N] {
    let mut planes = [[0; 32]; N];
    for (planes, bits) in planes.chunks_mut(folds(element)).zip(registers) {
        match (element, planes) {
            (Type::Bf16, [low, high]) => (*low, *high) = (each!(lane, bits[lane] << 16), each!(lane, bits[lane] & 0xffff_0000)),
            (Type::F16, [low, high]) => {
                *low = each!(lane, f16_to_f32(bits[lane] & 0xffff).to_bits());
                *high = each!(lane, f16_to_f32(bits[lane] >> 16).to_bits());
            }
            (_, [plane, ..]) => *plane = each!(lane, bits[lane] & !0x1fff),
            _ => {}
        }
    }
    planes
}

/// Elements of a register.
fn folds(element: Type) -> usize {
    if element == Type::Tf32 { 1 } else { 2 }
}

/// Columns of a row of sums in the order in which the accumulators' registers give them.
const COLUMNS: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Operands of a product, as wide as f32.
struct Operands {
    shape: Shape,
    /// Planes of `a`: rows 0 to 7 and 8 to 15 of the first half of the columns, then of the second.
    a: [L32; 8],
    /// Row k of `b` by the columns of [`COLUMNS`].
    b: [[f32; 8]; 16],
    /// Registers of accumulators: lane `4 g + t` of number `2 h + p` holds row `8 h + g`, column `2 t + p`.
    c: [L32; 4],
}

impl Operands {
    #[inline(always)]
    fn new(shape: Shape, a: [&L32; 4], b: [&L32; 2], c: [&L32; 4]) -> Operands {
        let ([of_a, of_b, of_c], folds) = (shape.registers(), folds(shape.element));
        let columns: [L32; 4] = unfold(shape.element, &b[..of_b]);
        let mut rows = [[0.0; 8]; 16];
        for (half, columns) in columns.chunks(folds).enumerate().take(of_b) {
            for t in 0..4 {
                for (fold, plane) in columns.iter().enumerate() {
                    rows[(4 * half + t) * folds + fold] = COLUMNS.map(|column| f32::from_bits(plane[4 * column + t]));
                }
            }
        }
        let c = if shape.half { unfold(Type::F16, &c[..of_c]) } else { c.map(|register| *register) };
        Operands { shape, a: unfold(shape.element, &a[..of_a]), b: rows, c }
    }

    /// Calls `step` with every k in order: the plane of the rows 0 to 7 of `a` (that of the others comes `folds` later), t, and b's row.
    #[inline(always)]
    fn steps(&self, mut step: impl FnMut(usize, usize, &[f32; 8])) {
        let folds = folds(self.shape.element);
        for (half, rows) in self.b.chunks(4 * folds).enumerate().take(self.shape.depth / (4 * folds)) {
            for (t, rows) in rows.chunks(folds).enumerate().take(4) {
                for (fold, row) in rows.iter().enumerate() {
                    step(2 * half * folds + fold, t, row);
                }
            }
        }
    }

    /// Every sum goes through its products in the order of k, rounding after each.
    #[inline(always)]
    fn add_in_order(&self) -> [L32; 4] {
        let mut d = [[0; 32]; 4];
        for half in 0..2 {
            let c: [&[[u32; 4]]; 2] = [0, 1].map(|p| self.c[2 * half + p].as_chunks().0);
            let mut sums: [[f32; 8]; 8] = std::array::from_fn(|g| std::array::from_fn(|place| f32::from_bits(c[place / 4][g][place % 4])));
            self.steps(|plane, t, row| {
                let factors: &[[u32; 4]; 8] =
                    self.a[plane + half * folds(self.shape.element)].as_chunks().0.try_into().unwrap_or(&[[0; 4]; 8]);
                for (sums, factors) in sums.iter_mut().zip(factors) {
                    let factor = f32::from_bits(factors[t % 4]);
                    for (sum, value) in sums.iter_mut().zip(row) {
                        *sum = factor.mul_add(*value, *sum);
                    }
                }
            });
            for p in 0..2 {
                for (four, sums) in d[2 * half + p].as_chunks_mut::<4>().0.iter_mut().zip(&sums) {
                    *four = std::array::from_fn(|t| sums[4 * p + t].to_bits());
                }
            }
        }
        d
    }

    /// Applies `add` to every element's products, `block` of them at a time.
    fn add_in_blocks(&self, block: usize, add: impl Fn(&[f64], f64) -> f32) -> [L32; 4] {
        let (mut d, folds) = (self.c, folds(self.shape.element));
        for (register, d) in d.iter_mut().enumerate() {
            for (lane, sum) in d.iter_mut().enumerate() {
                let (g, place) = (lane / 4, 4 * (register % 2) + lane % 4);
                let (mut products, mut depth) = ([0.0f64; 16], 0);
                self.steps(|plane, t, row| {
                    let factor = f32::from_bits(self.a[plane + register / 2 * folds][4 * g + t]);
                    products[depth] = f64::from(factor) * f64::from(row[place]);
                    depth += 1;
                });
                let terms = products[..depth].chunks(block);
                *sum = terms.fold(f32::from_bits(*sum), |sum, terms| add(terms, f64::from(sum))).to_bits();
            }
        }
        d
    }
}

/// `d = a b + c` for a warp; registers beyond a shape's are ignored.
pub(crate) fn multiply(shape: Shape, model: MmaModel, a: [&L32; 4], b: [&L32; 2], c: [&L32; 4]) -> [L32; 4] {
    let sums = match model {
        MmaModel::Sequential => twice!((shape: Shape, a: [&L32; 4], b: [&L32; 2], c: [&L32; 4]) -> [L32; 4] {
            // The depth and the element of most products are known where they are compiled.
            match shape {
                Shape { element: Type::Bf16, depth: 16, half: false } => {
                    Operands::new(Shape { element: Type::Bf16, depth: 16, half: false }, a, b, c).add_in_order()
                }
                _ => Operands::new(shape, a, b, c).add_in_order(),
            }
        })(shape, a, b, c),
        MmaModel::Exact => Operands::new(shape, a, b, c).add_in_blocks(16, |terms, c| (terms.iter().sum::<f64>() + c) as f32),
        MmaModel::Blocks => Operands::new(shape, a, b, c).add_in_blocks(8, cut_off),
    };
    let packed = |half: usize| {
        std::array::from_fn(|lane| {
            let [low, high] = [0, 1].map(|p| to_f16(f64::from(f32::from_bits(sums[2 * half + p][lane])), Rounding::Nearest));
            low | (high << 16)
        })
    };
    if shape.half { [packed(0), packed(1), [0; 32], [0; 32]] } else { sums }
}

/// The sum of terms that were first cut off 25 bits below the largest one's leading bit.
fn cut_off(terms: &[f64], c: f64) -> f32 {
    let largest = terms.iter().fold(c.abs(), |largest, term| largest.max(term.abs()));
    if largest == 0.0 || !largest.is_finite() {
        return (terms.iter().sum::<f64>() + c) as f32;
    }
    // Terms are products of numbers of 32 bits at most: no exponent is at the ends of an f64's range.
    let exponent = ((largest.to_bits() >> 52) as i64 - 1023 - 25).max(-1000);
    let [unit, units] = [exponent, -exponent].map(|power| f64::from_bits(((power + 1023) as u64) << 52));
    let cut = |term: f64| (term * units).trunc() * unit;
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
                    let d = multiply(shape, model, a.each_ref(), b.each_ref(), c.each_ref());
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
