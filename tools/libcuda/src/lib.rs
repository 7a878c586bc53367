//! `libcuda.so` over the PTX emulator: programs that load the CUDA driver find this one through the library path and run unchanged.
//!
//! Work is queued on streams and done when somebody waits, in an order that streams and events allow and a seed picks. What a kernel
//! does wrong comes back as the error code that hardware gives; the full report goes to standard error, once.
//!
//! Environment: `SCMMGPT_EMULATOR_SEED` (schedules), `SCMMGPT_EMULATOR_THREADS`, `SCMMGPT_EMULATOR_MMA` (`sequential`, `exact`,
//! `blocks`), `SCMMGPT_EMULATOR_APPROX` (`hash`, `highest`, `lowest`), `SCMMGPT_EMULATOR_MEMORY` (bytes), `SCMMGPT_EMULATOR_POOLS`
//! (`0`: without memory pools), `SCMMGPT_EMULATOR_COUNT` (`1`: counters of every launch on standard error). What it reports of itself:
//! `SCMMGPT_EMULATOR_DRIVER` (version, 12040 for 12.4), `SCMMGPT_EMULATOR_CAPABILITY` (80 for 8.0), `SCMMGPT_EMULATOR_PCI_DEVICE` (a
//! place on the bus, as hardware has; `0`: none). `SCMMGPT_EMULATOR_FAULT`: the launch, counted from 1, that fails as if it had left its
//! memory. `SCMMGPT_EMULATOR_BUDGET`: warp instructions after which a CTA counts as endless. `SCMMGPT_EMULATOR_PATCH`: one line of a text
//! (`ENTRY:LINE:TEXT`), replaced as it is loaded, by which tests see whether a wrong kernel would be noticed.

// Signatures are the driver's, found by name and described in its manual.
#![allow(non_snake_case, unreachable_pub, clippy::missing_safety_doc)]

mod code;
mod context;
mod driver;
mod event;
mod graph;
mod memory;
mod module;
mod patch;
mod queue;
mod stubs;

/// Exports functions of the driver: each catches unwinding, and returns the code that its body gives.
macro_rules! exports {
    ($($name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => { $(
        #[doc = concat!("`", stringify!($name), "` of the CUDA driver.")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> i32 {
            let call = move || -> Result<(), $crate::code::Code> { $body };
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)) {
                Ok(Ok(())) => 0,
                Ok(Err(code)) => code.0,
                Err(_) => $crate::code::UNKNOWN.0,
            }
        }
    )* };
}
pub(crate) use exports;

/// Writes through a pointer that a caller gave for a result.
///
/// # Safety
/// `target` is null or valid for a write of a `T`, as the driver's manual asks of every caller.
pub(crate) unsafe fn give<T>(target: *mut T, value: T) -> Result<(), code::Code> {
    if target.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: not null, and valid by this function's contract.
    unsafe { target.write(value) };
    Ok(())
}
