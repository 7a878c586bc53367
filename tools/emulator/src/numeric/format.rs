//! 16-bit formats and rounding to any binary format.

/// Rounding of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To nearest, ties to even (`.rn`).
    Nearest,
    /// Towards zero (`.rz`).
    Zero,
    /// Down (`.rm`).
    Down,
    /// Up (`.rp`).
    Up,
    /// To nearest, ties away from zero (`.rna`).
    Away,
}

impl Rounding {
    /// The mode that `.rn`, `.rzi`, .. mean.
    pub(crate) fn parse(part: &str) -> Option<Rounding> {
        Some(match part {
            "rn" | "rni" => Rounding::Nearest,
            "rz" | "rzi" => Rounding::Zero,
            "rm" | "rmi" => Rounding::Down,
            "rp" | "rpi" => Rounding::Up,
            "rna" => Rounding::Away,
            _ => return None,
        })
    }

    /// To an integer.
    pub(crate) fn integer(self, value: f64) -> f64 {
        match self {
            Rounding::Nearest => value.round_ties_even(),
            Rounding::Zero => value.trunc(),
            Rounding::Down => value.floor(),
            Rounding::Up => value.ceil(),
            Rounding::Away => value.round(),
        }
    }
}

/// Canonical NaN of f32.
pub(crate) const NAN: u32 = 0x7fff_ffff;

/// `value` with `digits` significant bits, exponents from `lowest` to `highest`; overflow as the mode says.
pub(crate) fn round_to(value: f64, digits: i32, lowest: i32, highest: i32, mode: Rounding) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let exponent = ilogb(value).max(lowest);
    let unit = exponent - (digits - 1);
    // Two factors, since 2^-unit alone may leave the range of f64.
    let scaled = scale(value, -unit);
    let rounded = scale(mode.integer(scaled), unit);
    let limit = scale(2.0 - scale(1.0, 1 - digits), highest);
    if rounded.abs() <= limit {
        return rounded;
    }
    let to_infinity = match mode {
        Rounding::Nearest | Rounding::Away => true,
        Rounding::Zero => false,
        Rounding::Down => value < 0.0,
        Rounding::Up => value > 0.0,
    };
    if to_infinity { f64::INFINITY.copysign(value) } else { limit.copysign(value) }
}

fn scale(value: f64, power: i32) -> f64 {
    let step = |power: i32| f64::from_bits(((1023 + power.clamp(-1022, 1023)) as u64) << 52);
    value * step(power / 2) * step(power - power / 2)
}

fn ilogb(value: f64) -> i32 {
    let bits = ((value.to_bits() >> 52) & 0x7ff) as i32;
    if bits == 0 { ilogb(value * 2f64.powi(60)) - 60 } else { bits - 1023 }
}

/// f16 bits to f32.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u32) -> f32 {
    let (sign, exponent, fraction) = ((bits & 0x8000) << 16, (bits >> 10) & 0x1f, bits & 0x3ff);
    match exponent {
        0 => {
            let value = fraction as f32 * (1.0 / 16_777_216.0);
            f32::from_bits(value.to_bits() | sign)
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | (fraction << 13)),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (fraction << 13)),
    }
}

/// bf16 bits to f32.
#[inline(always)]
pub(crate) fn bf16_to_f32(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// f64 to f16 bits.
pub(crate) fn to_f16(value: f64, mode: Rounding) -> u32 {
    if value.is_nan() {
        return 0x7fff;
    }
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    let rounded = round_to(value, 11, -14, 15, mode).abs();
    if rounded.is_infinite() {
        return sign | 0x7c00;
    }
    if rounded < 2f64.powi(-14) {
        return sign | (rounded * 16_777_216.0) as u32;
    }
    let bits = (rounded as f32).to_bits();
    sign | ((bits >> 13) - (112 << 10))
}

/// f64 to bf16 bits.
pub(crate) fn to_bf16(value: f64, mode: Rounding) -> u32 {
    if value.is_nan() {
        return 0x7fff;
    }
    (round_to(value, 8, -126, 127, mode) as f32).to_bits() >> 16
}

/// f32 to bf16 bits, to nearest even: the common case, without branches.
#[inline(always)]
pub(crate) fn f32_to_bf16(bits: u32) -> u32 {
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { rounded }
}

/// f64 to f32 bits.
pub(crate) fn to_f32(value: f64, mode: Rounding) -> u32 {
    if value.is_nan() {
        return NAN;
    }
    match mode {
        Rounding::Nearest => (value as f32).to_bits(),
        _ => (round_to(value, 24, -126, 127, mode) as f32).to_bits(),
    }
}

/// Subnormals become zero of the same sign.
#[inline(always)]
pub(crate) fn flush(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// Quiet NaNs in the one form that the hardware writes.
#[inline(always)]
pub(crate) fn canonical(value: f32) -> u32 {
    if value.is_nan() { NAN } else { value.to_bits() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_formats_round_trip() {
        for bits in 0..=0xffffu32 {
            let (half, brain) = (f16_to_f32(bits), bf16_to_f32(bits));
            if !half.is_nan() {
                assert_eq!(to_f16(f64::from(half), Rounding::Nearest), bits);
            }
            if !brain.is_nan() {
                assert_eq!(to_bf16(f64::from(brain), Rounding::Nearest), bits);
                assert_eq!(f32_to_bf16(brain.to_bits()), bits);
            }
        }
    }

    #[test]
    fn directed_rounding_brackets() {
        for step in 1..2000 {
            let value = f64::from(step) * 1.000_123_456_7e-3 * if step % 2 == 0 { -1.0 } else { 1.0 };
            let of = |mode| f64::from(f32::from_bits(to_f32(value, mode)));
            assert!(of(Rounding::Down) <= value && value <= of(Rounding::Up));
            assert!(of(Rounding::Zero).abs() <= value.abs());
            let half = |mode| f64::from(f16_to_f32(to_f16(value, mode)));
            assert!(half(Rounding::Down) <= value && value <= half(Rounding::Up));
            let nearest = half(Rounding::Nearest);
            assert!((nearest - value).abs() <= (half(Rounding::Up) - half(Rounding::Down)) / 2.0);
            let fast = f32_to_bf16((value as f32).to_bits());
            assert_eq!(fast, to_bf16(f64::from(value as f32), Rounding::Nearest));
        }
        assert_eq!(to_f16(65519.9, Rounding::Nearest), 0x7bff);
        assert_eq!(to_f16(65520.0, Rounding::Nearest), 0x7c00);
        assert_eq!(to_f16(1e9, Rounding::Zero), 0x7bff);
        assert_eq!(to_f16(-1e9, Rounding::Down), 0xfc00);
    }
}
