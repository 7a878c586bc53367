//! A case's tensors, allocated and filled.

use std::collections::HashMap;

use super::{Case, Fill, Role};
use crate::Result;
use crate::runtime::philox::{Site, uniform};
use crate::runtime::{Arena, Class, Device, Element, Float, Plan, Real, Shape, Stream, Tensor};

/// Tensors by name, as handles: what an [`super::Op`] passes on to its kernel.
#[derive(Debug)]
pub struct Bindings<T: Float> {
    values: HashMap<String, Tensor<T>>,
    accumulated: HashMap<String, Tensor<T::Acc>>,
    indices: HashMap<String, Tensor<u32>>,
}

impl<T: Float> Default for Bindings<T> {
    fn default() -> Self {
        Bindings { values: HashMap::new(), accumulated: HashMap::new(), indices: HashMap::new() }
    }
}

#[expect(clippy::panic, reason = "a case that names a tensor it never declared is a bug in the case")]
impl<T: Float> Bindings<T> {
    /// An input, parameter, output or activation gradient.
    pub fn value(&self, name: &str) -> Tensor<T> {
        self.values.get(name).copied().unwrap_or_else(|| panic!("case has no tensor `{name}`"))
    }

    /// A statistic, loss, constant or parameter gradient.
    pub fn accumulated(&self, name: &str) -> Tensor<T::Acc> {
        self.accumulated.get(name).copied().unwrap_or_else(|| panic!("case has no accumulated tensor `{name}`"))
    }

    /// Integers.
    pub fn index(&self, name: &str) -> Tensor<u32> {
        self.indices.get(name).copied().unwrap_or_else(|| panic!("case has no index tensor `{name}`"))
    }
}

/// Elements behind each tensor that no kernel may touch: NaN, so that what is read there shows.
const GUARDS: usize = 16;

/// Memory, stream and handles of one case at one element type.
pub struct Storage<T: Float> {
    /// The stream it runs on.
    pub stream: Stream,
    /// The handles.
    pub tensors: Bindings<T>,
    guards: Bindings<T>,
    _arena: Arena,
}

/// One result of a case, in f64.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) values: Vec<f64>,
    /// Kept in the accumulation type.
    pub(super) wide: bool,
}

/// Gradients of parameters start here, so that a kernel that overwrites instead of adding is found.
pub(super) const PREFILL: f64 = 0.25;

impl<T: Float> Storage<T> {
    /// Allocates and fills a case's tensors; gradients of outputs are filled like inputs.
    ///
    /// # Errors
    /// Those of allocation and upload.
    pub fn new(device: &Device, case: &Case, seed: u64) -> Result<Self> {
        Storage::rounded(device, case, seed, |value| value)
    }

    /// [`Storage::new`], except that what is kept in the element type goes through `round` first: f64 with the inputs of bf16.
    ///
    /// # Errors
    /// Those of allocation and upload.
    pub(super) fn rounded(device: &Device, case: &Case, seed: u64, round: fn(f64) -> f64) -> Result<Self> {
        let mut plan = Plan::new(Class::Activations);
        let (mut tensors, mut guards) = (Bindings::default(), Bindings::default());
        let mut value = |plan: &mut Plan, name: &str, shape: Shape| {
            let (tensor, guard) = guarded(plan, name, shape);
            tensors.values.insert(name.into(), tensor);
            guards.values.insert(name.into(), guard);
        };
        let mut wide = |plan: &mut Plan, name: &str, shape: Shape| {
            let (tensor, guard) = guarded(plan, name, shape);
            tensors.accumulated.insert(name.into(), tensor);
            guards.accumulated.insert(name.into(), guard);
        };
        for slot in &case.slots {
            let (name, gradient) = (slot.name.to_string(), format!("d{}", slot.name));
            match slot.role {
                Role::Input | Role::Output => [&name, &gradient].into_iter().for_each(|name| value(&mut plan, name, slot.shape)),
                Role::Parameter => {
                    value(&mut plan, &name, slot.shape);
                    wide(&mut plan, &gradient, slot.shape);
                }
                Role::Loss => [&name, &gradient].into_iter().for_each(|name| wide(&mut plan, name, slot.shape)),
                Role::Statistic | Role::Constant => wide(&mut plan, &name, slot.shape),
                Role::Index => {
                    let (tensor, guard) = guarded(&mut plan, &name, slot.shape);
                    tensors.indices.insert(name.clone(), tensor);
                    guards.indices.insert(name, guard);
                }
            }
        }
        let arena = Arena::allocate(device, plan)?;
        let storage = Storage { stream: Stream::new(device, case.scratch)?, tensors, guards, _arena: arena };
        storage.fill(case, seed, round)?;
        Ok(storage)
    }

