//! What lanes and warps do together: shuffles, votes, matrices out of shared memory, barriers.

use super::block::{Block, Flow};
use super::execute::lanes_of;
use super::warp::State;
use crate::error::Fault;
use crate::lanes::{L32, L64, Lanes};
use crate::numeric::exact;
use crate::program::{Instr, MmaIntegers, Op, PredicateSrc, Shuffle, Src, Vote};

impl Block<'_> {
    /// The mask operand: the same in every active lane.
    fn members(&self, warp: usize, active: u32, s: Src) -> Result<u32, Fault> {
        let masks = self.narrow(warp, active, s)?;
        let mut lanes = lanes_of(active).map(|lane| masks[lane]);
        let first = lanes.next().unwrap_or(0);
        if lanes.any(|mask| mask != first) {
            return Err(Fault::Divergence { reason: "lanes name different masks".into() });
        }
        Ok(first)
    }

    pub(super) fn exchange(&mut self, warp: usize, fragment: usize, active: u32, instr: &Instr) -> Result<Flow, Fault> {
        // Operations of the whole warp name no mask; the others do.
        let members = match &instr.op {
            Op::Shuffle { members, .. }
            | Op::Vote { members, .. }
            | Op::Match { members, .. }
            | Op::Reduce { members, .. }
            | Op::WarpBarrier { members } => {
                let masks = self.narrow(warp, active, *members)?;
                let first = masks[active.trailing_zeros() as usize % 32];
                if lanes_of(active).any(|lane| masks[lane] != first) {
                    return self.groups(warp, fragment, active, &masks, instr);
                }
                first
            }
            Op::ActiveMask { d } => {
                self.warps[warp].put_narrow(*d, active, &[active; 32]);
                return Ok(Flow::Next);
            }
            Op::Barrier { .. } => self.warps[warp].live,
            _ => u32::MAX,
        };
        if !self.together(warp, fragment, active, members)? {
            return Ok(Flow::Wait);
        }
        if let Op::Barrier { id, threads, waits, reduce } = &instr.op {
            return self.arrive(warp, fragment, active, *id, *threads, *waits, reduce);
        }
        self.perform(warp, active, instr)?;
        Ok(Flow::Next)
    }

    /// Lanes that name different masks, as tiles of a warp do, each with those of its own. Who is complete goes on, the others wait.
    fn groups(&mut self, warp: usize, fragment: usize, active: u32, masks: &L32, instr: &Instr) -> Result<Flow, Fault> {
        let (mut rest, mut waiting) = (active, 0);
        while rest != 0 {
            let members = masks[rest.trailing_zeros() as usize];
            let group = lanes_of(rest).filter(|lane| masks[*lane] == members).fold(0, |group, lane| group | 1 << lane);
            rest &= !group;
            if members & active & !group != 0 {
                return Err(Fault::Divergence { reason: "lanes name different masks that overlap".into() });
            }
            if self.complete(warp, fragment, group, members)? {
                self.perform(warp, group, instr)?;
            } else {
                waiting |= group;
            }
        }
        if waiting == 0 {
            return Ok(Flow::Next);
        }
        let fragments = &mut self.warps[warp].fragments;
        let here = &mut fragments[fragment];
        here.state = State::Converging;
        if here.mask != waiting {
            let mut others = here.clone();
            (others.mask, others.pc, others.state) = (here.mask & !waiting, here.pc + 1, State::Ready);
            here.mask = waiting;
            fragments.push(others);
        }
        Ok(Flow::Wait)
    }

    /// What lanes do that have come together.
    fn perform(&mut self, warp: usize, active: u32, instr: &Instr) -> Result<(), Fault> {
        let program = self.grid.program;
        match &instr.op {
            Op::Shuffle { kind, d, p, s, .. } => {
                let (values, operand, clamp) =
                    (self.narrow(warp, active, s[0])?, self.narrow(warp, active, s[1])?, self.narrow(warp, active, s[2])?);
                let (mut results, mut inside) = (values, 0u32);
                for lane in lanes_of(active) {
                    let (source, ok) = partner(*kind, lane as u32, operand[lane], clamp[lane]);
                    if ok {
                        inside |= 1 << lane;
                        if active >> source & 1 == 0 {
                            let reason = format!("lane {lane} reads lane {source}, which does not take part");
                            return Err(Fault::Divergence { reason });
                        }
                        results[lane] = values[source as usize];
                    }
                }
                self.warps[warp].put_narrow(*d, active, &results);
                self.warps[warp].put_predicate(*p, active, inside);
            }
            Op::Vote { kind, d, p, .. } => {
                let yes = self.warps[warp].predicate(*p, active, program)? & active;
                match kind {
                    Vote::Ballot | Vote::Popc => self.warps[warp].put_narrow(*d, active, &[yes; 32]),
                    Vote::All => self.warps[warp].put_predicate(*d, active, if yes == active { u32::MAX } else { 0 }),
                    Vote::Any => self.warps[warp].put_predicate(*d, active, if yes != 0 { u32::MAX } else { 0 }),
                    Vote::Uniform => self.warps[warp].put_predicate(*d, active, if yes == active || yes == 0 { u32::MAX } else { 0 }),
                }
            }
            Op::Match { d, p, s, all, wide, .. } => {
                let mut values = self.wide(warp, active, *s)?;
                if !wide {
                    values.iter_mut().for_each(|value| *value &= 0xffff_ffff);
                }
                let same = |lane: usize| {
                    lanes_of(active).filter(|other| values[*other] == values[lane]).fold(0u32, |mask, other| mask | 1 << other)
                };
                let mut results = [0u32; 32];
                let mut agreed = 0u32;
                for lane in lanes_of(active) {
                    let mask = same(lane);
                    results[lane] = if *all && mask != active { 0 } else { mask };
                    agreed |= u32::from(mask == active) << lane;
                }
                self.warps[warp].put_narrow(*d, active, &results);
                self.warps[warp].put_predicate(*p, active, agreed);
            }
            Op::Reduce { f, d, s, .. } => {
                let values = self.narrow(warp, active, *s)?;
                let Lanes::N2(f) = f else { return Ok(()) };
                let combined = lanes_of(active).map(|lane| [values[lane]; 32]).reduce(|a: L32, b: L32| f(&a, &b));
                self.warps[warp].put_narrow(*d, active, &combined.unwrap_or([0; 32]));
            }
            Op::LoadMatrix { d, count, transposed, at } => {
                let addresses = self.addresses(warp, active, *at)?;
                for (matrix, d) in d.iter().enumerate().take(usize::from(*count)) {
                    let rows = self.rows(warp, &addresses, matrix)?;
                    self.warps[warp].put_narrow(*d, active, &tile(&rows, *transposed));
                }
            }
            Op::MmaIntegers(mma) => {
                let MmaIntegers { shape, d, a, b, c } = &**mma;
                let (mut left, mut right, mut sum) = ([[0; 32]; 4], [[0; 32]; 2], [[0; 32]; 4]);
                for (values, s) in left.iter_mut().chain(&mut right).chain(&mut sum).zip(a.iter().chain(b).chain(c)) {
                    *values = self.narrow(warp, active, *s)?;
                }
                for (d, values) in d.iter().zip(exact::multiply_integers(*shape, &left, &right, &sum)) {
                    self.warps[warp].put_narrow(*d, active, &values);
                }
            }
            Op::MmaDoubles { d, a, b, c } => {
                let (a, b) = (self.wide(warp, active, *a)?, self.wide(warp, active, *b)?);
                let c = [self.wide(warp, active, c[0])?, self.wide(warp, active, c[1])?];
                for (d, values) in d.iter().zip(exact::multiply_doubles(&a, &b, &c)) {
                    self.warps[warp].put_wide(*d, active, &values);
                }
            }
            Op::MoveMatrix { d, s } => {
                let values = self.narrow(warp, active, *s)?;
                let rows = std::array::from_fn(|row| std::array::from_fn(|word| values[4 * row + word]));
                self.warps[warp].put_narrow(*d, active, &tile(&rows, true));
            }
            Op::Wmma(wmma) => self.wmma(warp, active, wmma)?,
            // Of all that brings a warp's lanes together, this alone orders their memory.
            Op::WarpBarrier { .. } => {
                self.warps[warp].sync += 1;
                self.warps[warp].share(active);
            }
            _ => {}
        }
        Ok(())
    }

    /// Matrix number `matrix` of `ldmatrix`: eight lanes give the addresses of its rows.
    fn rows(&mut self, warp: usize, addresses: &L64, matrix: usize) -> Result<[[u32; 4]; 8], Fault> {
        self.count_shared(addresses, 0xff << (8 * matrix), 16);
        let mut rows = [[0; 4]; 8];
        for (row, words) in rows.iter_mut().enumerate() {
            let lane = 8 * matrix + row;
            self.fetch_shared(warp, lane, addresses[lane], 16, words)?;
        }
        Ok(rows)
    }

    #[expect(clippy::too_many_arguments, reason = "fields of one instruction")]
    fn arrive(
        &mut self,
        warp: usize,
        fragment: usize,
        active: u32,
        id: Src,
        threads: Option<Src>,
        waits: bool,
        reduce: &Option<(Vote, crate::program::Reg, PredicateSrc)>,
    ) -> Result<Flow, Fault> {
        let id = self.members(warp, active, id)?;
        let threads = match threads {
            Some(threads) => self.members(warp, active, threads)?,
            None => 0,
        };
        if id as usize >= self.barriers.len() {
            return Err(Fault::Barrier { reason: format!("there is no barrier {id}") });
        }
        if threads % 32 != 0 || threads > 32 * self.warps.len() as u32 {
            let reason = format!("a barrier of {threads} threads in a CTA of {} warps", self.warps.len());
            return Err(Fault::Barrier { reason });
        }
        let vote = match reduce {
            Some((kind, d, p)) => Some((warp as u8, *kind, *d, active, self.warps[warp].predicate(*p, active, self.grid.program)?)),
            None => None,
        };
        let barrier = &mut self.barriers[id as usize];
        let bit = 1u32 << warp;
        if barrier.arrived & bit != 0 {
            return Err(Fault::Barrier { reason: format!("warp {warp} arrives twice at barrier {id}") });
        }
        // A CTA's whole size is the same as no size.
        let threads = if threads == 32 * self.warps.len() as u32 { 0 } else { threads };
        if barrier.arrived != 0 && barrier.threads != threads {
            let reason = format!("barrier {id} waits for {} threads, this warp says {threads}", barrier.threads);
            return Err(Fault::Barrier { reason });
        }
        self.warps[warp].share(active);
        barrier.arrived |= bit;
        barrier.threads = threads;
        barrier.votes.extend(vote);
        let pc = self.warps[warp].fragments[fragment].pc;
        self.warps[warp].fragments[fragment].pc = pc + 1;
        if waits {
            self.barriers[id as usize].waiting |= bit;
            self.warps[warp].fragments[fragment].state = State::Barrier(id as u8);
        }
        self.release()?;
        Ok(Flow::Moved)
    }
}

