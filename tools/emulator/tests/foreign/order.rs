//! Texts of nvcc in which threads wait for threads, however these are scheduled.

use crate::machine::{Machine, every, numbers};

const TEXT: &str = include_str!("nvcc_order.ptx");

fn words(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn ints(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn a_lock_of_single_lanes() {
    for (seed, numerics) in every() {
        let machine = Machine::new(TEXT, seed, numerics);
        let (lock, count) = (machine.upload(&words(&[0])), machine.upload(&words(&[0])));
        machine.launch("locked", [3, 1, 1], [64, 1, 1], 0, &[&lock, &count]);
        assert_eq!(ints(&machine.download(&count, 4)), [192]);
    }
}

#[test]
fn blocks_that_wait_for_later_ones() {
    let x: Vec<i32> = numbers(64 * 20, 95).iter().map(|value| (100.0 * value) as i32).collect();
    let sums: Vec<i32> = x.iter().scan(0, |sum, x| Some(std::mem::replace(sum, *sum + x) + x)).collect();
    for (seed, numerics) in every() {
        let machine = Machine::new(TEXT, seed, numerics);
        let (from, flags, parts) = (machine.upload(&words(&x)), machine.upload(&words(&[0; 20])), machine.upload(&words(&[0; 20])));
        let out = machine.empty(4 * x.len());
        machine.launch("running", [20, 1, 1], [64, 1, 1], 0, &[&from, &flags, &parts, &out]);
        assert_eq!(ints(&machine.download(&out, 4 * x.len())), sums);
    }
}

#[test]
fn semaphores_and_what_the_last_one_does() {
    for (seed, numerics) in every() {
        let machine = Machine::new(TEXT, seed, numerics);
        let out = machine.empty(256);
        machine.launch("admitted", [1; 3], [64, 1, 1], 0, &[&out]);
        assert!(ints(&machine.download(&out, 256)).iter().all(|most| (1..=2).contains(most)), "seed {seed}");
        machine.launch("counted", [1; 3], [64, 1, 1], 0, &[&out]);
        assert_eq!(ints(&machine.download(&out, 256)), [3; 64], "seed {seed}");
    }
}

#[test]
fn a_sort_that_reads_past_its_end() {
    let x: Vec<i32> = numbers(128, 96).iter().map(|value| (1e6 * value) as i32).collect();
    let mut sorted = x.clone();
    sorted.sort_unstable();
    for (seed, numerics) in every() {
        let machine = Machine::new(TEXT, seed, numerics);
        let keys = machine.upload(&words(&x));
        machine.launch("merged", [1; 3], [32, 1, 1], 0, &[&keys]);
        assert_eq!(ints(&machine.download(&keys, 512)), sorted, "seed {seed}");
    }
}
