//! The language model's side of a model folder.
//!
//! | file | holds |
//! |---|---|
//! | `model.safetensors` | beside stage 1's weights `llm_proj` and `expr_decoder`; the rows of new tokens where nothing else was learned |
//! | `language/tokenizer.json` | the tokenizer with the cell's tokens |
//! | `language/config.json`, `language/model.safetensors` | where all of it was learned, the language model with its new rows: a Hugging Face folder |
//! | `adapter/` | in PEFT's files, adapters and rows of new tokens |
//!
//! Where the base model was frozen, `config.json` names its files and their hash.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use safetensors::Dtype;
use scmmgpt_kernels::runtime::{Device, Float, Stream};
use scmmgpt_loader::checkpoint::{self, Checkpoint};
use scmmgpt_loader::language::{CellTokens, LanguageConfig, LanguageFiles, LanguageTokenizer, PairCollator, PairConfig};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Bundle, WEIGHTS, hash, hexadecimal};
use crate::config::{CellTextConfig, ExpressionConfig, NeighborConfig, Tuning, TuningMode};
use crate::generate::sizes::CellSizes;
use crate::layer::token_table::NEW_ROWS;
use crate::model::cell_language::{CellLanguage, CellLanguageConfig, LANGUAGE, Tuned, Workspace};
use crate::model::language_model::{self, LanguageModel};
use crate::neighbours::NeighbourIndex;
use crate::weights::{ParameterPlan, Parameters, Values};
use crate::{Error, Result};

const FOLDER: &str = "language";
const ADAPTER: &str = "adapter";
const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "config.json";

/// What a model folder says of its language model, in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LanguageBundle {
    /// Sizes and constants.
    pub model: LanguageConfig,
    /// Longest sequence.
    pub positions: usize,
    /// What stands beside the base model's weights.
    pub tuning: Tuning,
    /// The base model; none: `language/` holds the whole model.
    pub base: Option<BaseModel>,
    /// Width between the two products that turn queries into rows of the language model.
    pub projection_dim: usize,
    /// The expression decoder.
    pub expression: ExpressionConfig,
    /// How cells and texts become sequences.
    pub pairs: PairConfig,
    /// How neighbours take part when a cell is made from text.
    pub neighbors: NeighborConfig,
    /// Totals of the training cells, of a decoder of distributions.
    pub sizes: CellSizes,
    /// Labels that the model writes with a lower probability are withheld; by the validation cells.
    pub unknown_threshold: f64,
}

/// A language model that a model folder does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseModel {
    /// Hugging Face folder or `.gguf` file.
    pub path: PathBuf,
    /// SHA-256 of its weights: of the file, or of the hashes of a folder's safetensors, in the order of their names.
    pub sha256: String,
}

/// A language model of a model folder, with everything that it reads and writes cells with.
#[derive(Debug)]
pub struct Language {
    /// What the folder says.
    pub config: LanguageBundle,
    model: CellLanguage<f32>,
    pairs: PairCollator,
    neighbours: Option<NeighbourIndex>,
    device: Device,
    parameters: Parameters<f32>,
    files: LanguageFiles,
    /// Whether the base model's weights have been read.
    loaded: Mutex<bool>,
}

impl BaseModel {
    /// Names the base model in `path`.
    ///
    /// # Errors
    /// `Io`.
    pub fn of(path: &Path) -> Result<BaseModel> {
        let sha256 = if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(|source| Error::Io { action: "list", path: path.into(), source })?;
            let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
            let mut files: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|end| end == "safetensors")).collect();
            files.sort();
            let hashes = files.iter().map(|file| hash(file)).collect::<Result<Vec<_>>>()?;
            hexadecimal(&Sha256::digest(hashes.concat()))
        } else {
            hash(path)?
        };
        // A model folder may move, and the program be started elsewhere.
        let path = path.canonicalize().map_err(|source| Error::Io { action: "find", path: path.into(), source })?;
        Ok(BaseModel { path, sha256 })
    }
}