/// Lane that `shfl` reads, and whether it lies inside the segment.
fn partner(kind: Shuffle, lane: u32, operand: u32, clamp: u32) -> (u32, bool) {
    let (segment, limit) = ((clamp >> 8) & 31, clamp & 31);
    let (low, high) = (lane & segment, (lane & segment) | (limit & !segment));
    let operand = operand & 31;
    match kind {
        Shuffle::Up => {
            let source = lane as i32 - operand as i32;
            (source.max(0) as u32, source >= high as i32)
        }
        Shuffle::Down => (lane + operand, lane + operand <= high),
        Shuffle::Butterfly => (lane ^ operand, lane ^ operand <= high),
        Shuffle::Index => {
            let source = low | (operand & !segment);
            (source, source <= high)
        }
    }
}

/// Lane 4 g + t gets elements 2 t, 2 t + 1 of row g, or, transposed, rows 2 t, 2 t + 1 of column g.
fn tile(rows: &[[u32; 4]; 8], transposed: bool) -> L32 {
    let element = |row: usize, column: usize| (rows[row][column / 2] >> (16 * (column % 2))) & 0xffff;
    if transposed {
        each!(lane, element(2 * (lane % 4), lane / 4) | (element(2 * (lane % 4) + 1, lane / 4) << 16))
    } else {
        each!(lane, rows[lane / 4][lane % 4])
    }
}
