//! BERT's language-model head: Linear, GELU, norm, then a product with the word table (shared with the input layer) and a bias.

use scmmgpt_kernels::activation::{self, Kind};
use scmmgpt_kernels::cross_entropy::IGNORE;
use scmmgpt_kernels::gemm::Epilogue;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_loader::text::TextBatch;

use crate::Result;
use crate::config::QFormerConfig;
use crate::layer::class_loss::ClassLoss;
use crate::layer::linear::Linear;
use crate::layer::norm::{self, Norm};
use crate::weights::{Init, Parameter, ParameterPlan};

/// Weights of the head.
#[derive(Clone, Copy, Debug)]
pub struct CaptioningHead<T: Float> {
    dense: Linear<T>,
    norm: Norm<T>,
    /// The word table as a layer of `vocab_size` outputs.
    decoder: Linear<T>,
    decoder_start: u32,
}

/// What backward needs from forward, and the logits.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float> {
    pre_activation: Tensor<T>,
    active: Tensor<T>,
    statistics: norm::Saved<T>,
    normed: Tensor<T>,
    /// Its targets: the token after each row's.
    pub loss: ClassLoss<T>,
    /// `[rows, vocab_size]`.
    pub logits: Tensor<T>,
}

/// Gradients on their way.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<T: Float> {
    logits: Tensor<T>,
    normed: Tensor<T>,
    active: Tensor<T>,
    pre_activation: Tensor<T>,
}

impl<T: Float> CaptioningHead<T> {
    /// Declares `Qformer.cls.predictions`; `words` is the input layer's table.
    pub fn declare(plan: &mut ParameterPlan<T>, config: &QFormerConfig, words: Parameter<T>) -> Self {
        let width = config.hidden_size;
        plan.under("Qformer.cls.predictions", |plan| CaptioningHead {
            dense: Linear::declare_bert(plan, "transform.dense", width, width),
            norm: Norm::declare(plan, "transform.LayerNorm", width, config.layer_norm_eps),
            decoder: Linear { weight: words, bias: Some(plan.parameter("bias", [config.vocab_size], Init::Zeros)) },
            decoder_start: config.decoder_start(),
        })
    }

    /// Plans what forward keeps.
    pub fn plan(&self, plan: &mut Plan, rows: usize, label_smoothing: f64) -> Saved<T> {
        let [vocabulary, width] = [self.decoder.weight.value.rows(), self.decoder.weight.value.width()];
        self.dense.plan(plan, rows);
        self.decoder.plan(plan, rows);
        plan.under("captioning_head", |plan| Saved {
            pre_activation: plan.tensor("pre_activation", [rows, width]),
            active: plan.tensor("active", [rows, width]),
            statistics: self.norm.plan(plan, "norm", rows),
            normed: plan.tensor("normed", [rows, width]),
            loss: ClassLoss::plan(plan, rows, label_smoothing),
            logits: plan.tensor("logits", [rows, vocabulary]),
        })
    }

    /// Plans the gradients.
    pub fn plan_gradients(&self, plan: &mut Plan, rows: usize) -> Gradients<T> {
        let [vocabulary, width] = [self.decoder.weight.value.rows(), self.decoder.weight.value.width()];
        plan.under("captioning_head", |plan| Gradients {
            logits: plan.tensor("dlogits", [rows, vocabulary]),
            normed: plan.tensor("dnormed", [rows, width]),
            active: plan.tensor("dactive", [rows, width]),
            pre_activation: plan.tensor("dpre_activation", [rows, width]),
        })
    }

    /// What the captioning pass reads, and what each row is to predict: the text with its first token replaced, and the text one
    /// token further. The last token of a text and padding predict nothing.
    pub fn shift(&self, texts: &TextBatch) -> (Vec<u32>, Vec<u32>) {
        let (mut tokens, mut targets) = (texts.token_ids.clone(), vec![IGNORE; texts.token_ids.len()]);
        let rows = tokens.chunks_exact_mut(texts.seq_len).zip(targets.chunks_exact_mut(texts.seq_len));
        for ((tokens, targets), &length) in rows.zip(&texts.lengths) {
            let following = (length as usize).saturating_sub(1);
            targets[..following].copy_from_slice(&tokens[1..=following]);
            tokens[0] = self.decoder_start;
        }
        (tokens, targets)
    }

    /// Writes `saved.logits`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(&self, stream: &Stream, saved: &Saved<T>, x: Tensor<T>) -> Result<()> {
        let gelu = |bias: Parameter<T>| Epilogue::BiasGelu { bias: bias.value, pre_activation: Some(saved.pre_activation) };
        self.dense.forward_with(stream, saved.active, x, self.dense.bias.map_or(Epilogue::None, gelu))?;
        self.norm.forward(stream, saved.statistics, saved.normed, saved.active)?;
        self.decoder.forward(stream, saved.logits, saved.normed)
    }

    /// Writes `dx` of `weight` times the loss.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(
        &self,
        stream: &Stream,
        saved: &Saved<T>,
        gradients: &Gradients<T>,
        dx: Tensor<T>,
        x: Tensor<T>,
        weight: f64,
    ) -> Result<()> {
        let g = gradients;
        saved.loss.backward(stream, g.logits, saved.logits, weight)?;
        self.decoder.backward(stream, Some((g.normed, Epilogue::None)), g.logits, saved.normed)?;
        self.norm.backward(stream, saved.statistics, g.active, g.normed, saved.active)?;
        let (dx_gelu, dy) = (g.pre_activation, g.active);
        activation::backward(stream, activation::Backward { dx: dx_gelu, dy, x: saved.pre_activation, kind: Kind::Gelu })?;
        self.dense.backward(stream, Some((dx, Epilogue::None)), g.pre_activation, x)
    }
}
