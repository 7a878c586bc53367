//! The one error type of the kernels crate.

/// What a kernel or the runtime refuses, with the data needed to mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor's shape does not fit the other arguments of the operation.
    #[error("{op}: tensor `{tensor}`: expected {expected:?}, got {got:?}")]
    Shape {
        /// The operation, for example `layer_norm::forward`.
        op: &'static str,
        /// The argument's name.
        tensor: &'static str,
        /// The shape that the other arguments demand.
        expected: Vec<usize>,
        /// The shape that was passed.
        got: Vec<usize>,
    },
    /// A scalar argument is outside its domain.
    #[error("{op}: `{argument}` is {value}, expected {expected}")]
    Argument {
        /// The operation.
        op: &'static str,
        /// The argument's name.
        argument: &'static str,
        /// The value that was passed.
        value: f64,
        /// The domain in words.
        expected: &'static str,
    },
    /// An index tensor names a row that does not exist.
    #[error("{op}: `{tensor}` holds {index} at position {position}, but there are only {bound} rows")]
    Index {
        /// The operation.
        op: &'static str,
        /// The index tensor's name.
        tensor: &'static str,
        /// Flat position of the offending entry.
        position: usize,
        /// The entry.
        index: u64,
        /// Number of valid rows.
        bound: usize,
    },
    /// The stream was created with less scratch memory than the operation needs.
    #[error("{op}: needs {needed} bytes of scratch, the stream has {reserved}; add the operation's scratch size to the plan")]
    Scratch {
        /// The operation.
        op: &'static str,
        /// Bytes needed.
        needed: usize,
        /// Bytes the stream owns.
        reserved: usize,
    },
    /// Memory for one class of tensors could not be allocated.
    #[error("out of memory: {class} needs {requested} bytes and the device refused; lower the batch size or the sequence length")]
    OutOfMemory {
        /// The class that was being allocated.
        class: &'static str,
        /// Bytes requested.
        requested: usize,
    },
    /// The worker threads could not be started.
    #[error("cannot start {threads} worker threads: {reason}; lower --threads")]
    Threads {
        /// Number of threads asked for.
        threads: usize,
        /// The operating system's reason.
        reason: String,
    },
    /// No CUDA driver library could be opened.
    #[error("no CUDA driver was found (tried {}); install the NVIDIA driver or use --device cpu", tried.join(", "))]
    DriverNotFound {
        /// Names of the libraries that were looked for on the library path.
        tried: Vec<String>,
    },
    /// The CUDA driver is older than what the kernels' texts ask for.
    #[error("the CUDA driver is for CUDA {found}, the kernels need {needed}; update the NVIDIA driver or use --device cpu")]
    DriverTooOld {
        /// CUDA version of the driver.
        found: String,
        /// The first that knows the texts' PTX version.
        needed: &'static str,
    },
    /// The CUDA driver refused a call.
    #[error("{call} failed with {name} ({code})")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// `CUresult`.
        code: u32,
        /// Its name.
        name: String,
    },
    /// A kernel has done something that the device does not allow; the device is of no more use to this process.
    #[error("the device stopped at a faulty kernel: {name}, seen by {call}; the last checkpoint is whole: resume from it, and report this")]
    DeviceFault {
        /// The call that saw it.
        call: &'static str,
        /// The driver's name of the fault.
        name: String,
    },
    /// The driver cannot compile a kernel's text.
    #[error("the driver cannot compile a kernel ({call}: {name}; `{text}`); report this, and use --device cpu")]
    Ptx {
        /// The driver's function.
        call: &'static str,
        /// The driver's name of the error.
        name: String,
        /// First line of the text.
        text: String,
    },
    /// A launch does not fit the entry that it names: a bug of ours.
    #[error("launch of {entry}: expected {expected}, got {got}")]
    Signature {
        /// The entry.
        entry: String,
        /// Parameters that the text declares.
        expected: String,
        /// Arguments of the launch.
        got: String,
    },
    /// The operation does not run on CUDA devices.
    #[error("{op} does not run on CUDA devices in {element}; use --device cpu")]
    NoCudaKernel {
        /// The operation.
        op: &'static str,
        /// The element type.
        element: &'static str,
    },
    /// The requested device cannot be used.
    #[error("device {device} cannot be used: {reason}; use --device cpu")]
    DeviceUnavailable {
        /// The device, as it was asked for.
        device: String,
        /// Why not.
        reason: String,
    },
}

/// The kernels' result.
pub type Result<T> = std::result::Result<T, Error>;

/// Refuses a tensor whose shape is not the one that the other arguments demand.
pub(crate) fn expect_shape(op: &'static str, tensor: &'static str, expected: &[usize], got: &[usize]) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::Shape { op, tensor, expected: expected.to_vec(), got: got.to_vec() }) }
}
