//! A model folder: `model.safetensors` (scGPT names), `config.json`, `vocab.json`; for a joint model also `tokenizer.json` and
//! `ontology.json`, with a language model a folder `language`. What `train` writes and `infer` reads.

mod language;

use std::io::Write;
use std::path::{Path, PathBuf};
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

use crate::config::{CellTextConfig, ModelConfig, QFormerConfig, TextConfig, TrainConfig};
use crate::layer::Dims;
use crate::model::cell_model::{CellModel, Heads, LossWeights, Purpose, Workspace};
use crate::model::cell_text::{self, CellText};
use crate::novelty::Novelty;
use crate::task::pair_scores::Mixing;
use crate::texts::Texts;
use crate::train::TrainingData;
use crate::weights::{ParameterPlan, Parameters};
use crate::{Error, Result};

pub use language::{BaseModel, Language, LanguageBundle};

pub(crate) const CONFIG: &str = "config.json";
/// File of the gene vocabulary.
pub(crate) const VOCABULARY: &str = "vocab.json";
/// File of the weights.
pub(crate) const WEIGHTS: &str = "model.safetensors";

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
    /// The text branch of a joint model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextBundle>,
    /// The language model of stage 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<LanguageBundle>,
}

/// What a model folder says of its text branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextBundle {
    /// Sizes.
    pub qformer: QFormerConfig,
    /// Tokenizer, ontology and templates, from the folder.
    pub text: TextConfig,
    /// Whether the matching head was trained.
    pub matching: bool,
    /// How similarity and matching score become probabilities.
    pub mixing: Mixing,
    /// Labels by text with a lower probability are withheld.
    pub unknown_threshold: f64,
    /// Name and text of each class of cells that the model was trained on.
    pub classes: Vec<(String, String)>,
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
            text: None,
            language: None,
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
    folder: PathBuf,
    device: Device,
    model: Model,
    texts: Option<Texts>,
    novelty: Option<Novelty>,
    _parameters: Parameters<f32>,
}

#[derive(Debug)]
enum Model {
    Cells(Box<CellModel<f32>>),
    Joint(Box<CellText<f32>>),
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
        let holds = |name: &str| config.language.as_ref().is_none_or(|language| language.holds(name));
        let tensors = parameters.fetch_matching(stream, &holds)?;
        let metadata = std::collections::BTreeMap::from([("format".to_string(), "pt".to_string())]);
        let views =
            tensors.iter().map(|tensor| (tensor.name.as_str(), Dtype::F32, tensor.shape.as_slice(), bytemuck::cast_slice(&tensor.values)));
        checkpoint::write(folder.join(WEIGHTS), views, &metadata)?;
        vocabulary.save(folder.join(VOCABULARY))?;
        write_json(&folder.join(CONFIG), config)
    }

    /// What a model folder says of its model.
    ///
    /// # Errors
    /// `ModelFolder` when something is missing, `Json`, `Setting`.
    pub fn describe(folder: &Path) -> Result<BundleConfig> {
        for name in [CONFIG, VOCABULARY] {
            if !folder.join(name).is_file() {
                return Err(Error::ModelFolder { folder: folder.into(), reason: format!("it has no {name}") });
            }
        }
        let config: BundleConfig = read_json(&folder.join(CONFIG))?;
        config.model.check()?;
        Ok(config)
    }

    /// Opens a model folder.
    ///
    /// # Errors
    /// `ModelFolder` when something is missing, and those of the files.
    pub fn open(folder: &Path, device: &Device) -> Result<Bundle> {
        let config = Bundle::describe(folder)?;
        let vocabulary = Arc::new(GeneVocab::from_file(folder.join(VOCABULARY))?);
        if config.model.vocab_size < vocabulary.len() || config.classes.len() != config.heads.classes {
            let reason = format!("{CONFIG} does not belong to its other files");
            return Err(Error::ModelFolder { folder: folder.into(), reason });
        }
        let checkpoint = Checkpoint::open(folder)?;
        let mut plan = ParameterPlan::new(false);
        let model = match &config.text {
            None => Model::Cells(Box::new(CellModel::declare(&mut plan, &config.model, config.heads, vocabulary.pad()))),
            Some(text) => {
                let sizes = CellTextConfig { model: config.model.clone(), qformer: text.qformer.clone() };
                sizes.check()?;
                Model::Joint(Box::new(CellText::declare(&mut plan, &sizes, config.heads, false, vocabulary.pad())))
            }
        };
        let novelty = Novelty::open(folder, vocabulary.len())?;
        let texts = config.text.as_ref().map(|text| Texts::open(&text.text, folder)).transpose()?;
        let parameters = plan.allocate(device)?;
        let stream = Stream::new(device, 0)?;
        parameters.load(&stream, &checkpoint)?;
        match &model {
            Model::Cells(model) => model.refresh(&stream)?,
            Model::Joint(model) => model.refresh(&stream)?,
        }
        let hash = hash(&folder.join(WEIGHTS))?;
        let folder = folder.into();
        Ok(Bundle { config, vocabulary, hash, folder, device: device.clone(), model, texts, novelty, _parameters: parameters })
    }

    /// The device that it is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn model(&self) -> &CellModel<f32> {
        match &self.model {
            Model::Cells(model) => model,
            Model::Joint(model) => model.cell_model(),
        }
    }

    /// The parts of a joint model.
    ///
    /// # Errors
    /// `Incapable`, naming `task`, for a model of cells alone.
    pub(crate) fn joint(&self, task: &'static str) -> Result<Joint<'_>> {
        match (&self.model, &self.config.text, &self.texts) {
            (Model::Joint(model), Some(config), Some(texts)) => Ok(Joint { model, config, texts }),
            _ => Err(Error::Incapable { task, reason: "it knows no text; train with a [stage1] section".into() }),
        }
    }

    /// Where its training cells lie; none for a model without classes, or of few cells.
    pub(crate) fn novelty(&self) -> Option<&Novelty> {
        self.novelty.as_ref()
    }

    /// Labels by text with a lower probability are withheld.
    pub(crate) fn text_threshold(&self) -> f64 {
        self.config.text.as_ref().map_or(0.0, |text| text.unknown_threshold)
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
        self.model().workspace(&self.device, Dims { batch: 1, seq_len: 8 }, purpose)
    }
}

/// What the tasks with texts need of a joint model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Joint<'a> {
    /// Weights.
    pub(crate) model: &'a CellText<f32>,
    /// What the folder says.
    pub(crate) config: &'a TextBundle,
    /// Tokenizer, ontology, templates.
    pub(crate) texts: &'a Texts,
}

impl Joint<'_> {
    /// Memory for inference; it grows with the batches.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub(crate) fn workspace(&self, device: &Device) -> Result<cell_text::Workspace<f32>> {
        self.model.inference(device)
    }
}

/// SHA-256 of a file, in hexadecimal.
pub(crate) fn hash(path: &Path) -> Result<String> {
    Ok(hexadecimal(&Sha256::digest(MappedFile::open(path)?.bytes())))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

/// Reads JSON.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })?;
    serde_json::from_str(&text).map_err(|error| Error::Json { path: path.into(), reason: error.to_string() })
}
