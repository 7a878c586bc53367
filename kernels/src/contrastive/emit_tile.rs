//! A tile of a product in f32, shared by scores and gradients: copies of both operands into shared memory, and the loop over the depth.
//!
//! 256 threads make `own rows x 64`, a thread `own rows / 16` by 4 neighbours. Both operands lie in shared memory as `[depth][row]`, with
//! four floats behind each row of it, so that a warp that writes 8 deep of 4 rows, or 32 rows of one depth, meets every bank once. Each sum
//! is one chain of fused multiply-adds in the order of the depth.

use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, float};

/// Threads a block: 16 x 16.
pub(super) const THREADS: usize = 256;
const DEPTH: usize = 16;

/// One operand of a tile.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    name: &'static str,
    /// Whether the depth runs along its rows in memory.
    deep: bool,
    rows: usize,
    shared: usize,
}

/// Both operands.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    own: Operand,
    met: Operand,
}

impl Operand {
    /// Bytes from one depth to the next in shared memory.
    const fn pitch(self) -> usize {
        4 * (self.rows + 4)
    }

    /// Rows or depths between two copies of a thread.
    pub(super) fn apart(self) -> usize {
        if self.deep { 32 } else { THREADS / self.rows }
    }

    /// The thread's place in copies and reads.
    fn positions(self, k: &mut Kernel) {
        let Operand { name, deep, rows, shared } = self;
        k.regs(Kind::B64, &format!("{name} {name}_from {name}_at {name}_row_at {name}_step"));
        k.regs(Kind::B32, &format!("{name}_stride {name}_row {name}_k {name}_write {name}_read {name}_depth {name}_left"));
        k.array(Kind::B32, &format!("{name}_size"), if deep { rows / 32 } else { 1 });
        if deep {
            k.note(format!("{name}: this thread brings depths thread % 8 and + 8 of rows thread / 8 + 32 i."));
            ptx!(k, "and.b32 %{name}_k, %thread, 7;\nshr.u32 %{name}_row, %thread, 3;");
        } else {
            k.note(format!("{name}: this thread brings row thread % {rows} of depths thread / {rows} + {} i.", self.apart()));
            ptx!(k, "and.b32 %{name}_row, %thread, {};\nshr.u32 %{name}_k, %thread, {};", rows - 1, rows.trailing_zeros());
        }
        ptx!(k, "mad.lo.u32 %{name}_write, %{name}_k, {}, %shared;\nshl.b32 %index, %{name}_row, 2;", self.pitch());
        ptx!(k, "add.u32 %{name}_write, %{name}_write, %index;\nadd.u32 %{name}_write, %{name}_write, {shared};");
        ptx!(k, "mad.lo.u32 %{name}_read, %{name}_lane, {}, %shared;\nadd.u32 %{name}_read, %{name}_read, {shared};", rows / 4);
    }

    /// What the thread's copies bring: 4 bytes where a row's item, from `first` on and `per` rows each, lies before `end`, else none.
    pub(super) fn sizes(self, k: &mut Kernel, per: usize, first: &str, end: &str) {
        let name = self.name;
        for copy in 0..if self.deep { self.rows / 32 } else { 1 } {
            ptx!(k, "shr.u32 %index, %{name}_row, {};\nadd.u32 %index, %index, {first};", per.trailing_zeros());
            ptx!(k, "add.u32 %index, %index, {};\nsetp.lt.u32 %inside, %index, {end};", 32 * copy / per);
            ptx!(k, "selp.u32 %{name}_size_{copy}, 4, 0, %inside;");
        }
    }

    /// Starts the copies of one step; elements outside become 0.
    fn issue(self, k: &mut Kernel) {
        let Operand { name, deep, rows, .. } = self;
        ptx!(k, "add.u32 %index, %{name}_write, %offset;");
        if deep {
            ptx!(k, "mov.u64 %{name}_row_at, %{name}_at;\nadd.u64 %{name}_at, %{name}_at, {};", 4 * DEPTH);
        }
        for copy in 0..rows * DEPTH / THREADS {
            let (depth, row) = if deep { (8 * (copy % 2), 32 * (copy / 2)) } else { (self.apart() * copy, 0) };
            ptx!(k, "setp.gt.s32 %deep_enough, %{name}_left, {depth};\nselp.u32 %size, %{name}_size_{}, 0, %deep_enough;", row / 32);
            let source = if deep { format!("%{name}_row_at + {}", 4 * depth) } else { format!("%{name}_at") };
            ptx!(k, "cp.async.ca.shared.global [%index + {}], [{source}], 4, %size;", depth * self.pitch() + 4 * row);
            if !deep {
                ptx!(k, "add.u64 %{name}_at, %{name}_at, %{name}_step;");
            } else if copy % 2 == 1 {
                ptx!(k, "add.u64 %{name}_row_at, %{name}_row_at, %{name}_step;");
            }
        }
        ptx!(k, "sub.u32 %{name}_left, %{name}_left, {DEPTH};");
    }

