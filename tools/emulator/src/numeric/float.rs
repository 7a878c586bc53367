//! Exact floating-point instructions: every result is the correctly rounded one.

use super::format::{NAN, Rounding, bf16_to_f32, canonical, f16_to_f32, flush, to_bf16, to_f16, to_f32};
use crate::lanes::Lanes;
use crate::syntax::Type;

#[inline(always)]
fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

#[inline(always)]
fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// The exact sum `high + low`, rounded to f32 in a mode.
fn narrow(high: f64, low: f64, mode: Rounding) -> u32 {
    if !high.is_finite() || mode == Rounding::Nearest {
        return canonical(high as f32);
    }
    // What f64 cannot hold of the sum only matters when the f64 part is itself an f32 or on the way to the next one.
    let nudged = match (low.partial_cmp(&0.0), high == f64::from(high as f32)) {
        (Some(std::cmp::Ordering::Greater), true) => high.next_up(),
        (Some(std::cmp::Ordering::Less), true) => high.next_down(),
        _ => high,
    };
    if high == 0.0 && low == 0.0 {
        return (high as f32).to_bits();
    }
    to_f32(nudged, mode)
}

/// `a + b` as an f64 and what it lacks.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, (a - (sum - part)) + (b - part))
}

fn add_directed(a: u32, b: u32, mode: Rounding) -> u32 {
    let (sum, rest) = two_sum(f64::from(f(a)), f64::from(f(b)));
    if sum == 0.0 && mode == Rounding::Down && (a | b) & 0x7fff_ffff != 0 {
        return 0x8000_0000;
    }
    narrow(sum, rest, mode)
}

fn fma_directed(a: u32, b: u32, c: u32, mode: Rounding) -> u32 {
    let (sum, rest) = two_sum(f64::from(f(a)) * f64::from(f(b)), f64::from(f(c)));
    narrow(sum, rest, mode)
}

fn saturate(bits: u32) -> u32 {
    let value = f(bits);
    if value.is_nan() { 0 } else { value.clamp(0.0, 1.0).to_bits() & 0x7fff_ffff }
}

/// The larger operand; a NaN loses, +0 is above -0.
#[inline(always)]
fn larger(a: u32, b: u32) -> u32 {
    let (x, y) = (f(a), f(b));
    let chosen = if x > y || y.is_nan() { a } else { b };
    let chosen = if x == y { a & b } else { chosen };
    if f(chosen).is_nan() { NAN } else { chosen }
}

#[inline(always)]
fn smaller(a: u32, b: u32) -> u32 {
    let (x, y) = (f(a), f(b));
    let chosen = if x < y || y.is_nan() { a } else { b };
    let chosen = if x == y { a | b } else { chosen };
    if f(chosen).is_nan() { NAN } else { chosen }
}

/// A narrow format as f64, and back.
fn unpack(element: Type, bits: u32) -> f64 {
    f64::from(if element == Type::Bf16 { bf16_to_f32(bits & 0xffff) } else { f16_to_f32(bits & 0xffff) })
}

fn pack(element: Type, value: f64) -> u32 {
    if element == Type::Bf16 { to_bf16(value, Rounding::Nearest) } else { to_f16(value, Rounding::Nearest) }
}

const HALF: Type = Type::F16;
const BRAIN: Type = Type::Bf16;

