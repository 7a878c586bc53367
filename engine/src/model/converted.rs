//! A language model in another element type, for inference.

use rayon::prelude::*;
use scmmgpt_kernels::runtime::{Float, Real, Stream};
use scmmgpt_loader::language::LanguageFiles;

use super::language_model::{LanguageModel, in_files};
use crate::Result;
use crate::config::{Tuning, TuningMode};
use crate::weights::{ParameterPlan, Parameters};

impl<T: Float> LanguageModel<T> {
    /// A copy of the model in elements of U, rounded to nearest even; with `int8` its projections and its output product have a byte a
    /// weight instead. Adapters are merged before anything is rounded, and nothing of the copy learns. Weights of the base model come
    /// from `files`, if given, and then need not have been loaded.
    ///
    /// # Errors
    /// `OutOfMemory`; `UnknownParameter` when `parameters` are not those of this model; those of the files.
    pub fn converted<U: Float>(
        &self,
        parameters: &Parameters<T>,
        stream: &Stream,
        int8: bool,
        files: Option<&LanguageFiles>,
    ) -> Result<(LanguageModel<U>, Parameters<U>)> {
        let new_tokens = self.tuning().new_tokens;
        let tuning = Tuning { mode: TuningMode::Freeze, new_tokens, load_in_8bit: int8, int8_head: int8, ..Tuning::default() };
        let mut plan = ParameterPlan::new(false);
        let model = LanguageModel::declare(&mut plan, self.config(), self.positions(), &tuning);
        let copies = plan.allocate(stream.device())?;
        let read = |name: &str, shape: &[usize]| self.merged_values(parameters, stream, files, name, shape);
        copies.load_from(stream, &|_| true, read)?;
        copies.quantize(stream, read)?;
        model.refresh(stream)?;
        Ok((model, copies))
    }

    /// What a parameter would hold if the adapters were merged.
    fn merged_values(
        &self,
        parameters: &Parameters<T>,
        stream: &Stream,
        files: Option<&LanguageFiles>,
        name: &str,
        shape: &[usize],
    ) -> Result<Vec<f32>> {
        let held = |name: &str| -> Result<Vec<f32>> {
            let values = stream.fetch(parameters.named(&format!("{}{name}", self.prefix()))?.parameter.value)?;
            Ok(values.into_iter().map(|value| value.to_acc().f64() as f32).collect())
        };
        let mut values = match files.filter(|_| in_files(name)) {
            Some(files) => files.to_f32(name, shape)?,
            None => held(name)?,
        };
        let projection = name.strip_suffix("weight").unwrap_or(name);
        let [a, b] = ["lora_A.weight", "lora_B.weight"].map(|part| held(&format!("{projection}{part}")));
        if let (Some(lora), Ok(a), Ok(b)) = (self.tuning().adapters(), a, b) {
            add_product(&mut values, &b, &a, lora.r, lora.scaling());
        }
        Ok(values)
    }
}

/// `w += scaling b a`, with `b: [rows, r]` and `a: [r, width]`.
fn add_product(w: &mut [f32], b: &[f32], a: &[f32], r: usize, scaling: f64) {
    let width = a.len() / r.max(1);
    w.par_chunks_mut(width.max(1)).zip(b.par_chunks(r.max(1))).for_each(|(w, b)| {
        for (&b, a) in b.iter().zip(a.chunks_exact(width)) {
            let factor = (scaling * f64::from(b)) as f32;
            w.iter_mut().zip(a).for_each(|(w, a)| *w += factor * a);
        }
    });
}
