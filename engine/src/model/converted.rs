//! A language model in another element type, for inference.

use scmmgpt_kernels::runtime::{Float, Real, Stream, Tensor};

use super::language_model::LanguageModel;
use crate::Result;
use crate::config::{Tuning, TuningMode};
use crate::layer::int8_linear::Base;
use crate::weights::{Declared, ParameterPlan, Parameters};

impl<T: Float> LanguageModel<T> {
    /// A copy of the model in elements of U, rounded to nearest even; with `int8` its projections and its output product have a byte a
    /// weight instead. Adapters are merged before anything is rounded, and nothing of the copy learns.
    ///
    /// # Errors
    /// `OutOfMemory`; `UnknownParameter` when `parameters` are not those of this model; those of the kernels.
    pub fn converted<U: Float>(
        &self,
        parameters: &Parameters<T>,
        stream: &Stream,
        int8: bool,
    ) -> Result<(LanguageModel<U>, Parameters<U>)> {
        let new_tokens = self.tuning().new_tokens;
        let tuning = Tuning { mode: TuningMode::Freeze, new_tokens, load_in_8bit: int8, ..Tuning::default() };
        let mut plan = ParameterPlan::new(false);
        let mut model = LanguageModel::declare(&mut plan, self.config(), self.positions(), &tuning);
        let copies = plan.allocate(stream.device())?;
        let mut own = self.clone();
        let merged = own.merge(stream)?;
        let copied = own.copy_to(&mut model, &copies, parameters, stream);
        own.unmerge(stream, merged)?;
        copied?;
        model.refresh(stream)?;
        Ok((model, copies))
    }

    fn copy_to<U: Float>(
        &mut self,
        model: &mut LanguageModel<U>,
        copies: &Parameters<U>,
        parameters: &Parameters<T>,
        stream: &Stream,
    ) -> Result<()> {
        let copy = |declared: &Declared<U>| -> Result<()> {
            let source = parameters.named(&format!("{}{}", self.prefix(), declared.name))?;
            let values = stream.fetch(source.parameter.value)?;
            let values: Vec<U> = values.into_iter().map(|value| U::from_acc(U::Acc::of(value.to_acc().f64()))).collect();
            Ok(stream.upload(declared.parameter.value, &values)?)
        };
        copies.declared().iter().try_for_each(copy)?;
        if model.tuning().load_in_8bit {
            model.head().quantize(stream, &numbers(stream, self.head().rows())?)?;
            for (target, source) in model.adapted().zip(self.adapted()) {
                if let (Base::Int8(target), Some(source)) = (target.base, source.base.plain()) {
                    target.load(stream, &numbers(stream, source)?)?;
                }
            }
        }
        Ok(())
    }
}

fn numbers<T: Float>(stream: &Stream, tensor: Tensor<T>) -> Result<Vec<f32>> {
    Ok(stream.fetch(tensor)?.into_iter().map(|value| value.to_acc().f64() as f32).collect())
}