impl LanguageBundle {
    /// Sizes of the model, with those of the folder's stage-1 part.
    pub(crate) fn sizes(&self, cell_text: CellTextConfig) -> CellLanguageConfig {
        let LanguageBundle { model, positions, projection_dim, expression, .. } = self.clone();
        CellLanguageConfig { cell_text, language: model, positions, projection_dim, expression }
    }

    /// Writes the language model's files; `parameters` are those of the whole model. The description changes where all of a model was
    /// learned: its new rows are rows like others then.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn save(
        mut self,
        folder: &Path,
        tokenizer: &LanguageTokenizer,
        model: &CellLanguage<f32>,
        stream: &Stream,
        parameters: &Parameters<f32>,
    ) -> Result<LanguageBundle> {
        if let (TuningMode::Lora, Some(base)) = (self.tuning.mode, &self.base) {
            let adapter = create(folder.join(ADAPTER))?;
            model.language().save_adapter(parameters, stream, &adapter, base.path.to_str())?;
        }
        let folder = create(folder.join(FOLDER))?;
        tokenizer.save(folder.join(TOKENIZER))?;
        if self.tuning.mode == TuningMode::Full {
            self.model.vocab_size += self.tuning.new_tokens;
            self.tuning = Tuning { mode: TuningMode::Freeze, new_tokens: 0, ..Tuning::default() };
            self.base = None;
            let mut tensors = parameters.fetch_matching(stream, &|name| inside(name).is_some())?;
            tensors.iter_mut().for_each(|tensor| tensor.name = inside(&tensor.name).unwrap_or_default().into());
            write_whole(&folder.join(WEIGHTS), tensors)?;
            self.model.save(&folder.join(CONFIG))?;
        }
        Ok(self)
    }

    /// Whether `model.safetensors` holds a parameter of this name; the others are the language model's, in files of their own.
    pub(crate) fn holds(&self, name: &str) -> bool {
        let alone = self.base.is_some() && self.tuning.mode == TuningMode::Freeze;
        inside(name).is_none_or(|name| alone && !language_model::in_files(name))
    }
}

fn create(folder: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&folder).map_err(|source| Error::Io { action: "create", path: folder.clone(), source })?;
    Ok(folder)
}

/// What a parameter of the language model is called in the language model.
fn inside(name: &str) -> Option<&str> {
    name.strip_prefix(LANGUAGE)?.strip_prefix('.')
}

/// Writes a language model's weights, the rows of new tokens behind those of the base.
fn write_whole(path: &Path, tensors: Vec<Values>) -> Result<()> {
    let (mut more, mut whole): (Vec<Values>, Vec<Values>) = tensors.into_iter().partition(|tensor| tensor.name.ends_with(NEW_ROWS));
    for tensor in &mut whole {
        let rows = more.iter_mut().find(|more| more.name.strip_suffix(NEW_ROWS) == tensor.name.strip_suffix("weight"));
        if let Some(rows) = rows {
            tensor.shape[0] += rows.shape[0];
            tensor.values.append(&mut rows.values);
        }
    }
    let views = whole.iter().map(|tensor| (tensor.name.as_str(), Dtype::F32, &tensor.shape[..], bytemuck::cast_slice(&tensor.values)));
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    Ok(checkpoint::write(path, views, &metadata)?)
}

