//! A language model of SmolLM2-135M's sizes: reading a prompt, writing a token, and a training step of adapters.

use std::path::Path;

use anyhow::Result;
use scmmgpt_engine::config::{Tuning, TuningMode};
use scmmgpt_engine::generate::{Generator, Prompt};
use scmmgpt_engine::layer::{Dims, Dropout};
use scmmgpt_engine::model::language_model::LanguageModel;
use scmmgpt_engine::model::language_workspace::{TokenBatch, Workspace};
use scmmgpt_engine::weights::{ParameterPlan, Parameters};
use scmmgpt_kernels::runtime::{Device, Float, Real, Stream};
use scmmgpt_loader::language::LanguageConfig;

use super::optimizer::Optimizer;
use super::{Workload, fill, mixed, seconds};

/// Every so many logits one is compared.
const CHECKED: usize = 768;

fn config() -> Result<LanguageConfig> {
    let config = LanguageConfig {
        hidden_size: 576,
        intermediate_size: 1536,
        num_hidden_layers: 30,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        vocab_size: 49_152,
        max_position_embeddings: 8192,
        rms_norm_eps: 1e-5,
        rope_theta: 100_000.0,
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
    };
    config.check(Path::new("benches/workload/language.rs"))?;
    Ok(config)
}

fn declare<T: Float>(device: &Device, positions: usize, tuning: &Tuning, trainable: bool) -> Result<(LanguageModel<T>, Parameters<T>)> {
    let mut plan = ParameterPlan::new(trainable);
    let model = LanguageModel::declare(&mut plan, &config()?, positions, tuning);
    let parameters = plan.allocate(device)?;
    let stream = Stream::new(device, 0)?;
    fill(&parameters, &stream)?;
    model.refresh(&stream)?;
    Ok((model, parameters))
}

fn tokens(seed: u32, count: usize) -> Result<Vec<u32>> {
    let vocabulary = config()?.vocab_size as u32;
    Ok(mixed(seed, count).map(|word| word % vocabulary).collect())
}

/// Products of the layers for one token that sees `seen` others, and of the head.
fn flops(seen: usize, heads: f64) -> f64 {
    // 576 to 960, 576 to 576, 576 to 3072, 1536 to 576.
    let dense = 576.0 * (960.0 + 576.0 + 3072.0 + 1536.0);
    let attention = 2.0 * 576.0 * seen as f64;
    2.0 * (30.0 * (dense + attention) + heads * 576.0 * 49_152.0)
}

/// Prompts of so many tokens, from nothing to the logits behind them; or one more token behind as many cached ones.
pub(super) struct Generation<T: Float> {
    device: Device,
    model: LanguageModel<T>,
    generator: Generator<T>,
    prompts: Vec<Vec<u32>>,
    writes: bool,
    logits: Vec<T>,
    parameters: Parameters<T>,
}

impl<T: Float> Generation<T> {
    /// Sequences and tokens.
    pub(super) fn new(device: &Device, sizes: [usize; 2], writes: bool) -> Result<Self> {
        let (model, parameters) = declare::<T>(device, sizes[1] + 1, &Tuning::full(), false)?;
        Generation::of(device, model, parameters, sizes, writes)
    }

    /// The same with weights in int8.
    pub(super) fn int8(device: &Device, sizes: [usize; 2], writes: bool) -> Result<Self> {
        let (model, parameters) = declare::<T>(device, sizes[1] + 1, &Tuning::full(), false)?;
        let (model, parameters) = model.converted(&parameters, &Stream::new(device, 0)?, true, None)?;
        Generation::of(device, model, parameters, sizes, writes)
    }

    fn of(device: &Device, model: LanguageModel<T>, parameters: Parameters<T>, [batch, length]: [usize; 2], writes: bool) -> Result<Self> {
        let mut generator = Generator::new(&model, device, batch, length + 1)?;
        let prompts = (0..batch).map(|item| tokens(item as u32, length)).collect::<Result<Vec<_>>>()?;
        let borrowed: Vec<Prompt<'_>> = prompts.iter().map(|prompt| Prompt::from(prompt.as_slice())).collect();
        generator.prefill(&model, &borrowed)?;
        let logits = generator.logits()?;
        Ok(Generation { device: device.clone(), model, generator, prompts, writes, logits, parameters })
    }
}