/// Lane functions of a 16-bit format, alone or in pairs.
macro_rules! sixteen {
    ($name:expr, $element:ident, $packed:expr, $parts:expr) => {{
        #[inline(always)]
        fn both1(a: u32, packed: bool, op: impl Fn(f64) -> f64) -> u32 {
            let one = |bits| pack($element, op(unpack($element, bits)));
            if packed { one(a) | (one(a >> 16) << 16) } else { one(a) }
        }
        #[inline(always)]
        fn both2(a: u32, b: u32, packed: bool, op: impl Fn(f64, f64) -> f64) -> u32 {
            let one = |a, b| pack($element, op(unpack($element, a), unpack($element, b)));
            if packed { one(a, b) | (one(a >> 16, b >> 16) << 16) } else { one(a, b) }
        }
        #[inline(always)]
        fn both3(a: u32, b: u32, c: u32, packed: bool, op: impl Fn(f64, f64, f64) -> f64) -> u32 {
            let one = |a, b, c| pack($element, op(unpack($element, a), unpack($element, b), unpack($element, c)));
            if packed { one(a, b, c) | (one(a >> 16, b >> 16, c >> 16) << 16) } else { one(a, b, c) }
        }
        let has = |part: &str| $parts.contains(&part);
        match ($name, $packed) {
            ("add", false) if has("sat") => n2!(|a, b| both2(a, b, false, |a, b| unit(a + b))),
            ("add", true) if has("sat") => n2!(|a, b| both2(a, b, true, |a, b| unit(a + b))),
            ("sub", false) if has("sat") => n2!(|a, b| both2(a, b, false, |a, b| unit(a - b))),
            ("sub", true) if has("sat") => n2!(|a, b| both2(a, b, true, |a, b| unit(a - b))),
            ("mul", false) if has("sat") => n2!(|a, b| both2(a, b, false, |a, b| unit(a * b))),
            ("mul", true) if has("sat") => n2!(|a, b| both2(a, b, true, |a, b| unit(a * b))),
            ("fma", false) if has("sat") => n3!(|a, b, c| both3(a, b, c, false, |a, b, c| unit(a.mul_add(b, c)))),
            ("fma", true) if has("sat") => n3!(|a, b, c| both3(a, b, c, true, |a, b, c| unit(a.mul_add(b, c)))),
            ("add", false) => n2!(|a, b| both2(a, b, false, |a, b| a + b)),
            ("add", true) => n2!(|a, b| both2(a, b, true, |a, b| a + b)),
            ("sub", false) => n2!(|a, b| both2(a, b, false, |a, b| a - b)),
            ("sub", true) => n2!(|a, b| both2(a, b, true, |a, b| a - b)),
            ("mul", false) => n2!(|a, b| both2(a, b, false, |a, b| a * b)),
            ("mul", true) => n2!(|a, b| both2(a, b, true, |a, b| a * b)),
            ("fma", false) if has("relu") => n3!(|a, b, c| both3(a, b, c, false, |a, b, c| relu(a.mul_add(b, c)))),
            ("fma", true) if has("relu") => n3!(|a, b, c| both3(a, b, c, true, |a, b, c| relu(a.mul_add(b, c)))),
            ("fma", false) => n3!(|a, b, c| both3(a, b, c, false, f64::mul_add)),
            ("fma", true) => n3!(|a, b, c| both3(a, b, c, true, f64::mul_add)),
            ("max", false) if has("NaN") => n2!(|a, b| both2(a, b, false, |a, b| strict(a, b, true))),
            ("max", true) if has("NaN") => n2!(|a, b| both2(a, b, true, |a, b| strict(a, b, true))),
            ("min", false) if has("NaN") => n2!(|a, b| both2(a, b, false, |a, b| strict(a, b, false))),
            ("min", true) if has("NaN") => n2!(|a, b| both2(a, b, true, |a, b| strict(a, b, false))),
            ("max", false) => n2!(|a, b| both2(a, b, false, |a, b| lenient(a, b, true))),
            ("max", true) => n2!(|a, b| both2(a, b, true, |a, b| lenient(a, b, true))),
            ("min", false) => n2!(|a, b| both2(a, b, false, |a, b| lenient(a, b, false))),
            ("min", true) => n2!(|a, b| both2(a, b, true, |a, b| lenient(a, b, false))),
            ("neg", false) => n1!(|a: u32| a ^ 0x8000),
            ("neg", true) => n1!(|a: u32| a ^ 0x8000_8000),
            ("abs", false) => n1!(|a: u32| a & 0x7fff),
            ("abs", true) => n1!(|a: u32| a & 0x7fff_7fff),
            ("tanh", false) => n1!(|a| both1(a, false, f64::tanh)),
            ("tanh", true) => n1!(|a| both1(a, true, f64::tanh)),
            ("ex2", false) => n1!(|a| both1(a, false, f64::exp2)),
            ("ex2", true) => n1!(|a| both1(a, true, f64::exp2)),
            _ => return None,
        }
    }};
}

/// `.sat`: into [0, 1], NaN to 0.
fn unit(value: f64) -> f64 {
    if value > 0.0 { value.min(1.0) } else { 0.0 }
}

