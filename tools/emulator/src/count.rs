//! What a launch did, counted exactly.

/// Kinds of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Class {
    /// Integer and bit operations, moves, selections.
    Integer,
    /// Floating point, one rounding each.
    Float,
    /// Approximate functions.
    Special,
    /// Conversions.
    Convert,
    /// Matrix products.
    Matrix,
    /// `ldmatrix`.
    LoadMatrix,
    /// Loads and stores of global memory, atomics among them.
    Global,
    /// Loads and stores of shared memory.
    Shared,
    /// Local memory, parameters and call frames.
    Local,
    /// Asynchronous copies and their waits.
    Async,
    /// Exchanges between lanes.
    Exchange,
    /// Barriers and fences.
    Barrier,
    /// Branches, calls, ends.
    Control,
}

/// Number of [`Class`]es.
pub const CLASSES: usize = 13;

/// Names of the classes, in their order.
pub const CLASS_NAMES: [&str; CLASSES] = [
    "integer", "float", "special", "convert", "matrix", "ldmatrix", "global", "shared", "local", "async", "exchange", "barrier", "control",
];

/// Sums over a launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Warp instructions by class.
    pub instructions: [u64; CLASSES],
    /// Requests of global memory (loads, stores, asynchronous copies).
    pub global_requests: u64,
    /// 32-byte sectors that they touched.
    pub global_sectors: u64,
    /// Sectors that the same bytes would need at least.
    pub global_sectors_least: u64,
    /// Bytes that they moved.
    pub global_bytes: u64,
    /// Requests of shared memory, `ldmatrix` phases included.
    pub shared_requests: u64,
    /// Extra passes because lanes met in a bank.
    pub bank_conflicts: u64,
    /// Branches that split a warp.
    pub divergent_branches: u64,
    /// Completed barriers.
    pub barriers: u64,
    /// Highest byte of shared memory that was written.
    pub shared_peak: u32,
    /// CTAs that ran.
    pub ctas: u64,
    /// Groups of asynchronous copies that nobody waited for before the end.
    pub copies_left: u64,
}

impl Counters {
    /// All warp instructions.
    pub fn total(&self) -> u64 {
        self.instructions.iter().sum()
    }

    /// Adds another launch's.
    pub fn add(&mut self, other: &Counters) {
        for (sum, count) in self.instructions.iter_mut().zip(other.instructions) {
            *sum += count;
        }
        self.global_requests += other.global_requests;
        self.global_sectors += other.global_sectors;
        self.global_sectors_least += other.global_sectors_least;
        self.global_bytes += other.global_bytes;
        self.shared_requests += other.shared_requests;
        self.bank_conflicts += other.bank_conflicts;
        self.divergent_branches += other.divergent_branches;
        self.barriers += other.barriers;
        self.shared_peak = self.shared_peak.max(other.shared_peak);
        self.ctas += other.ctas;
        self.copies_left += other.copies_left;
    }
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, count) in CLASS_NAMES.iter().zip(self.instructions) {
            if count > 0 {
                writeln!(f, "  {name:<20} {count:>12}")?;
            }
        }
        for (name, count) in [
            ("global requests", self.global_requests),
            ("global sectors", self.global_sectors),
            ("  at the least", self.global_sectors_least),
            ("global bytes", self.global_bytes),
            ("shared requests", self.shared_requests),
            ("bank conflicts", self.bank_conflicts),
            ("divergent branches", self.divergent_branches),
            ("barriers", self.barriers),
            ("shared bytes", u64::from(self.shared_peak)),
            ("CTAs", self.ctas),
        ] {
            writeln!(f, "  {name:<20} {count:>12}")?;
        }
        Ok(())
    }
}
