//! Branches, calls, barriers and exchanges between lanes.

use super::{Decoder, Symbol};
use crate::error::Result;
use crate::lanes::Lanes;
use crate::program::{Address, Op, Order, Reg, Shuffle, Src, System, Vote, Where};
use crate::syntax::{Operand, Type};

const ALL: Src = Src::Imm(0xffff_ffff);

impl Decoder<'_> {
    pub(super) fn control(&mut self, name: &str, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        let has = |part: &str| parts.contains(&part);
        Ok(match name {
            "bra" => {
                let [Operand::Name(label)] = operands else { return self.unsupported() };
                self.branches.push((self.code.len(), label.clone(), self.line));
                Op::Nop
            }
            "brx" if has("idx") => {
                let [index, Operand::Name(list)] = operands else { return self.unsupported() };
                self.tables.push((self.code.len(), list.clone(), self.line));
                Op::BranchTable { index: self.source(index, Type::U32)?, targets: Box::default() }
            }
            "ret" => Op::Return,
            "exit" => Op::Exit,
            "trap" | "brkpt" => Op::Trap,
            "membar" | "fence" => Op::Fence,
            "nanosleep" => {
                let [time] = self.exactly(operands)?;
                Op::Sleep(self.source(time, Type::U32)?)
            }
            "pmevent" => Op::Nop,
            "activemask" => Op::ActiveMask { d: self.target(self.nth(operands, 0)?)? },
            "bar" if has("warp") => {
                let [members] = self.exactly(operands)?;
                Op::WarpBarrier { members: self.source(members, Type::U32)? }
            }
            "bar" | "barrier" => self.barrier(parts, operands)?,
            "shfl" => {
                let kind = match parts.iter().find(|part| matches!(**part, "bfly" | "idx" | "up" | "down")) {
                    Some(&"bfly") => Shuffle::Butterfly,
                    Some(&"idx") => Shuffle::Index,
                    Some(&"up") => Shuffle::Up,
                    Some(_) => Shuffle::Down,
                    None => return self.unsupported(),
                };
                let (d, p) = self.pair(self.nth(operands, 0)?)?;
                let sync = has("sync");
                if operands.len() != if sync { 5 } else { 4 } {
                    return self.wrong(format!("`{}` has {} operands", self.part, operands.len()));
                }
                let s =
                    [self.source(&operands[1], Type::B32)?, self.source(&operands[2], Type::U32)?, self.source(&operands[3], Type::U32)?];
                let members = if sync { self.source(&operands[4], Type::U32)? } else { ALL };
                Op::Shuffle { kind, d, p, s, members }
            }
            "vote" => {
                let kind = match parts.iter().find(|part| matches!(**part, "all" | "any" | "uni" | "ballot")) {
                    Some(&"all") => Vote::All,
                    Some(&"any") => Vote::Any,
                    Some(&"uni") => Vote::Uniform,
                    Some(_) => Vote::Ballot,
                    None => return self.unsupported(),
                };
                let members = match operands.get(2) {
                    Some(operand) => self.source(operand, Type::U32)?,
                    None => ALL,
                };
                let Some(p) = operands.get(1) else { return self.wrong("vote takes a predicate") };
                Op::Vote { kind, d: self.target(&operands[0])?, p: self.predicate_source(p)?, members }
            }
            "match" => {
                let [d, s, members] = self.exactly(operands)?;
                let (d, p) = self.pair(d)?;
                let element = self.element(parts)?;
                let (s, members) = (self.source(s, element)?, self.source(members, Type::U32)?);
                Op::Match { d, p, s, members, all: has("all"), wide: element.size() == 8 }
            }
            "redux" => {
                let element = self.element(parts)?;
                let kind = parts.iter().find(|part| matches!(**part, "add" | "min" | "max" | "and" | "or" | "xor"));
                let Some(f) = kind.and_then(|kind| crate::integer::lanes(kind, &[], element)) else { return self.unsupported() };
                let Lanes::N2(_) = f else { return self.unsupported() };
                let [d, s, members] = self.exactly(operands)?;
                Op::Reduce { f, d: self.target(d)?, s: self.source(s, element)?, members: self.source(members, Type::U32)? }
            }
            _ => return self.unsupported(),
        })
    }

    fn pair(&self, operand: &Operand) -> Result<(Reg, Reg)> {
        match operand {
            Operand::Pair(d, p) => Ok((self.target(d)?, self.target(p)?)),
            d => Ok((self.target(d)?, Reg::Sink)),
        }
    }

    fn barrier(&mut self, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        let has = |part: &str| parts.contains(&part);
        if has("cluster") {
            return self.unsupported();
        }
        if has("red") {
            let kind = if has("popc") {
                Vote::Popc
            } else if has("and") {
                Vote::All
            } else {
                Vote::Any
            };
            let (first, last) = (operands.first(), operands.last());
            let (Some(d), Some(id), Some(p)) = (first, operands.get(1), last) else {
                return self.wrong("bar.red takes a result, a barrier and a predicate");
            };
            let threads = if operands.len() == 4 { Some(self.source(&operands[2], Type::U32)?) } else { None };
            let reduce = Some((kind, self.target(d)?, self.predicate_source(p)?));
            return Ok(Op::Barrier { id: self.source(id, Type::U32)?, threads, waits: true, reduce });
        }
        let Some(id) = operands.first() else { return self.wrong("a barrier needs its number") };
        let threads = match operands.get(1) {
            Some(operand) => Some(self.source(operand, Type::U32)?),
            None => None,
        };
        let waits = !has("arrive");
        if !waits && threads.is_none() {
            return self.wrong("bar.arrive needs a number of threads");
        }
        Ok(Op::Barrier { id: self.source(id, Type::U32)?, threads, waits, reduce: None })
    }

    /// Arguments travel through the frame: from the caller's places to the callee's, results back.
    pub(super) fn call(&mut self, operands: &[Operand], guard: Option<(u16, bool)>) -> Result<()> {
        let (returns, rest) = match operands {
            [Operand::Group(returns), rest @ ..] => (returns.as_slice(), rest),
            _ => (&[][..], operands),
        };
        let [Operand::Name(name), rest @ ..] = rest else { return self.unsupported() };
        if matches!(self.find(name), Some(Symbol::Register(_))) {
            return self.refuse(format!("a call through a pointer (`{name}`)"));
        }
        let arguments = match rest {
            [Operand::Group(arguments), ..] => arguments.as_slice(),
            _ => &[],
        };
        let Some(function) = self.context.text.functions.iter().find(|f| f.name == *name && f.body.is_some()) else {
            if let Some(system) = self.system(name, arguments, returns)? {
                self.emit(Op::System(Box::new(system)), guard);
                return Ok(());
            }
            return self.refuse(format!("a call of `{name}`, which has no body here"));
        };
        if self.reaches(function, &self.function) {
            return self.refuse(format!("recursion: `{name}` comes back to `{}`", self.function));
        }
        let (params, results) = self.frame_of(function)?;
        if params.len() != arguments.len() || results.len() != returns.len() {
            return self.wrong(format!("`{name}` takes {} arguments and gives {} results", params.len(), results.len()));
        }
        let sizes = |variables: &[crate::syntax::Variable]| variables.iter().map(|v| v.bytes() as u32).collect::<Vec<_>>();
        let (in_sizes, out_sizes) = (sizes(&function.params), sizes(&function.returns));
        for ((argument, to), bytes) in arguments.iter().zip(params).zip(in_sizes) {
            let from = self.frame_place(argument)?;
            self.frame_copy(from, to, bytes, guard)?;
        }
        self.calls.push((self.code.len(), name.clone(), self.line));
        self.emit(Op::Nop, guard);
        for ((result, from), bytes) in returns.iter().zip(results).zip(out_sizes) {
            let to = self.frame_place(result)?;
            self.frame_copy(from, to, bytes, guard)?;
        }
        Ok(())
    }

    /// A function that the driver brings.
    fn system(&self, name: &str, arguments: &[Operand], returns: &[Operand]) -> Result<Option<System>> {
        let places = arguments.iter().map(|argument| self.frame_place(argument)).collect::<Result<Vec<u32>>>()?;
        let result = returns.first().map(|result| self.frame_place(result)).transpose()?;
        Ok(match (name, &places[..]) {
            ("vprintf", &[format, arguments]) => Some(System::Print { format, arguments, result }),
            ("__assertfail", &[expression, file, line, function, _]) => Some(System::Assert { expression, file, line, function }),
            _ => None,
        })
    }

    fn frame_place(&self, operand: &Operand) -> Result<u32> {
        match operand {
            Operand::Name(name) => match self.find(name) {
                Some(Symbol::Frame(at)) => Ok(at),
                _ => self.unsupported(),
            },
            _ => self.unsupported(),
        }
    }

    fn frame_copy(&mut self, from: u32, to: u32, bytes: u32, guard: Option<(u16, bool)>) -> Result<()> {
        let carrier = self.register("%call", Type::B32)?;
        let value = self.read(carrier)?;
        let mut d = [Reg::Sink; 8];
        d[0] = carrier;
        let mut s = [Src::Imm(0); 8];
        s[0] = value;
        for at in (0..bytes).step_by(4) {
            let element = match bytes - at {
                1 => Type::B8,
                2 | 3 => Type::B16,
                _ => Type::B32,
            };
            let place = |start: u32| Address { base: Src::Imm(u64::from(start + at)), offset: 0 };
            self.emit(Op::Load { space: Where::Frame, element, d, count: 1, at: place(from), ordered: false, order: Order::Weak }, guard);
            self.emit(Op::Store { space: Where::Frame, element, s, count: 1, at: place(to), ordered: false, order: Order::Weak }, guard);
        }
        Ok(())
    }
}
