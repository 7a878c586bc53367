//! Texts of other people's compilers (tools/fixtures), against plain loops: what nvcc and Triton mean by an instruction is not ours to decide.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod barrier;
mod control;
mod fp8;
mod intrinsics;
mod machine;
mod order;
mod refused;
mod triton;
mod wmma;

use machine::{Argument, Machine, brain, brains, bytes_of, close, every, floats, numbers, product};
use scmmgpt_emulator::{Config, Device, Launch};

const NVCC: &str = include_str!("nvcc_kernels.ptx");
/// Products: text, tile, threads, and whether b is stored transposed.
const TRITON_MATMULS: [(&str, [u32; 2], u32, bool); 5] = [
    (include_str!("triton_matmul.ptx"), [64, 64], 128, false),
    (include_str!("triton_matmul_128x128x32.ptx"), [128, 128], 128, false),
    (include_str!("triton_matmul_128x128x32_nt.ptx"), [128, 128], 128, true),
    (include_str!("triton_matmul_128x256x64.ptx"), [128, 256], 256, false),
    (include_str!("triton_matmul_128x256x64_nt.ptx"), [128, 256], 256, true),
];
const TRITON_ATTENTION: &str = include_str!("triton_attention.ptx");

#[test]
fn nvcc_sgemm() {
    let (m, n, k) = (37, 45, 50);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    let expected = product(&a, |p, j| b[p * n + j], m, n, k);
    for (seed, numerics) in every() {
        let machine = Machine::new(NVCC, seed, numerics);
        let (x, y, z) = (machine.upload(&bytes_of(&a)), machine.upload(&bytes_of(&b)), machine.empty(4 * m * n));
        let sizes = [m, n, k].map(|size| Argument::Int(size as u32));
        let counters = machine.launch("sgemm", [3, 3, 1], [16, 16, 1], 0, &[&x, &y, &z, &sizes[0], &sizes[1], &sizes[2]]);
        close(&floats(&machine.download(&z, 4 * m * n)), &expected, 1e-5, 1e-5);
        assert!(counters.barriers > 0);
    }
}

#[test]
fn nvcc_sgemm_without_a_barrier_is_caught() {
    let cut = NVCC.find(".visible .entry wmma_gemm").unwrap();
    let (sgemm, rest) = NVCC.split_at(cut);
    let last = sgemm.rfind("bar.sync").unwrap();
    let end = last + sgemm[last..].find(';').unwrap() + 1;
    let text = format!("{}{}{rest}", &sgemm[..last], &sgemm[end..]);
    let device = Device::new(Config::default());
    let function = device.load(&text).unwrap().function("sgemm").unwrap();
    let memory = device.allocate(4 * 64 * 64).unwrap();
    device.write(memory, &bytes_of(&numbers(64 * 64, 3))).unwrap();
    let out = device.allocate(4 * 64 * 64).unwrap();
    let mut params = Vec::new();
    for address in [memory, memory, out] {
        params.extend(address.to_le_bytes());
    }
    for _ in 0..3 {
        params.extend(64u32.to_le_bytes());
    }
    let launch = Launch { grid: [4, 4, 1], block: [16, 16, 1], dynamic_shared: 0, max_dynamic_shared: 0, params };
    let error = device.launch(&function, &launch).unwrap_err();
    assert!(error.to_string().contains("race"), "{error}");
}

#[test]
fn nvcc_wmma() {
    let (m, n, k) = (32, 48, 64);
    // Multiples of 1/64 are exact in f16.
    let exact = |values: Vec<f32>| -> Vec<f32> { values.into_iter().map(|value| (value * 64.0).round() / 64.0).collect() };
    let (a, b) = (exact(numbers(m * k, 4)), exact(numbers(n * k, 5)));
    let half = |value: f32| -> [u8; 2] {
        let bits = value.to_bits();
        if value == 0.0 {
            return [0, 0];
        }
        (((bits >> 16) & 0x8000) as u16 | ((((bits >> 23) & 0xff) as u16 - 112) << 10) | ((bits >> 13) & 0x3ff) as u16).to_le_bytes()
    };
    let pack = |values: &[f32]| values.iter().flat_map(|value| half(*value)).collect::<Vec<u8>>();
    let expected = product(&a, |p, j| b[j * k + p], m, n, k);
    for (seed, numerics) in every() {
        let machine = Machine::new(NVCC, seed, numerics);
        let (x, y, z) = (machine.upload(&pack(&a)), machine.upload(&pack(&b)), machine.empty(4 * m * n));
        let (columns, depth) = (Argument::Int(n as u32), Argument::Int(k as u32));
        machine.launch("wmma_gemm", [3, 2, 1], [32, 1, 1], 0, &[&x, &y, &z, &columns, &depth]);
        close(&floats(&machine.download(&z, 4 * m * n)), &expected, 1e-5, 1e-5);
    }
}

#[test]
fn nvcc_softmax() {
    let (rows, width) = (6, 77);
    let x: Vec<f32> = numbers(rows * width, 6).into_iter().map(|value| 8.0 * value).collect();
    let mut expected = Vec::new();
    for row in x.chunks(width) {
        let powers: Vec<f64> = row.iter().map(|value| f64::from(*value).exp()).collect();
        let sum: f64 = powers.iter().sum();
        expected.extend(powers.iter().map(|power| power / sum));
    }
    for (seed, numerics) in every() {
        let machine = Machine::new(NVCC, seed, numerics);
        let (from, to, columns) = (machine.upload(&bytes_of(&x)), machine.empty(4 * x.len()), Argument::Int(width as u32));
        machine.launch("softmax", [3, 1, 1], [32, 2, 1], 0, &[&from, &to, &columns]);
        close(&floats(&machine.download(&to, 4 * x.len())), &expected, 1e-6, 1e-5);
    }
}

