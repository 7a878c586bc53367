//! Memory plans: the list of tensors, once, before anything is allocated.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Element, Shape, Tensor};

/// Identity of a plan; handles carry it, an arena is registered under it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PlanId(u64);

/// What a plan's memory is for; one allocation each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Parameters.
    Weights,
    /// Parameter gradients.
    Gradients,
    /// Optimizer moments.
    Optimizer,
    /// Layer outputs, saved statistics and activation gradients.
    Activations,
    /// Inputs of a step, as they arrive from the host.
    Batch,
    /// Keys and values kept during generation.
    KvCache,
}

impl Class {
    /// Lower-case name for reports and errors.
    pub fn name(self) -> &'static str {
        match self {
            Class::Weights => "weights",
            Class::Gradients => "gradients",
            Class::Optimizer => "optimizer",
            Class::Activations => "activations",
            Class::Batch => "batch",
            Class::KvCache => "kv cache",
        }
    }
}

/// One planned tensor.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Dotted path, for example `layers.0.saved.mean`.
    pub name: String,
    /// Element type.
    pub element: &'static str,
    /// Sizes.
    pub shape: Shape,
    /// First byte in the arena.
    pub offset: usize,
    /// Size in bytes, without alignment.
    pub bytes: usize,
}

/// Collects `(name, shape, element)` and hands out handles; [`super::Arena::allocate`] makes it real.
#[derive(Debug)]
pub struct Plan {
    id: PlanId,
    class: Class,
    entries: Vec<Entry>,
    path: String,
    cursor: usize,
    bytes: usize,
    scratch: usize,
}

/// Tensors start on cache lines, which are also AVX-512 vectors and half a GPU sector group.
pub(crate) const ALIGNMENT: usize = 64;

impl Plan {
    /// An empty plan.
    pub fn new(class: Class) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = PlanId(NEXT.fetch_add(1, Ordering::Relaxed));
        Plan { id, class, entries: Vec::new(), path: String::new(), cursor: 0, bytes: 0, scratch: 0 }
    }

    pub(crate) fn id(&self) -> PlanId {
        self.id
    }

    /// What the memory is for.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Adds a tensor and returns its handle.
    pub fn tensor<T: Element>(&mut self, name: &str, shape: impl Into<Shape>) -> Tensor<T> {
        let shape = shape.into();
        let bytes = shape.len() * size_of::<T>();
        let offset = self.cursor;
        self.cursor = (offset + bytes).next_multiple_of(ALIGNMENT);
        self.bytes = self.bytes.max(self.cursor);
        self.entries.push(Entry { name: format!("{}{name}", self.path), element: T::NAME, shape, offset, bytes });
        Tensor::new(self.id, offset / size_of::<T>(), shape)
    }

    /// Runs `body` with `name.` in front of every tensor it adds.
    pub fn under<R>(&mut self, name: &str, body: impl FnOnce(&mut Plan) -> R) -> R {
        let length = self.path.len();
        self.path.push_str(name);
        self.path.push('.');
        let result = body(self);
        self.path.truncate(length);
        result
    }

    /// Runs `body` and gives its memory back to whatever is planned next: tensors of two scopes in a row share bytes.
    pub fn scope<R>(&mut self, body: impl FnOnce(&mut Plan) -> R) -> R {
        let cursor = self.cursor;
        let result = body(self);
        self.cursor = cursor;
        result
    }

    /// States that some operation needs this many bytes of scratch on its stream; the maximum is kept.
    pub fn scratch(&mut self, bytes: usize) {
        self.scratch = self.scratch.max(bytes);
    }

    /// The largest scratch that was asked for; create the stream with it.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    /// Bytes that the arena will have.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The tensors, in the order in which they were added.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Names, shapes and bytes, for people.
    pub fn report(&self) -> Report<'_> {
        Report(self)
    }
}

/// Displays a plan, one tensor a line and the total last.
pub struct Report<'a>(&'a Plan);

impl std::fmt::Display for Report<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for entry in &self.0.entries {
            let shape = format!("{:?}", entry.shape);
            writeln!(formatter, "  {:<64} {:>4} {shape:<20} {:>14} bytes", entry.name, entry.element, entry.bytes)?;
        }
        writeln!(formatter, "  {:<64} {:>26} {:>14} bytes", self.0.class.name(), "total", self.0.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_share_bytes_and_paths_nest() {
        let mut plan = Plan::new(Class::Activations);
        let first: Tensor<f32> = plan.scope(|plan| plan.under("a", |plan| plan.tensor("x", [3, 5])));
        let second: Tensor<f32> = plan.scope(|plan| plan.under("b", |plan| plan.tensor("x", [100])));
        assert_eq!((first.offset, second.offset), (0, 0));
        assert_eq!(plan.bytes(), 448);
        assert_eq!(plan.entries()[1].name, "b.x");
        let last: Tensor<u8> = plan.tensor("last", [1]);
        assert_eq!(last.offset, 0);
        assert!(plan.report().to_string().contains("a.x"));
    }
}