fn relu(value: f64) -> f64 {
    if value.is_nan() || value > 0.0 { value } else { 0.0 }
}

/// Maximum or minimum where NaN wins.
fn strict(a: f64, b: f64, largest: bool) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { lenient(a, b, largest) }
}

/// Maximum or minimum where NaN loses.
fn lenient(a: f64, b: f64, largest: bool) -> f64 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() { b } else { a };
    }
    if a == b {
        return if a.is_sign_negative() == largest { b } else { a };
    }
    if (a > b) == largest { a } else { b }
}

/// The function of an instruction such as `fma.rn.ftz.f32`; none for approximate and unknown ones.
pub(crate) fn lanes(name: &str, parts: &[&str], element: Type) -> Option<Lanes> {
    match element {
        Type::F32 => single(name, parts),
        Type::F64 => double(name, parts),
        Type::F16 => Some(sixteen!(name, HALF, false, parts)),
        Type::F16x2 => Some(sixteen!(name, HALF, true, parts)),
        Type::Bf16 => Some(sixteen!(name, BRAIN, false, parts)),
        Type::Bf16x2 => Some(sixteen!(name, BRAIN, true, parts)),
        _ => None,
    }
}

/// A function of f32 bits with `.ftz`, `.sat`, both or neither.
macro_rules! variants {
    ($make:ident, $ftz:expr, $sat:expr, |$($x:ident),*| $body:expr) => {
        match ($ftz, $sat) {
            (false, false) => $make!(|$($x: u32),*| $body),
            (true, false) => $make!(|$($x: u32),*| { $(let $x = flush($x);)* flush($body) }),
            (false, true) => $make!(|$($x: u32),*| saturate($body)),
            (true, true) => $make!(|$($x: u32),*| { $(let $x = flush($x);)* saturate(flush($body)) }),
        }
    };
}

