//! `cvt` in all its forms: through an exact middle, so that only the last step rounds.

use super::format::{NAN, Rounding, bf16_to_f32, f16_to_f32, flush, to_bf16, to_f16, to_f32};
use crate::syntax::Type;

/// Modifiers of a `cvt`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversion {
    pub(crate) to: Type,
    pub(crate) from: Type,
    pub(crate) mode: Option<Rounding>,
    /// Whether the mode was one of `.rni`, `.rzi`, ..: a float keeps an integral value.
    pub(crate) integral: bool,
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
    pub(crate) relu: bool,
}

enum Middle {
    Integer(i128),
    Float(f64),
}

impl Conversion {
    /// One value; bits above a type's size are ignored and written as 0.
    pub(crate) fn apply(&self, bits: u64) -> u64 {
        let narrow = bits as u32;
        let middle = match self.from {
            Type::U8 | Type::B8 => Middle::Integer(i128::from(bits as u8)),
            Type::S8 => Middle::Integer(i128::from(bits as i8)),
            Type::U16 | Type::B16 => Middle::Integer(i128::from(bits as u16)),
            Type::S16 => Middle::Integer(i128::from(bits as i16)),
            Type::U32 | Type::B32 => Middle::Integer(i128::from(narrow)),
            Type::S32 => Middle::Integer(i128::from(narrow as i32)),
            Type::U64 | Type::B64 => Middle::Integer(i128::from(bits)),
            Type::S64 => Middle::Integer(i128::from(bits as i64)),
            Type::F16 => Middle::Float(f64::from(f16_to_f32(narrow & 0xffff))),
            Type::Bf16 => Middle::Float(f64::from(bf16_to_f32(narrow & 0xffff))),
            Type::F32 | Type::Tf32 => Middle::Float(f64::from(f32::from_bits(if self.ftz { flush(narrow) } else { narrow }))),
            _ => Middle::Float(f64::from_bits(bits)),
        };
        if self.to.is_float() { self.float(middle) } else { self.integer(middle) }
    }

    fn range(&self) -> (i128, i128) {
        let bits = 8 * self.to.size() as u32;
        if self.to.is_signed() { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) }
    }

    fn integer(&self, middle: Middle) -> u64 {
        let (lowest, highest) = self.range();
        let value = match middle {
            Middle::Integer(value) if self.sat => value.clamp(lowest, highest),
            Middle::Integer(value) => value,
            Middle::Float(value) if value.is_nan() => 0,
            Middle::Float(value) => (self.mode.unwrap_or(Rounding::Zero).integer(value) as i128).clamp(lowest, highest),
        };
        let mask = if self.to.size() == 8 { u64::MAX } else { (1 << (8 * self.to.size())) - 1 };
        value as u64 & mask
    }

    fn float(&self, middle: Middle) -> u64 {
        let mode = self.mode.unwrap_or(Rounding::Nearest);
        if let (Middle::Integer(value), Type::F64) = (&middle, self.to) {
            return super::directed::from_integer(*value, mode);
        }
        let value = match middle {
            // f64 holds 53 bits; longer integers are rounded to odd first, so that the second rounding is the only one that counts.
            Middle::Integer(value) => to_odd(value),
            Middle::Float(value) if self.integral => mode.integer(value),
            Middle::Float(value) => value,
        };
        let value = match value {
            value if value.is_nan() => value,
            value if self.sat => value.clamp(0.0, 1.0),
            value if self.relu && value <= 0.0 => 0.0,
            value => value,
        };
        match self.to {
            Type::F16 => u64::from(to_f16(value, mode)),
            Type::Bf16 => u64::from(to_bf16(value, mode)),
            Type::Tf32 if value.is_nan() => u64::from(NAN),
            Type::Tf32 => u64::from((super::format::round_to(value, 11, -126, 127, mode) as f32).to_bits()),
            Type::F32 if self.sat && value.is_nan() => 0,
            Type::F32 => {
                let bits = to_f32(value, mode);
                u64::from(if self.ftz { flush(bits) } else { bits })
            }
            _ => value.to_bits(),
        }
    }
}

/// An integer as f64, its lowest kept bit set when anything below it was cut off.
fn to_odd(value: i128) -> f64 {
    let magnitude = value.unsigned_abs();
    let excess = (128 - magnitude.leading_zeros()).saturating_sub(53);
    let kept = magnitude >> excess;
    let odd = kept | u128::from(kept << excess != magnitude);
    let result = (odd as f64) * 2f64.powi(excess as i32);
    if value < 0 { -result } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(to: Type, from: Type, mode: &str, bits: u64) -> u64 {
        let conversion =
            Conversion { to, from, mode: Rounding::parse(mode), integral: mode.ends_with('i'), ftz: false, sat: false, relu: false };
        conversion.apply(bits)
    }

    #[test]
    fn integers_and_floats() {
        assert_eq!(convert(Type::F32, Type::U64, "rn", u64::MAX), u64::from((u64::MAX as f32).to_bits()));
        assert_eq!(convert(Type::F32, Type::S64, "rn", (-16_777_217i64) as u64), u64::from((-16_777_217i64 as f32).to_bits()));
        assert_eq!(convert(Type::F32, Type::U32, "rz", 16_777_219), u64::from(16_777_218f32.to_bits()));
        assert_eq!(convert(Type::S32, Type::F32, "rzi", u64::from((-2.7f32).to_bits())) as u32 as i32, -2);
        assert_eq!(convert(Type::S32, Type::F32, "rni", u64::from(2.5f32.to_bits())), 2);
        assert_eq!(convert(Type::U32, Type::F32, "rzi", u64::from((-5f32).to_bits())), 0);
        assert_eq!(convert(Type::U32, Type::F32, "rzi", u64::from(1e20f32.to_bits())), 0xffff_ffff);
        assert_eq!(convert(Type::U32, Type::F32, "rzi", u64::from(f32::NAN.to_bits())), 0);
        assert_eq!(convert(Type::S64, Type::S32, "", 0xffff_fffe), u64::MAX - 1);
        assert_eq!(convert(Type::U64, Type::U32, "", 0xffff_fffe), 0xffff_fffe);
        assert_eq!(convert(Type::U8, Type::U32, "", 0x1ff), 0xff);
        assert_eq!(convert(Type::F32, Type::F32, "rmi", u64::from((-1.5f32).to_bits())), u64::from((-2f32).to_bits()));
        for step in 0..5000u64 {
            let value = (step as f64 * 0.731).sin() * 1e3;
            assert_eq!(convert(Type::F32, Type::F64, "rn", value.to_bits()), u64::from((value as f32).to_bits()));
            let tf32 = f32::from_bits(convert(Type::Tf32, Type::F32, "rna", u64::from((value as f32).to_bits())) as u32);
            assert!(tf32.to_bits() & 0x1fff == 0 && (f64::from(tf32) - value).abs() <= value.abs() / 2048.0 * 1.001);
        }
    }
}
