//! One description of a kernel's work, used three ways: values and threads ([`verify`]), gradients ([`gradcheck`]) and speed (the
//! criterion benches run every case marked [`Case::bench`]).

mod bind;
mod compare;
mod gradcheck;
mod verify;

use std::sync::Arc;

pub use bind::{Bindings, Storage};
pub use compare::{Tolerance, compare};
pub use gradcheck::gradcheck;
pub use verify::{verify, verify_bf16_on, verify_f16_on, verify_on, verify_tf32_on};

use crate::Result;
use crate::runtime::{Float, Shape, Stream, bf16, f16};

/// How a case's tensor is used and filled.
#[derive(Clone, Debug)]
pub enum Role {
    /// Read by forward. Its gradient `d<name>` (when differentiable) is overwritten by backward.
    Input,
    /// Read by forward. Its gradient `d<name>` is kept in the accumulation type and backward adds to it.
    Parameter,
    /// Written by forward; its gradient `d<name>` is the input of backward.
    Output,
    /// An output in the accumulation type (a loss, a score); its gradient `d<name>`, in that type, is the input of backward.
    Loss,
    /// Written by forward in the accumulation type and read by backward (statistics). No gradient, compared like an output.
    Statistic,
    /// In the accumulation type, read by forward, no gradient (targets, masks, weights of a loss).
    Constant,
    /// Integers read by forward.
    Index,
}

/// How an input is filled.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Uniform in [-1, 1), from the case's seed and the tensor's name.
    Uniform,
    /// Uniform in [low, high).
    Range(f64, f64),
    /// These values, cycled.
    Values(Vec<f64>),
    /// Integers in [0, bound), from the seed.
    Below(u32),
    /// These integers, cycled.
    Integers(Vec<u32>),
}

/// One tensor of a case.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The argument's name, for example `weight`.
    pub name: &'static str,
    /// Its sizes.
    pub shape: Shape,
    /// What it is for.
    pub role: Role,
    /// How it is filled.
    pub fill: Fill,
    /// False for an input without gradient.
    pub differentiable: bool,
}

/// The bridge between a case and a kernel's entry points.
pub trait Op: Send + Sync + 'static {
    /// Calls the kernel's forward with the bound tensors.
    ///
    /// # Errors
    /// Those of the kernel.
    fn forward<T: Float>(&self, stream: &Stream, tensors: &Bindings<T>) -> Result<()>;

    /// Calls the kernel's backward; the default is for kernels without one.
    ///
    /// # Errors
    /// Those of the kernel.
    fn backward<T: Float>(&self, _stream: &Stream, _tensors: &Bindings<T>) -> Result<()> {
        Ok(())
    }
}

type Pass<T> = Arc<dyn Fn(&Stream, &Bindings<T>) -> Result<()> + Send + Sync>;

/// Forward and backward at one element type.
#[derive(Clone)]
pub struct Passes<T: Float> {
    /// Runs forward.
    pub forward: Pass<T>,
    /// Runs backward.
    pub backward: Pass<T>,
}

impl<T: Float> Passes<T> {
    fn of<O: Op>(op: &Arc<O>) -> Self {
        let (first, second) = (op.clone(), op.clone());
        Passes {
            forward: Arc::new(move |stream, tensors| first.forward(stream, tensors)),
            backward: Arc::new(move |stream, tensors| second.backward(stream, tensors)),
        }
    }
}

/// Shapes, inputs, tolerance, bytes and operations of one run of a kernel.
#[derive(Clone)]
pub struct Case {
    /// Sizes and variant, for example `7x33` or `nt_64x768x512_relu`.
    pub name: String,
    /// Its tensors, in declaration order.
    pub slots: Vec<Slot>,
    /// Allowed error of f32 against f64, and of a device against the CPU.
    pub tolerance: Tolerance,
    /// Bytes of compulsory memory traffic in f32.
    pub bytes: usize,
    /// Floating-point operations.
    pub flops: usize,
    /// Scratch bytes that the stream must have.
    pub scratch: usize,
    /// Whether backward exists and is checked.
    pub differentiable: bool,
    /// Whether criterion times it.
    pub timed: bool,
    /// In f32.
    pub f32: Passes<f32>,
    /// In f64.
    pub f64: Passes<f64>,
    /// In bf16.
    pub bf16: Passes<bf16>,
    /// In f16, where devices have the kernel so, and with it in f32 with operands rounded to tf32.
    pub f16: Option<Passes<f16>>,
}

