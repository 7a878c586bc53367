//! `mbarrier` objects, as sm_80 has them.

use super::Decoder;
use super::memory::space;
use crate::error::Result;
use crate::program::{Mbarrier, MbarrierKind, Op, Reg, Src, Where};
use crate::syntax::{Operand, Type};

impl Decoder<'_> {
    pub(super) fn mbarrier(&mut self, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        let has = |part: &str| parts.contains(&part);
        self.needs(80, 70)?;
        if has("try_wait") || has("expect_tx") || has("complete_tx") || parts.iter().any(|part| part.contains("cluster")) {
            self.needs(90, 78)?;
            return self.unsupported();
        }
        let one = Src::Imm(1);
        let (kind, d, at, s) = match *parts.first().unwrap_or(&"") {
            "init" => {
                let [at, count] = self.exactly(operands)?;
                (MbarrierKind::Initialise, Reg::Sink, at, self.source(count, Type::U32)?)
            }
            "inval" => {
                let [at] = self.exactly(operands)?;
                (MbarrierKind::Invalidate, Reg::Sink, at, one)
            }
            name @ ("arrive" | "arrive_drop") => {
                let completes = !has("noComplete");
                let kind = MbarrierKind::Arrive { drop: name == "arrive_drop", completes };
                let (d, at) = (self.target(self.nth(operands, 0)?)?, self.nth(operands, 1)?);
                match operands.get(2) {
                    None if !completes => return self.wrong(format!("`{}` takes a count", self.part)),
                    None => (kind, d, at, one),
                    Some(count) => {
                        if completes {
                            self.needs(90, 78)?;
                        }
                        (kind, d, at, self.source(count, Type::U32)?)
                    }
                }
            }
            "test_wait" => {
                let [p, at, s] = self.exactly(operands)?;
                let parity = has("parity");
                if parity {
                    self.needs(80, 71)?;
                }
                let s = self.source(s, if parity { Type::U32 } else { Type::B64 })?;
                (MbarrierKind::Test { parity }, self.target(p)?, at, s)
            }
            "pending_count" => {
                let [d, state] = self.exactly(operands)?;
                let s = [self.source(state, Type::B64)?, Src::Imm(0), Src::Imm(0)];
                return Ok(Op::Lanes { f: w1!(|state: u64| state & 0xf_ffff), d: self.target(d)?, s });
            }
            _ => return self.unsupported(),
        };
        let space = self.mbarrier_space(parts)?;
        let (at, _) = self.address(at)?;
        Ok(Op::Mbarrier(Box::new(Mbarrier { kind, space, at, d, s, ordered: !has("relaxed") })))
    }

    /// `cp.async.mbarrier.arrive`.
    pub(super) fn mbarrier_after_copies(&mut self, parts: &[&str], operands: &[Operand]) -> Result<Op> {
        self.needs(80, 70)?;
        let [at] = self.exactly(operands)?;
        let kind = MbarrierKind::ArriveAfterCopies { increments: !parts.contains(&"noinc") };
        let space = self.mbarrier_space(parts)?;
        let (at, _) = self.address(at)?;
        Ok(Op::Mbarrier(Box::new(Mbarrier { kind, space, at, d: Reg::Sink, s: Src::Imm(1), ordered: true })))
    }

    fn mbarrier_space(&mut self, parts: &[&str]) -> Result<Where> {
        self.mbarriers = true;
        match space(parts) {
            space @ (Where::Shared | Where::Generic) => Ok(space),
            _ => self.unsupported(),
        }
    }
}
