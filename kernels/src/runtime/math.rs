//! Elementary functions in f32 without branches or tables, so that loops over them vectorise; every operation is exactly specified,
//! so that every machine gives the same bits. And sums in a fixed order.

use super::Real;

/// Constants of [`exp_f32`], which PTX follows step by step where it must give the same bits.
pub(crate) struct Exponential {
    /// Adding and subtracting it rounds to the nearest integer: 1.5 * 2^23.
    pub(crate) round: f32,
    /// ln 2 in two parts, the first with few bits.
    pub(crate) ln_2: [f32; 2],
    /// From the highest power, 6, down to the square.
    pub(crate) polynomial: [f32; 6],
}

pub(crate) const EXP: Exponential = Exponential {
    round: 12_582_912.0,
    ln_2: [0.693_359_4, -2.121_944_4e-4],
    polynomial: [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5],
};

/// e^x within about 1 ulp: x = n ln 2 + r, a degree-6 polynomial for e^r on |r| <= ln 2 / 2, then 2^n in two factors.
/// Overflows to infinity and underflows to 0 as it should; NaN stays NaN.
///
/// # Source
/// Cody & Waite reduction; coefficients are the minimax ones of the Cephes library's `expf`.
#[inline(always)]
pub fn exp_f32(x: f32) -> f32 {
    let clamped = if x > 89.0 { 89.0 } else { x };
    let clamped = if clamped < -104.0 { -104.0 } else { clamped };
    let Exponential { round, ln_2, polynomial } = EXP;
    let shifted = clamped * std::f32::consts::LOG2_E + round;
    let n = shifted - round;
    let r = clamped - n * ln_2[0];
    let r = r - n * ln_2[1];
    let mut p = polynomial[0];
    for coefficient in &polynomial[1..] {
        p = p * r + coefficient;
    }
    let e = p * (r * r) + r + 1.0;
    // The integer stands in the low bits of the shifted value; a cast, which saturates, would not vectorise. NaN gives any n, and e is NaN.
    let n = shifted.to_bits().wrapping_sub(round.to_bits()) as i32;
    let half = n >> 1;
    let low = f32::from_bits((half.wrapping_add(127) << 23) as u32);
    let high = f32::from_bits((n.wrapping_sub(half).wrapping_add(127) << 23) as u32);
    e * low * high
}

/// erf(x) with absolute error below 3e-7: `1 - t * exp(-x^2 + P(t))`, `t = 1 / (1 + |x| / 2)`, odd in x; a series below 0.5.
///
/// # Source
/// Chebyshev fit of erfc in Press et al., "Numerical Recipes" (section on the error function), fractional error 1.2e-7; Maclaurin
/// series of erf for small arguments.
#[inline(always)]
pub fn erf_f32(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = 1.0 / (1.0 + 0.5 * magnitude);
    let mut p = 0.170_872_77;
    p = p * t - 0.822_152_23;
    p = p * t + 1.488_515_9;
    p = p * t - 1.135_204;
    p = p * t + 0.278_868_07;
    p = p * t - 0.186_288_06;
    p = p * t + 0.096_784_18;
    p = p * t + 0.374_091_96;
    p = p * t + 1.000_023_7;
    p = p * t - 1.265_512_2;
    let far = 1.0 - t * exp_f32(p - magnitude * magnitude);
    let s = x * x;
    let mut q = -1.0 / 1320.0;
    q = q * s + 1.0 / 216.0;
    q = q * s - 1.0 / 42.0;
    q = q * s + 0.1;
    q = q * s - 1.0 / 3.0;
    q = q * s + 1.0;
    let near = x * q * std::f32::consts::FRAC_2_SQRT_PI;
    if magnitude < 0.5 { near } else { far.copysign(x) }
}

/// Lanes of a sum: fixed, so that the order of additions is that of the source on every machine.
pub const LANES: usize = 16;

/// Adds the lanes of a sum in a fixed tree.
#[inline(always)]
pub fn tree<A: Real>(mut lanes: [A; LANES]) -> A {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        let mut worst = 0.0f64;
        for step in -870_000..=880_000 {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp_f32(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst}");
        assert_eq!(exp_f32(0.0), 1.0);
        assert_eq!(exp_f32(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_f32(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp_f32(1000.0), f32::INFINITY);
        assert!(exp_f32(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_close() {
        let mut worst = 0.0f64;
        for step in -60_000..=60_000 {
            let x = step as f32 * 1e-4;
            worst = worst.max((f64::from(erf_f32(x)) - libm::erf(f64::from(x))).abs());
        }
        assert!(worst < 3e-7, "{worst}");
        assert!(erf_f32(f32::NAN).is_nan());
    }
}
