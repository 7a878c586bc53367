//! The PTX of matrix products: which texts there are, and what they share.

use super::Layout;
use super::emit_mma::{FEW, FEW_BY_LANES, LARGE, MEDIUM, SMALL, Variant};
use super::emit_simt::{self, NARROW, WIDE};
use crate::runtime::emit::{Kernel, Text};

/// How elements of the operands and of `c` are stored and multiplied; sums are f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stored {
    F32,
    /// Stored as f32; tensor cores read the operands rounded to 10 bits behind the leading one.
    Tf32,
    Bf16,
    F16,
}

impl Stored {
    pub(super) fn name(self) -> &'static str {
        match self {
            Stored::F32 => "f32",
            Stored::Tf32 => "tf32",
            Stored::Bf16 => "bf16",
            Stored::F16 => "f16",
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Stored::F32 | Stored::Tf32 => 4,
            Stored::Bf16 | Stored::F16 => 2,
        }
    }
}

/// What a text does with a sum; the compiled half of [`super::Epilogue`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Finish {
    None,
    Bias,
    BiasRelu,
    BiasGelu,
    /// [`Finish::BiasGelu`] that also writes the pre-activation.
    BiasGeluKept,
    BiasResidual,
    Residual,
    ReluMask,
    GeluMask,
    Scaled,
    /// `c += ab`.
    Added,
    /// Every part of 2 w columns that a warp makes is w of the gate and the w of the same places above.
    SwiGlu,
    /// `c += ab`, in f32.
    Accumulate,
    /// The sums of one segment of k, in f32, for [`Finish::Accumulate`] in two launches.
    Partial,
}

impl Finish {
    /// What a call can ask for in every layout.
    const ALL: [Finish; 12] = [
        Finish::None,
        Finish::Bias,
        Finish::BiasRelu,
        Finish::BiasGelu,
        Finish::BiasGeluKept,
        Finish::BiasResidual,
        Finish::Residual,
        Finish::ReluMask,
        Finish::GeluMask,
        Finish::Scaled,
        Finish::Added,
        Finish::Accumulate,
    ];

    fn all(layout: Layout) -> impl Iterator<Item = Finish> {
        Finish::ALL.into_iter().chain((layout == Layout::NT).then_some(Finish::SwiGlu))
    }

    /// Ending of the entry's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Finish::None => "none",
            Finish::Bias => "bias",
            Finish::BiasRelu => "bias_relu",
            Finish::BiasGelu => "bias_gelu",
            Finish::BiasGeluKept => "bias_gelu_kept",
            Finish::BiasResidual => "bias_residual",
            Finish::Residual => "residual",
            Finish::ReluMask => "relu_mask",
            Finish::GeluMask => "gelu_mask",
            Finish::Scaled => "scaled",
            Finish::Added => "added",
            Finish::SwiGlu => "swiglu",
            Finish::Accumulate => "accumulate",
            Finish::Partial => "partial",
        }
    }

    /// `c` is f32 whatever the operands are.
    pub(super) fn is_wide(self) -> bool {
        matches!(self, Finish::Accumulate | Finish::Partial)
    }

    pub(super) fn has_bias(self) -> bool {
        matches!(self, Finish::Bias | Finish::BiasRelu | Finish::BiasGelu | Finish::BiasGeluKept | Finish::BiasResidual)
    }

    /// Name of the second `[m, n]` matrix, beside `c`.
    pub(super) fn other(self) -> Option<&'static str> {
        match self {
            Finish::BiasGeluKept | Finish::GeluMask => Some("pre_activation"),
            Finish::BiasResidual | Finish::Residual => Some("residual"),
            Finish::ReluMask => Some("output"),
            Finish::SwiGlu => Some("gate_up"),
            _ => None,
        }
    }

    /// The other matrix is read, not written.
    pub(super) fn reads_other(self) -> bool {
        self.other().is_some() && !matches!(self, Finish::BiasGeluKept | Finish::SwiGlu)
    }

    /// What `c` held is part of the result.
    pub(super) fn reads_c(self) -> bool {
        matches!(self, Finish::Accumulate | Finish::Added)
    }

    /// Columns of op(b) that make one of `c`.
    pub(super) fn folds(self) -> usize {
        if self == Finish::SwiGlu { 2 } else { 1 }
    }

    /// Declares the parameters: addresses, sizes, strides, what else there is.
    pub(super) fn params(self, k: &mut Kernel) {
        k.params(".u64", "c a b");
        if self.has_bias() {
            k.params(".u64", "bias");
        }
        if let Some(other) = self.other() {
            k.params(".u64", other);
        }
        k.params(".u32", "m n k c_stride a_stride b_stride");
        if self.other().is_some() {
            k.params(".u32", "other_stride");
        }
        match self {
            Finish::Scaled => k.params(".f32", "factor"),
            Finish::Partial => k.params(".u32", "segment"),
            _ => {}
        }
    }
}

pub(super) fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::NT => "nt",
        Layout::NN => "nn",
        Layout::TN => "tn",
    }
}

/// Every text of this kernel.
pub(super) fn all() -> Vec<Text> {
    let mut texts = Vec::new();
    for layout in [Layout::NT, Layout::NN, Layout::TN] {
        for stored in [Stored::F32, Stored::Bf16, Stored::F16] {
            texts.extend(Finish::all(layout).map(|finish| emit_simt::text(stored, layout, finish, WIDE)));
        }
        texts.push(emit_simt::text(Stored::F32, layout, Finish::Partial, WIDE));
        texts.extend(Finish::ALL.map(|finish| emit_simt::text(Stored::F32, layout, finish, NARROW)));
        for stored in [Stored::Bf16, Stored::F16, Stored::Tf32] {
            let on_tensor_cores = |tile, finish| Variant { stored, layout, tile, finish }.text();
            for tile in [LARGE, MEDIUM, SMALL] {
                texts.extend(Finish::all(layout).map(|finish| on_tensor_cores(tile, finish)));
            }
            texts.extend([MEDIUM, SMALL].map(|tile| on_tensor_cores(tile, Finish::Partial)));
        }
    }
    for stored in [Stored::F32, Stored::Bf16, Stored::F16, Stored::Tf32] {
        let tile = if stored == Stored::F32 { FEW_BY_LANES } else { FEW };
        let narrow = Finish::all(Layout::NT).filter(|finish| !finish.is_wide());
        texts.extend(narrow.map(|finish| Variant { stored, layout: Layout::NT, tile, finish }.text()));
    }
    texts
}
