//! From the parsed text to programs: names become slots, labels become indices, called functions follow their callers.

mod arithmetic;
mod control;
mod matrix;
mod mbarrier;
mod memory;
mod operands;
mod wmma;

use std::collections::HashMap;
use std::sync::Arc;

pub(crate) use memory::{LOCAL_WINDOW, SHARED_WINDOW};

use crate::count::Class;
use crate::device::Parameter;
use crate::error::{Error, Result};
use crate::numeric::Numerics;
use crate::program::{Instr, Op, Program, Reg, Where, Wmma};
use crate::syntax::{Function, Instruction, Operand, Space, Statement, Text, Type, Variable};

/// What a name means.
#[derive(Clone, Copy, Debug)]
enum Symbol {
    Register(Reg),
    Shared(u32),
    Local(u32),
    Param(u32),
    Frame(u32),
    Global(u64),
}

/// What programs of one text share.
pub(crate) struct Context<'a> {
    pub(crate) text: &'a Text,
    /// Device addresses of `.global` and `.const` variables.
    pub(crate) globals: &'a HashMap<String, (u64, u64)>,
    pub(crate) lines: Arc<Vec<String>>,
    pub(crate) numerics: Numerics,
}

struct Decoder<'a> {
    context: &'a Context<'a>,
    code: Vec<Instr>,
    names: [Vec<String>; 3],
    scopes: Vec<HashMap<String, Symbol>>,
    labels: HashMap<String, u32>,
    /// Branches of the current function: instruction, label, line.
    branches: Vec<(usize, String, u32)>,
    /// Lists of labels of the current function, and branches by them: instruction, list, line.
    lists: HashMap<String, Vec<String>>,
    tables: Vec<(usize, String, u32)>,
    /// Calls: instruction, function, line.
    calls: Vec<(usize, String, u32)>,
    /// Frame places of each function's parameters and results.
    frames: HashMap<String, (Vec<u32>, Vec<u32>)>,
    shared: u32,
    local: u32,
    frame: u32,
    atomics: bool,
    mbarriers: bool,
    in_entry: bool,
    /// Name of the function that is decoded.
    function: String,
    /// Guard of the instruction that is decoded.
    guard: Option<(u16, bool)>,
    line: u32,
    part: String,
}

/// Bytes of parameters at the most.
const PARAMETERS: usize = 32_764;
/// Bytes of a thread's local memory at the most.
const LOCAL: u32 = 512 << 10;

fn align(value: u32, to: usize) -> u32 {
    value.next_multiple_of(to.max(1) as u32)
}

/// Decodes an entry.
pub(crate) fn decode(context: &Context<'_>, entry: &Function) -> Result<Program> {
    let mut decoder = Decoder {
        context,
        code: Vec::new(),
        names: Default::default(),
        scopes: vec![HashMap::new()],
        labels: HashMap::new(),
        branches: Vec::new(),
        lists: HashMap::new(),
        tables: Vec::new(),
        calls: Vec::new(),
        frames: HashMap::new(),
        shared: 0,
        local: 0,
        frame: 0,
        atomics: false,
        mbarriers: false,
        in_entry: true,
        function: entry.name.clone(),
        guard: None,
        line: entry.line,
        part: String::new(),
    };
    let mut dynamic = Vec::new();
    for variable in &context.text.variables {
        match variable.space {
            Space::Shared if variable.count.is_none() => dynamic.push(variable),
            Space::Shared => decoder.declare(variable)?,
            _ => {
                if let Some((address, _)) = context.globals.get(&variable.name) {
                    decoder.scopes[0].insert(variable.name.clone(), Symbol::Global(*address));
                }
            }
        }
    }
    // Arrays without a size begin where the sized ones end, wherever those are declared.
    decoder.shared_of_body(entry)?;
    let start = dynamic.iter().fold(decoder.shared, |start, variable| align(start, variable.align.max(16)));
    for variable in dynamic {
        decoder.scopes[0].insert(variable.name.clone(), Symbol::Shared(start));
    }
    let mut params = Vec::new();
    let mut offset = 0;
    for variable in &entry.params {
        offset = align(offset, variable.align).min(PARAMETERS as u32);
        let size = variable.bytes() as usize;
        params.push(Parameter { name: variable.name.clone(), offset: offset as usize, size, align: variable.align });
        decoder.scopes[0].insert(variable.name.clone(), Symbol::Param(offset));
        if size > PARAMETERS - offset as usize {
            return decoder.wrong(format!("the parameters of `{}` take more than {PARAMETERS} bytes", entry.name));
        }
        offset += size as u32;
    }
    let static_shared = start;
    decoder.body(entry)?;
    decoder.in_entry = false;
    decoder.functions()?;
    let [narrow, wide, predicates] = decoder.names;
    Ok(Program {
        name: entry.name.clone(),
        code: decoder.code,
        params,
        param_bytes: offset as usize,
        narrow,
        wide,
        predicates,
        static_shared,
        local_bytes: decoder.local,
        frame_bytes: decoder.frame,
        max_threads: entry.max_threads,
        required: entry.required,
        has_global_atomics: decoder.atomics,
        has_mbarriers: decoder.mbarriers,
        lines: context.lines.clone(),
    })
}

