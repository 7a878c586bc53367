//! A line of PTX taken apart, and the lines that a mistake could have made of it.

use std::collections::HashMap;

/// What was done to a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// A barrier of the CTA or of the warp, or a fence, is gone.
    Barrier,
    /// A wait for asynchronous copies is gone.
    Wait,
    /// A group of copies is not closed.
    Commit,
    /// One more group may be under way. (One fewer only waits longer.)
    WaitCount,
    /// An address lies one access further.
    Offset,
    /// An integer is one more, or a float zero is one.
    Constant,
    /// `lt` is `ge`.
    Negated,
    /// `lt` is `le`.
    Bound,
    /// Two operands of one type have changed places.
    Swap,
    /// Lanes do not exchange.
    Exchange,
    /// Lanes exchange with the wrong one.
    Distance,
    /// A guard is the opposite.
    Guard,
    /// `add` is `sub`, `max` is `min`.
    Operator,
    /// A store is gone.
    Store,
}

impl Kind {
    /// Whether the memory order depends on it; such mutants are never left to chance.
    pub(crate) fn orders(self) -> bool {
        matches!(self, Kind::Barrier | Kind::Wait | Kind::Commit | Kind::WaitCount)
    }
}

/// Registers of an entry and their types, from its `.reg` lines.
pub(crate) fn registers(body: &[&str]) -> HashMap<String, String> {
    let mut found = HashMap::new();
    for line in body {
        let Some(rest) = line.trim().strip_prefix(".reg ") else { continue };
        let Some((element, names)) = rest.trim_end_matches(';').split_once(' ') else { continue };
        found.extend(names.split(',').map(|name| (name.trim().to_string(), element.to_string())));
    }
    found
}

/// `@guard opcode operands;`
struct Statement<'a> {
    guard: &'a str,
    opcode: &'a str,
    operands: Vec<String>,
}

fn parse(line: &str) -> Option<Statement<'_>> {
    let code = line.split("//").next()?.trim();
    let code = code.strip_suffix(';').filter(|code| !code.contains(';') && !code.starts_with('.'))?;
    let (guard, code) = if code.starts_with('@') { code.split_once(' ')? } else { ("", code) };
    let (opcode, rest) = code.split_once(' ').unwrap_or((code, ""));
    let (mut operands, mut depth) = (vec![String::new()], 0);
    for letter in rest.trim().chars() {
        depth += i32::from(matches!(letter, '{' | '[')) - i32::from(matches!(letter, '}' | ']'));
        match operands.last_mut() {
            Some(last) if letter != ',' || depth > 0 => last.push(letter),
            _ => operands.push(String::new()),
        }
    }
    let operands = operands.into_iter().map(|operand| operand.trim().to_string()).collect();
    Some(Statement { guard, opcode, operands })
}

