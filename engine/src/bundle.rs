//! A model folder: `model.safetensors` (scGPT names), `config.json`, `vocab.json`. What `train` writes and `infer` reads.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use safetensors::Dtype;
use scmmgpt_kernels::runtime::{Device, Stream};
use scmmgpt_loader::AtomicFile;
use scmmgpt_loader::batch::{CollateConfig, Collator, Objective};
use scmmgpt_loader::checkpoint::{self, Checkpoint};
use scmmgpt_loader::mapped_file::MappedFile;
use scmmgpt_loader::vocab::GeneVocab;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{ModelConfig, TrainConfig};
use crate::layer::Dims;
use crate::model::cell_model::{CellModel, Heads, LossWeights, Purpose, Workspace};
use crate::train::TrainingData;
use crate::weights::{ParameterPlan, Parameters};
use crate::{Error, Result};

const CONFIG: &str = "config.json";
const VOCABULARY: &str = "vocab.json";
const WEIGHTS: &str = "model.safetensors";

/// What a model folder says of its model, in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundleConfig {
    /// Version of the program that wrote it.
    pub version: String,
    /// Sizes.
    pub model: ModelConfig,
    /// Heads that its weights hold.
    pub heads: Heads,
    /// How cells become tokens, in inference.
    pub tokens: CollateConfig,
    /// Where the expression stood in the training files.
    pub layer: String,
    /// Column that the classes came from.
    pub label_key: String,
    /// Classes of the cell-type head, in the order of its logits.
    pub classes: Vec<String>,
    /// Logits are divided by this before the softmax.
    pub temperature: f64,
    /// Labels with a lower probability are withheld.
    pub unknown_threshold: f64,
    /// Cells a batch that the model was trained with.
    pub batch_size: usize,
}

impl BundleConfig {
    /// The description of a model that was just trained.
    pub fn new(config: &TrainConfig, data: &TrainingData, heads: Heads) -> Self {
        BundleConfig {
            version: env!("CARGO_PKG_VERSION").into(),
            model: config.model.clone(),
            heads,
            tokens: CollateConfig { objective: Objective::None, gene_dropout: 0.0, count_thinning: None, ..config.data.tokens.clone() },
            layer: config.data.layer.clone(),
            label_key: config.data.label_key.clone(),
            classes: if heads.classes > 0 { data.classes.clone() } else { Vec::new() },
            temperature: 1.0,
            unknown_threshold: 0.0,
            batch_size: config.train.batch_size,
        }
    }
}

/// A trained model, on a device, ready for cells.
#[derive(Debug)]
pub struct Bundle {
    /// What the folder says.
    pub config: BundleConfig,
    /// Its genes.
    pub vocabulary: Arc<GeneVocab>,
    /// SHA-256 of the weights file, in hexadecimal.
    pub hash: String,
    device: Device,
    model: CellModel<f32>,
    _parameters: Parameters<f32>,
}

impl Bundle {
    /// Writes a model folder; `config.json` comes last, so that a folder with one is whole.
    ///
    /// # Errors
    /// Those of the files.
    pub fn write(
        folder: &Path,
        config: &BundleConfig,
        vocabulary: &GeneVocab,
        stream: &Stream,
        parameters: &Parameters<f32>,
    ) -> Result<()> {
        let tensors = parameters.fetch(stream)?;
        let metadata = std::collections::BTreeMap::from([("format".to_string(), "pt".to_string())]);
        let views =
            tensors.iter().map(|tensor| (tensor.name.as_str(), Dtype::F32, tensor.shape.as_slice(), bytemuck::cast_slice(&tensor.values)));
        checkpoint::write(folder.join(WEIGHTS), views, &metadata)?;
        vocabulary.save(folder.join(VOCABULARY))?;
        write_json(&folder.join(CONFIG), config)
    }

    /// Opens a model folder.
    ///
    /// # Errors
    /// `ModelFolder` when something is missing, and those of the files.
    pub fn open(folder: &Path, device: &Device) -> Result<Bundle> {
        let refuse = |reason: String| Error::ModelFolder { folder: folder.into(), reason };
        for name in [CONFIG, VOCABULARY] {
            if !folder.join(name).is_file() {
                return Err(refuse(format!("it has no {name}")));
            }
        }
        let config: BundleConfig = read_json(&folder.join(CONFIG))?;
        config.model.check()?;
        let vocabulary = Arc::new(GeneVocab::from_file(folder.join(VOCABULARY))?);
        if config.model.vocab_size < vocabulary.len() || config.classes.len() != config.heads.classes {
            return Err(refuse(format!("{CONFIG} does not belong to its other files")));
        }
        let checkpoint = Checkpoint::open(folder)?;
        let mut plan = ParameterPlan::new(false);
        let model = CellModel::declare(&mut plan, &config.model, config.heads, vocabulary.pad());
        let parameters = plan.allocate(device)?;
        let stream = Stream::new(device, 0)?;
        parameters.load(&stream, &checkpoint)?;
        model.refresh(&stream)?;
        let hash = hash(&folder.join(WEIGHTS))?;
        Ok(Bundle { config, vocabulary, hash, device: device.clone(), model, _parameters: parameters })
    }

    /// The device that it is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn model(&self) -> &CellModel<f32> {
        &self.model
    }

    pub(crate) fn collator(&self) -> Result<Collator> {
        Ok(Collator::new(&self.vocabulary, self.config.tokens.clone())?)
    }

    /// Memory for inference; it grows with the batches.
    pub(crate) fn workspace(&self) -> Result<Workspace<f32>> {
        let purpose = Purpose {
            training: false,
            dropout: false,
            generative: false,
            weights: LossWeights::default(),
            label_smoothing: 0.0,
            classify: self.config.heads.classes > 0,
        };
        self.model.workspace(&self.device, Dims { batch: 1, seq_len: 8 }, purpose)
    }
}

fn hash(path: &Path) -> Result<String> {
    Ok(Sha256::digest(MappedFile::open(path)?.bytes()).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes text; the file appears whole or not at all.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(text.as_bytes()).map_err(|source| Error::Io { action: "write", path: path.into(), source })?;
    Ok(file.commit()?)
}

/// Writes indented JSON; the file appears whole or not at all.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Json { path: path.into(), reason: error.to_string() })?;
    write_text(path, &(text + "\n"))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })?;
    serde_json::from_str(&text).map_err(|error| Error::Json { path: path.into(), reason: error.to_string() })
}