impl Decoder<'_> {
    fn unsupported<T>(&self) -> Result<T> {
        let text = self.context.lines.get(self.line as usize - 1).map_or(self.part.as_str(), |line| line.trim());
        Err(Error::Unsupported { line: self.line, text: text.into() })
    }

    fn refuse<T>(&self, text: String) -> Result<T> {
        Err(Error::Unsupported { line: self.line, text })
    }

    /// Whether a function may call `end`, itself or through others: registers and frames have one place a function.
    fn reaches(&self, start: &Function, end: &str) -> bool {
        let (mut seen, mut next) = (Vec::new(), vec![start]);
        while let Some(function) = next.pop() {
            if function.name == end {
                return true;
            }
            seen.push(function.name.as_str());
            for statement in function.body.iter().flatten() {
                let Statement::Instruction(instruction) = statement else { continue };
                if instruction.parts[0] != "call" {
                    continue;
                }
                let names = instruction.operands.iter().filter_map(|operand| match operand {
                    Operand::Name(name) if !seen.contains(&name.as_str()) => Some(name),
                    _ => None,
                });
                next.extend(names.filter_map(|name| self.context.text.functions.iter().find(|f| f.name == *name && f.body.is_some())));
            }
        }
        false
    }

    fn wrong<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(Error::Parse { line: self.line, reason: reason.into() })
    }

    fn needs(&self, target: u32, version: u32) -> Result<()> {
        let Text { target: has, version: is, .. } = *self.context.text;
        if has < target || is < version {
            let (major, minor) = (version / 10, version % 10);
            let reason =
                format!("`{}` needs sm_{target} and PTX {major}.{minor}, the text says sm_{has} and {}.{}", self.part, is / 10, is % 10);
            return Err(Error::Target { line: self.line, reason });
        }
        Ok(())
    }

    fn define(&mut self, name: &str, symbol: Symbol) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.into(), symbol);
        }
    }

    fn find(&self, name: &str) -> Option<Symbol> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name)).copied()
    }

    fn register(&mut self, name: &str, element: Type) -> Result<Reg> {
        let (kind, make): (usize, fn(u16) -> Reg) = match element {
            Type::Pred => (2, Reg::P),
            _ if element.size() == 8 => (1, Reg::W),
            Type::B128 => return self.unsupported(),
            _ => (0, Reg::N),
        };
        let slot = self.names[kind].len();
        if slot > usize::from(u16::MAX) {
            return self.wrong("more than 65536 registers");
        }
        self.names[kind].push(name.into());
        Ok(make(slot as u16))
    }

    /// Gives a variable inside a function, or a sized `.shared` one of the module, its place.
    fn declare(&mut self, variable: &Variable) -> Result<()> {
        let Ok(bytes) = u32::try_from(variable.bytes()) else { return self.wrong(format!("`{}` is too large", variable.name)) };
        let (most, placed) = match variable.space {
            Space::Local => (LOCAL, self.local),
            Space::Param => (PARAMETERS as u32, self.frame),
            _ => (1 << 26, self.shared),
        };
        if bytes > most || align(placed, variable.align) > most - bytes {
            return self.wrong(format!("`{}` is too large", variable.name));
        }
        let symbol = match variable.space {
            Space::Shared => {
                let at = align(self.shared, variable.align);
                self.shared = at + bytes;
                Symbol::Shared(at)
            }
            Space::Local => {
                let at = align(self.local, variable.align);
                self.local = at + bytes;
                Symbol::Local(at)
            }
            Space::Param => {
                let at = align(self.frame, variable.align.max(4));
                self.frame = align(at + bytes, 4);
                Symbol::Frame(at)
            }
            Space::Global | Space::Const => match self.context.globals.get(&variable.name) {
                Some((address, _)) => Symbol::Global(*address),
                None => return self.unsupported(),
            },
        };
        self.define(&variable.name, symbol);
        Ok(())
    }

    /// Places the sized shared variables of an entry's body before anything is decoded.
    fn shared_of_body(&mut self, function: &Function) -> Result<()> {
        for statement in function.body.iter().flatten() {
            if let Statement::Variable(variable) = statement
                && variable.space == Space::Shared
            {
                self.line = variable.line;
                self.declare(variable)?;
            }
        }
        Ok(())
    }

    fn body(&mut self, function: &Function) -> Result<()> {
        let Some(body) = &function.body else {
            return self.wrong(format!("`{}` is declared but has no body", function.name));
        };
        self.function.clone_from(&function.name);
        self.labels.clear();
        self.branches.clear();
        self.lists.clear();
        self.tables.clear();
        let mut label = None;
        self.scopes.push(HashMap::new());
        let depth = self.scopes.len();
        for statement in body {
            let named = label.take();
            match statement {
                Statement::Open => self.scopes.push(HashMap::new()),
                Statement::Close if self.scopes.len() > depth => {
                    self.scopes.pop();
                }
                Statement::Close => {}
                Statement::Registers(element, names, line) => {
                    self.line = *line;
                    for (name, count) in names {
                        let all: Vec<String> = match count {
                            None => vec![name.clone()],
                            Some(count) => (0..*count).map(|index| format!("{name}{index}")).collect(),
                        };
                        for name in all {
                            let register = self.register(&name, *element)?;
                            self.define(&name, Symbol::Register(register));
                        }
                    }
                }
                Statement::Variable(variable) => {
                    self.line = variable.line;
                    let placed = variable.space == Space::Shared && self.in_entry && self.find(&variable.name).is_some();
                    if !placed {
                        self.declare(variable)?;
                    }
                }
                Statement::Targets(labels, line) => match named {
                    Some(name) => {
                        self.lists.insert(name, labels.clone());
                    }
                    None => return Err(Error::Parse { line: *line, reason: "`.branchtargets` needs a label before it".into() }),
                },
                Statement::Label(name, line) => {
                    label = Some(name.clone());
                    if self.labels.insert(name.clone(), self.code.len() as u32).is_some() {
                        return Err(Error::Parse { line: *line, reason: format!("label `{name}` stands twice") });
                    }
                }
                Statement::Instruction(instruction) => self.instruction(instruction)?,
            }
        }
        self.scopes.truncate(depth - 1);
        // A body that ends without `ret` returns.
        self.emit(Op::Return, None);
        let place = |label: &String, line| match self.labels.get(label) {
            Some(&target) => Ok(target),
            None => Err(Error::Parse { line, reason: format!("there is no label `{label}`") }),
        };
        for (at, label, line) in &self.branches {
            self.code[*at].op = Op::Branch { target: place(label, *line)? };
            self.code[*at].class = Class::Control;
        }
        for (at, list, line) in &self.tables {
            let Some(labels) = self.lists.get(list) else {
                return Err(Error::Parse { line: *line, reason: format!("there is no `.branchtargets` of the name `{list}`") });
            };
            if let Op::BranchTable { targets, .. } = &mut self.code[*at].op {
                *targets = labels.iter().map(|label| place(label, *line)).collect::<Result<_>>()?;
            }
        }
        Ok(())
    }

    /// Decodes every function that is called, once, and points the calls at them.
    fn functions(&mut self) -> Result<()> {
        let mut starts: HashMap<String, u32> = HashMap::new();
        while let Some((at, name, line)) = self.calls.pop() {
            let target = match starts.get(&name) {
                Some(&target) => target,
                None => {
                    let Some(function) = self.context.text.functions.iter().find(|f| f.name == name && f.body.is_some()) else {
                        return Err(Error::Unsupported { line, text: format!("call of `{name}`, which has no body here") });
                    };
                    let target = self.code.len() as u32;
                    starts.insert(name.clone(), target);
                    let (params, returns) = self.frame_of(function)?;
                    self.scopes.push(HashMap::new());
                    let places = function.params.iter().zip(params).chain(function.returns.iter().zip(returns));
                    let places: Vec<_> = places.map(|(variable, at)| (variable.name.clone(), at)).collect();
                    for (name, at) in places {
                        self.define(&name, Symbol::Frame(at));
                    }
                    self.body(function)?;
                    self.scopes.pop();
                    target
                }
            };
            self.code[at].op = Op::Call { target };
            self.code[at].class = Class::Control;
        }
        Ok(())
    }

    /// Where a function's parameters and results stand in the frame.
    fn frame_of(&mut self, function: &Function) -> Result<(Vec<u32>, Vec<u32>)> {
        if let Some(found) = self.frames.get(&function.name) {
            return Ok(found.clone());
        }
        let mut place = |variable: &Variable| {
            let at = align(self.frame, variable.align.max(4));
            self.frame = align(at.saturating_add(variable.bytes().min(1 << 20) as u32).min(1 << 20), 4);
            at
        };
        let params: Vec<u32> = function.params.iter().map(&mut place).collect();
        let returns: Vec<u32> = function.returns.iter().map(&mut place).collect();
        self.frames.insert(function.name.clone(), (params.clone(), returns.clone()));
        Ok((params, returns))
    }

    fn emit(&mut self, op: Op, guard: Option<(u16, bool)>) {
        let element = self.part.split('.').rev().find_map(Type::parse);
        let class = class(&op, element, &self.part);
        self.code.push(Instr { op, guard, line: self.line, class });
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<()> {
        self.line = instruction.line;
        self.part = instruction.parts.join(".");
        let guard = match &instruction.guard {
            None => None,
            Some((name, negated)) => match self.find(name) {
                Some(Symbol::Register(Reg::P(slot))) => Some((slot, *negated)),
                _ => return self.wrong(format!("`{name}` is not a predicate")),
            },
        };
        self.guard = guard;
        let parts: Vec<&str> = instruction.parts.iter().map(String::as_str).collect();
        let (name, parts) = (parts[0], &parts[1..]);
        let operands = &instruction.operands;
        let op = match name {
            "ld" | "ldu" | "st" | "atom" | "red" | "cp" | "prefetch" | "prefetchu" | "cvta" | "isspacep" | "discard" | "applypriority" => {
                self.memory(name, parts, operands)?
            }
            "mbarrier" => self.mbarrier(parts, operands)?,
            "ldmatrix" | "movmatrix" | "mma" | "wmma" => self.matrix(name, parts, operands)?,
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "bar" | "barrier" | "shfl" | "vote" | "match" | "redux"
            | "activemask" | "membar" | "fence" | "nanosleep" | "pmevent" => {
                if name == "call" {
                    return self.call(operands, guard);
                }
                self.control(name, parts, operands)?
            }
            _ => self.arithmetic(name, parts, operands)?,
        };
        self.emit(op, guard);
        Ok(())
    }
}

