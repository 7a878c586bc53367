//! Numbers: formats, rounding, approximate functions and matrix products.

pub(crate) mod approximate;
pub(crate) mod convert;
pub(crate) mod directed;
pub(crate) mod exact;
pub(crate) mod float;
pub(crate) mod format;
pub(crate) mod matrix;
pub(crate) mod tile;

/// How a matrix instruction sums its products; hardware's way is undocumented, so a kernel must be right under each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MmaModel {
    /// f32, one fused step a product, in the order of k.
    #[default]
    Sequential,
    /// All products and the accumulator summed exactly (in f64), rounded once.
    Exact,
    /// Blocks of eight products and the accumulator, aligned to the largest exponent and cut off below 24 + 2 bits.
    Blocks,
}

/// How far an approximate function is from the true value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApproxModel {
    /// Anywhere inside the documented bound, by a hash of the argument.
    #[default]
    Hash,
    /// As far up as the documented bound allows.
    Highest,
    /// As far down.
    Lowest,
}

/// The numeric model of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numerics {
    /// Matrix sums.
    pub mma: MmaModel,
    /// Approximate functions.
    pub approx: ApproxModel,
}
