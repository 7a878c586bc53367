//! Reads what ptxas made of a text: the instructions of its main loop, with the schedule that is coded into them, and what an A100 would
//! do with them by a model. No figure of the model was measured.
//!
//! # Source
//! Control bits: Jia et al. 2018, "Dissecting the NVIDIA Volta GPU architecture via microbenchmarking". Rates: CUDA C++ programming
//! guide, "Throughput of native arithmetic instructions", compute capability 8.0.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// What executes an instruction beside the scheduler that issues it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pipe {
    /// Matrix products.
    Tensor,
    /// Shared memory, asynchronous copies to it, and exchanges between lanes.
    Shared,
    /// Approximate functions.
    Special,
    /// Floating point and integer products.
    Multiply,
    /// Other integer, logic and comparison instructions.
    Logic,
    /// Everything else costs its issue only.
    Issue,
}

/// All pipes that can be a bottleneck.
pub(crate) const PIPES: [Pipe; 6] = [Pipe::Tensor, Pipe::Shared, Pipe::Special, Pipe::Multiply, Pipe::Logic, Pipe::Issue];

/// One instruction of a warp.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    /// For example `HMMA.16816.F32.BF16`.
    pub(crate) opcode: String,
    /// Cycles until the warp may issue its next one.
    stall: u64,
    /// Scoreboards that are taken until the result is there, and until the operands are read.
    takes: [Option<usize>; 2],
    /// Scoreboards that must be free, a bit each.
    waits: u32,
}

impl Instruction {
    /// What executes it, and for how many cycles of one of the four partitions of a multiprocessor.
    pub(crate) fn cost(&self) -> (Pipe, u64) {
        let (name, wide) = (self.opcode.split('.').next().unwrap_or_default(), |bits: &str| self.opcode.contains(bits));
        match name {
            "HMMA" | "IMMA" => (Pipe::Tensor, 8),
            // A multiprocessor moves 128 bytes of shared memory a cycle, for all four partitions.
            "LDSM" => (
                Pipe::Shared,
                if wide(".4") {
                    16
                } else if wide(".2") {
                    8
                } else {
                    4
                },
            ),
            "LDS" | "STS" | "LDGSTS" => (
                Pipe::Shared,
                if wide(".128") {
                    16
                } else if wide(".64") {
                    8
                } else {
                    4
                },
            ),
            "SHFL" => (Pipe::Shared, 4),
            "MUFU" | "F2I" | "I2F" | "F2F" | "FRND" | "POPC" => (Pipe::Special, 8),
            "FFMA" | "FADD" | "FMUL" | "HFMA2" | "HADD2" | "HMUL2" | "IMAD" => (Pipe::Multiply, 2),
            "FMNMX" | "FSEL" | "FSETP" | "FCHK" | "IADD3" | "ISETP" | "IMNMX" | "IABS" | "LEA" | "LOP3" | "PLOP3" | "PRMT" | "SEL"
            | "SHF" | "F2FP" | "P2R" | "R2P" | "BMSK" | "SGXT" | "MOV" | "VOTE" => (Pipe::Logic, 2),
            _ => (Pipe::Issue, 1),
        }
    }

    /// Cycles from execution to result, where a scoreboard waits for it. Asynchronous copies count as prefetched.
    fn latency(&self) -> u64 {
        match self.cost().0 {
            Pipe::Shared => 30,
            Pipe::Special => 20,
            _ => 0,
        }
    }
}

/// Instructions of every entry of a cubin, and where branches go.
#[derive(Debug)]
pub(crate) struct Code {
    instructions: Vec<Instruction>,
    /// From and to.
    branches: Vec<(usize, usize)>,
}

