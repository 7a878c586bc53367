//! One allocation a plan, registered with its device so that handles can be resolved.

use super::{Device, Entry, Plan, device::HostBlock};
use crate::Result;
use std::sync::Arc;

/// The memory of one plan. Zeroed at allocation, freed when dropped.
#[derive(Debug)]
pub struct Arena {
    device: Device,
    plan: Plan,
}

impl Arena {
    /// Allocates a plan on a device, zeroed.
    ///
    /// # Errors
    /// `OutOfMemory` when the device refuses.
    pub fn allocate(device: &Device, plan: Plan) -> Result<Arena> {
        let block = HostBlock::zeroed(plan.class().name(), plan.bytes())?;
        device.register(plan.id(), Arc::new(block));
        Ok(Arena { device: device.clone(), plan })
    }

    /// The plan it was made from.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The planned tensors.
    pub fn entries(&self) -> &[Entry] {
        self.plan.entries()
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.plan.bytes()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.device.unregister(self.plan.id());
    }
}
