//! A launch: CTAs over host threads, each CTA's warps in a seeded order.

mod access;
mod asynchronous;
mod atomic;
mod block;
mod exchange;
mod execute;
mod mbarrier;
mod strong;
mod system;
mod undefined;
pub(crate) mod warp;
mod wmma;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::count::Counters;
use crate::device::{Config, Launch};
use crate::error::{Error, Result};
use crate::memory::Heap;
use crate::program::Program;
use block::Block;

/// What all CTAs of a launch share.
pub(crate) struct Grid<'a> {
    pub(crate) program: &'a Program,
    pub(crate) launch: &'a Launch,
    pub(crate) heap: Heap,
    pub(crate) config: &'a Config,
    /// Number of the launch.
    pub(crate) number: u32,
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
}

/// Small counted generator for the choices of a schedule.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) % bound.max(1) as u64) as usize
    }
}

/// CTAs at the most that have begun and not ended.
const RESIDENT: usize = 256;
/// Warp instructions after which a CTA lets others go on, though it does not seem to wait for them.
const SHARE: u64 = 1 << 22;

/// Rounds of all CTAs in which none does anything but look, after which none ever will.
const PATIENCE: usize = 5000;

/// What CTAs leave behind.
#[derive(Default)]
struct Total {
    counters: Counters,
    /// What was printed, by the CTA's place in the order.
    printed: Vec<(u64, Vec<u8>)>,
    failed: Option<(u64, Error)>,
}

/// Runs every CTA; the first fault in the order of the CTAs ends the launch. Also what was printed, CTA after CTA.
pub(crate) fn run(config: &Config, program: &Program, launch: &Launch, heap: Heap, number: u32) -> (Result<Counters>, Vec<u8>) {
    let threads = launch.block.iter().product();
    let shared_bytes = program.static_shared + launch.dynamic_shared;
    let grid = Grid { program, launch, heap, config, number, threads, shared_bytes };
    let ctas = launch.grid.iter().map(|&size| u64::from(size)).product::<u64>();
    // CTAs that may speak to each other run one after the other, in an order that the seed picks.
    let workers = if program.has_global_atomics {
        1
    } else {
        let offered = std::thread::available_parallelism().map_or(1, usize::from);
        let asked = if config.threads == 0 { offered } else { config.threads };
        asked.min(ctas as usize).max(1)
    };
    // Small launches are not worth a thread.
    let workers = if ctas < 4 { 1 } else { workers };
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    // A CTA that does not end soon may be waiting for one that has not begun.
    let (most, share) = if program.has_global_atomics { (RESIDENT, SHARE) } else { (1, u64::MAX) };
    let work = || {
        let mut counters = Counters::default();
        let (mut resident, mut spare) = (VecDeque::new(), Vec::new());
        let mut idle = 0;
        loop {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            let ticket = if resident.len() < most { next.fetch_add(1, Ordering::Relaxed) } else { ctas };
            let (ticket, mut block) = if ticket < ctas {
                let mut block: Block<'_> = spare.pop().unwrap_or_else(|| Block::new(&grid));
                block.begin(permuted(ticket, ctas, config.seed));
                (ticket, block)
            } else {
                let Some(waiting) = resident.pop_front() else { break };
                waiting
            };
            let events = block.events;
            let mut result = block.advance(share);
            idle = if block.events == events && result == Ok(false) { idle + 1 } else { 0 };
            if idle > PATIENCE * (resident.len() + 1) {
                result = Err(block.waits_for_others());
            }
            match result {
                Ok(false) => {
                    resident.push_back((ticket, block));
                    continue;
                }
                Ok(true) => counters.add(&block.counters),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    if total.failed.as_ref().is_none_or(|(first, _)| ticket < *first) {
                        total.failed = Some((ticket, error));
                    }
                }
            }
            if !block.printed.is_empty() {
                let text = std::mem::take(&mut block.printed);
                total.lock().unwrap_or_else(PoisonError::into_inner).printed.push((ticket, text));
            }
            spare.push(block);
        }
        total.lock().unwrap_or_else(PoisonError::into_inner).counters.add(&counters);
    };
    if workers == 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(work);
            }
        });
    }
    let Total { counters, mut printed, failed } = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    printed.sort_by_key(|(ticket, _)| *ticket);
    let printed = printed.into_iter().flat_map(|(_, text)| text).collect();
    (failed.map_or(Ok(counters), |(_, error)| Err(error)), printed)
}

/// A permutation of `0..count` that the seed picks: rotation and a stride without common divisor. Seed 0 keeps the order.
fn permuted(ticket: u64, count: u64, seed: u64) -> u64 {
    if seed == 0 || count < 2 {
        return ticket;
    }
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let mut stride = 1 + seed.wrapping_mul(0x9e37_79b9) % count;
    while gcd(stride, count) != 1 {
        stride += 1;
    }
    ((u128::from(ticket) * u128::from(stride) + u128::from(seed % count)) % u128::from(count)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_hit_everything_once() {
        for (count, seed) in [(1, 3), (2, 9), (12, 1), (97, 5), (64, 123_456)] {
            let mut seen: Vec<u64> = (0..count).map(|ticket| permuted(ticket, count, seed)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
    }
}
