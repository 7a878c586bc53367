//! Floating-point tensors as `f32`.

use std::borrow::Cow;

use half::{bf16, f16};

use super::{Checkpoint, Dtype, TensorView};
use crate::{Error, Result};

impl Checkpoint {
    /// A floating-point tensor as `f32` in row-major order: F32 unchanged, F16 and BF16 exactly, F64
    /// rounded to nearest (a finite value beyond the range of `f32` becomes infinite).
    ///
    /// # Errors
    /// `MissingTensor`; `TensorType` when the elements are not F32, F16, BF16 or F64.
    pub fn to_f32(&self, name: &str) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.view(name)?.len()];
        self.read_f32(name, &mut values)?;
        Ok(values)
    }

    /// As [`to_f32`](Self::to_f32), borrowing from the file where it holds aligned F32.
    ///
    /// # Errors
    /// As [`to_f32`](Self::to_f32).
    pub fn f32s(&self, name: &str) -> Result<Cow<'_, [f32]>> {
        let view = self.view(name)?;
        // Elements of a foreign file may start at any byte; then a copy is the only safe way.
        match bytemuck::try_cast_slice(view.bytes) {
            Ok(values) if view.dtype == Dtype::F32 && cfg!(target_endian = "little") => Ok(Cow::Borrowed(values)),
            _ => self.to_f32(name).map(Cow::Owned),
        }
    }

    /// As [`to_f32`](Self::to_f32), into memory of the caller.
    ///
    /// # Errors
    /// As [`to_f32`](Self::to_f32), and `TensorSize` when `out` does not have one place an element.
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let view = self.view(name)?;
        if out.len() != view.len() {
            let (name, path) = (name.to_owned(), self.path().into());
            return Err(Error::TensorSize { name, path, expected: out.len(), got: view.len() });
        }
        let readable = read(&view, out);
        readable.ok_or_else(|| Error::TensorType { name: name.to_owned(), path: self.path().into(), got: view.dtype.to_string() })
    }
}

/// `None` for a type that is no float.
fn read(view: &TensorView, out: &mut [f32]) -> Option<()> {
    match view.dtype {
        Dtype::F32 => each(view, out, f32::from_le_bytes),
        Dtype::F16 => each(view, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => each(view, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        Dtype::F64 => each(view, out, |bytes| f64::from_le_bytes(bytes) as f32),
        _ => return None,
    }
    Some(())
}

fn each<const BYTES: usize>(view: &TensorView, out: &mut [f32], convert: impl Fn([u8; BYTES]) -> f32) {
    let (elements, _) = view.bytes.as_chunks::<BYTES>();
    for (out, &bytes) in out.iter_mut().zip(elements) {
        *out = convert(bytes);
    }
}