/// What `nvdisasm` says of a cubin.
pub(crate) fn read(nvdisasm: &Path, cubin: &Path) -> BTreeMap<String, Code> {
    let output = Command::new(nvdisasm).arg("-c").arg("-hex").arg(cubin).output().unwrap();
    assert!(output.status.success(), "{}: {}", cubin.display(), String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sections = text.split("\n.text.").skip(1);
    sections.map(|section| (section.split(':').next().unwrap_or_default().to_string(), parse(section))).collect()
}

fn parse(section: &str) -> Code {
    let (mut instructions, mut labels, mut jumps) = (Vec::<Instruction>::new(), BTreeMap::new(), Vec::new());
    for line in section.lines().map(str::trim) {
        let word = line.rsplit("/* 0x").next().and_then(|rest| u64::from_str_radix(rest.trim_end_matches(" */"), 16).ok());
        if let Some(label) = line.strip_suffix(':') {
            labels.insert(label.to_string(), instructions.len());
        } else if let (Some(_), Some(rest)) =
            (word, line.strip_prefix("/*").filter(|_| !line.starts_with("/* 0x")).and_then(|rest| rest.split_once("*/")))
        {
            let code = rest.1.split("/*").next().unwrap_or_default().trim();
            if let Some(label) = code.split("`(").nth(1).and_then(|rest| rest.split([')', ' ']).next()).filter(|_| code.contains("BRA")) {
                jumps.push((instructions.len(), label.to_string()));
            }
            let opcode = code.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or_default().trim_end_matches(';');
            // Never executed: ptxas pads with them.
            let opcode = if code.starts_with("@!PT") { "NOP" } else { opcode };
            instructions.push(Instruction { opcode: opcode.into(), stall: 1, takes: [None; 2], waits: 0 });
        } else if let (Some(high), Some(last)) = (word, instructions.last_mut()) {
            let board = |at: u32| Some((high >> at & 7) as usize).filter(|board| *board != 7);
            last.stall = (high >> 41 & 15).max(1);
            last.takes = [board(46), board(49)];
            last.waits = (high >> 52 & 63) as u32;
        }
    }
    let branches = jumps.into_iter().filter_map(|(from, label)| Some((from, *labels.get(&label)?))).collect();
    Code { instructions, branches }
}

/// The loop that a kernel spends its time in.
#[derive(Clone, Debug)]
pub(crate) struct Loop {
    /// Its instructions, without padding.
    pub(crate) body: Vec<Instruction>,
}

impl Code {
    /// Opcodes of the accesses to global memory.
    pub(crate) fn global(&self) -> impl Iterator<Item = &str> {
        let opcodes = self.instructions.iter().map(|instruction| instruction.opcode.as_str());
        opcodes.filter(|opcode| ["LDG", "STG", "LDGSTS"].contains(&opcode.split('.').next().unwrap_or_default()))
    }

    /// Of the innermost loops with matrix products, or with floating-point products where there are none, the shortest with the most.
    pub(crate) fn main_loop(&self) -> Option<Loop> {
        let body = |(from, to): &(usize, usize)| (to <= from).then(|| &self.instructions[*to..=*from]);
        ["HMMA", "FFMA"].into_iter().find_map(|name| {
            let count = |body: &[Instruction]| body.iter().filter(|instruction| instruction.opcode.starts_with(name)).count();
            let works = |at: &&(usize, usize)| body(at).is_some_and(|body| count(body) > 0);
            let loops: Vec<_> = self.branches.iter().filter(works).collect();
            let inside = |(from, to): &(usize, usize), (other_from, other_to): &(usize, usize)| to > other_to && from < other_from;
            let innermost = loops.iter().filter(|outer| !loops.iter().any(|inner| inside(inner, outer)));
            let best = innermost.filter_map(|at| body(at)).max_by_key(|body| (count(body), usize::MAX - body.len()))?;
            let body = best.iter().filter(|instruction| instruction.opcode != "NOP").cloned().collect();
            (count(best) > 0).then_some(Loop { body })
        })
    }
}

impl Loop {
    /// Instructions of matrix products.
    pub(crate) fn products(&self) -> usize {
        self.body.iter().filter(|instruction| instruction.cost().0 == Pipe::Tensor).count()
    }

    /// Cycles that a pipe needs for one warp's iteration.
    pub(crate) fn cycles(&self, pipe: Pipe) -> u64 {
        match pipe {
            Pipe::Issue => self.body.len() as u64,
            _ => self.body.iter().map(Instruction::cost).filter(|(of, _)| *of == pipe).map(|(_, cycles)| cycles).sum(),
        }
    }

    /// Share of the time that the tensor pipe could be busy if nothing but throughput mattered.
    pub(crate) fn pipe_bound(&self) -> f64 {
        let longest = PIPES.iter().map(|pipe| self.cycles(*pipe)).max().unwrap_or(1);
        self.cycles(Pipe::Tensor) as f64 / longest as f64
    }

    /// Modelled share of the time that the tensor pipe is busy: `warps` of a partition run the loop in order, one instruction is issued
    /// a cycle, with the stalls and scoreboards that ptxas coded. Memory beyond shared memory and barriers of the block cost nothing.
    pub(crate) fn tensor_use(&self, warps: usize) -> f64 {
        const ITERATIONS: usize = 64;
        let elapsed = simulate(&self.body, warps, ITERATIONS);
        (ITERATIONS * warps) as f64 * self.cycles(Pipe::Tensor) as f64 / elapsed as f64
    }
}

#[derive(Clone, Default)]
struct Warp {
    at: usize,
    iteration: usize,
    ready: u64,
    /// When each scoreboard is free.
    boards: [u64; 6],
}

/// Cycles until every warp has run the loop so many times.
fn simulate(body: &[Instruction], warps: usize, iterations: usize) -> u64 {
    let mut state = vec![Warp::default(); warps];
    let mut busy: BTreeMap<usize, u64> = BTreeMap::new();
    let (mut cycle, mut last) = (0u64, 0);
    while state.iter().any(|warp| warp.iteration < iterations) {
        let can_issue = |warp: &Warp| {
            let instruction = &body[warp.at];
            let (pipe, _) = instruction.cost();
            let waits = (0..6).all(|board| instruction.waits >> board & 1 == 0 || warp.boards[board] <= cycle);
            // Shared memory has a queue; the others take an instruction when they are free.
            let free = pipe == Pipe::Shared || busy.get(&(pipe as usize)).is_none_or(|until| *until <= cycle);
            warp.iteration < iterations && warp.ready <= cycle && waits && free
        };
        // The warp that issued last goes on as long as it can.
        let chosen = (0..warps).map(|step| (last + step) % warps).find(|index| can_issue(&state[*index]));
        if let Some(index) = chosen {
            let warp = &mut state[index];
            let instruction = &body[warp.at];
            let (pipe, cycles) = instruction.cost();
            let done = busy.get(&(pipe as usize)).copied().unwrap_or(0).max(cycle) + cycles;
            if pipe != Pipe::Issue {
                busy.insert(pipe as usize, done);
            }
            let [result, operands] = instruction.takes;
            if let Some(board) = result {
                warp.boards[board] = warp.boards[board].max(done + instruction.latency());
            }
            if let Some(board) = operands {
                warp.boards[board] = warp.boards[board].max(done);
            }
            warp.ready = cycle + instruction.stall;
            warp.at += 1;
            if warp.at == body.len() {
                (warp.at, warp.iteration) = (0, warp.iteration + 1);
            }
            last = index;
        }
        cycle += 1;
    }
    cycle
}