impl Statement<'_> {
    fn name(&self) -> &str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    fn has(&self, part: &str) -> bool {
        self.opcode.split('.').any(|other| other == part)
    }

    fn line(&self, opcode: &str, operands: &[String]) -> String {
        format!("{} {opcode} {};", self.guard, operands.join(", ")).trim().replace(" ;", ";")
    }

    fn with(&self, index: usize, operand: String) -> String {
        let mut operands = self.operands.clone();
        operands[index] = operand;
        self.line(self.opcode, &operands)
    }

    /// The first of these parts of the opcode becomes its partner.
    fn part(&self, pairs: &[(&str, &str)]) -> Option<String> {
        let parts: Vec<&str> = self.opcode.split('.').collect();
        let (at, other) = parts.iter().enumerate().find_map(|(at, part)| {
            let partner = pairs.iter().find(|(from, _)| from == part)?;
            Some((at, partner.1))
        })?;
        let mut changed = parts.clone();
        changed[at] = other;
        Some(self.line(&changed.join("."), &self.operands))
    }

    /// Bytes of a memory access, all parts of a vector together.
    fn access(&self) -> i64 {
        match self.name() {
            "ldmatrix" => 16,
            "cp" => self.operands.get(2).and_then(|bytes| bytes.parse().ok()).unwrap_or(16),
            _ => {
                let bits = self.opcode.rsplit('.').next().and_then(|element| element[1..].parse::<i64>().ok()).unwrap_or(32);
                let count = if self.has("v4") { 4 } else { 1 + i64::from(self.has("v2")) };
                bits / 8 * count
            }
        }
    }

    /// Operands in another order, where the order means something.
    fn swapped(&self, types: &HashMap<String, String>) -> Option<String> {
        let vector = |index: usize| {
            let inside = self.operands[index].strip_prefix('{')?.strip_suffix('}')?;
            let mut names: Vec<&str> = inside.split(',').map(str::trim).collect();
            if names.len() < 2 || names[0] == names[1] {
                return None;
            }
            names.swap(0, 1);
            Some(self.with(index, format!("{{{}}}", names.join(", "))))
        };
        if let Some(line) = (0..self.operands.len()).rev().find_map(vector) {
            return Some(line);
        }
        let (left, right) = match self.name() {
            "sub" | "div" | "rem" | "selp" => (1, 2),
            "setp" if !self.has("eq") && !self.has("ne") => (1, 2),
            "fma" | "mad" => (1, 3),
            _ => return None,
        };
        let (first, second) = (self.operands.get(left)?, self.operands.get(right)?);
        if first == second || types.get(first)? != types.get(second)? {
            return None;
        }
        let mut operands = self.operands.clone();
        operands.swap(left, right);
        Some(self.line(self.opcode, &operands))
    }

    fn constant(&self) -> Option<String> {
        if !matches!(self.name(), "add" | "sub" | "mul" | "mad" | "shl" | "shr" | "and" | "mov" | "setp" | "min" | "max") {
            return None;
        }
        let (at, value) = self.operands.iter().enumerate().skip(1).find_map(|(at, operand)| {
            let value = operand.parse::<u64>().ok().map(|value| (value + 1).to_string());
            let float = || (operand == "0f00000000").then(|| "0f3F800000".to_string());
            Some((at, value.or_else(float)?))
        })?;
        Some(self.with(at, value))
    }

    fn shifted(&self) -> Option<String> {
        if !matches!(self.name(), "ld" | "st" | "cp" | "ldmatrix" | "atom" | "red") || self.has("param") {
            return None;
        }
        let (at, inside) = self.operands.iter().enumerate().find_map(|(at, operand)| {
            let inside = operand.strip_prefix('[')?.strip_suffix(']')?;
            inside.starts_with('%').then_some((at, inside))
        })?;
        let (base, offset) = inside.split_once('+').unwrap_or((inside, "0"));
        let offset: i64 = offset.trim().parse().ok()?;
        Some(self.with(at, format!("[{}+{}]", base.trim(), offset + self.access())))
    }

    fn exchanged(&self) -> Vec<(Kind, String)> {
        if self.name() != "shfl" || self.operands[0].contains('|') {
            return Vec::new();
        }
        let copy = self.line("mov.b32", &self.operands[..2]);
        let wrong = self.operands[2].parse::<u32>().ok().map(|distance| (Kind::Distance, self.with(2, (distance / 2).to_string())));
        [(Kind::Exchange, copy)].into_iter().chain(wrong).collect()
    }
}

/// Every mistake of a line that is looked for. Types are those of the entry's registers.
pub(crate) fn mutants(line: &str, types: &HashMap<String, String>) -> Vec<(Kind, String)> {
    let Some(statement) = parse(line) else { return Vec::new() };
    let opcode = statement.opcode;
    let mut found = Vec::new();
    let gone = match statement.name() {
        "bar" | "barrier" | "membar" | "fence" => Some(Kind::Barrier),
        "cp" if opcode.contains("wait") => Some(Kind::Wait),
        "cp" if opcode.contains("commit_group") => Some(Kind::Commit),
        "st" => Some(Kind::Store),
        _ => None,
    };
    found.extend(gone.map(|kind| (kind, String::new())));
    if opcode.ends_with("wait_group") {
        let count = statement.operands[0].parse::<u32>().ok();
        found.extend(count.map(|count| (Kind::WaitCount, statement.with(0, (count + 1).to_string()))));
    } else if opcode.ends_with("wait_all") {
        found.push((Kind::WaitCount, statement.line("cp.async.wait_group", &["1".into()])));
    }
    if statement.name() == "setp" {
        let negated = [("lt", "ge"), ("ge", "lt"), ("gt", "le"), ("le", "gt"), ("eq", "ne"), ("ne", "eq")];
        let bound = [("lt", "le"), ("ge", "gt"), ("gt", "ge"), ("le", "lt")];
        found.extend(statement.part(&negated).map(|line| (Kind::Negated, line)));
        found.extend(statement.part(&bound).map(|line| (Kind::Bound, line)));
    }
    if matches!(statement.name(), "add" | "sub" | "min" | "max") {
        let operators = [("add", "sub"), ("sub", "add"), ("min", "max"), ("max", "min")];
        found.extend(statement.part(&operators).map(|line| (Kind::Operator, line)));
    }
    if !statement.guard.is_empty() {
        let guard = statement.guard.strip_prefix("@!").map_or_else(|| statement.guard.replace('@', "@!"), |name| format!("@{name}"));
        let operands = statement.operands.clone();
        found.push((Kind::Guard, Statement { guard: &guard, opcode, operands }.line(opcode, &statement.operands)));
    }
    found.extend(statement.exchanged());
    found.extend(statement.shifted().map(|line| (Kind::Offset, line)));
    found.extend(statement.constant().map(|line| (Kind::Constant, line)));
    found.extend(statement.swapped(types).map(|line| (Kind::Swap, line)));
    found
}
