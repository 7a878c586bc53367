//! Adapters merged into their projections for inference, `W + lora_alpha / r * B A`, and taken out again.

use scmmgpt_kernels::gemm::{self, Epilogue, Layout};
use scmmgpt_kernels::reduce;
use scmmgpt_kernels::runtime::{Arena, Class, Float, Plan, Stream, Tensor};

use super::language_model::LanguageModel;
use crate::Result;
use crate::layer::adapted_linear::Adapter;

/// The adapted projections as they were: unmerging copies them back, so that no rounding stays.
#[derive(Debug)]
pub struct Merged<T: Float> {
    _arena: Arena,
    /// A projection's rows of W, and their copy.
    base: Vec<(Tensor<T>, Tensor<T>)>,
}

impl<T: Float> LanguageModel<T> {
    /// Adds every adapter to its projection; passes with this model then leave the adapters out. Clones of the model that were made
    /// before must not be used until [`LanguageModel::unmerge`].
    ///
    /// # Errors
    /// `OutOfMemory` for the copies of the projections, and those of the kernels.
    pub fn merge(&mut self, stream: &Stream) -> Result<Merged<T>> {
        let adapters: Vec<Adapter<T>> = self.adapted().flat_map(|linear| linear.adapters().collect::<Vec<_>>()).collect();
        let mut plan = Plan::new(Class::Weights);
        let copy = |adapter: &Adapter<T>| (adapter.weight, plan.tensor("base", adapter.weight.shape()));
        let base: Vec<_> = adapters.iter().map(copy).collect();
        let scaled = |adapter: &Adapter<T>| plan.scope(|plan| plan.tensor("scaled", adapter.a.shape()));
        let scaled: Vec<Tensor<T>> = adapters.iter().map(scaled).collect();
        let arena = Arena::allocate(stream.device(), plan)?;
        for ((Adapter { a, b, scaling, .. }, (weight, copy)), scaled) in adapters.into_iter().zip(&base).zip(scaled) {
            stream.copy(*copy, *weight)?;
            stream.copy(scaled, a)?;
            reduce::scale(stream, &[scaled], scaling)?;
            let epilogue = Epilogue::Residual { residual: *copy };
            gemm::forward(stream, gemm::Forward { c: *weight, a: b, b: scaled, layout: Layout::NN, epilogue })?;
        }
        self.adapted().for_each(|linear| linear.set_merged(true));
        Ok(Merged { _arena: arena, base })
    }

    /// Gives the projections back their own weights, bit for bit; the adapters work beside them again.
    ///
    /// # Errors
    /// Those of the copies.
    pub fn unmerge(&mut self, stream: &Stream, merged: Merged<T>) -> Result<()> {
        merged.base.iter().try_for_each(|(weight, copy)| stream.copy(*weight, *copy))?;
        self.adapted().for_each(|linear| linear.set_merged(false));
        Ok(())
    }
}
