//! Floating point: exact instructions by way of f64 and of integers, approximate ones inside the ISA's bounds under every model.

use scmmgpt_emulator::{ApproxModel, MmaModel, Numerics};

use crate::bench::{SINGLE, agree, agree_under, combinations, execute, vector, widened};
use crate::conversion::{BF16, F16, Format};

const NAN: u64 = 0x7fff_ffff;

fn float(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// The ISA's form of a result: one NaN.
fn bits(value: f32) -> u64 {
    if value.is_nan() { NAN } else { u64::from(value.to_bits()) }
}

fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0.0f32.copysign(value) } else { value }
}

/// A vector over f32, plain and with `.ftz`, which flushes operands and result. f64 holds enough digits that rounding twice is harmless.
#[track_caller]
fn single(instruction: &str, of: usize, expected: impl Fn(f64, f64) -> f64) {
    let values = widened(&SINGLE);
    vector(&instruction.replace("[.ftz]", ""), &values, of, |a, b, _| bits(expected(float(a).into(), float(b).into()) as f32));
    if instruction.contains("[.ftz]") {
        let flushed = |bits: u64| f64::from(flush(float(bits)));
        vector(&instruction.replace("[.ftz]", ".ftz"), &values, of, |a, b, _| bits(flush(expected(flushed(a), flushed(b)) as f32)));
    }
}

#[test]
fn f32_is_rounded_once() {
    single("add.rn[.ftz].f32 %d, %a, %b;", 2, |a, b| a + b);
    single("add[.ftz].f32 %d, %a, %b;", 2, |a, b| a + b);
    single("sub.rn[.ftz].f32 %d, %a, %b;", 2, |a, b| a - b);
    single("mul.rn[.ftz].f32 %d, %a, %b;", 2, |a, b| a * b);
    single("div.rn.f32 %d, %a, %b;", 2, |a, b| a / b);
    single("sqrt.rn.f32 %d, %a;", 1, |a, _| a.sqrt());
    // Which NaN these give is left open.
    let values: Vec<u64> = widened(&SINGLE).into_iter().filter(|bits| !float(*bits).is_nan()).collect();
    vector("neg.f32 %d, %a;", &values, 1, |a, _, _| a ^ 0x8000_0000);
    vector("abs.f32 %d, %a;", &values, 1, |a, _, _| a & 0x7fff_ffff);
    vector("neg.ftz.f32 %d, %a;", &values, 1, |a, _, _| bits(-flush(float(a))));
    vector("abs.ftz.f32 %d, %a;", &values, 1, |a, _, _| bits(flush(float(a)).abs()));
    vector("copysign.f32 %d, %a, %b;", &widened(&SINGLE), 2, |a, b, _| a & 0x8000_0000 | b & 0x7fff_ffff);
}

/// `a b + c` by integers, where their digits fit into one of 128 bits and the sum is no subnormal number.
fn fused(a: f32, b: f32, c: f32) -> Option<f64> {
    // Digits and exponent of an f32.
    let parts = |value: f32| {
        let (exponent, fraction) = ((value.to_bits() >> 23 & 255) as i32, i128::from(value.to_bits() & 0x7f_ffff));
        let digits = if exponent == 0 { fraction } else { fraction | 1 << 23 };
        (if value.is_sign_negative() { -digits } else { digits }, exponent.max(1) - 150)
    };
    let ((a, of_a), (b, of_b), (c, of_c)) = (parts(a), parts(b), parts(c));
    let low = (of_a + of_b).min(of_c);
    let (up_product, up_c) = (of_a + of_b - low, of_c - low);
    if up_product > 70 || up_c > 90 {
        return None;
    }
    let sum = ((a * b) << up_product) + (c << up_c);
    // To 24 digits, ties to even; results here are far from the ends of the range.
    let excess = (128 - sum.unsigned_abs().leading_zeros() as i32 - 24).max(0);
    if sum == 0 || low + excess < -149 {
        return None;
    }
    let (kept, rest) = (sum.unsigned_abs() >> excess, sum.unsigned_abs() & ((1 << excess) - 1));
    let half = if excess > 0 { 1u128 << (excess - 1) } else { 1 };
    let kept = kept + u128::from(rest > half || (rest == half && excess > 0 && kept & 1 == 1));
    Some(kept as f64 * 2f64.powi(low + excess) * if sum < 0 { -1.0 } else { 1.0 })
}

