//! Vectors of sentences by a Hugging Face BERT, to compare sets of texts with.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use scmmgpt_kernels::pool::{self, Kind};
use scmmgpt_kernels::runtime::{Arena, Class, Device, Plan, Stream};
use scmmgpt_loader::text::{PAD_TO_MULTIPLE, TextCollator};
use scmmgpt_loader::tokenizer::TextTokenizer;

use super::bert;
use super::qformer::{Layout, QFormer};
use crate::Result;
use crate::config::QFormerConfig;
use crate::layer::rows::Rows;
use crate::weights::{ParameterPlan, Parameters};

/// Texts that go through the model together.
const BATCH: usize = 16;
/// Most tokens of a text, if the model takes as many.
const LONGEST: usize = 256;

/// A BERT and its tokenizer.
#[derive(Debug)]
pub struct SentenceEncoder {
    device: Device,
    model: QFormer<f32>,
    collator: TextCollator,
    // The weights' memory.
    _parameters: Parameters<f32>,
}

impl SentenceEncoder {
    /// Opens a folder with `config.json`, safetensors and a WordPiece tokenizer.
    ///
    /// # Errors
    /// Those of the files; `BertMismatch` for a BERT of another kind.
    pub fn open(folder: &Path, device: &Device) -> Result<SentenceEncoder> {
        device.enter(|| {
            let tokenizer = Arc::new(TextTokenizer::open(folder)?);
            // The text half of a Q-Former is a BERT; its queries never run.
            let idle = QFormerConfig { num_query_tokens: 1, cross_attention_freq: usize::MAX, ..QFormerConfig::default() };
            let config = bert::with_sizes(folder, idle)?;
            config.check()?;
            let mut plan = ParameterPlan::<f32>::new(false);
            let model = QFormer::declare(&mut plan, &config, 1);
            let parameters = plan.allocate(device)?;
            bert::load_bert(&Stream::new(device, 0)?, &parameters, &config, folder)?;
            // Padding must have a place, too.
            let places = config.max_position_embeddings / PAD_TO_MULTIPLE * PAD_TO_MULTIPLE;
            let collator = TextCollator::new(tokenizer, LONGEST.min(places))?;
            Ok(SentenceEncoder { device: device.clone(), model, collator, _parameters: parameters })
        })
    }

    /// Numbers of a vector.
    pub fn width(&self) -> usize {
        self.model.width()
    }

    /// The WordPiece tokens of a text, without special ones; none of a text without any.
    pub fn tokens(&self, text: &str) -> Vec<String> {
        let tokenizer = self.collator.tokenizer();
        let ids = tokenizer.encode(text, self.collator.max_length()).map_or(Vec::new(), |encoding| encoding.ids);
        let own = ids.len().saturating_sub(1).max(1);
        ids.get(1..own).unwrap_or_default().iter().filter_map(|id| tokenizer.token(*id)).collect()
    }

    /// The mean of the last layer over a text's tokens, `[CLS]` and `[SEP]` among them, L2-normalised; a text without tokens is 0.
    ///
    /// # Shapes
    /// `texts`: `[texts]`; the result: `[texts, width]`.
    /// # Errors
    /// Those of the device.
    /// # Source
    /// Reimers & Gurevych 2019, mean pooling.
    pub fn encode(&self, texts: &[String]) -> Result<Vec<f32>> {
        self.device.enter(|| {
            let mut known: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
            let mut fresh: Vec<&str> = texts.iter().map(String::as_str).filter(|text| !self.tokens(text).is_empty()).collect();
            // Texts of like length together.
            fresh.sort_unstable_by_key(|text| (text.len(), *text));
            fresh.dedup();
            for batch in fresh.chunks(BATCH) {
                let vectors = self.encode_batch(batch)?;
                known.extend(batch.iter().copied().zip(vectors.chunks(self.width()).map(<[f32]>::to_vec)));
            }
            let nothing = vec![0.0; self.width()];
            Ok(texts.iter().flat_map(|text| known.get(text.as_str()).unwrap_or(&nothing).iter().copied()).collect())
        })
    }

    fn encode_batch(&self, texts: &[&str]) -> Result<Vec<f32>> {
        let batch = self.collator.collate(texts, None)?;
        let mut plan = Plan::new(Class::Activations);
        let rows = Rows { items: batch.batch, queries: 0, text: batch.seq_len };
        let saved = self.model.plan(&mut plan, &Layout { rows, keys: None, prefix: None, training: false, dropout: false });
        let pooled = plan.tensor("pooled", [batch.batch, self.width()]);
        let stream = Stream::new(&self.device, plan.scratch_bytes())?;
        let _arena = Arena::allocate(&self.device, plan)?;
        self.model.upload(&stream, &saved, &batch.token_ids, &batch.lengths)?;
        self.model.forward(&stream, None, &saved)?;
        let lengths = saved.lengths();
        pool::forward(
            &stream,
            pool::Forward { y: pooled, x: saved.output, lengths, weights: None, seq_len: batch.seq_len, kind: Kind::Mean },
        )?;
        let mut vectors = stream.fetch(pooled)?;
        for vector in vectors.chunks_mut(self.width()) {
            let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt().max(1e-12);
            vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
        Ok(vectors)
    }
}
