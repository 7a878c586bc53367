//! Approximate functions: the true value, moved by a relative error inside the bound that the PTX ISA states.

use super::ApproxModel;
use super::format::{NAN, flush};
use crate::lanes::Lanes;

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// The relative error of this argument, in [-bound, bound].
fn error(model: u8, bits: u32, bound: f64) -> f64 {
    match model {
        HIGHEST => bound,
        LOWEST => -bound,
        _ => {
            let mut word = bits.wrapping_mul(0x9e37_79b1);
            word ^= word >> 15;
            word = word.wrapping_mul(0x85eb_ca77);
            word ^= word >> 13;
            (f64::from(word) / f64::from(u32::MAX) * 2.0 - 1.0) * bound
        }
    }
}

const HASH: u8 = 0;
const HIGHEST: u8 = 1;
const LOWEST: u8 = 2;

/// `value` with the model's relative error; exact zeros, infinities and NaN stay.
fn off<const MODEL: u8>(value: f64, bits: u32, bound: f64, ftz: bool) -> u32 {
    if value.is_nan() {
        return NAN;
    }
    let moved = (value * (1.0 + error(MODEL, bits, bound))) as f32;
    // Rounding may not push a finite value over the edge.
    let moved = if moved.is_infinite() && value.is_finite() && value.abs() <= f64::from(f32::MAX) { value as f32 } else { moved };
    if ftz { flush(moved.to_bits()) } else { moved.to_bits() }
}

/// Relative bounds of the PTX ISA for f32: 2^-22 (ex2), 2^-22 (lg2, where absolute near 1), 2^-22.9 (rsqrt), 1 ulp (rcp), 2^-23
/// (sqrt), 2^-20.5 (sin, cos, absolute), 2^-11 (tanh), 2 ulp (div).
fn bound(power: f64) -> f64 {
    power.exp2()
}

macro_rules! one {
    ($model:expr, $ftz:expr, |$x:ident, $bits:ident| $body:expr) => {{
        macro_rules! with {
            ($m:expr, $z:expr) => {
                n1!(|argument: u32| {
                    const MODEL: u8 = $m;
                    let $bits = if $z { flush(argument) } else { argument };
                    let $x = f64::from(f($bits));
                    let (value, limit): (f64, f64) = $body;
                    off::<MODEL>(value, $bits, limit, $z)
                })
            };
        }
        match ($model, $ftz) {
            (ApproxModel::Hash, false) => with!(HASH, false),
            (ApproxModel::Hash, true) => with!(HASH, true),
            (ApproxModel::Highest, false) => with!(HIGHEST, false),
            (ApproxModel::Highest, true) => with!(HIGHEST, true),
            (ApproxModel::Lowest, false) => with!(LOWEST, false),
            (ApproxModel::Lowest, true) => with!(LOWEST, true),
        }
    }};
}

/// The function of an instruction such as `ex2.approx.ftz.f32`.
pub(crate) fn lanes(name: &str, ftz: bool, model: ApproxModel) -> Option<Lanes> {
    Some(match name {
        // Powers of whole numbers are exact: nvcc builds exp, erf and tanh of f64 on that.
        "ex2" => one!(model, ftz, |x, _bits| (x.exp2(), if x.fract() == 0.0 { 0.0 } else { bound(-22.0) })),
        "lg2" => one!(model, ftz, |x, _bits| {
            let value = x.log2();
            // Near 1 the bound is absolute.
            (value, if x > 0.5 && x < 2.0 && value != 0.0 { bound(-22.0) / value.abs() } else { bound(-22.0) })
        }),
        "rcp" => one!(model, ftz, |x, _bits| (1.0 / x, bound(-23.0))),
        "rsqrt" => one!(model, ftz, |x, _bits| (1.0 / x.sqrt(), bound(-22.9))),
        "sqrt" => one!(model, ftz, |x, _bits| (x.sqrt(), bound(-23.0))),
        "sin" => one!(model, ftz, |x, _bits| {
            let value = x.sin();
            (value, if value == 0.0 { 0.0 } else { bound(-20.5) / value.abs() })
        }),
        "cos" => one!(model, ftz, |x, _bits| {
            let value = x.cos();
            (value, if value == 0.0 { 0.0 } else { bound(-20.5) / value.abs() })
        }),
        "tanh" => one!(model, ftz, |x, _bits| (x.tanh(), bound(-11.0))),
        _ => return None,
    })
}

/// `div.full` and `div.approx`.
pub(crate) fn divide(ftz: bool, model: ApproxModel) -> Lanes {
    macro_rules! with {
        ($m:expr, $z:expr) => {
            n2!(|a: u32, b: u32| {
                let (a, b) = if $z { (flush(a), flush(b)) } else { (a, b) };
                off::<{ $m }>(f64::from(f(a)) / f64::from(f(b)), a ^ b.rotate_left(7), bound(-22.0), $z)
            })
        };
    }
    match (model, ftz) {
        (ApproxModel::Hash, false) => with!(HASH, false),
        (ApproxModel::Hash, true) => with!(HASH, true),
        (ApproxModel::Highest, false) => with!(HIGHEST, false),
        (ApproxModel::Highest, true) => with!(HIGHEST, true),
        (ApproxModel::Lowest, false) => with!(LOWEST, false),
        (ApproxModel::Lowest, true) => with!(LOWEST, true),
    }
}