#[test]
fn a_fused_sum_is_rounded_once() {
    let values = widened(&SINGLE);
    let mut exact = 0;
    let operands = combinations(&values, 3);
    let got = execute("fma.rn.f32 %d, %a, %b, %c;", &operands, Numerics::default()).unwrap();
    for ([a, b, c], got) in operands.into_iter().zip(got) {
        let (a, b, c) = (float(a), float(b), float(c));
        let plain = f64::from(a) * f64::from(b) + f64::from(c);
        if let Some(expected) = fused(a, b, c).filter(|_| a.is_finite() && b.is_finite() && c.is_finite()) {
            exact += 1;
            assert_eq!(float(got), expected as f32, "fma of {a:e}, {b:e}, {c:e}");
        } else if plain.is_nan() {
            assert_eq!(got, NAN, "fma of {a:e}, {b:e}, {c:e}");
        } else if plain.is_infinite() {
            assert_eq!(float(got), plain as f32, "fma of {a:e}, {b:e}, {c:e}");
        }
    }
    assert!(exact > 3000, "{exact} sums were exact");
    // A product that rounding would spoil: (1 + 2^-23)(1 - 2^-24) - 1.
    let operands = [[0x3f80_0001u64, 0x3f7f_ffff, 0xbf80_0000]];
    let got = execute("fma.rn.ftz.f32 %d, %a, %b, %c;", &operands, Numerics::default()).unwrap()[0];
    assert_eq!(f64::from(float(got)), 2f64.powi(-24) - 2f64.powi(-47));
}

#[test]
fn extremes_lose_nan_unless_told_and_order_zeros() {
    let key = |value: f32| (value.to_bits() as i32) ^ (((value.to_bits() as i32) >> 31) as u32 >> 1) as i32;
    for (name, largest) in [("max", true), ("min", false)] {
        let choose = |a: f32, b: f32| match (a.is_nan(), b.is_nan()) {
            (true, true) => f32::NAN,
            (true, false) => b,
            (false, true) => a,
            _ if (key(a) > key(b)) == largest => a,
            _ => b,
        };
        let values = widened(&SINGLE);
        vector(&format!("{name}.f32 %d, %a, %b;"), &values, 2, |a, b, _| bits(choose(float(a), float(b))));
        vector(&format!("{name}.ftz.f32 %d, %a, %b;"), &values, 2, |a, b, _| bits(choose(flush(float(a)), flush(float(b)))));
        vector(&format!("{name}.NaN.f32 %d, %a, %b;"), &values, 2, |a, b, _| {
            let (a, b) = (float(a), float(b));
            if a.is_nan() || b.is_nan() { NAN } else { bits(choose(a, b)) }
        });
    }
}

#[test]
fn comparisons_know_nan() {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let values = widened(&SINGLE);
    let relations = [
        ("eq", vec![Equal]),
        ("ne", vec![Less, Greater]),
        ("lt", vec![Less]),
        ("le", vec![Less, Equal]),
        ("gt", vec![Greater]),
        ("ge", vec![Greater, Equal]),
    ];
    for (name, orders) in relations {
        let holds = |a: u64, b: u64, unordered: bool| match float(a).partial_cmp(&float(b)) {
            Some(order) => u64::from(orders.contains(&order)),
            None => u64::from(unordered),
        };
        vector(&format!("setp.{name}.f32 %p, %a, %b;"), &values, 2, |a, b, _| holds(a, b, false));
        vector(&format!("setp.{name}u.f32 %p, %a, %b;"), &values, 2, |a, b, _| holds(a, b, true));
        vector(&format!("setp.{name}.and.f32 %p, %a, %b, %q;"), &values, 3, |a, b, c| holds(a, b, false) & u64::from(c != 0));
    }
    vector("setp.nan.f32 %p, %a, %b;", &values, 2, |a, b, _| u64::from(float(a).partial_cmp(&float(b)).is_none()));
    vector("setp.num.f32 %p, %a, %b;", &values, 2, |a, b, _| u64::from(float(a).partial_cmp(&float(b)).is_some()));
    vector("testp.finite.f32 %p, %a;", &values, 1, |a, _, _| u64::from(a >> 23 & 255 != 255));
    vector("testp.infinite.f32 %p, %a;", &values, 1, |a, _, _| u64::from(a & 0x7fff_ffff == 0x7f80_0000));
    vector("testp.notanumber.f32 %p, %a;", &values, 1, |a, _, _| u64::from(a & 0x7fff_ffff > 0x7f80_0000));
    vector("testp.subnormal.f32 %p, %a;", &values, 1, |a, _, _| u64::from(a >> 23 & 255 == 0 && a & 0x7f_ffff != 0));
}

