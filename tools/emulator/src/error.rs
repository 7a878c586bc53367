//! What can be wrong with a text, a launch or a kernel at work.

use std::fmt;

/// Where in a launch something happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Entry that was launched.
    pub kernel: String,
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// That line.
    pub text: String,
    /// `%ctaid`.
    pub cta: [u32; 3],
    /// Warp of the CTA.
    pub warp: u32,
    /// Lowest lane concerned.
    pub lane: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.cta;
        write!(f, "{} line {} `{}`, CTA ({x}, {y}, {z}), warp {}, lane {}", self.kernel, self.line, self.text, self.warp, self.lane)
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// An access outside every allocation, or after its release.
    Bounds {
        /// State space.
        space: &'static str,
        /// First byte.
        address: u64,
        /// Bytes.
        size: u32,
    },
    /// An address that is not a multiple of the access's size.
    Misaligned {
        /// State space.
        space: &'static str,
        /// First byte.
        address: u64,
        /// What it must be a multiple of.
        alignment: u32,
    },
    /// A read of memory that nothing has written.
    UninitialisedMemory {
        /// State space.
        space: &'static str,
        /// First byte.
        address: u64,
    },
    /// A read of a register that nothing has written.
    UninitialisedRegister {
        /// The register.
        register: String,
    },
    /// Two accesses to the same bytes, one a write, that nothing orders.
    Race {
        /// State space.
        space: &'static str,
        /// First byte.
        address: u64,
        /// What this access is.
        access: &'static str,
        /// The other access.
        other: String,
    },
    /// An access to bytes that an asynchronous copy has not delivered.
    InFlight {
        /// First byte.
        address: u64,
        /// Who started the copy.
        owner: String,
    },
    /// A `.sync` or `.aligned` operation that lanes of its mask cannot reach together.
    Divergence {
        /// What is missing.
        reason: String,
    },
    /// A barrier with a wrong number of threads.
    Barrier {
        /// What is wrong.
        reason: String,
    },
    /// An mbarrier object that is not used as one.
    Mbarrier {
        /// Its first byte in shared memory.
        address: u64,
        /// What is wrong.
        reason: String,
    },
    /// Nothing can run any more.
    Deadlock {
        /// Each warp and what it waits for.
        waiting: String,
    },
    /// `assert` of something that does not hold.
    Assertion {
        /// What was claimed.
        expression: String,
        /// File and line of the claim.
        file: String,
        /// Line.
        line: u32,
        /// Function.
        function: String,
        /// `%ctaid`.
        block: [u32; 3],
        /// `%tid`.
        thread: [u32; 3],
    },
    /// `trap`, a division of something undefined, or another thing that a kernel must not do.
    Illegal {
        /// What.
        reason: String,
    },
    /// More instructions than the launch may execute.
    Endless {
        /// Warp instructions.
        executed: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Bounds { space, address, size } => {
                write!(f, "access of {size} bytes at {address:#x} lies outside every {space} allocation")
            }
            Fault::Misaligned { space, address, alignment } => {
                write!(f, "{space} address {address:#x} is not a multiple of {alignment}")
            }
            Fault::UninitialisedMemory { space, address } => write!(f, "{space} memory at {address:#x} is read before anything wrote it"),
            Fault::UninitialisedRegister { register } => write!(f, "register {register} is read before anything wrote it"),
            Fault::Race { space, address, access, other } => {
                write!(f, "race on {space} memory at {address:#x}: this {access} and {other} are not ordered")
            }
            Fault::InFlight { address, owner } => {
                write!(f, "shared memory at {address:#x} is the target of an asynchronous copy by {owner} that was not waited for")
            }
            Fault::Mbarrier { address, reason } => write!(f, "mbarrier at {address:#x} of shared memory: {reason}"),
            Fault::Divergence { reason } | Fault::Barrier { reason } | Fault::Illegal { reason } => f.write_str(reason),
            Fault::Assertion { expression, file, line, function, block: [x, y, z], thread: [i, j, k] } => {
                write!(f, "{file}:{line}: {function}: block: [{x},{y},{z}], thread: [{i},{j},{k}] Assertion `{expression}` failed.")
            }
            Fault::Deadlock { waiting } => write!(f, "nothing can run: {waiting}"),
            Fault::Endless { executed } => write!(f, "still running after {executed} warp instructions"),
        }
    }
}

/// Everything that can go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Text that is not PTX.
    Parse {
        /// Line, from 1.
        line: u32,
        /// What was expected and what was found.
        reason: String,
    },
    /// An instruction, directive or form that is not known here.
    Unsupported {
        /// Line, from 1.
        line: u32,
        /// The instruction.
        text: String,
    },
    /// Something above the `.version` or `.target` that the text declares, or that the device offers.
    Target {
        /// Line, from 1.
        line: u32,
        /// What it needs.
        reason: String,
    },
    /// A launch that a driver would refuse.
    Launch {
        /// Entry.
        kernel: String,
        /// Why.
        reason: String,
    },
    /// Device memory is used up.
    OutOfMemory {
        /// Bytes that were asked for.
        requested: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A host access outside every allocation.
    HostAccess {
        /// First byte.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// A check found something while a kernel ran.
    Kernel {
        /// Where.
        place: Box<Place>,
        /// What.
        fault: Fault,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Parse { line, reason } => write!(f, "PTX line {line}: {reason}"),
            Error::Unsupported { line, text } => write!(f, "PTX line {line}: `{text}` is not supported"),
            Error::Target { line, reason } => write!(f, "PTX line {line}: {reason}"),
            Error::Launch { kernel, reason } => write!(f, "launch of {kernel}: {reason}"),
            Error::OutOfMemory { requested, free } => write!(f, "{requested} bytes of device memory asked for, {free} free"),
            Error::HostAccess { address, size } => write!(f, "{size} bytes at device address {address:#x} lie outside every allocation"),
            Error::Kernel { place, fault } => write!(f, "{place}: {fault}"),
        }
    }
}

impl std::error::Error for Error {}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