#[test]
fn nvcc_reduction_with_atomics() {
    let x = numbers(5000, 7);
    let expected: f64 = x.iter().map(|value| f64::from(*value)).sum();
    for (seed, numerics) in every() {
        let machine = Machine::new(NVCC, seed, numerics);
        let (from, sum, count) = (machine.upload(&bytes_of(&x)), machine.upload(&[0; 4]), machine.upload(&[0; 4]));
        machine.launch("reduce", [4, 1, 1], [256, 1, 1], 0, &[&from, &sum, &count, &Argument::Int(5000)]);
        close(&floats(&machine.download(&sum, 4)), &[expected], 1e-3, 1e-5);
        assert_eq!(machine.download(&count, 4), 4u32.to_le_bytes());
    }
}

#[test]
fn nvcc_calls_local_arrays_and_long_division() {
    let x: Vec<i32> = (1..=70).collect();
    let collatz = |start: i32| {
        let (mut value, mut top, mut steps) = (i64::from(start), i64::from(start), 0);
        while value != 1 {
            value = if value % 2 != 0 { 3 * value + 1 } else { value / 2 };
            top = top.max(value);
            steps += 1;
        }
        (top / 7, steps)
    };
    let most = |start: i32| {
        let (mut seen, mut rest) = ([0; 10], start as u64 * 1_000_003);
        while rest > 0 {
            seen[(rest % 10) as usize] += 1;
            rest /= 10;
        }
        (1..10).fold(0, |best, digit| if seen[digit] > seen[best] { digit } else { best }) as i32
    };
    for (seed, numerics) in every() {
        let machine = Machine::new(NVCC, seed, numerics);
        let from = machine.upload(&x.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
        let (top, steps, digits) = (machine.empty(8 * 70), machine.empty(4 * 70), machine.empty(4 * 70));
        machine.launch("local", [2, 1, 1], [64, 1, 1], 0, &[&from, &top, &steps, &digits, &Argument::Int(70)]);
        let long = machine.download(&top, 8 * 70);
        let int = |bytes: &[u8]| -> Vec<i32> { bytes.chunks(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect() };
        assert_eq!(int(&machine.download(&steps, 4 * 70)), x.iter().map(|&value| collatz(value).1).collect::<Vec<_>>());
        assert_eq!(int(&machine.download(&digits, 4 * 70)), x.iter().map(|&value| most(value)).collect::<Vec<_>>());
        let long: Vec<i64> = long.chunks(8).map(|word| i64::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(long, x.iter().map(|&value| collatz(value).0).collect::<Vec<_>>());
    }
}

#[test]
fn triton_matmul() {
    let (m, n, k) = (80, 96, 112);
    let ((a, a_bytes), (b, b_bytes)) = (brain(&numbers(m * k, 8)), brain(&numbers(k * n, 9)));
    for (text, [rows, columns], threads, transposed) in TRITON_MATMULS {
        let expected = product(&a, |p, j| b[if transposed { j * k + p } else { p * n + j }], m, n, k);
        let grid = [(m as u32).div_ceil(rows), (n as u32).div_ceil(columns), 1];
        for (seed, numerics) in every() {
            let machine = Machine::new(text, seed, numerics);
            let (x, y, z, none) = (machine.upload(&a_bytes), machine.upload(&b_bytes), machine.empty(2 * m * n), Argument::Pointer(0));
            let sizes = [m, n, k].map(|size| Argument::Int(size as u32));
            let arguments = [&x, &y, &z, &sizes[0], &sizes[1], &sizes[2], &none, &none];
            let counters = machine.launch("matmul", grid, [threads, 1, 1], 96 << 10, &arguments);
            close(&brains(&machine.download(&z, 2 * m * n)), &expected, 1e-2, 1.0 / 256.0);
            assert_eq!(counters.copies_left, 0);
        }
    }
}

#[test]
fn triton_attention() {
    let (heads, length, d) = (2, 112, 64);
    let count = heads * length * d;
    let [(q, q_bytes), (k, k_bytes), (v, v_bytes)] = [10, 11, 12].map(|salt| brain(&numbers(count, salt)));
    let scale = 0.125f32;
    let mut expected = vec![0.0; count];
    for head in 0..heads {
        let at = |values: &[f32], row: usize, column: usize| f64::from(values[(head * length + row) * d + column]);
        for row in 0..length {
            let score = |key: usize| (0..d).map(|c| at(&q, row, c) * at(&k, key, c)).sum::<f64>() * f64::from(scale);
            let powers: Vec<f64> = (0..=row).map(|key| score(key).exp()).collect();
            let sum: f64 = powers.iter().sum();
            for c in 0..d {
                expected[(head * length + row) * d + c] = (0..=row).map(|key| powers[key] / sum * at(&v, key, c)).sum();
            }
        }
    }
    for (seed, numerics) in every() {
        let machine = Machine::new(TRITON_ATTENTION, seed, numerics);
        let (x, y, z) = (machine.upload(&q_bytes), machine.upload(&k_bytes), machine.upload(&v_bytes));
        let (out, none) = (machine.empty(2 * count), Argument::Pointer(0));
        let arguments = [&x, &y, &z, &out, &Argument::Int(length as u32), &Argument::Float(scale), &none, &none];
        machine.launch("attention", [2, heads as u32, 1], [128, 1, 1], 48 << 10, &arguments);
        close(&brains(&machine.download(&out, 2 * count)), &expected, 1e-2, 1.0 / 128.0);
    }
}