impl Bundle {
    /// Reads the language model of a stage-2 folder; `task` says what for.
    ///
    /// # Errors
    /// `Incapable` for a model without one; `ModelFolder` when its base model is not what it was trained with; those of the files.
    pub fn language(&self, task: &'static str) -> Result<Language> {
        let reason = || "it has no language model; train with a [stage2] section".into();
        let incapable = || Error::Incapable { task, reason: reason() };
        let config = self.config.language.clone().ok_or_else(incapable)?;
        let text = self.config.text.as_ref().ok_or_else(incapable)?;
        let folder = self.folder.join(FOLDER);
        let files = match &config.base {
            None => LanguageFiles::open(&folder)?,
            Some(base) => {
                let found = BaseModel::of(&base.path)?;
                if found.sha256 != base.sha256 {
                    let reason = format!("its base model {} has changed since it was trained", base.path.display());
                    return Err(Error::ModelFolder { folder: self.folder.clone(), reason });
                }
                LanguageFiles::open(&base.path)?
            }
        };
        let cell_text = CellTextConfig { model: self.config.model.clone(), qformer: text.qformer.clone() };
        let sizes = config.sizes(cell_text);
        let mut plan = ParameterPlan::new(false);
        let tuned = Tuned { language: config.tuning.clone(), ..Tuned::default() };
        let model = CellLanguage::declare(&mut plan, &sizes, &tuned, self.vocabulary.pad());
        let parameters = plan.allocate_unwritten(&self.device)?;
        let stream = Stream::new(&self.device, 0)?;
        parameters.load_matching(&stream, &Checkpoint::open(&self.folder)?, &|name| config.holds(name))?;
        if config.tuning.mode == TuningMode::Lora {
            model.language().load_adapter(&parameters, &stream, &self.folder.join(ADAPTER))?;
        }
        model.refresh(&stream)?;
        let tokenizer = LanguageTokenizer::open(folder.join(TOKENIZER))?;
        let (tokenizer, tokens) = tokenizer.with_cell_tokens(&config.model, text.qformer.num_query_tokens)?;
        let pairs = PairCollator::new(Arc::new(tokenizer), tokens, config.pairs.clone())?;
        let neighbours = (config.neighbors.k > 0).then(|| NeighbourIndex::open(&self.folder)).transpose()?;
        let (device, loaded) = (self.device.clone(), Mutex::new(false));
        Ok(Language { config, model, pairs, neighbours, device, parameters, files, loaded })
    }
}

impl Language {
    /// The model, for what needs no weights of the base model: what stands in front of it and behind it, and sizes.
    pub fn model(&self) -> &CellLanguage<f32> {
        &self.model
    }

    /// The model with the weights of the base model, which are read when they are first asked for: a copy in another type of element is
    /// made from the files, and does without.
    ///
    /// # Errors
    /// Those of the files.
    pub fn whole(&self) -> Result<&CellLanguage<f32>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if !*loaded {
            self.model.language().load_base(&self.parameters, &Stream::new(&self.device, 0)?, &self.files)?;
            *loaded = true;
        }
        Ok(&self.model)
    }

    /// A copy of the language model for inference in elements of T, its adapters merged; with `int8` its weights have a byte each.
    ///
    /// # Errors
    /// `OutOfMemory`; those of the files.
    pub(crate) fn converted<T: Float>(&self, int8: bool) -> Result<(LanguageModel<T>, Parameters<T>)> {
        self.model.language().converted(&self.parameters, &Stream::new(&self.device, 0)?, int8, Some(&self.files))
    }

    /// What a choice of elements means for this model on its device.
    pub(crate) fn resolve(&self, dtype: crate::generate::Dtype) -> crate::generate::Dtype {
        dtype.resolve(&self.device, self.config.base.is_some())
    }

    /// How cells and texts become sequences: tokenizer, tokens of a cell, prompts.
    pub fn pairs(&self) -> &PairCollator {
        &self.pairs
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &LanguageTokenizer {
        self.pairs.tokenizer()
    }

    /// Ids of the special tokens.
    pub fn tokens(&self) -> CellTokens {
        self.pairs.tokens()
    }

    /// The training cells, where it was trained with neighbours.
    pub fn neighbours(&self) -> Option<&NeighbourIndex> {
        self.neighbours.as_ref()
    }

    /// Memory for inference; it grows with the batches.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn workspace(&self) -> Result<Workspace<f32>> {
        self.model.inference(&self.device)
    }
}
