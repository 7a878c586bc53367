//! A language model in another element type, for inference.

use scmmgpt_kernels::runtime::{Float, Real, Stream};

use super::language_model::LanguageModel;
use crate::Result;
use crate::config::{Tuning, TuningMode};
use crate::weights::{ParameterPlan, Parameters};

impl<T: Float> LanguageModel<T> {
    /// A copy of the model in elements of U, rounded to nearest even. Adapters are merged before they are rounded, and nothing of the
    /// copy learns.
    ///
    /// # Errors
    /// `OutOfMemory`; `UnknownParameter` when `parameters` are not those of this model; those of the kernels.
    pub fn converted<U: Float>(&self, parameters: &Parameters<T>, stream: &Stream) -> Result<(LanguageModel<U>, Parameters<U>)> {
        let tuning = Tuning { mode: TuningMode::Freeze, new_tokens: self.tuning().new_tokens, ..Tuning::default() };
        let mut plan = ParameterPlan::new(false);
        let model = LanguageModel::declare(&mut plan, self.config(), self.positions(), &tuning);
        let copies = plan.allocate(stream.device())?;
        let mut own = self.clone();
        let merged = own.merge(stream)?;
        let copy = |declared: &crate::weights::Declared<U>| -> Result<()> {
            let source = parameters.named(&format!("{}{}", self.prefix(), declared.name))?;
            let values = stream.fetch(source.parameter.value)?;
            let values: Vec<U> = values.into_iter().map(|value| U::from_acc(U::Acc::of(value.to_acc().f64()))).collect();
            Ok(stream.upload(declared.parameter.value, &values)?)
        };
        let copied = copies.declared().iter().try_for_each(copy);
        own.unmerge(stream, merged)?;
        copied?;
        model.refresh(stream)?;
        Ok((model, copies))
    }
}