fn single(name: &str, parts: &[&str]) -> Option<Lanes> {
    let has = |part: &str| parts.contains(&part);
    let (ftz, sat) = (has("ftz"), has("sat"));
    let mode = parts.iter().find_map(|part| Rounding::parse(part)).unwrap_or(Rounding::Nearest);
    use Rounding::{Away, Down, Nearest, Up, Zero};
    Some(match (name, mode) {
        ("add", Nearest) => variants!(n2, ftz, sat, |a, b| canonical(f(a) + f(b))),
        ("sub", Nearest) => variants!(n2, ftz, sat, |a, b| canonical(f(a) - f(b))),
        ("mul", Nearest) => variants!(n2, ftz, sat, |a, b| canonical(f(a) * f(b))),
        ("fma" | "mad", Nearest) => variants!(n3, ftz, sat, |a, b, c| canonical(f(a).mul_add(f(b), f(c)))),
        ("add", Zero) => variants!(n2, ftz, sat, |a, b| add_directed(a, b, Zero)),
        ("add", Down) => variants!(n2, ftz, sat, |a, b| add_directed(a, b, Down)),
        ("add", Up) => variants!(n2, ftz, sat, |a, b| add_directed(a, b, Up)),
        ("sub", Zero) => variants!(n2, ftz, sat, |a, b| add_directed(a, b ^ 0x8000_0000, Zero)),
        ("sub", Down) => variants!(n2, ftz, sat, |a, b| add_directed(a, b ^ 0x8000_0000, Down)),
        ("sub", Up) => variants!(n2, ftz, sat, |a, b| add_directed(a, b ^ 0x8000_0000, Up)),
        ("mul", Zero) => variants!(n2, ftz, sat, |a, b| narrow(f64::from(f(a)) * f64::from(f(b)), 0.0, Zero)),
        ("mul", Down) => variants!(n2, ftz, sat, |a, b| narrow(f64::from(f(a)) * f64::from(f(b)), 0.0, Down)),
        ("mul", Up) => variants!(n2, ftz, sat, |a, b| narrow(f64::from(f(a)) * f64::from(f(b)), 0.0, Up)),
        ("fma" | "mad", Zero) => variants!(n3, ftz, sat, |a, b, c| fma_directed(a, b, c, Zero)),
        ("fma" | "mad", Down) => variants!(n3, ftz, sat, |a, b, c| fma_directed(a, b, c, Down)),
        ("fma" | "mad", Up) => variants!(n3, ftz, sat, |a, b, c| fma_directed(a, b, c, Up)),
        ("div", Nearest) if has("rn") => variants!(n2, ftz, false, |a, b| canonical(f(a) / f(b))),
        // Quotients and roots of f32 are never so near to an f32 that f64 could not tell them apart.
        ("div", Zero) => variants!(n2, ftz, false, |a, b| to_f32(f64::from(f(a)) / f64::from(f(b)), Zero)),
        ("div", Down) => variants!(n2, ftz, false, |a, b| to_f32(f64::from(f(a)) / f64::from(f(b)), Down)),
        ("div", Up) => variants!(n2, ftz, false, |a, b| to_f32(f64::from(f(a)) / f64::from(f(b)), Up)),
        ("rcp", Zero) => variants!(n1, ftz, false, |a| to_f32(1.0 / f64::from(f(a)), Zero)),
        ("rcp", Down) => variants!(n1, ftz, false, |a| to_f32(1.0 / f64::from(f(a)), Down)),
        ("rcp", Up) => variants!(n1, ftz, false, |a| to_f32(1.0 / f64::from(f(a)), Up)),
        ("sqrt", Zero) => variants!(n1, ftz, false, |a| to_f32(f64::from(f(a)).sqrt(), Zero)),
        ("sqrt", Down) => variants!(n1, ftz, false, |a| to_f32(f64::from(f(a)).sqrt(), Down)),
        ("sqrt", Up) => variants!(n1, ftz, false, |a| to_f32(f64::from(f(a)).sqrt(), Up)),
        ("rcp", Nearest) if has("rn") => variants!(n1, ftz, false, |a| canonical(1.0 / f(a))),
        ("sqrt", Nearest) if has("rn") => variants!(n1, ftz, false, |a| canonical(f(a).sqrt())),
        ("min", _) if has("NaN") => variants!(n2, ftz, false, |a, b| if f(a).is_nan() || f(b).is_nan() { NAN } else { smaller(a, b) }),
        ("max", _) if has("NaN") => variants!(n2, ftz, false, |a, b| if f(a).is_nan() || f(b).is_nan() { NAN } else { larger(a, b) }),
        ("min", _) => variants!(n2, ftz, false, |a, b| smaller(a, b)),
        ("max", _) => variants!(n2, ftz, false, |a, b| larger(a, b)),
        ("neg", _) => variants!(n1, ftz, false, |a| a ^ 0x8000_0000),
        ("abs", _) => variants!(n1, ftz, false, |a| a & 0x7fff_ffff),
        // The sign of a, the magnitude of b.
        ("copysign", _) => n2!(|a: u32, b: u32| (a & 0x8000_0000) | (b & 0x7fff_ffff)),
        (_, Away) => return None,
        _ => return None,
    })
}

fn double(name: &str, parts: &[&str]) -> Option<Lanes> {
    let has = |part: &str| parts.contains(&part);
    if has("approx") {
        return if has("ftz") { super::directed::gross(name) } else { (name == "rsqrt").then(|| w1!(|a| (1.0 / d(a).sqrt()).to_bits())) };
    }
    if let Some(mode) = parts.iter().find_map(|part| Rounding::parse(part)).filter(|mode| *mode != Rounding::Nearest) {
        return super::directed::lanes(name, mode);
    }
    Some(match name {
        "add" => w2!(|a, b| (d(a) + d(b)).to_bits()),
        "sub" => w2!(|a, b| (d(a) - d(b)).to_bits()),
        "mul" => w2!(|a, b| (d(a) * d(b)).to_bits()),
        "fma" | "mad" => w3!(|a, b, c| d(a).mul_add(d(b), d(c)).to_bits()),
        "div" => w2!(|a, b| (d(a) / d(b)).to_bits()),
        "rcp" if has("rn") => w1!(|a| (1.0 / d(a)).to_bits()),
        "sqrt" => w1!(|a| d(a).sqrt().to_bits()),
        "min" => w2!(|a, b| lenient(d(a), d(b), false).to_bits()),
        "max" => w2!(|a, b| lenient(d(a), d(b), true).to_bits()),
        "neg" => w1!(|a: u64| a ^ (1 << 63)),
        "abs" => w1!(|a: u64| a & !(1 << 63)),
        "copysign" => w2!(|a: u64, b: u64| (a & (1 << 63)) | (b & !(1 << 63))),
        _ => return None,
    })
}

