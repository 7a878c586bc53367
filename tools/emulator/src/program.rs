//! A decoded program: one flat list of instructions, registers as slots.

use crate::count::Class;
use crate::lanes::Lanes;
use crate::numeric::convert::Conversion;
use crate::numeric::exact::Integers;
use crate::numeric::matrix::Shape;
use crate::numeric::tile::Tile;
use crate::syntax::Type;

/// A register by kind and slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reg {
    /// Up to 32 bits.
    N(u16),
    /// 64 bits.
    W(u16),
    /// Predicate.
    P(u16),
    /// `_`.
    Sink,
}

/// Special registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Lane,
    Warp,
    Nwarp,
    Smid,
    Nsmid,
    Gridid,
    Clock,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    DynamicShared,
    TotalShared,
}

/// A value that an instruction reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Src {
    N(u16),
    W(u16),
    P(u16),
    Imm(u64),
    Special(Special),
}

/// `[base + offset]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) base: Src,
    pub(crate) offset: i64,
}

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    Generic,
    Global,
    Shared,
    Local,
    /// Parameters of the entry.
    Param,
    /// Parameters and results of calls, a thread's own.
    Frame,
}

/// How an access stands to others of the same word in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Nothing orders it; `.volatile` ones count as such.
    Weak,
    /// `.relaxed`: no race with its like.
    Relaxed,
    /// `.acquire`, `.release`: orders what stands around it.
    Synchronising,
}

/// Read-modify-write operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atomic {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    Compare,
    Increment,
    Decrement,
}

/// Lane exchange of `shfl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Butterfly,
    Index,
    Up,
    Down,
}

/// Kinds of `vote` and of `bar.red`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
    Popc,
}

/// Additions with a carry: reads it, writes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carry {
    pub(crate) subtract: bool,
    pub(crate) multiply: Option<bool>,
    pub(crate) signed: bool,
    pub(crate) reads: bool,
    pub(crate) writes: bool,
    pub(crate) wide: bool,
}

/// Two-input predicate logic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

/// A predicate operand and whether it is negated.
pub(crate) type Predicate = (u16, bool);

/// What an instruction does.
#[derive(Clone)]
pub(crate) enum Op {
    Nop,
    Lanes {
        f: Lanes,
        d: Reg,
        s: [Src; 3],
    },
    /// `mov`: a copy of bits.
    Move {
        d: Reg,
        s: Src,
    },
    /// `mov.b32 d, {a, b}`: parts of `bits` each.
    Pack {
        d: Reg,
        s: [Src; 4],
        count: u8,
        bits: u8,
    },
    Unpack {
        d: [Reg; 4],
        s: Src,
        count: u8,
        bits: u8,
    },
    Convert {
        c: Conversion,
        d: Reg,
        s: Src,
    },
    /// `cvt.rn.bf16x2.f32 d, a, b`.
    ConvertPair {
        c: Conversion,
        d: Reg,
        s: [Src; 2],
    },
    Compare {
        f: Lanes,
        p: Reg,
        q: Reg,
        s: [Src; 2],
        with: Option<(Logic, Predicate)>,
    },
    Select {
        d: Reg,
        s: [Src; 2],
        p: Predicate,
    },
    /// Predicate logic; `mov.pred` and `not.pred` have one operand.
    Predicates {
        logic: Option<Logic>,
        d: u16,
        s: [PredicateSrc; 2],
        negate: bool,
    },
    Lop3 {
        d: Reg,
        s: [Src; 3],
        table: u8,
    },
    Insert {
        d: Reg,
        s: [Src; 4],
        wide: bool,
    },
    Carry {
        kind: Carry,
        d: Reg,
        s: [Src; 3],
    },
    Load {
        space: Where,
        element: Type,
        d: [Reg; 8],
        count: u8,
        at: Address,
        ordered: bool,
        order: Order,
    },
    Store {
        space: Where,
        element: Type,
        s: [Src; 8],
        count: u8,
        at: Address,
        ordered: bool,
        order: Order,
    },
    Atomic {
        space: Where,
        kind: Atomic,
        element: Type,
        d: Reg,
        at: Address,
        s: [Src; 2],
        order: Order,
    },
    CopyAsync {
        to: Address,
        from: Address,
        bytes: u8,
        valid: Option<Src>,
    },
    Commit,
    /// All but the latest groups; `u32::MAX`: everything, committed or not.
    WaitGroups(u32),
    LoadMatrix {
        d: [Reg; 4],
        count: u8,
        transposed: bool,
        at: Address,
    },
    MoveMatrix {
        d: Reg,
        s: Src,
    },
    Mma {
        shape: Shape,
        d: [Reg; 4],
        a: [Src; 4],
        b: [Src; 2],
        c: [Src; 4],
    },
    MmaIntegers(Box<MmaIntegers>),
    MmaDoubles {
        d: [Reg; 2],
        a: Src,
        b: Src,
        c: [Src; 2],
    },
    Wmma(Box<Wmma>),
    Shuffle {
        kind: Shuffle,
        d: Reg,
        p: Reg,
        s: [Src; 3],
        members: Src,
    },
    Vote {
        kind: Vote,
        d: Reg,
        p: PredicateSrc,
        members: Src,
    },
    Match {
        d: Reg,
        p: Reg,
        s: Src,
        members: Src,
        all: bool,
        wide: bool,
    },
    Reduce {
        f: Lanes,
        d: Reg,
        s: Src,
        members: Src,
    },
    ActiveMask {
        d: Reg,
    },
    Barrier {
        id: Src,
        threads: Option<Src>,
        waits: bool,
        reduce: Option<(Vote, Reg, PredicateSrc)>,
    },
    WarpBarrier {
        members: Src,
    },
    Mbarrier(Box<Mbarrier>),
    System(Box<System>),
    /// `nanosleep`: the clock moves on.
    Sleep(Src),
    Fence,
    Branch {
        target: u32,
    },
    /// `brx.idx`: where each index goes.
    BranchTable {
        index: Src,
        targets: Box<[u32]>,
    },
    Call {
        target: u32,
    },
    Return,
    Exit,
    Trap,
}

