//! The tree that the parser makes of a text.

/// Scalar types; packed pairs are types of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub(crate) enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    F16x2,
    Bf16x2,
}

impl Type {
    /// The type that `.name` means.
    pub(crate) fn parse(name: &str) -> Option<Type> {
        use Type::*;
        Some(match name {
            "pred" => Pred,
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "b128" => B128,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "bf16" => Bf16,
            "tf32" => Tf32,
            "f32" => F32,
            "f64" => F64,
            "f16x2" => F16x2,
            "bf16x2" => Bf16x2,
            _ => return None,
        })
    }

    /// Bytes.
    pub(crate) fn size(self) -> usize {
        use Type::*;
        match self {
            Pred | B8 | U8 | S8 => 1,
            B16 | U16 | S16 | F16 | Bf16 => 2,
            B32 | U32 | S32 | Tf32 | F32 | F16x2 | Bf16x2 => 4,
            B64 | U64 | S64 | F64 => 8,
            B128 => 16,
        }
    }

    /// Whether the top bit is a sign that widening copies.
    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    /// Whether it is a floating-point type.
    pub(crate) fn is_float(self) -> bool {
        matches!(self, Type::F16 | Type::Bf16 | Type::Tf32 | Type::F32 | Type::F64)
    }
}

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A part of a variable's initial value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Initial {
    Integer(u64),
    Float(f64),
    Bits32(u32),
    /// Address of another variable.
    Address(String, i64),
}

/// A declared variable.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) space: Space,
    pub(crate) name: String,
    pub(crate) element: Type,
    /// Elements; none for an array whose size the launch gives.
    pub(crate) count: Option<u64>,
    pub(crate) align: usize,
    pub(crate) initial: Vec<Initial>,
    pub(crate) line: u32,
}

impl Variable {
    pub(crate) fn bytes(&self) -> u64 {
        self.count.unwrap_or(0).saturating_mul(self.element.size() as u64)
    }
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// Register, variable, label, function or special register.
    Name(String),
    /// `name + offset` outside brackets.
    Offset(String, i64),
    /// `!p`.
    Not(String),
    Integer(u64),
    F32(u32),
    F64(u64),
    /// `[base + offset]`; no base is an absolute address.
    Address(Option<String>, i64),
    Vector(Vec<Operand>),
    /// `p|q`.
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)` of a call.
    Group(Vec<Operand>),
    /// `_`.
    Sink,
}

/// An instruction.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub(crate) line: u32,
    /// `@p` or `@!p` (true: negated).
    pub(crate) guard: Option<(String, bool)>,
    /// Opcode and modifiers.
    pub(crate) parts: Vec<String>,
    pub(crate) operands: Vec<Operand>,
}

/// A line of a body.
#[derive(Clone, Debug)]
pub(crate) enum Statement {
    /// `.reg`: names, with a count for `%r<n>`.
    Registers(Type, Vec<(String, Option<u32>)>, u32),
    Variable(Variable),
    Label(String, u32),
    /// `.branchtargets`: labels; its name is the label before it.
    Targets(Vec<String>, u32),
    Instruction(Instruction),
    Open,
    Close,
}

/// An `.entry` or `.func`.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) entry: bool,
    pub(crate) name: String,
    pub(crate) returns: Vec<Variable>,
    pub(crate) params: Vec<Variable>,
    /// `.maxntid` or `.reqntid`.
    pub(crate) max_threads: Option<[u32; 3]>,
    /// Whether it was `.reqntid`.
    pub(crate) required: bool,
    /// None for a declaration.
    pub(crate) body: Option<Vec<Statement>>,
    pub(crate) line: u32,
}

/// A whole text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text {
    /// `.version` as major * 10 + minor.
    pub(crate) version: u32,
    /// Number after `sm_`.
    pub(crate) target: u32,
    pub(crate) variables: Vec<Variable>,
    pub(crate) functions: Vec<Function>,
}
