//! The emulated GPU: memory, modules, launches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::count::Counters;
use crate::decode::{self, Context};
use crate::error::{Error, Result};
use crate::machine;
use crate::memory::Memory;
use crate::numeric::Numerics;
use crate::parser;
use crate::program::Program;
use crate::syntax::{Initial, Space, Text, Variable};

/// Highest PTX version that is read.
const NEWEST_VERSION: u32 = 99;
/// Bytes of printed text that are kept, as many as a driver's buffer has.
pub(crate) const PRINTED: usize = 1 << 20;
/// Shared memory that a CTA gets without asking.
pub const SHARED_DEFAULT: u32 = 48 << 10;

/// What a device is like.
#[derive(Clone, Debug)]
pub struct Config {
    /// Compute capability, 80 for 8.0.
    pub arch: u32,
    /// Device memory.
    pub memory_bytes: u64,
    /// Seed of every choice that the hardware would be free to make.
    pub seed: u64,
    /// Host threads; 0: as many as the machine offers.
    pub threads: usize,
    /// Numeric model.
    pub numerics: Numerics,
    /// Checks of races, uninitialised reads and copies in flight; bounds and alignment are always checked.
    pub checks: bool,
    /// Warp instructions after which a launch counts as endless.
    pub budget: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config { arch: 80, memory_bytes: 8 << 30, seed: 0, threads: 0, numerics: Numerics::default(), checks: true, budget: 1 << 36 }
    }
}

/// One emulated GPU.
#[derive(Debug)]
pub struct Device {
    config: Config,
    memory: Memory,
    launches: AtomicU32,
    /// What kernels have printed and nobody has taken.
    printed: Mutex<Vec<u8>>,
}

/// A parameter of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the text.
    pub name: String,
    /// First byte in the parameter buffer.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    /// Alignment.
    pub align: usize,
}

/// A loaded text.
#[derive(Clone)]
pub struct Module {
    programs: Arc<HashMap<String, Arc<Program>>>,
    globals: Arc<HashMap<String, (u64, u64)>>,
}

/// An entry of a module.
#[derive(Clone)]
pub struct Function {
    program: Arc<Program>,
}

/// Sizes and arguments of a launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// CTAs.
    pub grid: [u32; 3],
    /// Threads a CTA.
    pub block: [u32; 3],
    /// Bytes of shared memory on top of the declared ones.
    pub dynamic_shared: u32,
    /// What the function's attribute allows as dynamic shared memory.
    pub max_dynamic_shared: u32,
    /// Arguments at the parameters' offsets.
    pub params: Vec<u8>,
}

impl Module {
    /// An entry by name.
    pub fn function(&self, name: &str) -> Option<Function> {
        self.programs.get(name).map(|program| Function { program: program.clone() })
    }

    /// Names of the entries.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.programs.keys().map(String::as_str)
    }

    /// Address and size of a `.global` or `.const` variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.get(name).copied()
    }
}

impl Function {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Its parameters, in order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.program.params
    }

    /// Declared shared memory in bytes.
    pub fn static_shared(&self) -> u32 {
        self.program.static_shared
    }

    /// Largest CTA, in threads.
    pub fn max_threads(&self) -> u32 {
        self.program.max_threads.map_or(1024, |[x, y, z]| x.saturating_mul(y).saturating_mul(z).min(1024))
    }

    /// Registers a thread at most: declared ones, not what an assembler would keep.
    pub fn registers(&self) -> u32 {
        (self.program.narrow.len() + 2 * self.program.wide.len()).min(255) as u32
    }

    /// Local memory a thread in bytes.
    pub fn local_bytes(&self) -> u32 {
        self.program.local_bytes
    }
}

impl Device {
    /// A device with nothing in its memory.
    pub fn new(config: Config) -> Device {
        Device { memory: Memory::new(config.memory_bytes), config, launches: AtomicU32::new(0), printed: Mutex::default() }
    }

