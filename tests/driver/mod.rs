//! The CUDA device of the tests that need one.

use scmmgpt_kernels::Error;
use scmmgpt_kernels::runtime::Device;

/// The first device: `tools/test.sh` puts an emulated driver on the library path. None without a driver, unless
/// `SCMMGPT_REQUIRE_CUDA=1` makes that a failure.
pub(crate) fn device() -> Option<Device> {
    match Device::cuda(0, 1) {
        Ok(device) => Some(device),
        Err(Error::DriverNotFound { tried }) => {
            assert!(std::env::var_os("SCMMGPT_REQUIRE_CUDA").is_none(), "no driver among {tried:?}: run tools/test.sh");
            eprintln!("no CUDA driver: nothing was compared");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