    /// Reads the thread's rows of one depth.
    fn fetch(self, k: &mut Kernel, depth: usize, rows: &[Reg]) {
        for (part, rows) in rows.chunks(4).enumerate() {
            let offset = depth * self.pitch() + 16 * part;
            ptx!(k, "ld.shared.v4.f32 {{{}, {}, {}, {}}}, [%{}_now + {offset}];", rows[0], rows[1], rows[2], rows[3], self.name);
        }
    }
}

impl Tile {
    /// A tile of so many own rows and 64 met ones; `deep` says of both whether the depth runs along their rows.
    pub(super) const fn new(rows: usize, deep: [bool; 2]) -> Tile {
        let own = Operand { name: "own", deep: deep[0], rows, shared: 0 };
        Tile { own, met: Operand { name: "met", deep: deep[1], rows: 64, shared: DEPTH * own.pitch() } }
    }

    pub(super) fn operands(self) -> [Operand; 2] {
        [self.own, self.met]
    }

    fn stage(self) -> usize {
        DEPTH * (self.own.pitch() + self.met.pitch())
    }

    /// Bytes of shared memory: two stages.
    pub(super) fn shared_bytes(self) -> usize {
        2 * self.stage()
    }

    /// Declares what a tile needs and finds the thread's place in it.
    pub(super) fn positions(self, k: &mut Kernel) {
        k.regs(Kind::B32, "shared thread own_lane met_lane index size offset depth depth_left own_now met_now");
        k.regs(Kind::B64, "bytes address");
        k.regs(Kind::Pred, "inside nothing last deep_enough");
        ptx!(k, "mov.u32 %shared, shared_memory;\nmov.u32 %thread, %tid.x;");
        ptx!(k, "shr.u32 %own_lane, %thread, 4;\nand.b32 %met_lane, %thread, 15;");
        self.own.positions(k);
        self.met.positions(k);
    }

    /// Declares the sums of a thread, and what they are made of: `[own][met]`.
    pub(super) fn sums(self, k: &mut Kernel) -> Vec<Vec<Reg>> {
        k.grid(Kind::F32, "own_part", 2, self.own.rows / 16);
        k.grid(Kind::F32, "met_part", 2, 4);
        k.grid(Kind::F32, "acc", self.own.rows / 16, 4)
    }

    /// The sums over `%depth`, of which an operand has `%own_depth` or `%met_depth`, from `%own_from` and `%met_from` on. Every thread has
    /// left shared memory before.
    pub(super) fn multiply(self, k: &mut Kernel, acc: &[Vec<Reg>]) {
        let part = |name: &str, depth: usize, count: usize| -> Vec<Reg> {
            (0..count).map(|index| Reg::named(&format!("{name}_part_{}_{index}", depth % 2))).collect()
        };
        let parts = |depth: usize| [part("own", depth, acc.len()), part("met", depth, 4)];
        for acc in acc.iter().flatten() {
            ptx!(k, "mov.f32 {acc}, {};", float(0.0));
        }
        for Operand { name, .. } in self.operands() {
            ptx!(k, "mov.u64 %{name}_at, %{name}_from;\nsub.u32 %{name}_left, %{name}_depth, %{name}_k;");
        }
        ptx!(k, "mov.u32 %depth_left, %depth;\nmov.u32 %offset, 0;");
        self.operands().into_iter().for_each(|operand| operand.issue(k));
        ptx!(k, "cp.async.wait_all;\nDEPTH_LOOP:\n.pragma \"nounroll\";");
        k.note("The step that landed is read while the next one comes into the other stage.");
        ptx!(k, "bar.sync 0;\nadd.u32 %own_now, %own_read, %offset;\nadd.u32 %met_now, %met_read, %offset;");
        ptx!(k, "xor.b32 %offset, %offset, {};\nsetp.le.u32 %last, %depth_left, {DEPTH};\n@%last bra LAST_STEP;", self.stage());
        self.operands().into_iter().for_each(|operand| operand.issue(k));
        ptx!(k, "LAST_STEP:");
        let fetch = |k: &mut Kernel, depth: usize| {
            for (operand, rows) in self.operands().into_iter().zip(parts(depth)) {
                operand.fetch(k, depth, &rows);
            }
        };
        fetch(k, 0);
        for depth in 0..DEPTH {
            if depth + 1 < DEPTH {
                fetch(k, depth + 1);
            }
            let [own, met] = parts(depth);
            for (own, acc) in own.iter().zip(acc) {
                for (met, acc) in met.iter().zip(acc) {
                    ptx!(k, "fma.rn.f32 {acc}, {own}, {met}, {acc};");
                }
            }
        }
        ptx!(k, "cp.async.wait_all;\nsub.u32 %depth_left, %depth_left, {DEPTH};\n@!%last bra DEPTH_LOOP;");
    }
}
