//! Texts of nvcc around intrinsics and library functions.

use scmmgpt_emulator::Numerics;

use crate::machine::{Argument, Machine, every, numbers};

const TEXT: &str = include_str!("nvcc_intrinsics.ptx");

fn machine(seed: u64, numerics: Numerics) -> Machine {
    Machine::new(TEXT, seed, numerics)
}

fn words(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn ints(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
}

fn long(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn doubles(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks(8).map(|word| f64::from_le_bytes(word.try_into().unwrap())).collect()
}

fn integers(count: usize, salt: u32) -> Vec<i32> {
    numbers(count, salt).iter().map(|value| (2_147_483_648.0 * value) as i32).collect()
}

#[test]
fn tiles_of_a_warp() {
    let x: Vec<i32> = integers(128, 40).iter().map(|value| value >> 20).collect();
    for (seed, numerics) in every() {
        let machine = machine(seed, numerics);
        let (from, sums, odd) = (machine.upload(&words(&x)), machine.empty(512), machine.empty(512));
        machine.launch("tiles", [1, 1, 1], [128, 1, 1], 0, &[&from, &sums, &odd]);
        let (sums, odd) = (ints(&machine.download(&sums, 512)), ints(&machine.download(&odd, 512)));
        for i in 0..128 {
            let half = &x[i / 16 * 16..i / 16 * 16 + 16];
            let top = half.iter().map(|value| value & 0xff).max().unwrap();
            assert_eq!(sums[i], x[i / 8 * 8..i / 8 * 8 + 8].iter().sum::<i32>() + top, "thread {i}");
            let odds = |lanes: &[i32]| lanes.iter().filter(|value| **value & 1 == 1).count() as i32;
            let warp = i / 32 * 32;
            let expected = if x[i] & 1 == 1 { 100 * odds(&x[warp..warp + 32]) + odds(&x[warp..i]) } else { -1 };
            assert_eq!(odd[i], expected, "thread {i}");
        }
    }
}

#[test]
fn pairs_of_halves() {
    // Quarters up to 4 and their products are exact in f16.
    let quarters = |salt: u32| numbers(64, salt).iter().map(|value| (16.0 * value).round() / 4.0).collect::<Vec<f32>>();
    let half = |value: f32| match value {
        0.0 => 0,
        _ => ((value.to_bits() >> 16 & 0x8000) | (((value.to_bits() >> 23 & 0xff) - 112) << 10) | (value.to_bits() >> 13 & 0x3ff)) as u16,
    };
    let pack = |values: &[f32]| values.iter().flat_map(|value| half(*value).to_le_bytes()).collect::<Vec<u8>>();
    let (a, b) = (quarters(41), quarters(42));
    let with = |f: &dyn Fn(f32, f32) -> f32| a.iter().zip(&b).map(|(a, b)| f(*a, *b)).collect::<Vec<f32>>();
    let above = with(&|a, b| if a > b { 1.0 } else { 0.0 });
    let sums = with(&|a, b| (a + b).clamp(0.0, 1.0));
    let products = with(&|a, b| a.mul_add(b, a).max(0.0));
    let below: Vec<i32> = (0..32).map(|i| i32::from((0..2).all(|part| a[2 * i + part] < b[2 * i + part]))).collect();
    for (seed, numerics) in every() {
        let machine = machine(seed, numerics);
        let (x, y, out, both) = (machine.upload(&pack(&a)), machine.upload(&pack(&b)), machine.empty(384), machine.empty(128));
        machine.launch("halves", [1, 1, 1], [32, 1, 1], 0, &[&x, &y, &out, &both, &Argument::Int(32)]);
        let expected: Vec<u8> = [above.as_slice(), &sums, &products].iter().flat_map(|values| pack(values)).collect();
        assert_eq!(machine.download(&out, 384), expected);
        assert_eq!(ints(&machine.download(&both, 128)), below);
    }
}

#[test]
fn products_of_bytes_and_doubles() {
    let (a, b) = (integers(128, 43), integers(64, 44));
    let (left, right) = (words(&a), words(&b));
    let [p, q] = [45, 46].map(|salt| numbers(32, salt).iter().map(|value| f64::from(*value)).collect::<Vec<_>>());
    for (seed, numerics) in every() {
        let machine = machine(seed, numerics);
        let (x, y, z, dots) = (machine.upload(&left), machine.upload(&right), machine.empty(512), machine.empty(256));
        let (s, t, r) = (machine.upload(&long(&p)), machine.upload(&long(&q)), machine.empty(512));
        machine.launch("products", [1, 1, 1], [32, 1, 1], 0, &[&x, &y, &z, &dots, &s, &t, &r]);
        let (c, dots, r) = (ints(&machine.download(&z, 512)), ints(&machine.download(&dots, 256)), doubles(&machine.download(&r, 512)));
        for (at, &c) in c.iter().enumerate() {
            let (i, j) = (at / 8, at % 8);
            let sum: i32 = (0..32).map(|k| i32::from(left[32 * i + k] as i8) * i32::from(right[32 * j + k])).sum();
            assert_eq!(c, sum + 1 + (j % 2) as i32 + 2 * (i / 8) as i32, "({i}, {j})");
        }
        for i in 0..32 {
            let sum: i32 = (4 * i..4 * i + 4).map(|k| i32::from(left[k] as i8) * i32::from(right[k] as i8)).sum();
            assert_eq!(dots[i], sum + 5);
            let half = |k: usize| u32::from(left[4 * i + 2 * k]) | u32::from(left[4 * i + 2 * k + 1]) << 8;
            let sum: u32 = (0..2).map(|k| half(k) * u32::from(right[4 * i + 2 + k])).sum();
            assert_eq!(dots[32 + i] as u32, sum + 7);
        }
        for (at, &r) in r.iter().enumerate() {
            let (i, j) = (at / 8, at % 8);
            let expected = (0..4).map(|k| p[4 * i + k] * q[8 * k + j]).sum::<f64>() + 1.0 + (j % 2) as f64;
            assert!((r - expected).abs() < 1e-14, "({i}, {j})");
        }
    }
}

/// The neighbours of a value that another rounding may give, from an integer comparison: `exact` says whether a candidate is too large.
fn down(nearest: f64, too_large: impl Fn(f64) -> bool) -> f64 {
    if too_large(nearest) { nearest.next_down() } else { nearest }
}

#[test]
fn rounding_towards_the_ends() {
    let x: Vec<f64> = numbers(32, 47).iter().map(|value| f64::from(*value) * 3.7 + 1e-3).collect();
    let w: Vec<i64> = (0..32i64).map(|i| (i64::MAX / 3 - 12_345 * i * i) * if i % 2 == 0 { 1 } else { -1 }).collect();
    for (seed, numerics) in every() {
        let machine = machine(seed, numerics);
        let from = machine.upload(&long(&x));
        let whole = machine.upload(&w.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
        let out = machine.empty(11 * 256);
        machine.launch("rounding", [1, 1, 1], [32, 1, 1], 0, &[&from, &whole, &out, &Argument::Int(32)]);
        let out = doubles(&machine.download(&out, 11 * 256));
        for (i, &v) in x.iter().enumerate() {
            let got: Vec<f64> = (0..11).map(|k| out[k * 32 + i]).collect();
            let s = v as f32;
            // v + 1e-30 lies just above v.
            assert_eq!(got[0], v);
            let square = v * v;
            assert_eq!(got[1], if v.mul_add(v, -square) > 0.0 { square.next_up() } else { square });
            assert_eq!(got[2], down(square, |square| v.mul_add(v, -square) < 0.0));
            let reciprocal = 1.0 / v;
            let above = (-reciprocal).mul_add(v, 1.0) * v.signum() > 0.0;
            assert_eq!(got[3], if above { reciprocal.next_up() } else { reciprocal });
            let root = v.abs().sqrt();
            assert_eq!(got[4], down(root, |root| (-root).mul_add(root, v.abs()) < 0.0));
            let (third, inverse, root) = (f64::from(s) / 3.0, 1.0 / f64::from(s), f64::from(s).abs().sqrt());
            assert!(got[5].abs() <= third.abs() && f64::from((got[5] as f32).abs().next_up()) > third.abs());
            assert!(got[6] <= inverse && f64::from((got[6] as f32).next_up()) > inverse);
            assert!(got[7] >= root && f64::from((got[7] as f32).next_down()) < root);
            assert_eq!(got[8], w[i] as f64);
            assert!(got[9] as i128 <= i128::from(w[i]) && got[9].next_up() as i128 > i128::from(w[i]));
            assert!(got[10] <= v && f64::from((got[10] as f32).next_up()) > v);
        }
    }
}

#[test]
fn functions_of_doubles() {
    let x: Vec<f64> = numbers(64, 48).iter().map(|value| f64::from(*value) * 4.0).collect();
    let truths: [fn(f64) -> f64; 5] = [f64::exp, f64::tanh, |x| 1.0 / x.abs().sqrt(), |x| (x * 1e6).sin(), |x| x.abs().powf(1.7)];
    for (seed, numerics) in every() {
        let machine = machine(seed, numerics);
        let (from, out) = (machine.upload(&long(&x)), machine.empty(5 * 512));
        machine.launch("functions", [1, 1, 1], [64, 1, 1], 0, &[&from, &out, &Argument::Int(64)]);
        for (k, values) in doubles(&machine.download(&out, 5 * 512)).chunks(64).enumerate() {
            for (x, got) in x.iter().zip(values) {
                let expected = truths[k](*x);
                assert!((got - expected).abs() <= 1e-14 * (1.0 + expected.abs()), "function {k} of {x}: {got} for {expected}");
            }
        }
    }
}

#[test]
fn addresses_of_variables() {
    let machine = machine(0, Numerics::default());
    let out = machine.empty(128);
    machine.launch("variables", [1, 1, 1], [32, 1, 1], 0, &[&out]);
    let expected: Vec<i32> = (0..32).map(|i| (4 + i % 3) * 100 - 20 - 7 + 5).collect();
    assert_eq!(ints(&machine.download(&out, 128)), expected);
}
