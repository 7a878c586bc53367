//! A launch whose arguments are compared with what the PTX text declares.

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUfunction_attribute};

use super::{CudaStream, check};
use crate::runtime::{Element, Float, Tensor};
use crate::{Error, Result};

/// Dynamic shared memory above this needs the function's leave.
const SHARED_DEFAULT: u32 = 48 << 10;

/// A scalar that a kernel takes by value.
pub trait Value: Copy {
    /// Its bytes, as the parameter has them.
    fn bytes(self) -> Vec<u8>;
}

macro_rules! values {
    ($($type:ty),*) => { $(impl Value for $type {
        fn bytes(self) -> Vec<u8> {
            self.to_le_bytes().to_vec()
        }
    })* };
}
values!(u32, i32, u64, f32, f64);

/// Name and bytes of an argument.
type Argument = (&'static str, Vec<u8>);

/// A launch that is being put together; [`Launch::submit`] checks and queues it.
#[must_use = "nothing runs before `submit`"]
#[derive(Debug)]
pub struct Launch<'a> {
    stream: &'a CudaStream,
    text: &'static str,
    entry: String,
    grid: [u32; 3],
    block: u32,
    shared: u32,
    arguments: Vec<Argument>,
}

/// `name_f32`: the entry for an element type.
///
/// # Errors
/// `NoCudaKernel` for other types than f32.
pub fn entry<T: Float>(op: &'static str, name: &str) -> Result<String> {
    match T::NAME {
        "f32" => Ok(format!("{name}_f32")),
        element => Err(Error::NoCudaKernel { op, element }),
    }
}

/// The text and the entry, `name_f32` or `name_bf16`, for an element type; `texts` are those of f32 and of bf16.
///
/// # Errors
/// `NoCudaKernel` for other types.
pub fn variant<T: Float>(op: &'static str, name: &str, texts: [&'static str; 2]) -> Result<(&'static str, String)> {
    let text = match T::NAME {
        "f32" => texts[0],
        "bf16" => texts[1],
        element => return Err(Error::NoCudaKernel { op, element }),
    };
    Ok((text, format!("{name}_{}", T::NAME)))
}

/// Grid and CTA size of a kernel with a thread an element: 128 columns a CTA, rows in steps of the grid's height.
pub fn elementwise(rows: usize, width: usize) -> ([u32; 3], u32) {
    const THREADS: usize = 128;
    const TALLEST: usize = 65535;
    ([width.div_ceil(THREADS) as u32, rows.min(TALLEST) as u32, 1], THREADS as u32)
}

impl<'a> Launch<'a> {
    pub(super) fn new(stream: &'a CudaStream, text: &'static str, entry: String, grid: [u32; 3], block: u32) -> Launch<'a> {
        Launch { stream, text, entry, grid, block, shared: 0, arguments: Vec::new() }
    }

    /// Bytes of dynamic shared memory.
    pub fn shared(mut self, bytes: u32) -> Self {
        self.shared = bytes;
        self
    }

    fn pointer<T: Element>(mut self, name: &'static str, tensor: Tensor<T>) -> Self {
        let address = self.stream.address(tensor);
        self.arguments.push((name, address.to_le_bytes().to_vec()));
        self
    }

    /// A tensor that the kernel reads. Strides travel as values.
    pub fn read<T: Element>(self, name: &'static str, tensor: Tensor<T>) -> Self {
        self.pointer(name, tensor)
    }

    /// A tensor that the kernel writes.
    pub fn write<T: Element>(self, name: &'static str, tensor: Tensor<T>) -> Self {
        self.pointer(name, tensor)
    }

    /// A tensor that may be absent: a null pointer then.
    pub fn optional<T: Element>(mut self, name: &'static str, tensor: Option<Tensor<T>>) -> Self {
        match tensor {
            Some(tensor) => self.pointer(name, tensor),
            None => {
                self.arguments.push((name, vec![0; 8]));
                self
            }
        }
    }

    /// The stream's scratch from byte `start` on.
    pub fn scratch(mut self, name: &'static str, start: usize) -> Self {
        let address = self.stream.scratch_address() + start as u64;
        self.arguments.push((name, address.to_le_bytes().to_vec()));
        self
    }

    /// The stream's scratch from byte `start` on, or a null pointer.
    pub fn optional_scratch(mut self, name: &'static str, start: Option<usize>) -> Self {
        match start {
            Some(start) => self.scratch(name, start),
            None => {
                self.arguments.push((name, vec![0; 8]));
                self
            }
        }
    }

    /// A number.
    pub fn value(mut self, name: &'static str, value: impl Value) -> Self {
        self.arguments.push((name, value.bytes()));
        self
    }

    /// Compares the arguments with the entry's parameters and queues the launch. A grid with a dimension of 0 is nothing to do.
    ///
    /// # Errors
    /// `Signature` when names, order or sizes differ; `Ptx` when the driver cannot compile the text; those of the driver.
    pub fn submit(self) -> Result<()> {
        let module = self.stream.module(self.text)?;
        let declared: Vec<(&str, usize)> = module.signature(&self.entry)?.iter().map(|(name, size)| (name.as_str(), *size)).collect();
        let given: Vec<(&str, usize)> = self.arguments.iter().map(|(name, bytes)| (*name, bytes.len())).collect();
        if declared != given {
            let show = |list: &[(&str, usize)]| list.iter().map(|(name, size)| format!("{name}: {size}")).collect::<Vec<_>>().join(", ");
            return Err(Error::Signature { entry: self.entry, expected: show(&declared), got: show(&given) });
        }
        if self.grid.contains(&0) {
            return Ok(());
        }
        let function = module.function(&self.entry)?;
        if self.shared > SHARED_DEFAULT {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a loaded module.
            check("cuFuncSetAttribute", unsafe { sys::cuFuncSetAttribute(function, attribute, self.shared as i32) })?;
        }
        let mut values: Vec<*mut c_void> = self.arguments.iter().map(|(_, bytes)| bytes.as_ptr().cast_mut().cast()).collect();
        let [x, y, z] = self.grid;
        // SAFETY: one pointer a parameter, each to as many bytes as the text declares; the driver copies them before it returns.
        // That the kernel stays inside the tensors is what its tests on the checked device show.
        check("cuLaunchKernel", unsafe {
            sys::cuLaunchKernel(
                function,
                x,
                y,
                z,
                self.block,
                1,
                1,
                self.shared,
                self.stream.handle(),
                values.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        })
    }
}