#[test]
fn f64_is_rounded_once() {
    let values: Vec<u64> =
        [0.0, -0.0, 1.0, -1.5, 3.0, 1e-300, 1e300, 0.1, f64::MAX, f64::INFINITY, f64::NAN, 5e-324].map(f64::to_bits).into();
    let same = |expected: f64, got: u64| {
        let equal = if expected.is_nan() { f64::from_bits(got).is_nan() } else { got == expected.to_bits() };
        equal.then_some(()).ok_or(expected.to_bits())
    };
    agree("add.rn.f64 %wd, %wa, %wb;", &values, 2, |[a, b, _], got| same(f64::from_bits(a) + f64::from_bits(b), got));
    agree("mul.rn.f64 %wd, %wa, %wb;", &values, 2, |[a, b, _], got| same(f64::from_bits(a) * f64::from_bits(b), got));
    agree("sqrt.rn.f64 %wd, %wa;", &values, 1, |[a, ..], got| same(f64::from_bits(a).sqrt(), got));
    // (1 + 2^-52)(1 - 2^-53) - 1 = 2^-53 - 2^-105.
    let operands = [[1.0 + 2f64.powi(-52), 1.0 - 2f64.powi(-53), -1.0].map(f64::to_bits)];
    let got = execute("fma.rn.f64 %wd, %wa, %wb, %wc;", &operands, Numerics::default()).unwrap()[0];
    assert_eq!(f64::from_bits(got), 2f64.powi(-53) - 2f64.powi(-105));
}

/// Both halves of packed operands, whose sums and products f64 holds exactly.
#[test]
fn packed_halves_are_rounded_once() {
    let pair = |a: u64| [a & 0xffff, a >> 16 & 0xffff];
    for (format, name) in [(&F16, "f16x2"), (&BF16, "bf16x2")] {
        let values: Vec<u64> = [[0.0, 1.0], [-0.0, -1.5], [0.3, 7.0], [-240.0, 0.011], [1e-3, 1024.0], [2.0, f64::INFINITY]]
            .into_iter()
            .map(|[low, high]| format.nearest(low) | format.nearest(high) << 16)
            .collect();
        let each = |got: u64, expected: [f64; 2]| {
            let wanted = expected.map(|value| format.nearest(value));
            let right = pair(got)
                .iter()
                .zip(wanted)
                .zip(expected)
                .all(|((got, wanted), value)| if value.is_nan() { format.value(*got).is_nan() } else { *got == wanted });
            right.then_some(()).ok_or(wanted[0] | wanted[1] << 16)
        };
        let of = |bits: u64| pair(bits).map(|half| format.value(half));
        agree(&format!("fma.rn.{name} %d, %a, %b, %c;"), &values, 3, |[a, b, c], got| {
            let ([a0, a1], [b0, b1], [c0, c1]) = (of(a), of(b), of(c));
            each(got, [a0 * b0 + c0, a1 * b1 + c1])
        });
        agree(&format!("max.{name} %d, %a, %b;"), &values, 2, |[a, b, _], got| {
            let ([a0, a1], [b0, b1]) = (of(a), of(b));
            let top = |a: f64, b: f64| if a > b || (a == b && a.is_sign_positive()) { a } else { b };
            each(got, [top(a0, b0), top(a1, b1)])
        });
        if name == "f16x2" {
            agree("add.f16x2 %d, %a, %b;", &values, 2, |[a, b, _], got| {
                let ([a0, a1], [b0, b1]) = (of(a), of(b));
                each(got, [a0 + b0, a1 + b1])
            });
            agree("mul.f16x2 %d, %a, %b;", &values, 2, |[a, b, _], got| {
                let ([a0, a1], [b0, b1]) = (of(a), of(b));
                each(got, [a0 * b0, a1 * b1])
            });
            // 2^-9.9 relative, says the ISA, beside the rounding of the format.
            agree("ex2.approx.f16x2 %d, %a;", &values, 1, |[a, ..], got| {
                let close = |got: f64, value: f64| {
                    got == value || (got - value).abs() <= value.abs() * 2f64.powf(-9.9) + 2f64.powi(-24) || value > 65504.0
                };
                let (got, exact) = (of(got), of(a).map(f64::exp2));
                if close(got[0], exact[0]) && close(got[1], exact[1]) { Ok(()) } else { Err(format.nearest(exact[0])) }
            });
        }
    }
}

