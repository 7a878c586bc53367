//! Golden files of the small language model, for the tests that compare with them.

use std::path::{Path, PathBuf};

use scmmgpt_engine::model::language_workspace::TokenBatch;
use scmmgpt_kernels::runtime::{Float, Real};
use scmmgpt_kernels::testing::{Tolerance, compare};
use scmmgpt_loader::checkpoint::{self, Checkpoint};
use scmmgpt_loader::language::LanguageFiles;
use serde_json::{Value, json};

/// One golden file.
pub(crate) struct Golden {
    /// Its tensors.
    pub(crate) file: Checkpoint,
}

impl Golden {
    /// Opens `NAME.safetensors`.
    pub(crate) fn open(name: &str) -> Golden {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
        Golden { file: Checkpoint::open(folder.join(name).with_extension("safetensors")).unwrap() }
    }

    /// Writes the tensors under `prefix`, without it.
    pub(crate) fn write(&self, prefix: &str, path: &Path) {
        let names: Vec<String> = self.file.names().filter(|name| name.starts_with(prefix)).map(String::from).collect();
        let tensors = names.iter().map(|name| {
            let view = self.file.view(name).unwrap();
            (name.trim_start_matches(prefix), view.dtype, view.shape, view.bytes)
        });
        checkpoint::write(path, tensors, &Default::default()).unwrap();
    }

    /// A tensor of numbers.
    pub(crate) fn reals(&self, name: &str) -> Vec<f64> {
        self.file.to_f32(name).unwrap().into_iter().map(f64::from).collect()
    }

    fn integers(&self, name: &str) -> Vec<u32> {
        self.file.view(name).unwrap().bytes.chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().unwrap()) as u32).collect()
    }

    /// The padded batch.
    pub(crate) fn batch(&self) -> TokenBatch {
        let shape = self.file.view("input.token_ids").unwrap().shape;
        let labels = self.integers("input.labels").into_iter().map(|label| if label as i32 == -100 { u32::MAX } else { label });
        TokenBatch {
            batch: shape[0],
            seq_len: shape[1],
            token_ids: self.integers("input.token_ids"),
            lengths: self.integers("input.lengths"),
            labels: labels.collect(),
        }
    }
}

/// The base model of all of these files as a Hugging Face folder, in `folder`.
pub(crate) fn base_model(folder: &Path, tied: bool) -> LanguageFiles {
    let golden = Golden::open("language_tiny");
    golden.write("param.", &folder.join("model.safetensors"));
    let mut config: Value = serde_json::from_str(&golden.file.metadata()["config"]).unwrap();
    config["tie_word_embeddings"] = json!(tied);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    LanguageFiles::open(folder).unwrap()
}

/// In f64.
pub(crate) fn wide<T: Float>(values: Vec<T>) -> Vec<f64> {
    values.into_iter().map(|value| value.to_acc().f64()).collect()
}

/// Equal to 1e-5 of the largest number.
pub(crate) fn check(what: &str, reference: &[f64], got: &[f64]) {
    let largest = reference.iter().fold(1.0f64, |largest, value| largest.max(value.abs()));
    compare(what, reference, got, Tolerance::new(1e-5 * largest, 1e-5)).unwrap();
}