    /// What it is like.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Device memory of unwritten bytes, at a multiple of 512.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn allocate(&self, bytes: u64) -> Result<u64> {
        self.memory.allocate(bytes)
    }

    /// Gives an allocation back.
    ///
    /// # Errors
    /// `HostAccess` for an address that [`Device::allocate`] has not given or that was freed.
    pub fn free(&self, address: u64) -> Result<()> {
        self.memory.free(address)
    }

    /// Copies bytes to the device.
    ///
    /// # Errors
    /// `HostAccess`.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.memory.write(address, bytes)
    }

    /// Copies bytes from the device; unwritten ones are 0xff.
    ///
    /// # Errors
    /// `HostAccess`.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.memory.read(address, bytes)
    }

    /// Copies bytes inside the device.
    ///
    /// # Errors
    /// `HostAccess`.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<()> {
        self.memory.copy(to, from, bytes)
    }

    /// Writes `pattern` `count` times.
    ///
    /// # Errors
    /// `HostAccess`.
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<()> {
        self.memory.write(address, &pattern.repeat(count as usize))
    }

    /// Free and total bytes of device memory.
    pub fn memory(&self) -> (u64, u64) {
        self.memory.sizes()
    }

    /// Parses a text, decodes its entries and allocates its variables.
    ///
    /// # Errors
    /// `Parse`, `Unsupported`, `Target`, `OutOfMemory`.
    pub fn load(&self, text: &str) -> Result<Module> {
        let parsed = parser::parse(text)?;
        if parsed.target > self.config.arch {
            let reason = format!("the text is for sm_{}, the device is sm_{}", parsed.target, self.config.arch);
            return Err(Error::Target { line: 1, reason });
        }
        if parsed.version > NEWEST_VERSION {
            return Err(Error::Target { line: 1, reason: format!("PTX {}.{} is unknown", parsed.version / 10, parsed.version % 10) });
        }
        let globals = self.variables(&parsed)?;
        let lines = Arc::new(text.lines().map(str::to_string).collect());
        let context = Context { text: &parsed, globals: &globals, lines, numerics: self.config.numerics };
        let mut programs = HashMap::new();
        for entry in parsed.functions.iter().filter(|function| function.entry && function.body.is_some()) {
            programs.insert(entry.name.clone(), Arc::new(decode::decode(&context, entry)?));
        }
        Ok(Module { programs: Arc::new(programs), globals: Arc::new(globals) })
    }

    fn variables(&self, text: &Text) -> Result<HashMap<String, (u64, u64)>> {
        let bodies = text.functions.iter().flat_map(|function| function.body.iter().flatten());
        let inner = bodies.filter_map(|statement| match statement {
            crate::syntax::Statement::Variable(variable) => Some(variable),
            _ => None,
        });
        let all: Vec<&Variable> = text.variables.iter().chain(inner).filter(|v| matches!(v.space, Space::Global | Space::Const)).collect();
        let mut places = HashMap::new();
        for variable in &all {
            let bytes = variable.bytes().max(variable.initial.len() as u64 * variable.element.size() as u64);
            places.insert(variable.name.clone(), (self.memory.allocate(bytes)?, bytes));
        }
        for variable in all {
            let (address, size) = places[&variable.name];
            let mut bytes = Vec::new();
            for value in &variable.initial {
                let bits = match value {
                    Initial::Integer(value) => *value,
                    Initial::Bits32(bits) => u64::from(*bits),
                    Initial::Float(value) if variable.element.size() == 4 => u64::from((*value as f32).to_bits()),
                    Initial::Float(value) => value.to_bits(),
                    Initial::Address(name, offset) => match places.get(name.as_str()) {
                        Some((address, _)) => address.wrapping_add_signed(*offset),
                        None => return Err(Error::Unsupported { line: variable.line, text: format!("address of `{name}`") }),
                    },
                };
                bytes.extend_from_slice(&bits.to_le_bytes()[..variable.element.size().min(8)]);
            }
            // Variables start as zeros where the text gives nothing.
            bytes.resize(size as usize, 0);
            self.memory.write(address, &bytes)?;
        }
        Ok(places)
    }

    /// What a driver says of a launch before it begins.
    ///
    /// # Errors
    /// `Launch`.
    pub fn check_launch(&self, function: &Function, launch: &Launch) -> Result<()> {
        let program = &function.program;
        let refuse = |reason: String| Err(Error::Launch { kernel: program.name.clone(), reason });
        let product = |sizes: &[u32; 3]| sizes.iter().fold(1u64, |product, &size| product.saturating_mul(u64::from(size)));
        let (threads, ctas) = (product(&launch.block), product(&launch.grid));
        if threads == 0 || threads > 1024 || launch.block[2] > 64 {
            return refuse(format!("a CTA of {:?} threads; between 1 and 1024 are possible", launch.block));
        }
        if ctas == 0
            || launch.grid[0] > i32::MAX as u32
            || launch.grid[1] > 65535
            || launch.grid[2] > 65535
            || ctas > u64::from(u32::MAX) - 1
        {
            return refuse(format!("a grid of {:?} CTAs", launch.grid));
        }
        if let Some(limit) = program.max_threads {
            let most = product(&limit);
            if threads > most || (program.required && limit != launch.block) {
                return refuse(format!("a CTA of {:?} threads where the text says {limit:?}", launch.block));
            }
        }
        let shared = program.static_shared.saturating_add(launch.dynamic_shared);
        let most = if launch.max_dynamic_shared > 0 { 163 << 10 } else { SHARED_DEFAULT };
        if shared > most || (shared > SHARED_DEFAULT && launch.dynamic_shared > launch.max_dynamic_shared) {
            return refuse(format!("{shared} bytes of shared memory, {most} are allowed"));
        }
        if launch.params.len() < program.param_bytes {
            return refuse(format!("{} bytes of arguments, {} are needed", launch.params.len(), program.param_bytes));
        }
        Ok(())
    }

    /// Runs an entry to its end.
    ///
    /// # Errors
    /// `Launch` for what a driver would refuse, `Kernel` for the first thing that a check found.
    pub fn launch(&self, function: &Function, launch: &Launch) -> Result<Counters> {
        self.check_launch(function, launch)?;
        let number = self.launches.fetch_add(1, Ordering::Relaxed) + 1;
        let (result, text) = machine::run(&self.config, &function.program, launch, self.memory.snapshot(), number);
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        printed.extend(text);
        let above = printed.len().saturating_sub(PRINTED);
        printed.drain(..above);
        result
    }

    /// Takes what kernels have printed since the last call, launch after launch, those of a CTA together; of very much the end.
    pub fn printed(&self) -> Vec<u8> {
        std::mem::take(&mut self.printed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
