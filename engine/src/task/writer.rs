//! A language model that writes, in the element type that was chosen for it.

use scmmgpt_kernels::runtime::{Device, Float, bf16};

use crate::Result;
use crate::bundle::Language;
use crate::generate::answer::{Answer, Begun, Request, Words, answer, go_on};
use crate::generate::dtype::multiplies_bf16;
use crate::generate::labels::LabelPaths;
use crate::generate::{Dtype, GenerationConfig, Generator, Prompt};
use crate::model::language_model::LanguageModel;
use crate::weights::Parameters;

/// A language model and its cached sequences.
pub(crate) enum Writer {
    F32(Writing<f32>),
    Bf16(Writing<bf16>),
}

/// The same in elements of T.
pub(crate) struct Writing<T: Float> {
    model: LanguageModel<T>,
    generator: Generator<T>,
    /// Of a copy in another type than that of the files.
    _parameters: Option<Parameters<T>>,
}

impl<T: Float> Writing<T> {
    fn copied(language: &Language, device: &Device, int8: bool, sequences: usize, capacity: usize) -> Result<Self> {
        let (model, parameters) = language.converted(int8)?;
        let generator = Generator::new(&model, device, sequences, capacity)?;
        Ok(Writing { model, generator, _parameters: Some(parameters) })
    }

    fn say(
        &mut self,
        read: Prompt<'_>,
        begins: bool,
        words: Words<'_>,
        begun: Begun<'_>,
        config: &GenerationConfig,
        on_text: &mut dyn FnMut(usize, &str) -> Result<()>,
    ) -> Result<Vec<Answer>> {
        let Writing { model, generator, .. } = self;
        if begins {
            generator.prefill(model, &[read])?;
        } else {
            generator.extend(model, &[read])?;
        }
        go_on(model, generator, words, &[begun], config, on_text)
    }
}

macro_rules! each {
    ($writer:expr, $writing:ident => $body:expr) => {
        match $writer {
            Writer::F32($writing) => $body,
            Writer::Bf16($writing) => $body,
        }
    };
}

impl Writer {
    /// Memory for `sequences` of `capacity` tokens, in `dtype`, which is resolved.
    ///
    /// # Errors
    /// `OutOfMemory`, and those of the copy.
    pub(crate) fn new(language: &Language, device: &Device, dtype: Dtype, sequences: usize, capacity: usize) -> Result<Writer> {
        match dtype {
            Dtype::Bf16 => Ok(Writer::Bf16(Writing::copied(language, device, false, sequences, capacity)?)),
            Dtype::Int8 if multiplies_bf16(device) => Ok(Writer::Bf16(Writing::copied(language, device, true, sequences, capacity)?)),
            Dtype::Int8 => Ok(Writer::F32(Writing::copied(language, device, true, sequences, capacity)?)),
            Dtype::Auto | Dtype::F32 => {
                let model = language.whole()?.language().clone();
                let generator = Generator::new(&model, device, sequences, capacity)?;
                Ok(Writer::F32(Writing { model, generator, _parameters: None }))
            }
        }
    }

    /// Most tokens of a sequence.
    pub(crate) fn capacity(&self) -> usize {
        each!(self, writing => writing.generator.size().1)
    }

    /// Tokens that the first sequence has by now.
    pub(crate) fn length(&self) -> usize {
        each!(self, writing => writing.generator.lengths().first().copied().unwrap_or(0))
    }

    /// As [`answer`].
    ///
    /// # Errors
    /// As [`answer`].
    pub(crate) fn answer<'b>(&mut self, words: Words<'b>, requests: &[Request<'b>], config: &'b GenerationConfig) -> Result<Vec<Answer>> {
        each!(self, writing => answer(&writing.model, &mut writing.generator, words, requests, config, &mut |_, _| Ok(())))
    }

    /// As [`LabelPaths::probabilities`].
    ///
    /// # Errors
    /// As [`LabelPaths::probabilities`].
    pub(crate) fn probabilities(&mut self, paths: &LabelPaths, prompts: &[Prompt<'_>]) -> Result<Vec<f64>> {
        each!(self, writing => paths.probabilities(&writing.model, &mut writing.generator, prompts))
    }

    /// Reads a part of one sequence, the first or a further one, and answers behind all that it says.
    ///
    /// # Errors
    /// Those of the generator, and as [`go_on`].
    pub(crate) fn say(
        &mut self,
        read: Prompt<'_>,
        begins: bool,
        words: Words<'_>,
        begun: Begun<'_>,
        config: &GenerationConfig,
        on_text: &mut dyn FnMut(usize, &str) -> Result<()>,
    ) -> Result<Vec<Answer>> {
        each!(self, writing => writing.say(read, begins, words, begun, config, on_text))
    }
}
