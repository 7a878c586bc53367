//! Texts of nvcc with C++ barriers, pipelines, asynchronous copies and cooperative groups.

use crate::machine::{Argument, Machine, bytes_of, every, floats, numbers};

const TEXT: &str = include_str!("nvcc_barrier.ptx");

fn words(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn ints(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
}

fn integers(count: usize, salt: u32) -> Vec<i32> {
    numbers(count, salt).iter().map(|value| (1000.0 * value) as i32).collect()
}

/// Runs a kernel of an input and a number under every seed.
#[track_caller]
fn expect(name: &str, threads: u32, shared: u32, input: &[u8], number: usize, expected: &[u8]) {
    for (seed, numerics) in every() {
        let machine = Machine::new(TEXT, seed, numerics);
        let (x, out) = (machine.upload(input), machine.empty(expected.len()));
        let counters = machine.launch(name, [1; 3], [threads, 1, 1], shared, &[&x, &out, &Argument::Int(number as u32)]);
        assert!(machine.download(&out, expected.len()) == expected, "{name}, seed {seed}");
        assert_eq!(counters.copies_left, 0, "{name}, seed {seed}");
    }
}

#[test]
fn threads_that_arrive_and_wait() {
    let x = integers(128, 70);
    let round = |i: usize, round: i32| round + x[(i + 33) % 128] + round;
    let sums: Vec<i32> = (0..128).map(|i| (0..5).map(|r| round(i, r)).sum()).collect();
    expect("rounds", 128, 0, &words(&x), 5, &words(&sums));
    let x = integers(32 * 7, 71);
    let sums: Vec<i32> = (0..96).map(|i| (0..7).map(|r| 3 * x[32 * r + 31 - i % 32]).sum()).collect();
    expect("producer", 128, 0, &words(&x), 7, &words(&sums));
}

#[test]
fn copies_that_arrive() {
    let x = numbers(1024, 72);
    let turned: Vec<f32> = (0..1024).map(|i| x[i / 256 * 256 + 255 - i % 256]).collect();
    expect("copies", 128, 0, &bytes_of(&x), 1024, &bytes_of(&turned));
    let x: Vec<f32> = integers(64 * 6, 73).iter().map(|value| *value as f32).collect();
    let sums = |shift: usize| (0..64).map(|i| (0..6).map(|batch| x[64 * batch + (i + shift) % 64]).sum()).collect::<Vec<f32>>();
    expect("stages", 64, 512, &bytes_of(&x), 6, &bytes_of(&sums(1)));
    expect("alone", 64, 0, &bytes_of(&x), 6, &bytes_of(&sums(0)));
    let x = integers(32 * 6, 74);
    let sums: Vec<i32> = (0..96).map(|i| (0..6).map(|r| x[32 * r + 31 - i % 32]).sum()).collect();
    expect("roles", 128, 256, &words(&x), 6, &words(&sums));
}

#[test]
fn threads_that_leave() {
    for (seed, numerics) in every() {
        let machine = Machine::new(TEXT, seed, numerics);
        let out = machine.empty(4 * 48);
        machine.launch("leaving", [1; 3], [64, 1, 1], 0, &[&out]);
        assert_eq!(ints(&machine.download(&out, 4 * 48)), (0..48).map(|i| 63 - (47 - i)).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn groups_of_threads() {
    let x: Vec<i32> = integers(64, 75).iter().map(|value| value.abs() % 50).collect();
    for (seed, numerics) in every() {
        let machine = Machine::new(TEXT, seed, numerics);
        let (from, sums, scans, least) = (machine.upload(&words(&x)), machine.empty(256), machine.empty(256), machine.empty(256));
        machine.launch("groups", [1; 3], [64, 1, 1], 0, &[&from, &sums, &scans, &least]);
        let [sums, scans] = [&sums, &scans].map(|out| ints(&machine.download(out, 256)));
        let least = floats(&machine.download(&least, 256));
        for i in 0..64 {
            let (warp, part) = (&x[i / 32 * 32..i / 32 * 32 + 32], &x[i / 8 * 8..i / 8 * 8 + 8]);
            let odd: i32 = warp.iter().filter(|value| **value & 1 == 1).sum();
            let expected = warp.iter().sum::<i32>() + part.iter().max().unwrap() + if x[i] & 1 == 1 { odd } else { 0 };
            assert_eq!(sums[i], expected, "thread {i}");
            let alike = |values: &[i32]| values.iter().filter(|value| **value % 3 == x[i] % 3).count() as i32;
            let before = x[i / 8 * 8..i].iter().sum::<i32>();
            let scan = x[i / 32 * 32..=i].iter().sum::<i32>() + 1000 * before + 7 * alike(warp) + alike(&x[i / 32 * 32..i]);
            assert_eq!(scans[i], scan, "thread {i}");
            assert_eq!(least[i], *warp.iter().min().unwrap() as f32 * 0.5);
        }
    }
}