    fn fill(&self, case: &Case, seed: u64, round: fn(f64) -> f64) -> Result<()> {
        let (stream, tensors, guards) = (&self.stream, &self.tensors, &self.guards);
        let nan = T::Acc::of(f64::NAN);
        guards.values.values().try_for_each(|guard| stream.upload(*guard, &[T::from_acc(nan); GUARDS]))?;
        guards.accumulated.values().try_for_each(|guard| stream.upload(*guard, &[nan; GUARDS]))?;
        guards.indices.values().try_for_each(|guard| stream.upload(*guard, &[u32::MAX; GUARDS]))?;
        for (site, slot) in case.slots.iter().enumerate() {
            let site = Site { seed, step: 0, site: site as u32 };
            let reals = || values(&slot.fill, slot.shape, site);
            let narrow = |values: Vec<f64>| values.into_iter().map(|v| T::from_acc(T::Acc::of(round(v)))).collect::<Vec<T>>();
            let wide = |values: Vec<f64>| values.into_iter().map(T::Acc::of).collect::<Vec<_>>();
            let gradient = format!("d{}", slot.name);
            match slot.role {
                Role::Input => stream.upload(tensors.value(slot.name), &narrow(reals()))?,
                Role::Output => stream.upload(tensors.value(&gradient), &narrow(reals()))?,
                Role::Loss => stream.upload(tensors.accumulated(&gradient), &wide(reals()))?,
                Role::Parameter => {
                    stream.upload(tensors.value(slot.name), &narrow(reals()))?;
                    stream.upload(tensors.accumulated(&gradient), &wide(vec![PREFILL; slot.shape.len()]))?;
                }
                Role::Constant => stream.upload(tensors.accumulated(slot.name), &wide(reals()))?,
                Role::Index => stream.upload(tensors.index(slot.name), &integers(&slot.fill, slot.shape, site))?,
                Role::Statistic => {}
            }
        }
        Ok(())
    }

    /// Every result of forward (outputs, statistics) and, after backward, every gradient.
    ///
    /// # Errors
    /// Those of the download.
    pub(super) fn results(&self, case: &Case, backward: bool) -> Result<Vec<Named>> {
        let mut results = Vec::new();
        for slot in &case.slots {
            let (name, gradient) = (slot.name.to_string(), format!("d{}", slot.name));
            match slot.role {
                Role::Output => results.push(Named { values: self.values(&name)?, name, wide: false }),
                Role::Statistic | Role::Loss => results.push(Named { values: self.accumulated(&name)?, name, wide: true }),
                Role::Input if backward && slot.differentiable => {
                    results.push(Named { values: self.values(&gradient)?, name: gradient, wide: false });
                }
                Role::Parameter if backward => results.push(Named { values: self.accumulated(&gradient)?, name: gradient, wide: true }),
                _ => {}
            }
        }
        results.push(Named { name: "elements written behind a tensor".into(), values: vec![self.written_behind()? as f64], wide: true });
        Ok(results)
    }

    fn written_behind(&self) -> Result<usize> {
        let mut written = 0;
        for guard in self.guards.values.values() {
            written += self.stream.fetch(*guard)?.into_iter().filter(|value| !value.to_acc().f64().is_nan()).count();
        }
        for guard in self.guards.accumulated.values() {
            written += self.stream.fetch(*guard)?.into_iter().filter(|value| !value.f64().is_nan()).count();
        }
        for guard in self.guards.indices.values() {
            written += self.stream.fetch(*guard)?.into_iter().filter(|value| *value != u32::MAX).count();
        }
        Ok(written)
    }

    pub(super) fn values(&self, name: &str) -> Result<Vec<f64>> {
        Ok(self.stream.fetch(self.tensors.value(name))?.into_iter().map(|v| v.to_acc().f64()).collect())
    }

    /// An output (or its gradient), whichever type it is kept in.
    pub(super) fn output(&self, name: &str) -> Result<Vec<f64>> {
        if self.tensors.values.contains_key(name) { self.values(name) } else { self.accumulated(name) }
    }

    pub(super) fn accumulated(&self, name: &str) -> Result<Vec<f64>> {
        Ok(self.stream.fetch(self.tensors.accumulated(name))?.into_iter().map(Real::f64).collect())
    }
}

/// A tensor, and the elements behind it.
fn guarded<E: Element>(plan: &mut Plan, name: &str, shape: Shape) -> (Tensor<E>, Tensor<E>) {
    let whole = plan.tensor(name, [shape.len() + GUARDS, 1]);
    (whole.row_range(0, shape.len()).reshape(shape), whole.row_range(shape.len(), GUARDS))
}

fn values(fill: &Fill, shape: Shape, site: Site) -> Vec<f64> {
    let unit = |index: usize| f64::from(uniform(site.words(index as u64 / 4)[index % 4]));
    (0..shape.len())
        .map(|index| match fill {
            Fill::Uniform => 2.0 * unit(index) - 1.0,
            Fill::Range(low, high) => low + (high - low) * unit(index),
            Fill::Values(values) => values[index % values.len()],
            Fill::Below(bound) => f64::from(site.words(index as u64 / 4)[index % 4] % bound),
            Fill::Integers(values) => f64::from(values[index % values.len()]),
        })
        .collect()
}

fn integers(fill: &Fill, shape: Shape, site: Site) -> Vec<u32> {
    values(fill, shape, site).into_iter().map(|value| value as u32).collect()
}
