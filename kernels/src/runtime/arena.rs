//! One allocation a plan, registered with its device so that handles can be resolved.

use super::device::Block;
use super::{Device, Entry, Plan};
use crate::Result;

/// The memory of one plan. Zeroed at allocation, freed when dropped.
#[derive(Debug)]
pub struct Arena {
    device: Device,
    plan: Plan,
    block: Block,
}

impl Arena {
    /// Allocates a plan on a device, zeroed.
    ///
    /// # Errors
    /// `OutOfMemory` when the device refuses.
    pub fn allocate(device: &Device, plan: Plan) -> Result<Arena> {
        let block = device.zeroed(plan.class().name(), plan.bytes())?;
        Ok(Arena::new(device, plan, block))
    }

    /// [`Arena::allocate`], except that on a CPU the memory takes up what is written alone: for weights that may stay in their file.
    ///
    /// # Errors
    /// `OutOfMemory` when the device refuses.
    pub fn allocate_unwritten(device: &Device, plan: Plan) -> Result<Arena> {
        let block = device.reserved(plan.class().name(), plan.bytes())?;
        Ok(Arena::new(device, plan, block))
    }

    fn new(device: &Device, plan: Plan, block: Block) -> Arena {
        device.register(plan.id(), block.clone());
        Arena { device: device.clone(), plan, block }
    }

    /// Lays another plan over the same memory, which keeps its bytes and is only replaced when it is too small. Handles of the
    /// former plan are dead. This is how batches of different sizes share one allocation.
    ///
    /// # Errors
    /// `OutOfMemory` when a larger block is needed and refused; the former plan then still stands.
    pub fn replan(&mut self, plan: Plan) -> Result<()> {
        if plan.bytes() > self.block.bytes() {
            self.block = self.device.zeroed(plan.class().name(), plan.bytes())?;
        }
        self.device.unregister(self.plan.id());
        self.device.register(plan.id(), self.block.clone());
        self.plan = plan;
        Ok(())
    }

    /// The plan it was made from.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The planned tensors.
    pub fn entries(&self) -> &[Entry] {
        self.plan.entries()
    }

    /// Size of the memory in bytes.
    pub fn bytes(&self) -> usize {
        self.block.bytes()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.device.unregister(self.plan.id());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Class, Stream, Tensor};

    #[test]
    fn replan_reuses_and_grows() {
        let device = Device::cpu(1).unwrap();
        let stream = Stream::new(&device, 0).unwrap();
        let mut plan = Plan::new(Class::Activations);
        let large: Tensor<f32> = plan.tensor("x", [4, 8]);
        let mut arena = Arena::allocate(&device, plan).unwrap();
        stream.upload(large, &[1.0; 32]).unwrap();
        let mut plan = Plan::new(Class::Activations);
        let small: Tensor<f32> = plan.tensor("x", [2, 8]);
        arena.replan(plan).unwrap();
        assert_eq!((arena.bytes(), stream.fetch(small).unwrap()), (128, vec![1.0; 16]));
        let mut plan = Plan::new(Class::Activations);
        let larger: Tensor<f32> = plan.tensor("x", [8, 8]);
        arena.replan(plan).unwrap();
        assert_eq!((arena.bytes(), stream.fetch(larger).unwrap().len()), (256, 64));
    }
}