/// Operands of an integer `mma`.
#[derive(Clone)]
pub(crate) struct MmaIntegers {
    pub(crate) shape: Integers,
    pub(crate) d: [Reg; 4],
    pub(crate) a: [Src; 4],
    pub(crate) b: [Src; 2],
    pub(crate) c: [Src; 4],
}

/// What is done with an `mbarrier` object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbarrierKind {
    Initialise,
    Invalidate,
    /// `arrive`, `arrive_drop`; `.noComplete` must leave the phase open.
    Arrive {
        drop: bool,
        completes: bool,
    },
    /// `cp.async.mbarrier.arrive`, which without `.noinc` is one more that the phase waits for.
    ArriveAfterCopies {
        increments: bool,
    },
    Test {
        parity: bool,
    },
}

/// An operation on an `mbarrier` object.
#[derive(Clone)]
pub(crate) struct Mbarrier {
    pub(crate) kind: MbarrierKind,
    pub(crate) space: Where,
    pub(crate) at: Address,
    /// State of an arrival, or whether the phase is complete.
    pub(crate) d: Reg,
    /// Count, state or parity.
    pub(crate) s: Src,
    /// Not `.relaxed`: orders memory.
    pub(crate) ordered: bool,
}

/// Calls of functions that the driver brings, by the places of arguments and results in the frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum System {
    /// `vprintf(format, arguments)`.
    Print { format: u32, arguments: u32, result: Option<u32> },
    /// `__assertfail(expression, file, line, function, ..)`.
    Assert { expression: u32, file: u32, line: u32, function: u32 },
}

/// Matrices of `wmma`: rare, and larger than all else.
#[derive(Clone)]
pub(crate) enum Wmma {
    Load { tile: Tile, rows: bool, d: [Reg; 8], at: Address, stride: Src, space: Where },
    Store { tile: Tile, rows: bool, s: [Src; 8], at: Address, stride: Src, space: Where },
    Multiply(Box<WmmaProduct>),
}

/// Operands of `wmma.mma`.
#[derive(Clone)]
pub(crate) struct WmmaProduct {
    /// Of a, b, c and d.
    pub(crate) tiles: [Tile; 4],
    pub(crate) saturate: bool,
    pub(crate) d: [Reg; 8],
    pub(crate) a: [Src; 8],
    pub(crate) b: [Src; 8],
    pub(crate) c: [Src; 8],
}

/// A predicate operand or a constant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PredicateSrc {
    Register(u16, bool),
    Constant(bool),
}

/// An instruction with its guard and its line.
#[derive(Clone)]
pub(crate) struct Instr {
    pub(crate) op: Op,
    pub(crate) guard: Option<Predicate>,
    pub(crate) line: u32,
    pub(crate) class: Class,
}

/// A decoded entry with everything that it calls.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) code: Vec<Instr>,
    pub(crate) params: Vec<crate::device::Parameter>,
    pub(crate) param_bytes: usize,
    /// Registers of the three kinds.
    pub(crate) narrow: Vec<String>,
    pub(crate) wide: Vec<String>,
    pub(crate) predicates: Vec<String>,
    pub(crate) static_shared: u32,
    pub(crate) local_bytes: u32,
    pub(crate) frame_bytes: u32,
    pub(crate) max_threads: Option<[u32; 3]>,
    pub(crate) required: bool,
    /// Whether CTAs may speak to each other.
    pub(crate) has_global_atomics: bool,
    /// Whether single threads order others, by mbarriers or by words in shared memory.
    pub(crate) has_mbarriers: bool,
    /// The text's lines, for reports.
    pub(crate) lines: std::sync::Arc<Vec<String>>,
}

impl Program {
    /// A line of the text, trimmed.
    pub(crate) fn text(&self, line: u32) -> String {
        (line as usize).checked_sub(1).and_then(|at| self.lines.get(at)).map(|line| line.trim().to_string()).unwrap_or_default()
    }
}
