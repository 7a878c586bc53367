//! Texts of nvcc with `wmma`: every shape and type of sm_80.

use crate::machine::{Argument, Machine, every, value};

const TEXT: &str = include_str!("nvcc_wmma.ptx");

/// How an element stands in memory.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Half,
    Brain,
    Single,
    Double,
    Signed,
    Unsigned,
    Int,
}

use Kind::{Brain, Double, Half, Int, Signed, Single, Unsigned};

impl Kind {
    fn size(self) -> usize {
        match self {
            Signed | Unsigned => 1,
            Half | Brain => 2,
            Single | Int => 4,
            Double => 8,
        }
    }

    /// A number that every kind of its class holds exactly, as its products' sums: eighths up to 2, or whole ones.
    fn number(self, index: usize, salt: u32) -> f64 {
        let number = f64::from(value(index, salt));
        match self {
            Unsigned => (127.5 + 127.5 * number).round(),
            Signed => (127.0 * number).round(),
            Int => (1e6 * number).round(),
            _ => (16.0 * number).round() / 8.0,
        }
    }

    fn bytes(self, number: f64) -> Vec<u8> {
        match self {
            Half => half(number).to_le_bytes().to_vec(),
            Brain => (((number as f32).to_bits() >> 16) as u16).to_le_bytes().to_vec(),
            Single => (number as f32).to_le_bytes().to_vec(),
            Double => number.to_le_bytes().to_vec(),
            Signed => vec![number as i8 as u8],
            Unsigned => vec![number as u8],
            Int => (number as i32).to_le_bytes().to_vec(),
        }
    }

    fn parse(self, bytes: &[u8]) -> f64 {
        match self {
            Half => {
                let bits = u16::from_le_bytes(bytes.try_into().unwrap());
                let magnitude = f64::from(bits & 0x3ff | 0x400) * f64::from(i32::from(bits >> 10 & 31) - 25).exp2();
                if bits & 0x7fff == 0 { 0.0 } else { magnitude * if bits >> 15 == 1 { -1.0 } else { 1.0 } }
            }
            Single => f64::from(f32::from_le_bytes(bytes.try_into().unwrap())),
            Double => f64::from_le_bytes(bytes.try_into().unwrap()),
            _ => f64::from(i32::from_le_bytes(bytes.try_into().unwrap())),
        }
    }
}

/// f16 of a number that it holds exactly and normally.
fn half(number: f64) -> u16 {
    let bits = (number as f32).to_bits();
    if number == 0.0 { 0 } else { ((bits >> 16 & 0x8000) | ((bits >> 23 & 0xff) - 112) << 10 | bits >> 13 & 0x3ff) as u16 }
}

/// A matrix in memory with a stride above its lines, which no one reads or writes between them.
fn layout(kind: Kind, [rows, columns]: [usize; 2], by_rows: bool, stride: usize, at: impl Fn(usize, usize) -> f64) -> Vec<u8> {
    let lines = if by_rows { rows } else { columns };
    let mut bytes = vec![0xee; lines * stride * kind.size()];
    for row in 0..rows {
        for column in 0..columns {
            let place = kind.size() * if by_rows { row * stride + column } else { column * stride + row };
            bytes[place..place + kind.size()].copy_from_slice(&kind.bytes(at(row, column)));
        }
    }
    bytes
}

