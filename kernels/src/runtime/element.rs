//! Element types: what a tensor can hold, what a kernel can compute in.

use half::{bf16, f16};

/// A type that device memory can hold: plain bits, no padding.
pub trait Element: bytemuck::Pod + Default + Send + Sync + std::fmt::Debug + PartialEq + 'static {
    /// Name in reports and PTX entry names.
    const NAME: &'static str;
}

macro_rules! element {
    ($($type:ty: $name:literal),*) => { $(impl Element for $type { const NAME: &'static str = $name; })* };
}
element!(f32: "f32", f64: "f64", bf16: "bf16", f16: "f16", u32: "u32", i32: "i32", u8: "u8");

/// A floating type that tensors are stored in; arithmetic happens in [`Float::Acc`].
pub trait Float: Element + PartialOrd {
    /// The type sums, statistics and parameter gradients are kept in: f32 for f32, bf16 and f16; f64 for f64.
    type Acc: Real;
    /// Widens (exact).
    fn to_acc(self) -> Self::Acc;
    /// Narrows, rounding to nearest even.
    fn from_acc(value: Self::Acc) -> Self;
}

/// A floating type that arithmetic is done in: f32 or f64.
pub trait Real:
    Float<Acc = Self>
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::SubAssign
    + std::ops::MulAssign
    + std::iter::Sum
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Negative infinity.
    const NEG_INFINITY: Self;
    /// From a constant.
    fn of(value: f64) -> Self;
    /// To f64.
    fn f64(self) -> f64;
    /// Square root.
    fn sqrt(self) -> Self;
    /// `self * a + b` with one rounding; fast only inside [`crate::runtime::simd`] code.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// e to the self: within 1 ulp in f32 and free of branches, so that loops over it vectorise.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// `ln(1 + self)`, with all its digits near 0.
    fn ln_1p(self) -> Self;
    /// Error function; f32 within 2 ulp of 1 and free of branches.
    fn erf(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// The larger; NaN loses.
    fn max(self, other: Self) -> Self;
    /// The smaller; NaN loses.
    fn min(self, other: Self) -> Self;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;
}

macro_rules! real {
    ($type:ty, $exp:path, $erf:path) => {
        impl Float for $type {
            type Acc = $type;
            #[inline(always)]
            fn to_acc(self) -> $type {
                self
            }
            #[inline(always)]
            fn from_acc(value: $type) -> $type {
                value
            }
        }
        impl Real for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = <$type>::NEG_INFINITY;
            #[inline(always)]
            fn of(value: f64) -> Self {
                value as $type
            }
            #[inline(always)]
            fn f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$type>::sqrt(self)
            }
            #[inline(always)]
            fn mul_add(self, a: Self, b: Self) -> Self {
                <$type>::mul_add(self, a, b)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                <$type>::ln(self)
            }
            #[inline(always)]
            fn ln_1p(self) -> Self {
                <$type>::ln_1p(self)
            }
            #[inline(always)]
            fn erf(self) -> Self {
                $erf(self)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                <$type>::abs(self)
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                <$type>::max(self, other)
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                <$type>::min(self, other)
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                <$type>::is_finite(self)
            }
        }
    };
}
real!(f32, super::math::exp_f32, super::math::erf_f32);
real!(f64, f64::exp, libm::erf);

impl Float for bf16 {
    type Acc = f32;
    #[inline(always)]
    fn to_acc(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_acc(value: f32) -> Self {
        // Round to nearest even on the bits, quiet NaN kept: branch-free, so that loops vectorise (half's own is not).
        let bits = value.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
        let quiet = ((bits >> 16) | 0x40) as u16;
        bf16::from_bits(if value.is_nan() { quiet } else { rounded })
    }
}

impl Float for f16 {
    type Acc = f32;
    #[inline(always)]
    fn to_acc(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn from_acc(value: f32) -> Self {
        f16::from_f32(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_like_half() {
        for step in 0..200_000u32 {
            let bits = step.wrapping_mul(0x9E37_79B9);
            let value = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Float>::from_acc(value), bf16::from_f32(value));
            assert!(ours.to_bits() == theirs.to_bits() || (value.is_nan() && ours.is_nan()), "{value} {ours} {theirs}");
            assert!(value.is_nan() || ours.to_acc() == theirs.to_f32());
        }
    }
}