impl Case {
    /// A case of `op` with no tensors yet.
    pub fn new(name: impl Into<String>, op: impl Op) -> Case {
        let op = Arc::new(op);
        Case {
            name: name.into(),
            slots: Vec::new(),
            tolerance: Tolerance::f32(),
            bytes: 0,
            flops: 0,
            scratch: 0,
            differentiable: true,
            timed: false,
            f32: Passes::of(&op),
            f64: Passes::of(&op),
            bf16: Passes::of(&op),
            f16: None,
        }
    }

    /// [`Case::new`] of a kernel that devices have in f16 and with operands rounded to tf32 too.
    pub fn in_every_precision(name: impl Into<String>, op: impl Op + Clone) -> Case {
        Case { f16: Some(Passes::of(&Arc::new(op.clone()))), ..Case::new(name, op) }
    }

    /// Whether `kernel/name` contains one of these; where there are none, every case does.
    pub fn is_among(&self, kernel: &str, parts: &[String]) -> bool {
        let name = format!("{kernel}/{}", self.name);
        parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()))
    }

    fn slot(mut self, name: &'static str, shape: impl Into<Shape>, role: Role, fill: Fill, differentiable: bool) -> Case {
        self.slots.push(Slot { name, shape: shape.into(), role, fill, differentiable });
        self
    }

    /// A differentiable input, uniform in [-1, 1).
    #[must_use]
    pub fn input(self, name: &'static str, shape: impl Into<Shape>) -> Case {
        self.slot(name, shape, Role::Input, Fill::Uniform, true)
    }

    /// A differentiable input filled as stated.
    #[must_use]
    pub fn input_filled(self, name: &'static str, shape: impl Into<Shape>, fill: Fill) -> Case {
        self.slot(name, shape, Role::Input, fill, true)
    }

    /// An input in the element type without a gradient.
    #[must_use]
    pub fn fixed(self, name: &'static str, shape: impl Into<Shape>, fill: Fill) -> Case {
        self.slot(name, shape, Role::Input, fill, false)
    }

    /// A parameter: its gradient accumulates in the accumulation type.
    #[must_use]
    pub fn parameter(self, name: &'static str, shape: impl Into<Shape>) -> Case {
        self.slot(name, shape, Role::Parameter, Fill::Uniform, true)
    }

    /// A parameter filled as stated.
    #[must_use]
    pub fn parameter_filled(self, name: &'static str, shape: impl Into<Shape>, fill: Fill) -> Case {
        self.slot(name, shape, Role::Parameter, fill, true)
    }

    /// A constant in the accumulation type.
    #[must_use]
    pub fn constant(self, name: &'static str, shape: impl Into<Shape>, fill: Fill) -> Case {
        self.slot(name, shape, Role::Constant, fill, false)
    }

    /// Integers.
    #[must_use]
    pub fn index(self, name: &'static str, shape: impl Into<Shape>, fill: Fill) -> Case {
        self.slot(name, shape, Role::Index, fill, false)
    }

    /// An output.
    #[must_use]
    pub fn output(self, name: &'static str, shape: impl Into<Shape>) -> Case {
        self.slot(name, shape, Role::Output, Fill::Uniform, true)
    }

    /// An output in the accumulation type, for example a scalar loss.
    #[must_use]
    pub fn loss(self, name: &'static str, shape: impl Into<Shape>) -> Case {
        self.slot(name, shape, Role::Loss, Fill::Uniform, true)
    }

    /// Statistics that forward leaves for backward.
    #[must_use]
    pub fn statistic(self, name: &'static str, shape: impl Into<Shape>) -> Case {
        self.slot(name, shape, Role::Statistic, Fill::Uniform, false)
    }

    /// The allowed error.
    #[must_use]
    pub fn tolerance(mut self, tolerance: Tolerance) -> Case {
        self.tolerance = tolerance;
        self
    }

    /// Compulsory memory traffic in bytes (f32).
    #[must_use]
    pub fn bytes(mut self, bytes: usize) -> Case {
        self.bytes = bytes;
        self
    }

    /// Floating-point operations of forward.
    #[must_use]
    pub fn flops(mut self, flops: usize) -> Case {
        self.flops = flops;
        self
    }

    /// Scratch of the stream in bytes.
    #[must_use]
    pub fn scratch(mut self, bytes: usize) -> Case {
        self.scratch = bytes;
        self
    }

    /// States that there is no backward to check.
    #[must_use]
    pub fn forward_only(mut self) -> Case {
        self.differentiable = false;
        self
    }

    /// Lets criterion time it; such a case is too large for the gradient check and skipped there.
    #[must_use]
    pub fn bench(mut self) -> Case {
        self.timed = true;
        self
    }
}