#[test]
fn every_shape_and_type() {
    let tiles = [
        ("half_tall", [32, 8, 16], Half, Single, [true, false]),
        ("half_wide", [8, 32, 16], Half, Half, [false, true]),
        ("half_square", [16, 16, 16], Half, Half, [true, true]),
        ("brain_tall", [32, 8, 16], Brain, Single, [true, true]),
        ("brain_wide", [8, 32, 16], Brain, Single, [false, false]),
        ("brain_square", [16, 16, 16], Brain, Single, [false, true]),
        ("tf32_square", [16, 16, 8], Single, Single, [true, false]),
        ("double_small", [8, 8, 4], Double, Double, [true, true]),
        ("signed_square", [16, 16, 16], Signed, Int, [true, false]),
        ("unsigned_tall", [32, 8, 16], Unsigned, Int, [true, false]),
        ("signed_wide", [8, 32, 16], Signed, Int, [false, true]),
    ];
    for (name, [m, n, k], kind, sum, [a_rows, b_rows]) in tiles {
        let (a, b) = (|i: usize, p: usize| kind.number(i * k + p, 60), |p: usize, j: usize| kind.number(p * n + j, 61));
        let c = |i: usize, j: usize| sum.number(i * n + j, 62);
        for c_rows in [true, false] {
            let line = |by_rows: bool, rows: usize, columns: usize| if by_rows { columns } else { rows } + 16;
            let strides = [line(a_rows, m, k), line(b_rows, k, n), line(c_rows, m, n)];
            let expected = layout(sum, [m, n], c_rows, strides[2], |i, j| (0..k).map(|p| a(i, p) * b(p, j)).sum::<f64>() + 2.0 * c(i, j));
            for (seed, numerics) in every() {
                let machine = Machine::new(TEXT, seed, numerics);
                let x = machine.upload(&layout(kind, [m, k], a_rows, strides[0], a));
                let y = machine.upload(&layout(kind, [k, n], b_rows, strides[1], b));
                let z = machine.upload(&layout(sum, [m, n], c_rows, strides[2], c));
                let d = machine.upload(&vec![0xee; expected.len()]);
                let [of_a, of_b, of_c] = strides.map(|stride| Argument::Int(stride as u32));
                machine.launch(name, [1; 3], [32, 1, 1], 0, &[&x, &y, &z, &d, &of_a, &of_b, &of_c, &Argument::Int(u32::from(!c_rows))]);
                let got = machine.download(&d, expected.len());
                let wrong = got.chunks(sum.size()).zip(expected.chunks(sum.size())).position(|(got, expected)| got != expected);
                assert!(wrong.is_none(), "{name}, seed {seed}, element {wrong:?}");
            }
        }
    }
}

#[test]
fn products_of_bytes_through_shared_memory() {
    let (m, n, k) = (64, 96, 64);
    let number = |index: usize, salt: u32| (127.0 * value(index, salt)) as i8;
    let (a, b): (Vec<i8>, Vec<i8>) = ((0..m * k).map(|i| number(i, 63)).collect(), (0..k * n).map(|i| number(i, 64)).collect());
    let bytes = |values: &[i8]| values.iter().map(|value| *value as u8).collect::<Vec<u8>>();
    for (seed, numerics) in every() {
        let machine = Machine::new(TEXT, seed, numerics);
        let (x, y, z) = (machine.upload(&bytes(&a)), machine.upload(&bytes(&b)), machine.empty(4 * m * n));
        machine.launch("bytes", [3, 2, 1], [128, 1, 1], 0, &[&x, &y, &z, &Argument::Int(n as u32), &Argument::Int(k as u32)]);
        for (at, word) in machine.download(&z, 4 * m * n).chunks(4).enumerate() {
            let (i, j) = (at / n, at % n);
            let expected: i32 = (0..k).map(|p| i32::from(a[i * k + p]) * i32::from(b[p * n + j])).sum();
            assert_eq!(i32::from_le_bytes(word.try_into().unwrap()), expected, "({i}, {j})");
        }
    }
}

#[test]
fn fragments_narrowed_element_by_element() {
    let (a, b) = (|i: usize, p: usize| Half.number(16 * i + p, 65), |p: usize, j: usize| Half.number(16 * p + j, 66));
    for (seed, numerics) in every() {
        let machine = Machine::new(TEXT, seed, numerics);
        let x = machine.upload(&layout(Half, [16, 16], true, 16, a));
        let y = machine.upload(&layout(Half, [16, 16], true, 16, b));
        let d = machine.empty(512);
        machine.launch("narrowed", [1; 3], [32, 1, 1], 0, &[&x, &y, &d]);
        for (at, word) in machine.download(&d, 512).chunks(2).enumerate() {
            let sum: f64 = (0..16).map(|p| 2.0 * a(at / 16, p) * b(p, at % 16)).sum();
            assert_eq!(Half.parse(word), sum + 0.5, "element {at}");
        }
    }
}
