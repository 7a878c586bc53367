//! The PTX of matrix products: which texts there are, and what they share.

use super::emit_mma::{FEW, FEW_BY_LANES, LARGE, MEDIUM, SMALL, Variant};
use super::{Layout, emit_simt};
use crate::runtime::emit::Text;

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
    /// `c += ab`, in f32.
    Accumulate,
    /// The sums of one segment of k, in f32, for [`Finish::Accumulate`] in two launches.
    Partial,
}

impl Finish {
    /// What a call can ask for.
    pub(super) const ALL: [Finish; 10] = [
        Finish::None,
        Finish::Bias,
        Finish::BiasRelu,
        Finish::BiasGelu,
        Finish::BiasGeluKept,
        Finish::BiasResidual,
        Finish::Residual,
        Finish::ReluMask,
        Finish::GeluMask,
        Finish::Accumulate,
    ];

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
            _ => None,
        }
    }

    /// The other matrix is read, not written.
    pub(super) fn reads_other(self) -> bool {
        self.other().is_some() && self != Finish::BiasGeluKept
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
            texts.extend(Finish::ALL.map(|finish| emit_simt::text(stored, layout, finish)));
        }
        for stored in [Stored::Bf16, Stored::F16, Stored::Tf32] {
            let on_tensor_cores = |tile, finish| Variant { stored, layout, tile, finish }.text();
            for tile in [LARGE, MEDIUM, SMALL] {
                texts.extend(Finish::ALL.map(|finish| on_tensor_cores(tile, finish)));
            }
            if stored != Stored::Tf32 {
                texts.extend([MEDIUM, SMALL].map(|tile| on_tensor_cores(tile, Finish::Partial)));
            }
        }
    }
    for stored in [Stored::F32, Stored::Bf16, Stored::F16, Stored::Tf32] {
        let tile = if stored == Stored::F32 { FEW_BY_LANES } else { FEW };
        let narrow = Finish::ALL.into_iter().filter(|finish| !finish.is_wide());
        texts.extend(narrow.map(|finish| Variant { stored, layout: Layout::NT, tile, finish }.text()));
    }
    texts
}
