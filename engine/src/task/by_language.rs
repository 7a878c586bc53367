//! Cells to labels by constrained decoding: the language model reads a cell and may write nothing but one of the labels.

use std::sync::Arc;

use scmmgpt_loader::dataset::CellDataset;

use super::by_text::{Ranked, likeliest};
use super::speech::{Speech, each_batch};
use crate::bundle::{Bundle, Language};
use crate::generate::Dtype;
use crate::generate::labels::LabelPaths;
use crate::texts::LabelSource;
use crate::{Error, Result};

/// Labels as the language model would write them.
pub(crate) struct Written {
    language: Language,
    /// `[labels]`.
    pub(crate) names: Vec<String>,
    paths: LabelPaths,
    /// What the model computes in.
    pub(crate) dtype: Dtype,
}

/// Sequences that are read at a time, about.
const SEQUENCES: usize = 64;

impl Written {
    /// The labels of a source, or the classes that the model was trained on; each is told by its name in the words of the first template,
    /// without definition.
    ///
    /// # Errors
    /// `Incapable` for a model without a language model; `Texts` for labels that come to the same tokens or are too long; those of the
    /// source.
    pub(crate) fn prepare(bundle: &Bundle, source: Option<&LabelSource>, dtype: Dtype) -> Result<Written> {
        const TASK: &str = "label by writing";
        let (language, joint) = (bundle.language(TASK)?, bundle.joint(TASK)?);
        let (names, texts): (Vec<String>, Vec<String>) = match source {
            Some(source) => {
                let set = joint.texts.label_set(source)?;
                (set.labels().iter().map(|label| label.name.clone()).collect(), set.name_texts(&joint.texts.descriptions)?)
            }
            None => {
                let names: Vec<String> = joint.config.classes.iter().map(|(name, _)| name.clone()).collect();
                let texts = names.iter().map(|name| joint.texts.class_name_text(name)).collect::<Result<_>>()?;
                (names, texts)
            }
        };
        let tokens = texts.iter().map(|text| Ok(language.tokenizer().encode(text)?)).collect::<Result<Vec<_>>>()?;
        let paths = LabelPaths::new(&tokens, language.tokens().eos)?;
        let (prompt, positions) = (language.pairs().cell_prompt(None)?.len(), language.model().language().positions());
        if prompt + paths.longest() > positions {
            let reason =
                format!("the longest label has {} tokens; behind a cell the model has room for {}", paths.longest(), positions - prompt);
            return Err(Error::Texts { reason });
        }
        Ok(Written { dtype: language.resolve(dtype), language, names, paths })
    }

    /// Labels with a lower probability are withheld.
    pub(crate) fn threshold(&self) -> f64 {
        self.language.config.unknown_threshold
    }

    /// `[rows, labels]`: how likely the model writes each label, if it writes one of them.
    ///
    /// # Errors
    /// Those of the kernels.
    pub(crate) fn score(
        &self,
        bundle: &Bundle,
        dataset: &Arc<CellDataset>,
        rows: &[usize],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Scored<'_>> {
        let mut speech = Speech::new(&self.language, None)?;
        let mut writer = speech.writer(bundle, self.dtype, SEQUENCES, self.paths.longest())?;
        let labels = self.names.len();
        let mut probabilities = vec![0.0; rows.len() * labels];
        each_batch(bundle, dataset, rows, progress, &mut |cells, places| {
            let projected = speech.project(cells)?;
            let of_batch = writer.probabilities(&self.paths, &speech.prompts(&projected))?;
            for (of_cell, &place) in of_batch.chunks_exact(labels).zip(places) {
                probabilities[place * labels..][..labels].copy_from_slice(of_cell);
            }
            Ok(())
        })?;
        Ok(Scored { names: &self.names, probabilities })
    }
}

/// Every cell beside every label.
pub(crate) struct Scored<'a> {
    /// `[labels]`.
    pub(crate) names: &'a [String],
    probabilities: Vec<f64>,
}

impl Scored<'_> {
    /// A cell's `n` most likely labels, the likeliest first; of equals the first.
    pub(crate) fn top(&self, cell: usize, n: usize) -> Vec<Ranked> {
        likeliest(self.probabilities(cell).to_vec(), n)
    }

    /// A cell's probability of each label.
    pub(crate) fn probabilities(&self, cell: usize) -> &[f64] {
        &self.probabilities[cell * self.names.len()..][..self.names.len()]
    }
}
