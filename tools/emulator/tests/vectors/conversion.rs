//! `cvt`: every result is found by searching the target's own values.

use crate::bench::{NARROW, SINGLE, WIDE, agree, vector, widened};

/// A 16-bit format: bits of its fraction and of its exponent.
pub(crate) struct Format {
    fraction: u32,
    exponent: u32,
}

pub(crate) const F16: Format = Format { fraction: 10, exponent: 5 };
pub(crate) const BF16: Format = Format { fraction: 7, exponent: 8 };

impl Format {
    /// The number that bits mean.
    pub(crate) fn value(&self, bits: u64) -> f64 {
        let (fraction, top) = ((bits & ((1 << self.fraction) - 1)) as f64, (1u64 << self.exponent) - 1);
        let exponent = bits >> self.fraction & top;
        let (bias, unit) = ((top >> 1) as i32, 2f64.powi(-(self.fraction as i32)));
        let magnitude = match exponent {
            0 => fraction * unit * 2f64.powi(1 - bias),
            exponent if exponent == top && fraction == 0.0 => f64::INFINITY,
            exponent if exponent == top => f64::NAN,
            exponent => (1.0 + fraction * unit) * 2f64.powi(exponent as i32 - bias),
        };
        if bits >> 15 & 1 == 1 { -magnitude } else { magnitude }
    }

    /// The bits of the nearest number, ties to even: a search through all of them, where infinity stands for the next power of two.
    pub(crate) fn nearest(&self, value: f64) -> u64 {
        if value.is_nan() {
            return 0x7fff;
        }
        let infinity = ((1u64 << self.exponent) - 1) << self.fraction;
        let sign = u64::from(value.is_sign_negative()) << 15;
        let place = |bits: u64| if bits == infinity { 2.0 * self.value(infinity - (1 << self.fraction)) } else { self.value(bits) };
        if value.is_infinite() {
            return sign | infinity;
        }
        let distance = |bits: u64| (place(bits) - value.abs()).abs();
        // Values rise with their bits: halve the range that holds the neighbours.
        let (mut low, mut high) = (0, infinity);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if place(middle) <= value.abs() { low = middle } else { high = middle }
        }
        let up = distance(high) < distance(low) || (distance(high) == distance(low) && low & 1 == 1);
        sign | if up { high } else { low }
    }
}

fn float(bits: u64) -> f64 {
    f64::from(f32::from_bits(bits as u32))
}

/// f32 values whose neighbours in 16-bit formats are ties and ends.
fn edges() -> Vec<u64> {
    let mut values = widened(&SINGLE);
    values.extend(
        [65504.0f32, 65519.0, 65520.0, 65536.0, 6e-8, 2.98e-8, 2.99e-8, 6.1e-5, 1.000_488_3, 1.001_464_8, -2049.0, -2051.0]
            .map(|value| u64::from(value.to_bits())),
    );
    values.extend([0x3f80_8000u64, 0x3f81_8000, 0x3f80_8001, 0x7f7f_8000, 0x7f7f_7fff]);
    values
}

#[test]
fn integers_widen_and_narrow() {
    let values = widened(&NARROW);
    vector("cvt.u64.u32 %wd, %a;", &values, 1, |a, _, _| a);
    vector("cvt.s64.s32 %wd, %a;", &values, 1, |a, _, _| (a as i64 + if a >= 1 << 31 { -(1 << 32) } else { 0 }) as u64);
    vector("cvt.u32.u64 %d, %wa;", &WIDE, 1, |a, _, _| a % (1 << 32));
    vector("cvt.u32.u16 %d, %ha;", &values, 1, |a, _, _| a % (1 << 16));
    vector("cvt.u16.u32 %hd, %a;", &values, 1, |a, _, _| a % (1 << 16));
    vector("cvt.s32.s16 %d, %ha;", &values, 1, |a, _, _| a % (1 << 16) + if a & 0x8000 != 0 { 0xffff_0000 } else { 0 });
    vector("cvt.s32.s8 %d, %a;", &values, 1, |a, _, _| a % (1 << 8) + if a & 0x80 != 0 { 0xffff_ff00 } else { 0 });
}