/// What an instruction counts as.
fn class(op: &Op, element: Option<Type>, part: &str) -> Class {
    match op {
        Op::Convert { .. } | Op::ConvertPair { .. } => Class::Convert,
        Op::Mma { .. } | Op::MmaIntegers(_) | Op::MmaDoubles { .. } => Class::Matrix,
        Op::Wmma(wmma) => match **wmma {
            Wmma::Multiply(_) => Class::Matrix,
            _ => Class::Shared,
        },
        Op::LoadMatrix { .. } | Op::MoveMatrix { .. } => Class::LoadMatrix,
        Op::Load { space, .. } | Op::Store { space, .. } | Op::Atomic { space, .. } => match space {
            Where::Shared => Class::Shared,
            Where::Global | Where::Generic => Class::Global,
            _ => Class::Local,
        },
        Op::CopyAsync { .. } | Op::Commit | Op::WaitGroups(_) => Class::Async,
        Op::Shuffle { .. } | Op::Vote { .. } | Op::Match { .. } | Op::Reduce { .. } | Op::ActiveMask { .. } => Class::Exchange,
        Op::Barrier { .. } | Op::WarpBarrier { .. } | Op::Mbarrier(_) | Op::Fence => Class::Barrier,
        Op::Branch { .. } | Op::BranchTable { .. } | Op::Call { .. } | Op::Return | Op::Exit | Op::Trap | Op::Sleep(_) | Op::System(_) => {
            Class::Control
        }
        Op::Lanes { .. } if part.contains(".approx") || part.contains(".full") => Class::Special,
        Op::Lanes { .. } if part.starts_with("cvt") => Class::Convert,
        Op::Lanes { .. } | Op::Compare { .. } if element.is_some_and(is_float) => Class::Float,
        _ => Class::Integer,
    }
}

fn is_float(element: Type) -> bool {
    element.is_float() || matches!(element, Type::F16x2 | Type::Bf16x2)
}
