//! The one driver of a process: its device, and the objects behind handles.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use scmmgpt_emulator::{ApproxModel, Config, Counters, Device, Error, Function, MmaModel, Module, Numerics};

use crate::code::{Code, ILLEGAL_ADDRESS, INVALID_HANDLE, LAUNCH_FAILED};
use crate::patch::Patch;
use crate::queue::{Queues, Work};

/// Everything that handles stand for.
pub(crate) struct State {
    pub(crate) modules: HashMap<usize, Module>,
    pub(crate) functions: HashMap<usize, Kernel>,
    pub(crate) queues: Queues,
    pub(crate) graphs: HashMap<usize, Vec<Work>>,
    pub(crate) executables: HashMap<usize, Vec<Work>>,
    /// Page-locked host memory: address to bytes.
    pub(crate) pinned: HashMap<usize, std::alloc::Layout>,
    /// The first error of a kernel: every later call answers with it.
    pub(crate) sticky: Option<Code>,
    next: usize,
}

/// A function and its attributes.
#[derive(Clone)]
pub(crate) struct Kernel {
    pub(crate) function: Function,
    pub(crate) max_dynamic_shared: u32,
}

/// The driver.
pub(crate) struct Driver {
    pub(crate) device: Device,
    pub(crate) version: i32,
    /// Ten times the compute capability that it claims.
    pub(crate) capability: i32,
    /// The place on the PCI bus that it claims; 0: none.
    pub(crate) pci_device: i32,
    pub(crate) pools: bool,
    /// The launch, counted from 1, that fails as if it had left its memory; 0: none.
    pub(crate) faulty_launch: u64,
    count: bool,
    /// What loads in the place of a text that a program gives.
    pub(crate) patch: Option<Patch>,
    state: Mutex<State>,
}

fn setting(name: &str) -> Option<String> {
    std::env::var(format!("SCMMGPT_EMULATOR_{name}")).ok()
}

fn number(name: &str, default: u64) -> u64 {
    setting(name).and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The process's driver; the environment is read once.
pub(crate) fn driver() -> &'static Driver {
    static DRIVER: OnceLock<Driver> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let numerics = Numerics {
            mma: match setting("MMA").as_deref() {
                Some("exact") => MmaModel::Exact,
                Some("blocks") => MmaModel::Blocks,
                _ => MmaModel::Sequential,
            },
            approx: match setting("APPROX").as_deref() {
                Some("highest") => ApproxModel::Highest,
                Some("lowest") => ApproxModel::Lowest,
                _ => ApproxModel::Hash,
            },
        };
        let seed = number("SEED", 0);
        let memory_bytes = number("MEMORY", 8 << 30);
        let budget = number("BUDGET", Config::default().budget);
        let config = Config { seed, numerics, memory_bytes, budget, threads: number("THREADS", 0) as usize, ..Config::default() };
        let state = State {
            modules: HashMap::new(),
            functions: HashMap::new(),
            queues: Queues::new(seed),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            pinned: HashMap::new(),
            sticky: None,
            // Small numbers are special stream handles.
            next: 0x1000,
        };
        Driver {
            device: Device::new(config),
            version: number("DRIVER", 12040) as i32,
            capability: number("CAPABILITY", 80) as i32,
            pci_device: number("PCI_DEVICE", 0) as i32,
            faulty_launch: number("FAULT", 0),
            pools: number("POOLS", 1) != 0,
            count: number("COUNT", 0) != 0,
            patch: setting("PATCH").as_deref().and_then(Patch::parse),
            state: Mutex::new(state),
        }
    })
}

impl Driver {
    /// The state, unless a kernel has failed: then its code.
    pub(crate) fn state(&self) -> Result<MutexGuard<'_, State>, Code> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.sticky {
            Some(code) => Err(code),
            None => Ok(state),
        }
    }

    /// Says what is wrong and gives the code.
    pub(crate) fn report(&self, error: &Error) -> Code {
        eprintln!("libcuda: {error}");
        Code::from(error)
    }

    /// Prints a launch's counters where that is asked for.
    pub(crate) fn counted(&self, name: &str, counters: &Counters) {
        if self.count {
            eprintln!("libcuda: {name}\n{counters}");
        }
    }
}

impl State {
    /// A handle that nothing else has.
    pub(crate) fn handle(&mut self) -> usize {
        self.next += 16;
        self.next
    }

    /// Keeps what a kernel did wrong for every later call; a refused call leaves no trace.
    pub(crate) fn settle(&mut self, done: Result<(), Code>) -> Result<(), Code> {
        self.sticky = done.err().filter(|code| (ILLEGAL_ADDRESS.0..=LAUNCH_FAILED.0).contains(&code.0));
        done
    }

    pub(crate) fn kernel(&mut self, handle: *mut c_void) -> Result<&mut Kernel, Code> {
        self.functions.get_mut(&(handle as usize)).ok_or(INVALID_HANDLE)
    }

    /// Whether a host range lies in page-locked memory.
    pub(crate) fn is_pinned(&self, address: usize, bytes: usize) -> bool {
        self.pinned.iter().any(|(start, layout)| address >= *start && address + bytes <= start + layout.size())
    }
}