/// Whether `got` is the value up to a relative error, f32's rounding and, with `.ftz`, the flush of what is too small.
fn near(got: f32, value: f64, relative: f64, absolute: f64) -> Result<(), u64> {
    let allowed = value.abs() * (relative + 2f64.powi(-24)) + absolute + 2f64.powi(-149);
    let flushed = value.abs() < 1.2e-38 && got.abs() < 1.2e-38;
    let right = match value {
        value if value.is_nan() => got.is_nan(),
        value if value.abs() > f64::from(f32::MAX) => got.is_infinite() && got.is_sign_positive() == (value > 0.0),
        value => flushed || (f64::from(got) - value).abs() <= allowed,
    };
    right.then_some(()).ok_or(u64::from((value as f32).to_bits()))
}

#[test]
fn approximations_stay_inside_their_bounds_and_use_them() {
    let mut values = widened(&SINGLE);
    values.extend((0..200).map(|step| u64::from((step as f32 * 0.37 - 31.0).to_bits())));
    type Function = fn(f64) -> f64;
    let functions: [(&str, Function, f64, f64); 7] = [
        ("ex2.approx.ftz.f32", f64::exp2, -22.0, f64::NEG_INFINITY),
        ("lg2.approx.ftz.f32", f64::log2, -22.0, -22.0),
        ("rcp.approx.ftz.f32", f64::recip, -23.0, f64::NEG_INFINITY),
        ("rsqrt.approx.ftz.f32", |x| 1.0 / x.sqrt(), -22.9, f64::NEG_INFINITY),
        ("sqrt.approx.ftz.f32", f64::sqrt, -23.0, f64::NEG_INFINITY),
        ("tanh.approx.f32", f64::tanh, -11.0, f64::NEG_INFINITY),
        ("sin.approx.ftz.f32", f64::sin, f64::NEG_INFINITY, -20.5),
    ];
    for (name, function, relative, absolute) in functions {
        let (relative, absolute) = (relative.exp2(), absolute.exp2());
        let mut results = Vec::new();
        for approx in [ApproxModel::Hash, ApproxModel::Highest, ApproxModel::Lowest] {
            let numerics = Numerics { approx, mma: MmaModel::default() };
            let instruction = format!("{name} %d, %a;");
            agree_under(&instruction, &values, 1, numerics, |[a, ..], got| {
                let a = if name.contains("ftz") { flush(float(a)) } else { float(a) };
                near(float(got), function(f64::from(a)), relative, absolute)
            });
            results.push(execute(&instruction, &combinations(&values, 1), numerics).unwrap());
        }
        let [hash, highest, lowest] = &results[..] else { panic!("three models") };
        assert!(highest != lowest && hash != highest, "{name}: the models are the same");
    }
    agree("div.full.f32 %d, %a, %b;", &widened(&SINGLE[6..14]), 2, |[a, b, _], got| {
        near(float(got), f64::from(float(a)) / f64::from(float(b)), 2f64.powi(-22), 0.0)
    });
    // Ends that every hardware has.
    for (instruction, operand, expected) in [
        ("ex2.approx.ftz.f32 %d, %a;", f32::NEG_INFINITY, 0.0f32),
        ("ex2.approx.ftz.f32 %d, %a;", 0.0, 1.0),
        ("lg2.approx.ftz.f32 %d, %a;", 0.0, f32::NEG_INFINITY),
        ("rcp.approx.ftz.f32 %d, %a;", f32::INFINITY, 0.0),
        ("rcp.approx.ftz.f32 %d, %a;", -0.0, f32::NEG_INFINITY),
        ("rsqrt.approx.ftz.f32 %d, %a;", 0.0, f32::INFINITY),
    ] {
        let got = execute(instruction, &[[u64::from(operand.to_bits()), 0, 0]], Numerics::default()).unwrap()[0];
        let close = float(got) == expected || (float(got) - expected).abs() < 1e-6;
        assert!(close, "{instruction} of {operand}: expected {expected}, got {}", float(got));
    }
}

#[test]
fn formats_are_what_they_say() {
    let check = |format: &Format, value: f64, bits: u64| {
        assert_eq!(format.value(bits), value);
        assert_eq!(format.nearest(value), bits);
    };
    for (value, bits) in [(1.0, 0x3c00), (65504.0, 0x7bff), (2f64.powi(-24), 1), (-2.0, 0xc000), (f64::INFINITY, 0x7c00)] {
        check(&F16, value, bits);
    }
    for (value, bits) in [(1.0, 0x3f80), (-2.0, 0xc000), (2f64.powi(-133), 1), (f64::INFINITY, 0x7f80)] {
        check(&BF16, value, bits);
    }
}