/// Comparisons by name, over a conversion of the bits.
macro_rules! comparisons {
    ($make:ident, $bits:ty, $name:expr, $value:expr) => {{
        match $name {
            "eq" => $make!(|a: $bits, b: $bits| $value(a) == $value(b)),
            "ne" => $make!(|a: $bits, b: $bits| $value(a) != $value(b) && !$value(a).is_nan() && !$value(b).is_nan()),
            "lt" => $make!(|a: $bits, b: $bits| $value(a) < $value(b)),
            "le" => $make!(|a: $bits, b: $bits| $value(a) <= $value(b)),
            "gt" => $make!(|a: $bits, b: $bits| $value(a) > $value(b)),
            "ge" => $make!(|a: $bits, b: $bits| $value(a) >= $value(b)),
            "equ" => $make!(|a: $bits, b: $bits| $value(a) == $value(b) || $value(a).is_nan() || $value(b).is_nan()),
            "neu" => $make!(|a: $bits, b: $bits| $value(a) != $value(b)),
            "ltu" => $make!(|a: $bits, b: $bits| !($value(a) >= $value(b))),
            "leu" => $make!(|a: $bits, b: $bits| !($value(a) > $value(b))),
            "gtu" => $make!(|a: $bits, b: $bits| !($value(a) <= $value(b))),
            "geu" => $make!(|a: $bits, b: $bits| !($value(a) < $value(b))),
            "num" => $make!(|a: $bits, b: $bits| !$value(a).is_nan() && !$value(b).is_nan()),
            "nan" => $make!(|a: $bits, b: $bits| $value(a).is_nan() || $value(b).is_nan()),
            _ => return None,
        }
    }};
}

/// `setp` on floating-point numbers.
#[expect(clippy::neg_cmp_op_on_partial_ord, reason = "the unordered comparisons are true for NaN")]
pub(crate) fn compare(name: &str, parts: &[&str], element: Type) -> Option<Lanes> {
    fn flushed(bits: u32) -> f32 {
        f(flush(bits))
    }
    fn half(bits: u32) -> f32 {
        f16_to_f32(bits & 0xffff)
    }
    fn brain(bits: u32) -> f32 {
        bf16_to_f32(bits & 0xffff)
    }
    Some(match element {
        Type::F32 if parts.contains(&"ftz") => comparisons!(c32, u32, name, flushed),
        Type::F32 => comparisons!(c32, u32, name, f),
        // Of a pair its lower half.
        Type::F16 | Type::F16x2 => comparisons!(c32, u32, name, half),
        Type::Bf16 | Type::Bf16x2 => comparisons!(c32, u32, name, brain),
        Type::F64 => comparisons!(c64, u64, name, d),
        _ => return None,
    })
}

/// `testp`.
pub(crate) fn test(name: &str, element: Type) -> Option<Lanes> {
    Some(match (name, element) {
        ("finite", Type::F32) => c32!(|a: u32, _b: u32| f(a).is_finite()),
        ("finite", Type::F64) => c64!(|a: u64, _b: u64| d(a).is_finite()),
        ("infinite", Type::F32) => c32!(|a: u32, _b: u32| f(a).is_infinite()),
        ("infinite", Type::F64) => c64!(|a: u64, _b: u64| d(a).is_infinite()),
        ("number", Type::F32) => c32!(|a: u32, _b: u32| !f(a).is_nan()),
        ("number", Type::F64) => c64!(|a: u64, _b: u64| !d(a).is_nan()),
        ("notanumber", Type::F32) => c32!(|a: u32, _b: u32| f(a).is_nan()),
        ("notanumber", Type::F64) => c64!(|a: u64, _b: u64| d(a).is_nan()),
        ("normal", Type::F32) => c32!(|a: u32, _b: u32| f(a).is_normal()),
        ("normal", Type::F64) => c64!(|a: u64, _b: u64| d(a).is_normal()),
        ("subnormal", Type::F32) => c32!(|a: u32, _b: u32| f(a).is_subnormal()),
        ("subnormal", Type::F64) => c64!(|a: u64, _b: u64| d(a).is_subnormal()),
        _ => return None,
    })
}
