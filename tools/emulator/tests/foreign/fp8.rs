//! Texts of Triton with 8-bit floats. Their conversions compute with registers that nothing has written, and use none of what comes of it.

use scmmgpt_emulator::{Error, Fault, Numerics};

use crate::machine::{Argument, Machine, close, every, floats, value};

/// A text, what its 8 bits mean, and where it stops.
type Conversion = (&'static str, fn(u8) -> f64, f64);

const CONVERSIONS: [Conversion; 2] = [
    (include_str!("triton_fp8_convert_e5m2.ptx"), e5m2, 57344.0),
    // Triton stops at 1.75.
    (include_str!("triton_fp8_convert_e4m3b15.ptx"), e4m3b15, 1.75),
];
const PRODUCT: &str = include_str!("triton_fp8_matmul_e4m3b15.ptx");

/// What 8 bits with `mantissa` of them behind the point mean, with a bias of 15.
fn small(bits: u8, mantissa: u32) -> f64 {
    let fraction = f64::from(bits & ((1 << mantissa) - 1)) / f64::from(1u32 << mantissa);
    let exponent = i32::from((bits & 0x7f) >> mantissa);
    let magnitude = if exponent == 0 { fraction * (-14f64).exp2() } else { (1.0 + fraction) * f64::from(exponent - 15).exp2() };
    if bits >> 7 == 1 { -magnitude } else { magnitude }
}

fn e5m2(bits: u8) -> f64 {
    small(bits, 2)
}

fn e4m3b15(bits: u8) -> f64 {
    small(bits, 3)
}

/// f16 of whole 1024ths, which it holds exactly.
fn halves(values: &[f64]) -> Vec<u8> {
    let half = |value: f64| {
        let bits = (value as f32).to_bits();
        let magnitude = if value == 0.0 { 0 } else { ((bits >> 23 & 0xff) - 112) << 10 | bits >> 13 & 0x3ff };
        (bits >> 16 & 0x8000 | magnitude) as u16
    };
    values.iter().flat_map(|value| half(*value).to_le_bytes()).collect()
}

#[test]
fn there_and_back() {
    let x: Vec<f64> = (0..512).map(|i| (f64::from(value(i, 90)) * 2048.0).round() / 1024.0).collect();
    for (text, decode, most) in CONVERSIONS {
        for (seed, numerics) in every() {
            let machine = Machine::new(text, seed, numerics);
            let (from, narrow, wide, none) = (machine.upload(&halves(&x)), machine.empty(512), machine.empty(2048), Argument::Pointer(0));
            machine.launch("fp8_convert", [2, 1, 1], [128, 1, 1], 0, &[&from, &narrow, &wide, &none, &none]);
            let bytes = machine.download(&narrow, 512);
            let expected: Vec<f64> = bytes.iter().map(|bits| decode(*bits)).collect();
            close(&floats(&machine.download(&wide, 2048)), &expected, 0.0, 0.0);
            // The nearest of all: an eighth, or a sixteenth, of a number's leading bit.
            for (x, got) in x.iter().zip(&expected) {
                let x = x.clamp(-most, most);
                let nearest = (0..=255u8).map(decode).filter(|v| v.abs() <= most).map(|v| (v - x).abs()).fold(f64::MAX, f64::min);
                assert!((got - x).abs() <= nearest, "{got} for {x}");
            }
        }
    }
}

/// A byte more of the result, in which nothing was put.
#[test]
fn what_nobody_wrote_is_still_found() {
    for (text, ..) in CONVERSIONS {
        let stores = text.replace("cvt.u16.u32", "shr.u32 %r2, %r5, 8; cvt.u16.u32").replace("%rs1, %r5;", "%rs1, %r2;");
        assert_ne!(stores, text);
        let machine = Machine::new(&stores, 0, Numerics::default());
        let (from, narrow, wide, none) =
            (machine.upload(&halves(&vec![1.0; 512])), machine.empty(512), machine.empty(2048), Argument::Pointer(0));
        let error = machine.try_launch("fp8_convert", [2, 1, 1], [128, 1, 1], 0, &[&from, &narrow, &wide, &none, &none]).unwrap_err();
        assert!(
            matches!(&error, Error::Kernel { fault: Fault::UninitialisedRegister { .. }, place } if place.text.contains("st.global")),
            "{error}"
        );
    }
}

#[test]
fn products() {
    let (m, n, k) = (64, 32, 96);
    let bits = |count: usize, salt: u32| (0..count).map(|i| (128.0 + 127.0 * value(i, salt)) as u8).collect::<Vec<u8>>();
    let (a, b) = (bits(m * k, 91), bits(k * n, 92));
    let expected: Vec<f64> = (0..m * n).map(|at| (0..k).map(|p| e4m3b15(a[at / n * k + p]) * e4m3b15(b[p * n + at % n])).sum()).collect();
    for (seed, numerics) in every() {
        let machine = Machine::new(PRODUCT, seed, numerics);
        let (x, y, z, none) = (machine.upload(&a), machine.upload(&b), machine.empty(4 * m * n), Argument::Pointer(0));
        let sizes = [n, k].map(|size| Argument::Int(size as u32));
        machine.launch("fp8_matmul", [2, 1, 1], [128, 1, 1], 8192, &[&x, &y, &z, &sizes[0], &sizes[1], &none, &none]);
        close(&floats(&machine.download(&z, 4 * m * n)), &expected, 1e-4, 1e-4);
    }
}
