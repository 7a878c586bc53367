//! Texts of nvcc and LLVM with switches, printing, claims, clocks, and what lanes of a warp ask each other.

use scmmgpt_emulator::{Error, Fault, Numerics};

use crate::machine::{Argument, Machine, bytes_of, close, every, floats, numbers};

const TEXT: &str = include_str!("nvcc_control.ptx");

fn words(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn unsigned(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn a_dense_switch_in_a_loop() {
    let n = 150;
    let a = numbers(n, 80);
    let op: Vec<i32> = (0..n as i32).map(|i| (i * 37 + i / 7) % 16).collect();
    let choose = |i: usize| {
        let (x, y) = (a[i], a[(i * 7 + 3) % n]);
        let mut r = x;
        for k in 0..3 {
            match (op[i] + k * 5) % 16 {
                0 => r += 1.0,
                1 => r *= 3.0,
                2 => r = -x,
                3 => r = x * x,
                4 => r = x.abs().sqrt(),
                5 => r -= 7.0,
                6 => r = 1.0 / (4.0 + r),
                7 => r = r.floor(),
                8 => r += [1.0f32, 2.0, 4.0, 8.0].iter().filter(|q| **q < 9.0 * x).sum::<f32>(),
                9 => r = f32::from_bits(x.to_bits() ^ 1),
                10 => r = y + 2.0 * y,
                11 => r += 2.0 * y,
                12 => r = r.max(y),
                13 => return r,
                14 => r = y - r,
                _ => r *= y,
            }
        }
        r
    };
    let expected: Vec<f64> = (0..n).map(|i| f64::from(choose(i))).collect();
    for (seed, numerics) in every() {
        let machine = Machine::new(TEXT, seed, numerics);
        let (x, y, out) = (machine.upload(&words(&op)), machine.upload(&bytes_of(&a)), machine.empty(8 * n));
        let counters = machine.launch("choose", [2, 1, 1], [96, 1, 1], 0, &[&x, &y, &out, &Argument::Int(n as u32)]);
        close(&floats(&machine.download(&out, 4 * n)), &expected, 1e-6, 1e-6);
        assert!(counters.divergent_branches > 20);
    }
}

#[test]
fn a_branch_by_a_table() {
    let from: Vec<u32> = (0..96).map(|i| i * 2_654_435 + 11).collect();
    let which: Vec<i32> = (0..96).map(|i| (i * 5 + i / 9) % 14 - 1).collect();
    let expected: Vec<u32> = (0..96u32)
        .map(|i| {
            let x = from[i as usize];
            match which[i as usize] {
                0 => x + 3,
                1 => x.wrapping_mul(5),
                2 => 7u32.wrapping_sub(x),
                3 => x ^ 21,
                4 => x << 2,
                5 => x >> 1,
                6 => x | 64,
                7 => x & 13,
                8 => x.wrapping_mul(x),
                9 => x + i,
                10 => x - i,
                11 => x / 3,
                _ => 1000,
            }
        })
        .collect();
    for (seed, numerics) in every() {
        let machine = Machine::new(include_str!("llvm_switch.ptx"), seed, numerics);
        let signed: Vec<i32> = from.iter().map(|x| *x as i32).collect();
        let (x, y, out) = (machine.upload(&words(&which)), machine.upload(&words(&signed)), machine.empty(384));
        machine.launch("choose", [1; 3], [96, 1, 1], 0, &[&x, &y, &out]);
        assert_eq!(unsigned(&machine.download(&out, 384)), expected, "seed {seed}");
    }
}

#[test]
fn printed_lines_come_block_by_block() {
    let x = [1, 5, 2, -3, 8, 3];
    let f = [0.5f32, 1.25, -2.0, 1e9, -0.0625, 1234.5678];
    let machine = Machine::new(TEXT, 0, Numerics::default());
    let (from, values) = (machine.upload(&words(&x)), machine.upload(&bytes_of(&f)));
    machine.launch("says", [4, 1, 1], [2, 1, 1], 0, &[&from, &values, &Argument::Int(6)]);
    let printed = String::from_utf8(machine.device.printed()).unwrap();
    let expected = "1: x =     5, f =    1.250%, odd b 0x55 42949672960 0x10\nblock 0 of 1\nblock 1 of 1\n\
                    4: x =     8, f =   -0.062%, even e 0x88 68719476736 0x10\n5: x =     3, f = 1234.568%, odd f 0x33 25769803776 0x10\n\
                    block 2 of 1\nblock 3 of 1\n";
    assert_eq!(printed, expected);
    assert!(machine.device.printed().is_empty(), "it was taken");
}

#[test]
fn a_claim_that_does_not_hold() {
    let machine = Machine::new(TEXT, 0, Numerics::default());
    let (x, out) = (machine.upload(&words(&[7, 99, -5, 100])), machine.empty(16));
    machine.launch("claims", [1; 3], [3, 1, 1], 0, &[&x, &out]);
    assert_eq!(machine.download(&out, 12), words(&[7, 99, -5]));
    let error = machine.try_launch("claims", [1; 3], [4, 1, 1], 0, &[&x, &out]).unwrap_err();
    let Error::Kernel { fault, .. } = &error else { panic!("{error}") };
    let Fault::Assertion { expression, file, thread, .. } = fault else { panic!("{error}") };
    assert!(expression == "x[threadIdx.x] < 100 && \"small\"" && file.ends_with("nvcc_control.cu") && *thread == [3, 0, 0], "{error}");
    let message = error.to_string();
    assert!(message.contains(": void claims(const int *, int *): block: [0,0,0], thread: [3,0,0] Assertion `x["), "{message}");
}

#[test]
fn clocks_move_on() {
    for (seed, numerics) in every() {
        let machine = Machine::new(TEXT, seed, numerics);
        let out = machine.empty(512);
        machine.launch("times", [1; 3], [32, 1, 1], 0, &[&out]);
        let times: Vec<u64> = machine.download(&out, 512).chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        assert!(times.iter().all(|time| (1000..2000).contains(time)), "{times:?}");
    }
}

#[test]
fn what_lanes_ask_each_other() {
    let x: Vec<i32> = (0..32).map(|i| [3, 8, 21, 6, 255, 3, 40, 11][(i * i + i / 3) % 8]).collect();
    let mask = |holds: &dyn Fn(usize) -> bool| (0..32).filter(|i| holds(*i)).fold(0u32, |mask, i| mask | 1 << i);
    let find = |mask: u32, base: i32, offset: i32| {
        let step = if offset < 0 { -1 } else { 1 };
        let mut left = offset.abs();
        let mut at = base;
        if offset == 0 {
            return if mask >> base & 1 == 1 { base as u32 } else { u32::MAX };
        }
        while (0..32).contains(&at) {
            left -= (mask >> at & 1) as i32;
            if left == 0 {
                return at as u32;
            }
            at += step;
        }
        u32::MAX
    };
    for same in [false, true] {
        let x = if same { vec![21; 32] } else { x.clone() };
        let odd = mask(&|i| x[i] & 1 == 1);
        for (seed, numerics) in every() {
            let machine = Machine::new(TEXT, seed, numerics);
            let (from, out) = (machine.upload(&words(&x)), machine.empty(1280));
            machine.launch("asks", [1; 3], [32, 1, 1], 0, &[&from, &out]);
            let out = unsigned(&machine.download(&out, 1280));
            for i in 0..32 {
                let v = x[i] as u32;
                let got: Vec<u32> = (0..10).map(|k| out[32 * k + i]).collect();
                let expected = [
                    mask(&|j| x[j] == x[i]),
                    // All lanes, -1, and 2; or nothing.
                    u32::from(same),
                    if v & 1 == 1 { odd } else { 0 },
                    x.iter().sum::<i32>() as u32,
                    x.iter().map(|v| v - 7).min().unwrap() as u32,
                    x.iter().fold(0, |all, v| all ^ v) as u32,
                    find(v, i as i32 % 8, i as i32 % 5 - 2),
                    v.trailing_zeros() + 1 + 100 * v.count_ones() + 10_000 * v.leading_zeros(),
                    mask(&|j| x[j] > 5),
                    u32::from(x.contains(&3)) + 2,
                ];
                assert_eq!(got, expected, "thread {i}, seed {seed}");
            }
        }
    }
}
