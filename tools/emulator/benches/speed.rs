//! Warp instructions a second on one core, checked and unchecked, over a matrix product that Triton compiled (bf16, `mma.sync`, `cp.async`):
//! `cargo bench -p scmmgpt-emulator`. Under `cargo test --benches` it runs once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench of fixtures that must load")]

use std::time::{Duration, Instant};

use scmmgpt_emulator::{Config, Device, Function, Launch};

const MATMUL: &str = include_str!("../tests/foreign/triton_matmul.ptx");
/// Rows, columns and depth of the product, and of a CTA's tile.
const SIZE: u32 = 256;
const TILE: u32 = 64;
/// How long each figure is measured.
const TIME: Duration = Duration::from_secs(2);

/// A device with one thread, and what it multiplies.
fn prepare(checks: bool) -> (Device, Function, Launch) {
    let device = Device::new(Config { threads: 1, checks, ..Config::default() });
    let function = device.load(MATMUL).unwrap_or_else(|error| panic!("{error}")).function("matmul").unwrap();
    let bytes = u64::from(2 * SIZE * SIZE);
    let mut params = Vec::new();
    for operand in 0..3u32 {
        let address = device.allocate(bytes).unwrap();
        // 1.0 and its neighbours in bf16.
        let halves = (0..SIZE * SIZE).flat_map(|index| (0x3f80 + (index * 7 + operand) as u16 % 64).to_le_bytes());
        device.write(address, &halves.collect::<Vec<u8>>()).unwrap();
        params.extend(address.to_le_bytes());
    }
    params.extend([SIZE; 3].into_iter().flat_map(u32::to_le_bytes));
    // Triton's last two parameters are scratch that this kernel does not use.
    let last = function.parameters().last().unwrap();
    params.resize(last.offset + last.size, 0);
    let shared = 40 << 10;
    let launch =
        Launch { grid: [SIZE / TILE, SIZE / TILE, 1], block: [128, 1, 1], dynamic_shared: shared, max_dynamic_shared: shared, params };
    (device, function, launch)
}

fn main() {
    let once = !std::env::args().any(|argument| argument == "--bench");
    for (name, checks) in [("checked", true), ("unchecked", false)] {
        let (device, function, launch) = prepare(checks);
        let (mut executed, mut best) = (0, 0.0f64);
        let begin = Instant::now();
        while executed == 0 || (!once && begin.elapsed() < TIME) {
            let start = Instant::now();
            let count = device.launch(&function, &launch).unwrap_or_else(|error| panic!("{error}")).total();
            best = best.max(count as f64 / start.elapsed().as_secs_f64());
            executed += count;
        }
        let mean = executed as f64 / begin.elapsed().as_secs_f64();
        println!("{name:<10} {:>6.2} M warp instructions/s on one core, {:.2} in the quickest launch", mean / 1e6, best / 1e6);
    }
}
