//! Shapes, tolerances and traffic of the sums. What a kernel updates in place is copied from its input first, except when timed.

use super::{AddAssign, ColumnSum, add_assign, all_finite, column_sum, scale, scratch, squared_norm};
use crate::Result;
use crate::runtime::{Float, Real, Stream};
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

struct Columns;

impl Op for Columns {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        stream.copy(t.accumulated("sum"), t.accumulated("start"))?;
        column_sum(stream, ColumnSum { sum: t.accumulated("sum"), x: t.value("x") })
    }
}

struct Norm;

impl Op for Norm {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let norm = squared_norm(stream, &[t.accumulated("g0"), t.accumulated("g1")])?;
        let finite = all_finite(stream, &[t.accumulated("g0"), t.accumulated("g1")])?;
        stream.upload(t.accumulated("norm"), &[T::Acc::of(norm), T::Acc::of(f64::from(u8::from(finite)))])
    }
}

struct Update {
    fresh: bool,
}

impl Op for Update {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        if self.fresh {
            stream.copy(t.value("y"), t.value("start"))?;
            scale(stream, &[t.value("y")], 1.5)?;
            stream.copy(t.accumulated("scaled"), t.accumulated("gradient"))?;
            scale(stream, &[t.accumulated("scaled")], -0.75)?;
        }
        add_assign(stream, AddAssign { y: t.value("y"), x: t.value("x") })
    }
}

/// One row, one column, primes, whole vectors of four, more than one chunk, and the encoder's biases, gradients and residual stream.
pub fn cases() -> Vec<Case> {
    let columns = |rows: usize, width: usize| {
        Case::new(format!("columns_{rows}x{width}"), Columns)
            .fixed("x", [rows, width], Fill::Uniform)
            .constant("start", [width], Fill::Uniform)
            .statistic("sum", [width])
            .tolerance(Tolerance::f32().reduction(rows))
            .scratch(scratch::<f64>(rows, width))
            .bytes(4 * (rows + 2) * width)
            .flops(rows * width)
            .forward_only()
    };
    let norm = |first: usize, second: usize| {
        Case::new(format!("norm_{first}+{second}"), Norm)
            .constant("g0", [first], Fill::Uniform)
            .constant("g1", [second], Fill::Uniform)
            .statistic("norm", [2])
            .scratch(scratch::<f32>(1, 1))
            .bytes(8 * (first + second))
            .flops(3 * (first + second))
            .forward_only()
    };
    let update = |rows: usize, width: usize, fresh: bool| {
        Case::new(format!("update_{rows}x{width}"), Update { fresh })
            .fixed("x", [rows, width], Fill::Uniform)
            .fixed("start", [rows, width], Fill::Uniform)
            .constant("gradient", [rows, width], Fill::Uniform)
            .output("y", [rows, width])
            .statistic("scaled", [rows, width])
            .bytes(4 * 3 * rows * width)
            .flops(rows * width)
            .forward_only()
    };
    let mut cases: Vec<Case> = [(1, 1), (7, 33), (128, 5), (131, 17), (1031, 3)].map(|(rows, width)| columns(rows, width)).into();
    cases.extend([norm(1, 3), norm(70_001, 31), norm(4100, 64), update(1, 1, true), update(19, 2003, true), update(5, 516, true)]);
    cases.extend([columns(9600, 512).bench(), norm(1 << 24, 512).bench(), update(9600, 512, false).bench()]);
    cases
}