#[test]
fn integers_and_f32() {
    let values = widened(&NARROW);
    // The nearest of 24 digits, by its definition.
    let nearest = |value: i64| {
        let excess = (64 - value.unsigned_abs().leading_zeros() as i32 - 24).max(0);
        let unit = 1i64 << excess;
        let down = value.div_euclid(unit);
        let rest = 2 * value.rem_euclid(unit);
        let up = rest > unit || (rest == unit && down & 1 == 1);
        u64::from((((down + i64::from(up)) * unit) as f32).to_bits())
    };
    vector("cvt.rn.f32.u32 %d, %a;", &values, 1, |a, _, _| nearest(a as i64));
    vector("cvt.rn.f32.s32 %d, %a;", &values, 1, |a, _, _| nearest(i64::from(a as u32 as i32)));
    let towards_zero = |value: f64, least: f64, most: f64| if value.is_nan() { 0 } else { value.clamp(least, most) as i64 };
    vector("cvt.rzi.s32.f32 %d, %a;", &edges(), 1, |a, _, _| u64::from(towards_zero(float(a), -2147483648.0, 2147483647.0) as u32));
    vector("cvt.rzi.u32.f32 %d, %a;", &edges(), 1, |a, _, _| u64::from(towards_zero(float(a), 0.0, 4294967295.0) as u32));
}

#[test]
fn halves() {
    for (format, name) in [(&F16, "f16"), (&BF16, "bf16")] {
        vector(&format!("cvt.rn.{name}.f32 %hd, %a;"), &edges(), 1, |a, _, _| format.nearest(float(a)));
        vector(&format!("cvt.rn.{name}x2.f32 %d, %a, %b;"), &edges(), 2, |a, b, _| {
            format.nearest(float(a)) << 16 | format.nearest(float(b))
        });
        let all: Vec<u64> = (0..1 << 16).step_by(13).chain([0x7c00, 0xfc00, 0x7f80, 0xff80, 1, 0x8000]).collect();
        let back = format!("cvt.f32.{name} %d, %ha;");
        agree(&back, &all, 1, |[a, ..], got| {
            let value = format.value(a);
            let right = if value.is_nan() { float(got).is_nan() } else { f64::to_bits(float(got)) == value.to_bits() };
            right.then_some(()).ok_or(u64::from((value as f32).to_bits()))
        });
    }
    let relu = |a: u64| if float(a) > 0.0 || float(a).is_nan() { BF16.nearest(float(a)) } else { 0 };
    vector("cvt.rn.relu.bf16x2.f32 %d, %a, %b;", &edges(), 2, |a, b, _| relu(a) << 16 | relu(b));
}

#[test]
fn tf32_and_f64() {
    // 10 digits behind the point, ties away from zero; the other 13 are 0.
    agree("cvt.rna.tf32.f32 %d, %a;", &edges(), 1, |[a, ..], got| {
        let value = float(a);
        if !value.is_finite() || value.abs() > f64::from(f32::MAX) * (1.0 - 2f64.powi(-12)) {
            return if float(got).is_finite() { Err(0) } else { Ok(()) };
        }
        let expected = (a as u32 & 0x7fff_ffff).wrapping_add(0x1000) & !0x1fff | a as u32 & 0x8000_0000;
        if got == u64::from(expected) { Ok(()) } else { Err(u64::from(expected)) }
    });
    agree("cvt.f64.f32 %wd, %a;", &edges(), 1, |[a, ..], got| {
        let (value, got) = (float(a), f64::from_bits(got));
        if got.to_bits() == value.to_bits() || (got.is_nan() && value.is_nan()) { Ok(()) } else { Err(value.to_bits()) }
    });
    // Halfway and a little beside it.
    let values: Vec<u64> =
        [1.0 + 2f64.powi(-24), 1.0 + 2f64.powi(-24) * 1.000_001, 1.0 + 3.0 * 2f64.powi(-24), 1e-46, 1e-45, 1e39, -1e39, 0.0]
            .map(f64::to_bits)
            .into();
    let singles = [1.0, 1.0 + 2f32.powi(-23), 1.0 + 2f32.powi(-22), 0.0, 2f32.powi(-149), f32::INFINITY, f32::NEG_INFINITY, 0.0];
    vector("cvt.rn.f32.f64 %d, %wa;", &values, 1, |a, _, _| {
        let place = values.iter().position(|value| *value == a).unwrap_or(0);
        u64::from(singles[place].to_bits())
    });
}
