//! Writes PTX from literal lines: loops repeat them, names make them readable, and no instruction is ever chosen here.
//!
//! A kernel's `emit.rs` holds every instruction verbatim ([`crate::ptx!`]); this module declares what they name and puts header,
//! declarations and body together. [`Text::origin`] leads from a line of the text back to the Rust line that wrote it.

pub mod fragment;
pub mod swizzle;

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::panic::Location;
use std::sync::{Mutex, PoisonError};

/// Emits one or more literal PTX lines into a [`Kernel`], with Rust's formatting for names and constants.
#[macro_export]
macro_rules! ptx {
    ($kernel:expr, $($line:tt)*) => { $kernel.line(format_args!($($line)*)) };
}

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// 16 bits.
    B16,
    /// 32 bits of anything but a float.
    B32,
    /// A float.
    F32,
    /// 64 bits: addresses.
    B64,
    /// A predicate.
    Pred,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Pred, Kind::B16, Kind::B32, Kind::B64, Kind::F32];

    fn name(self) -> &'static str {
        match self {
            Kind::B16 => ".b16",
            Kind::B32 => ".b32",
            Kind::F32 => ".f32",
            Kind::B64 => ".b64",
            Kind::Pred => ".pred",
        }
    }
}

/// A register by its name in the text, `%acc_1_5`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reg(String);

impl Reg {
    /// A register that [`Kernel::regs`] declared.
    pub fn named(name: &str) -> Reg {
        Reg(format!("%{name}"))
    }
}

impl Display for Reg {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// An entry under construction.
#[derive(Debug)]
pub struct Kernel {
    entry: String,
    about: String,
    params: Vec<(&'static str, &'static str)>,
    directives: String,
    shared: Option<usize>,
    registers: Vec<(Kind, String)>,
    body: Vec<(String, &'static Location<'static>)>,
    labels: usize,
}

/// A finished module of one entry.
#[derive(Clone, Debug)]
pub struct Text {
    /// Name of the entry.
    pub entry: String,
    /// The whole module.
    pub ptx: String,
    origins: Vec<Option<&'static Location<'static>>>,
}

impl Text {
    /// The Rust line that emitted line `line` (from 1) of the text; none for declarations.
    pub fn origin(&self, line: usize) -> Option<&'static Location<'static>> {
        *self.origins.get(line.checked_sub(1)?)?
    }
}

impl Kernel {
    /// An entry for sm_80 and later; `about` becomes the comment at the head of the text.
    pub fn new(entry: impl Into<String>, about: impl Into<String>) -> Kernel {
        Kernel {
            entry: entry.into(),
            about: about.into(),
            params: Vec::new(),
            directives: String::new(),
            shared: None,
            registers: Vec::new(),
            body: Vec::new(),
            labels: 0,
        }
    }

    /// Declares parameters of one type (`.u64`, `.u32`, `.f32`), in launch order.
    pub fn params(&mut self, kind: &'static str, names: &'static str) {
        self.params.extend(names.split_whitespace().map(|name| (kind, name)));
    }

    /// Threads a block, exactly, and blocks a multiprocessor that the registers must leave room for.
    pub fn block(&mut self, threads: usize, blocks: usize) {
        self.directives = format!(".reqntid {threads}, 1, 1\n.minnctapersm {blocks}\n");
    }

    /// The shared memory: none is the launch's dynamic memory, else so many static bytes. Its name is `shared_memory`.
    pub fn shared(&mut self, bytes: Option<usize>) {
        self.shared = Some(bytes.unwrap_or(0));
    }

    /// [`Kernel::shared`] of the launch's dynamic memory, with its size at the head of the text.
    pub fn dynamic_shared(&mut self, bytes: usize) {
        self.shared(None);
        self.about.push_str(&format!("\nDynamic shared memory: {bytes} bytes."));
    }

    /// Declares a register and returns its name.
    pub fn reg(&mut self, kind: Kind, name: impl Display) -> Reg {
        let name = format!("%{name}");
        debug_assert!(self.registers.iter().all(|(_, other)| *other != name), "{name} is declared twice");
        self.registers.push((kind, name.clone()));
        Reg(name)
    }

    /// Declares registers that literal lines call by name.
    pub fn regs(&mut self, kind: Kind, names: &str) {
        for name in names.split_whitespace() {
            self.reg(kind, name);
        }
    }