impl<T: Float> Workload for Generation<T> {
    fn flops(&self) -> f64 {
        let (batch, length) = (self.prompts.len() as f64, self.prompts[0].len());
        if self.writes {
            batch * flops(length, 1.0)
        } else {
            batch * (length as f64 * flops(length / 2, 0.0) + flops(0, 1.0) - flops(0, 0.0))
        }
    }

    /// Of a token that is written: every weight, and the keys and values of every sequence.
    fn bytes(&self) -> Option<f64> {
        let cached = self.prompts.len() * self.prompts[0].len() * 30 * 2 * 192 * size_of::<T>();
        let weights = if self.model.tuning().load_in_8bit {
            (flops(0, 1.0) / 2.0) as usize
        } else {
            self.parameters.declared().iter().map(|declared| declared.parameter.value.len()).sum::<usize>() * size_of::<T>()
        };
        self.writes.then_some((weights + cached) as f64)
    }

    /// Some logits of each sequence, from the first to the last of the vocabulary.
    fn check(&mut self) -> Result<Vec<f64>> {
        self.run()?;
        Ok(self.logits.iter().step_by(CHECKED).map(|logit| logit.to_acc().f64()).collect())
    }

    fn run(&mut self) -> Result<f64> {
        let Generation { device, model, generator, prompts, writes, logits, .. } = self;
        let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let next: Vec<u32> = prompts.iter().map(|prompt| prompt[0]).collect();
        let borrowed: Vec<Prompt<'_>> = prompts.iter().map(|prompt| Prompt::from(prompt.as_slice())).collect();
        seconds(device, || {
            if *writes {
                generator.truncate(&lengths);
                generator.decode(model, &next)?;
            } else {
                generator.prefill(model, &borrowed)?;
            }
            *logits = generator.logits()?;
            Ok(())
        })
    }
}

/// A training step of the reference's adapters: rank 8 on queries and values.
pub(super) struct Lora {
    device: Device,
    model: LanguageModel<f32>,
    workspace: Workspace<f32>,
    batch: TokenBatch,
    optimizer: Optimizer,
    /// Loss and length of the gradient in the last step.
    last: [f64; 2],
    _parameters: Parameters<f32>,
}

impl Lora {
    /// Sequences and tokens.
    pub(super) fn new(device: &Device, [batch, seq_len]: [usize; 2]) -> Result<Self> {
        let tuning = Tuning { mode: TuningMode::Lora, ..Tuning::default() };
        let (model, parameters) = declare::<f32>(device, seq_len, &tuning, true)?;
        let dims = Dims { batch, seq_len };
        let workspace = model.workspace(device, dims, true)?;
        let token_ids = tokens(1, dims.tokens())?;
        let lengths = vec![seq_len as u32; batch];
        let batch = TokenBatch { batch, seq_len, labels: token_ids.clone(), token_ids, lengths };
        let optimizer = Optimizer::new(&parameters);
        Ok(Lora { device: device.clone(), model, workspace, batch, optimizer, last: [0.0; 2], _parameters: parameters })
    }
}

impl Workload for Lora {
    /// Backward of frozen products is as much as forward.
    fn flops(&self) -> f64 {
        2.0 * self.batch.token_ids.len() as f64 * flops(self.batch.seq_len / 2, 1.0)
    }

    /// Loss and length of the gradient in each of two steps, the second and the third, without dropout, which nobody else draws alike;
    /// later runs have it.
    fn check(&mut self) -> Result<Vec<f64>> {
        let mut checks = Vec::new();
        for _ in 0..2 {
            self.run()?;
            checks.extend(self.last);
        }
        self.workspace.dropout = Some(Dropout::new(self.model.tuning().lora.lora_dropout, 1, 1));
        Ok(checks)
    }

    fn run(&mut self) -> Result<f64> {
        let Lora { device, model, workspace, batch, optimizer, last, .. } = self;
        seconds(device, || {
            let loss = workspace.loss(model, batch, Some(1.0))?;
            *last = [loss, optimizer.step(&workspace.stream)?];
            Ok(workspace.stream.synchronize()?)
        })
    }
}
