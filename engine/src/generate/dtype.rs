//! What a language model computes in when it writes.

use std::fmt;

use scmmgpt_kernels::runtime::Device;
use scmmgpt_kernels::runtime::simd::{self, Level};
use serde::{Deserialize, Serialize};

/// Element type of weights, activations and cached keys and values; sums are f32 in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// [`Dtype::Bf16`] for a base model that was not trained here, on a device that multiplies in bf16; else [`Dtype::F32`].
    #[default]
    Auto,
    /// As trained.
    F32,
    /// A copy beside the weights as trained: adapters are merged, and what they give is rounded to 8 bits of mantissa.
    Bf16,
    /// As [`Dtype::Bf16`] (or [`Dtype::F32`], where the device does not multiply in bf16), but projections and output product read
    /// weights of one byte, with a scale for every output.
    Int8,
}

impl Dtype {
    /// What [`Dtype::Auto`] means on this device for a model beside a frozen base (`based`), or one that was learned as a whole.
    pub fn resolve(self, device: &Device, based: bool) -> Dtype {
        match self {
            Dtype::Auto if based && multiplies_bf16(device) => Dtype::Bf16,
            Dtype::Auto => Dtype::F32,
            chosen => chosen,
        }
    }
}

/// Whether a device multiplies in bf16 by itself.
pub(crate) fn multiplies_bf16(device: &Device) -> bool {
    device.is_cuda() || simd::level() == Level::Avx512Bf16
}

impl fmt::Display for Dtype {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Dtype::Auto => "auto",
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::Int8 => "int8",
        })
    }
}