    /// `name_0, name_1, ..`.
    pub fn array(&mut self, kind: Kind, name: &str, count: usize) -> Vec<Reg> {
        (0..count).map(|index| self.reg(kind, format_args!("{name}_{index}"))).collect()
    }

    /// `name_0_0, name_0_1, ..`.
    pub fn grid(&mut self, kind: Kind, name: &str, rows: usize, columns: usize) -> Vec<Vec<Reg>> {
        (0..rows).map(|row| self.array(kind, &format!("{name}_{row}"), columns)).collect()
    }

    /// Adds literal lines; see [`crate::ptx!`].
    #[track_caller]
    pub fn line(&mut self, text: fmt::Arguments<'_>) {
        let origin = Location::caller();
        let text = text.to_string();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        self.body.extend(
            lines.map(|line| if line.ends_with(':') { line.to_string() } else { format!("    {line}") }).map(|line| (line, origin)),
        );
    }

    /// A comment before a block.
    #[track_caller]
    pub fn note(&mut self, text: impl Display) {
        self.body.push((format!("    // {text}"), Location::caller()));
    }

    /// A label name that no other call returns: `stem`, then `stem_2`, ...
    pub fn label(&mut self, stem: &str) -> String {
        self.labels += 1;
        format!("{stem}_{}", self.labels)
    }

    /// The module.
    pub fn text(&self) -> Text {
        let mut ptx = String::new();
        for line in self.about.lines() {
            let _ = writeln!(ptx, "// {line}");
        }
        ptx.push_str(".version 7.8\n.target sm_80\n.address_size 64\n\n");
        if self.shared == Some(0) {
            ptx.push_str(".extern .shared .align 128 .b8 shared_memory[];\n\n");
        }
        let params: Vec<_> = self.params.iter().map(|(kind, name)| format!("    .param {kind} {name}")).collect();
        let _ = write!(ptx, ".visible .entry {}(\n{}\n)\n{}{{\n", self.entry, params.join(",\n"), self.directives);
        if let Some(bytes @ 1..) = self.shared {
            let _ = writeln!(ptx, "    .shared .align 128 .b8 shared_memory[{bytes}];");
        }
        for kind in Kind::ALL {
            let names: Vec<&str> = self.registers.iter().filter(|(other, _)| *other == kind).map(|(_, name)| name.as_str()).collect();
            for names in names.chunks(8) {
                let _ = writeln!(ptx, "    .reg {} {};", kind.name(), names.join(", "));
            }
        }
        let mut origins = vec![None; ptx.lines().count()];
        for (line, origin) in &self.body {
            let _ = writeln!(ptx, "{line}");
            origins.push(Some(*origin));
        }
        ptx.push_str("}\n");
        Text { entry: self.entry.clone(), ptx, origins }
    }
}

/// The text of an entry, made at its first use and kept as long as the process: there are as many as variants.
pub fn kept(entry: &str, make: impl FnOnce() -> Text) -> &'static str {
    static TEXTS: Mutex<BTreeMap<String, &'static str>> = Mutex::new(BTreeMap::new());
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    match texts.get(entry) {
        Some(text) => text,
        None => {
            let text: &'static str = Box::leak(make().ptx.into_boxed_str());
            texts.insert(entry.to_string(), text);
            text
        }
    }
}

/// The bits of a float as PTX writes a constant, `0f3F800000`.
pub fn float(value: f32) -> String {
    format!("0f{:08X}", value.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_leads_back_to_its_source() {
        let mut k = Kernel::new("nothing", "Does nothing.");
        k.params(".u32", "n");
        k.block(32, 1);
        let acc = k.grid(Kind::F32, "acc", 1, 2);
        let at = line!() + 1;
        ptx!(k, "LOOP:\nmov.f32 {}, {};", acc[0][1], float(1.0));
        ptx!(k, "ret;");
        let text = k.text();
        let line = text.ptx.lines().position(|line| line == "    mov.f32 %acc_0_1, 0f3F800000;").unwrap();
        assert_eq!(text.origin(line + 1).unwrap().line(), at);
        assert_eq!(text.ptx.lines().nth(line - 1), Some("LOOP:"));
        assert!(text.origin(1).is_none());
    }
}
