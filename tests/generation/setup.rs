//! The language model of `golden/language_tiny.safetensors`, untied.

use std::path::PathBuf;

use scmmgpt_engine::config::Tuning;
use scmmgpt_engine::generate::answer::{Answer, Request, Words, answer};
use scmmgpt_engine::generate::{GenerationConfig, Generator, Prompt};
use scmmgpt_engine::model::language_model::LanguageModel;
use scmmgpt_engine::weights::{ParameterPlan, Parameters};
use scmmgpt_kernels::runtime::{Device, Float, Stream};
use scmmgpt_loader::checkpoint::{self, Checkpoint};
use scmmgpt_loader::language::{LanguageFiles, LanguageTokenizer};
use serde_json::{Value, json};

pub(crate) struct Tiny<T: Float = f32> {
    pub(crate) model: LanguageModel<T>,
    pub(crate) parameters: Parameters<T>,
    pub(crate) device: Device,
    pub(crate) tokenizer: LanguageTokenizer,
    pub(crate) eos: Vec<u32>,
    pub(crate) prompts: Vec<Vec<u32>>,
    pub(crate) golden: Value,
}

pub(crate) fn integers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|value| value.as_u64().unwrap() as u32).collect()
}

impl Tiny {
    pub(crate) fn open() -> Tiny {
        Tiny::on(Device::cpu(2).unwrap())
    }
}

impl<T: Float> Tiny<T> {
    pub(crate) fn on(device: Device) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let file = Checkpoint::open(folder.join("golden/language_tiny.safetensors")).unwrap();
        let model_folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = file.names().filter(|name| name.starts_with("param.")).map(String::from).collect();
        let tensors = names.iter().map(|name| {
            let view = file.view(name).unwrap();
            (name.trim_start_matches("param."), view.dtype, view.shape, view.bytes)
        });
        checkpoint::write(model_folder.path().join("model.safetensors"), tensors, &Default::default()).unwrap();
        let mut config: Value = serde_json::from_str(&file.metadata()["config"]).unwrap();
        config["tie_word_embeddings"] = json!(false);
        std::fs::write(model_folder.path().join("config.json"), config.to_string()).unwrap();
        let files = LanguageFiles::open(model_folder.path()).unwrap();
        let mut plan = ParameterPlan::new(false);
        let model = LanguageModel::declare(&mut plan, files.config(), 64, &Tuning::default());
        let parameters = plan.allocate(&device).unwrap();
        let stream = Stream::new(&device, 0).unwrap();
        model.load(&parameters, &stream, &files, 7).unwrap();
        model.refresh(&stream).unwrap();
        let golden: Value = serde_json::from_str(include_str!("../golden/generation.json")).unwrap();
        let tokenizer = LanguageTokenizer::open(folder.join("data/language_tokenizer.json")).unwrap();
        let prompts = golden["prompts"].as_array().unwrap().iter().map(integers).collect();
        Tiny { model, parameters, device, tokenizer, eos: integers(&golden["eos"]), prompts, golden }
    }

    pub(crate) fn words(&self) -> Words<'_> {
        Words { tokenizer: &self.tokenizer, eos: &self.eos, suppress: &[] }
    }

    pub(crate) fn generator(&self, batch: usize, capacity: usize) -> Generator<T> {
        Generator::new(&self.model, &self.device, batch, capacity).unwrap()
    }

    /// The logits behind tokens, by a generator of their own.
    pub(crate) fn logits_behind(&self, tokens: &[u32]) -> Vec<T> {
        let mut generator = self.generator(1, 24);
        generator.prefill(&self.model, &[Prompt::from(tokens)]).unwrap();
        generator.logits().unwrap()
    }

    /// The prompts, numbered.
    pub(crate) fn requests(&self) -> Vec<Request<'_>> {
        self.prompts.iter().zip(0..).map(|(tokens, number)| Request { prompt: Prompt::from(tokens.as_slice()), number }).collect()
    }

    /// Answers in a batch of so many sequences, with the text that came on the way.
    pub(crate) fn answer(&self, requests: &[Request<'_>], config: &GenerationConfig, batch: usize) -> (Vec<Answer>, Vec<String>) {
        let mut texts = vec![String::new(); requests.len()];
        let mut on_text = |index: usize, text: &str| {
            texts[index].push_str(text);
            Ok(())
        };
        let answers = answer(&self.model, &mut self.generator(batch, 40), self.words(), requests, config, &mut on_text).unwrap();
        (answers, texts)
    }
}
