//! The engine's error: its own cases, and those of the crates below.

use std::path::PathBuf;

/// What can go wrong in training and inference.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read as what it should be.
    #[error(transparent)]
    Loader(#[from] scmmgpt_loader::Error),
    /// A kernel or the device refused.
    #[error(transparent)]
    Kernel(#[from] scmmgpt_kernels::Error),
    /// A metric or baseline cannot be computed from these labels.
    #[error(transparent)]
    Metric(#[from] crate::metric::MetricError),
    /// A parameter that the model does not have was asked for.
    #[error("the model has no parameter `{name}`")]
    UnknownParameter {
        /// The name.
        name: String,
    },
    /// The configuration file is not valid TOML or has a field of the wrong kind.
    #[error("configuration {}: {reason}", file.display())]
    ConfigSyntax {
        /// The file.
        file: PathBuf,
        /// What the parser says, with its place.
        reason: String,
    },
    /// A `key=value` override cannot be applied.
    #[error("cannot set `{assignment}`: {reason}; write it as section.key=value, for example train.epochs=20")]
    Override {
        /// What was given.
        assignment: String,
        /// Why not.
        reason: String,
    },
    /// A setting is outside its domain.
    #[error("setting `{key}` is {value}: {expected}")]
    Setting {
        /// Dotted key.
        key: String,
        /// Its value.
        value: String,
        /// What it must be.
        expected: String,
    },
    /// Labels cannot be trained on.
    #[error("column obs[\"{key}\"] of {}: {reason}", files.join(", "))]
    Labels {
        /// The column.
        key: String,
        /// The files.
        files: Vec<String>,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A folder does not hold a model.
    #[error("{} is not a model folder: {reason}; give the folder that `train --out` wrote", folder.display())]
    ModelFolder {
        /// The folder.
        folder: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A BERT cannot be the start of a Q-Former of these sizes.
    #[error("the BERT in {} does not fit the Q-Former: {field} is {theirs} there and {ours} here; {advice}", folder.display())]
    BertMismatch {
        /// The BERT's folder.
        folder: PathBuf,
        /// Hugging Face's name of the setting.
        field: &'static str,
        /// Its value in the BERT.
        theirs: String,
        /// Its value in the Q-Former.
        ours: String,
        /// What to do.
        advice: &'static str,
    },
    /// An adapter's files cannot be read, or belong to another model.
    #[error("the adapter in {} does not fit: {}; give the model that it was trained with", folder.display(), problems.join("; "))]
    Adapter {
        /// The adapter's folder.
        folder: PathBuf,
        /// Every difference.
        problems: Vec<String>,
    },
    /// A batch of texts does not fit the model or its cells.
    #[error("texts of a batch: {reason}")]
    Texts {
        /// What is wrong and what to do.
        reason: String,
    },
    /// The model cannot do what was asked.
    #[error("this model cannot {task}: {reason}")]
    Incapable {
        /// The task.
        task: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// Vectors of two models cannot be compared.
    #[error(
        "{} was built with another model (weights {theirs}, these are {ours}); build it again with `infer index` and this model",
        index.display()
    )]
    IndexModel {
        /// The index.
        index: PathBuf,
        /// Hash of the weights that it was built with.
        theirs: String,
        /// Hash of the weights in use.
        ours: String,
    },
    /// The output exists already.
    #[error("{} exists; choose another --out, or add --resume to continue it or --overwrite to replace it", path.display())]
    OutputExists {
        /// The path.
        path: PathBuf,
    },
    /// There is nothing to resume, or it belongs to another run.
    #[error("cannot resume from {}: {reason}", folder.display())]
    Resume {
        /// The output folder.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
    /// The loss or a gradient stopped being a number.
    #[error(
        "{what} is not finite at step {step} (epoch {epoch}, cells {cells:?}); the last checkpoint is intact: resume with a lower train.learning_rate or a lower train.max_grad_norm"
    )]
    NotFinite {
        /// Loss or gradient.
        what: &'static str,
        /// Optimizer step.
        step: u64,
        /// Epoch.
        epoch: u64,
        /// Dataset rows of the batch.
        cells: Vec<usize>,
    },
    /// After the first step a trainable parameter had not changed: its gradient is missing.
    #[error("parameters without a gradient after the first step: {}; this is a bug, please report it", names.join(", "))]
    MissingGradient {
        /// The parameters.
        names: Vec<String>,
    },
    /// A generated cell has no counterpart.
    #[error(
        "cell `{name}` of {} has no cell of that name with a label in {}; without --paired the cells are compared by label alone",
        generated.display(),
        reference.display()
    )]
    Pairs {
        /// The generated cells.
        generated: PathBuf,
        /// The real ones.
        reference: PathBuf,
        /// The cell.
        name: String,
    },
    /// A search was asked for with something that is no query.
    #[error("cannot search: {found}, expected {expected}")]
    Query {
        /// What was given.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A file of ours could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A JSON file of ours is damaged.
    #[error("{} is not what this program writes: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// The run was asked to stop and has saved its state.
    #[error("stopped at step {step}; everything is saved, continue with --resume")]
    Stopped {
        /// Optimizer step.
        step: u64,
    },
}

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;
