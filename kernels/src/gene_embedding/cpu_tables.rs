//! Breakpoints and tables of the value encoder.

use rayon::prelude::*;

use super::{Parameters, Tables};
use crate::runtime::{Cpu, Float, Real, Stream};

/// Output columns that one task builds: their rows of `W2` stay in the first-level cache.
pub(super) const COLUMNS: usize = 16;

/// Whether a hidden unit is on. NaN is, so that it reaches the output.
#[inline(always)]
pub(super) fn active<A: Real>(weight: A, bias: A, u: A) -> bool {
    !is_off(weight * u + bias)
}

#[inline(always)]
pub(super) fn is_off<A: Real>(hidden: A) -> bool {
    hidden <= A::ZERO
}

/// Whether a hidden unit is on for the lowest values.
pub(super) fn starts_active<A: Real>(weight: A, bias: A) -> bool {
    active(weight, bias, A::of(-LIMIT))
}

/// No value is larger.
const LIMIT: f64 = f32::MAX as f64;

/// The largest number at which the unit is still as it is for the lowest values; infinite when it never switches.
///
/// `weight * u + bias`, rounded as it is, rises or falls with `u`, so that bisection finds the place exactly.
fn breakpoint<A: Real>(weight: A, bias: A) -> A {
    let limit = A::of(LIMIT);
    let start = active(weight, bias, -limit);
    if active(weight, bias, limit) == start {
        return -A::NEG_INFINITY;
    }
    let guess = -bias / weight;
    let margin = guess.abs() * A::of(1e-5) + A::of(1e-30);
    let (mut low, mut high) = (guess - margin, guess + margin);
    if !(low > -limit && active(weight, bias, low) == start) {
        low = -limit;
    }
    if !(high < limit && active(weight, bias, high) != start) {
        high = limit;
    }
    loop {
        let middle = low * A::of(0.5) + high * A::of(0.5);
        if middle <= low || middle >= high {
            return low;
        }
        if active(weight, bias, middle) == start {
            low = middle;
        } else {
            high = middle;
        }
    }
}

pub(super) fn build<T: Float>(stream: &Stream, cpu: &Cpu, parameters: Parameters<T>, tables: Tables<T::Acc>) {
    let access = stream.access();
    let (weight1, bias1) = (access.read(parameters.linear1_weight), access.read(parameters.linear1_bias));
    let (weight2, bias2) = (access.read_rows(parameters.linear2_weight), access.read(parameters.linear2_bias));
    let width = bias1.len();
    let unit = |unit: usize| (weight1[unit].to_acc(), bias1[unit].to_acc());

    let mut units: Vec<(T::Acc, u32)> = (0..width).map(|index| (breakpoint(unit(index).0, unit(index).1), index as u32)).collect();
    units.sort_unstable_by(|left, right| left.0.f64().total_cmp(&right.0.f64()).then(left.1.cmp(&right.1)));
    let (points, order) = (access.write(tables.breakpoints), access.write(tables.order));
    for ((unit, point), index) in units.iter().zip(points).zip(order) {
        (*point, *index) = *unit;
    }

    let slopes = access.write_rows(tables.slope).into_tiles(width + 1, COLUMNS);
    let intercepts = access.write_rows(tables.intercept).into_tiles(width + 1, COLUMNS);
    cpu.install(|| {
        slopes.into_par_iter().zip(intercepts).enumerate().for_each(|(tile, (mut slopes, mut intercepts))| {
            let first = tile * COLUMNS;
            let columns = slopes.width();
            // In f64, where the products are exact for f32 weights and hundreds of additions cost nothing visible.
            let (mut slope, mut intercept) = ([0.0f64; COLUMNS], [0.0f64; COLUMNS]);
            let switch = |index: usize, sign: f64, slope: &mut [f64; COLUMNS], intercept: &mut [f64; COLUMNS]| {
                let (weight, bias) = (sign * unit(index).0.f64(), sign * unit(index).1.f64());
                for column in 0..columns {
                    let output = weight2.row(first + column)[index].to_acc().f64();
                    slope[column] += output * weight;
                    intercept[column] += output * bias;
                }
            };
            for column in 0..columns {
                intercept[column] = bias2[first + column].to_acc().f64();
            }
            for index in (0..width).filter(|index| starts_active(unit(*index).0, unit(*index).1)) {
                switch(index, 1.0, &mut slope, &mut intercept);
            }
            for segment in 0..=width {
                for (column, (to_slope, to_intercept)) in slopes.row_mut(segment).iter_mut().zip(intercepts.row_mut(segment)).enumerate() {
                    (*to_slope, *to_intercept) = (T::Acc::of(slope[column]), T::Acc::of(intercept[column]));
                }
                // A unit that never switches ends the list: the segments behind it have no tokens.
                if let Some((_, index)) = units.get(segment).filter(|(point, _)| point.is_finite()) {
                    let (weight, bias) = unit(*index as usize);
                    let sign = if starts_active(weight, bias) { -1.0 } else { 1.0 };
                    switch(*index as usize, sign, &mut slope, &mut intercept);
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breakpoints_are_exact() {
        for step in 1..4000u32 {
            let weight = f32::from_bits(0x3f80_0000 ^ step.wrapping_mul(0x9E37_79B9) & 0x82ff_ffff);
            let bias = ((step.wrapping_mul(0x85EB_CA6B) >> 8) as f32 / 8_388_608.0 - 1.0) * 3.0;
            let point = breakpoint(weight, bias);
            assert!(point.is_finite(), "{weight} {bias}");
            assert_eq!(active(weight, bias, point), starts_active(weight, bias), "{weight} {bias}");
            assert_ne!(active(weight, bias, point.next_up()), starts_active(weight, bias), "{weight} {bias}");
        }
    }

    #[test]
    fn units_without_a_breakpoint() {
        assert_eq!(breakpoint(0.0f32, 1.0), f32::INFINITY);
        assert_eq!(breakpoint(0.0f32, 0.0), f32::INFINITY);
        assert!(starts_active(0.0f32, 1.0) && !starts_active(0.0f32, 0.0) && !starts_active(0.0f32, -1.0));
        assert_eq!(breakpoint(1e-45f32, 1e10), f32::INFINITY);
        assert_eq!(breakpoint(1.0f32, 0.0), 0.0);
        assert_eq!(breakpoint(-1.0f32, 0.0).next_up(), 0.0);
        assert_eq!(breakpoint(1.0f64, 0.0), 0.0);
        assert!(starts_active(f64::NAN, 0.0));
    }
}
