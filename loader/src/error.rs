//! The one error type of the loader.

use std::path::PathBuf;

use crate::checkpoint::TensorProblem;
use crate::expression::ValueMode;
use crate::scale::InputScale;

/// What can go wrong between a file and host memory; every variant names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `open`, `read`, `write`, `rename`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// The HDF5 layer refused a file, an object in it, or a change to it.
    #[error("cannot {action} `{key}` in {}: {source}", path.display())]
    Hdf5 {
        /// What was tried: `open`, `read`, `add`, `replace`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The object's path inside the file; `/` is the file itself.
        key: String,
        /// The HDF5 layer's reason.
        source: Box<hdf5_pure::Error>,
    },

    /// An HDF5 file that is not an AnnData file.
    #[error(
        "{} is not an AnnData file: expected `{missing}` at its root, found {}; write it with \
         `adata.write_h5ad(..)`",
        path.display(), name_list(found)
    )]
    NotAnnData {
        /// The file.
        path: PathBuf,
        /// What the root lacks: `obs` or `var`.
        missing: &'static str,
        /// What the root holds.
        found: Vec<String>,
    },

    /// Something was asked for by a name that the file does not have.
    #[error("no `{key}` in `{parent}` of {}; available: {}", path.display(), name_list(available))]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// Where it was looked for: `obs`, `layers`, `obsm`, ...
        parent: String,
        /// The name asked for.
        key: String,
        /// The names that exist there.
        available: Vec<String>,
    },

    /// A part of an AnnData file contradicts the format or another part of the file.
    #[error("`{key}` in {}: expected {expected}, found {found}; {advice}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The object's path inside the file.
        key: String,
        /// What the format asks for.
        expected: String,
        /// What stands there.
        found: String,
        /// What to do.
        advice: &'static str,
    },

    /// An expression value that is not a finite number.
    #[error(
        "`{key}` in {}: row {row}, column {column} (both from 0) is {value}, expected a finite \
         number; replace NaN and infinite values before use",
        path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The matrix: `X`, `layers/counts`, `raw/X`.
        key: String,
        /// The cell, counted from 0.
        row: usize,
        /// The gene, counted from 0.
        column: usize,
        /// NaN, inf or -inf as read into `f32` (a larger `f64` value also becomes inf).
        value: f32,
    },

    /// Rows were asked for that the matrix does not have.
    #[error("`{key}` in {}: rows {start}..{end} asked for, it has {n_obs}", path.display())]
    RowRange {
        /// The file.
        path: PathBuf,
        /// The matrix.
        key: String,
        /// First row asked for.
        start: usize,
        /// One past the last row asked for.
        end: usize,
        /// Rows that exist.
        n_obs: usize,
    },

    /// Two blocks of cells over different numbers of genes, or a row that a block does not hold.
    #[error("block of {n_rows} rows x {n_vars} genes: {what} {found} does not fit it")]
    Block {
        /// What does not fit: `row` or `gene count`.
        what: &'static str,
        /// Its value.
        found: usize,
        /// Rows of the block.
        n_rows: usize,
        /// Genes of the block.
        n_vars: usize,
    },

    /// A result would be written over the file it was computed from.
    #[error("{} is the input file; choose another output", path.display())]
    OutputIsInput {
        /// The output, as given.
        path: PathBuf,
    },

    /// The output is there already and replacing it was not asked for.
    #[error("{} exists; choose another output or ask for overwriting", path.display())]
    OutputExists {
        /// The output, as given.
        path: PathBuf,
    },

    /// Something to be added to an AnnData file cannot be stored under that name or shape.
    #[error("cannot add `{key}` to {}: expected {expected}, found {found}", path.display())]
    Addition {
        /// The input file.
        path: PathBuf,
        /// Where it was to be added: `obs/cell_type_predicted`, ...
        key: String,
        /// What would be accepted.
        expected: String,
        /// What was given.
        found: String,
    },

    /// A text that should be JSON of a certain form is not.
    #[error("{}: the {what} is not the expected JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What was read.
        what: &'static str,
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },

    /// A file named as a checkpoint is another kind of file.
    #[error("{} is not a safetensors file but {found}", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What it is, and what to do.
        found: &'static str,
    },
    /// A safetensors file ends inside its header.
    #[error("{} is cut short: {len} bytes, its header alone needs {needed}; copy it again", path.display())]
    TruncatedFile {
        /// The file.
        path: PathBuf,
        /// Bytes up to the end of the header.
        needed: u64,
        /// Bytes in the file.
        len: u64,
    },
    /// The length of a safetensors header is out of bounds.
    #[error("{}: safetensors header of {size} bytes, at most {limit} are accepted; the file is damaged or of another kind", path.display())]
    HeaderTooLarge {
        /// The file.
        path: PathBuf,
        /// Stated length in bytes.
        size: u64,
        /// Longest accepted length in bytes.
        limit: u64,
    },
    /// A safetensors header contradicts itself or the size of the file.
    #[error("{}: bad safetensors header: {source}; the file is damaged, copy it again", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: safetensors::SafeTensorError,
    },
    /// A tensor's bytes lie beyond the end of the file.
    #[error("{}: tensor `{name}` ends at byte {end} of the data, but there are only {len}; the file is cut short, copy it again", path.display())]
    TensorRange {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Stated end of the tensor in the data section.
        end: u64,
        /// Bytes in the data section.
        len: u64,
    },
    /// Two tensors of a checkpoint have one name.
    #[error("tensor `{name}` occurs twice: in {} and in {}", first.display(), second.display())]
    DuplicateTensor {
        /// The name.
        name: String,
        /// Where it was seen first.
        first: PathBuf,
        /// Where it was seen again.
        second: PathBuf,
    },
    /// The index of a checkpoint lists a tensor that its shard does not hold.
    #[error("{} places tensor `{name}` in {}, which does not hold it; copy both again", index.display(), shard.display())]
    ShardTensor {
        /// The index.
        index: PathBuf,
        /// The shard.
        shard: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A file of a checkpoint stands outside its folder.
    #[error("file name `{name}` in checkpoint folder {} is refused: {why}", folder.display())]
    ShardName {
        /// The folder.
        folder: PathBuf,
        /// The name as written.
        name: String,
        /// Why it is refused.
        why: &'static str,
    },
    /// A folder does not say which of its files is the checkpoint.
    #[error("{}: expected model.safetensors, model.safetensors.index.json with its shards, or one .safetensors file; found {}", folder.display(), name_list(found))]
    NoCheckpoint {
        /// The folder.
        folder: PathBuf,
        /// The `.safetensors` files found.
        found: Vec<String>,
    },
    /// A tensor asked for by name is not there.
    #[error("tensor `{name}` is missing in {}{}", path.display(), similar.as_ref().map(|name| format!("; it has `{name}`")).unwrap_or_default())]
    MissingTensor {
        /// The name.
        name: String,
        /// The checkpoint.
        path: PathBuf,
        /// A tensor of a similar name.
        similar: Option<String>,
    },
    /// A checkpoint does not fit a model: all differences at once.
    #[error("{} does not fit the model: {} of {wanted} tensors differ: {}", path.display(), problems.len(), problem_list(problems))]
    Tensors {
        /// The checkpoint.
        path: PathBuf,
        /// Number of tensors asked for.
        wanted: usize,
        /// Each missing or mis-shaped tensor.
        problems: Vec<TensorProblem>,
    },
    /// A tensor's elements are not of a type that can be used here.
    #[error("tensor `{name}` in {}: expected F32, F16, BF16 or F64 elements (or a type of whole bytes to write), got {got}", path.display())]
    TensorType {
        /// The tensor.
        name: String,
        /// The checkpoint.
        path: PathBuf,
        /// Its type.
        got: String,
    },
    /// The memory for a tensor has another size than the tensor.
    #[error("tensor `{name}` in {}: expected a size of {expected}, got {got}", path.display())]
    TensorSize {
        /// The tensor.
        name: String,
        /// The checkpoint.
        path: PathBuf,
        /// Size asked for or computed from the shape.
        expected: usize,
        /// Size given.
        got: usize,
    },
    /// A tensor can not be written under a name that the format reserves.
    #[error("tensor name `{name}` is reserved by the safetensors format; rename it before writing {}", path.display())]
    TensorName {
        /// The name.
        name: String,
        /// The file to be written.
        path: PathBuf,
    },

    /// Two genes of a vocabulary have one index.
    #[error("{origin}: genes `{first}` and `{second}` both have index {index}; indices must be 0, 1, 2, .. without repetition")]
    VocabDuplicate {
        /// File or source of the vocabulary.
        origin: String,
        /// One gene.
        first: String,
        /// The other gene; the same when a name occurs twice.
        second: String,
        /// The index.
        index: u64,
    },
    /// The indices of a vocabulary are not 0, 1, 2, ...
    #[error("{origin}: {len} genes, but none has index {missing}; indices must be 0, 1, 2, .. without gaps")]
    VocabGap {
        /// File or source of the vocabulary.
        origin: String,
        /// Number of entries.
        len: usize,
        /// First index that no gene has.
        missing: u64,
    },
    /// A batch is asked for from a dataset that was mapped on another vocabulary.
    #[error(
        "the dataset was mapped on a vocabulary of {dataset} genes, the collator on one of {collator}; build both from the same vocabulary"
    )]
    VocabMismatch {
        /// Entries of the dataset's vocabulary.
        dataset: usize,
        /// Entries of the collator's vocabulary.
        collator: usize,
    },

    /// A block of counts contradicts itself or its file.
    #[error("{source_name}, rows from {start}: {what}: expected {expected}, got {got}; the file is damaged or was read wrongly")]
    SourceBlock {
        /// The source file.
        source_name: String,
        /// First row of the block.
        start: usize,
        /// Which property.
        what: &'static str,
        /// Its value by the other parts of the file.
        expected: usize,
        /// Its value.
        got: usize,
    },
    /// A count is negative or not a number.
    #[error(
        "{source_name}, row {row}, gene `{gene}`: value {value}; expected counts or log1p values >= 0 (scaled or corrected data can not be used: choose the raw counts with --layer NAME or --use-raw)"
    )]
    Value {
        /// The source file.
        source_name: String,
        /// Row in the file.
        row: usize,
        /// Column name.
        gene: String,
        /// The value.
        value: f32,
    },
    /// Too small a part of a file's counts falls on known genes.
    #[error("{source_name}: only {:.1} % of the counts ({matched_genes} of {genes} genes) belong to genes of the vocabulary, at least {:.1} % are needed; its genes are named like {}: name the column with the gene symbols, or check the species", share * 100.0, threshold * 100.0, name_list(examples))]
    FewGenesMatched {
        /// The source file.
        source_name: String,
        /// Share of the counts on known genes, 0..1.
        share: f64,
        /// Least share accepted, 0..1.
        threshold: f64,
        /// Columns with a known gene.
        matched_genes: usize,
        /// Columns.
        genes: usize,
        /// Some unknown names.
        examples: Vec<String>,
    },
    /// A per-cell column has another length than the matrix.
    #[error("{source_name}: column `{column}` has {got} entries for {expected} cells")]
    ColumnLength {
        /// The source file or caller.
        source_name: String,
        /// The column.
        column: &'static str,
        /// Cells.
        expected: usize,
        /// Entries.
        got: usize,
    },
    /// The values of a file can not be used as asked.
    #[error(
        "{source_name}: value mode `{mode}` can not be computed from {scale}; choose the raw counts with --layer NAME or --use-raw, or another value mode"
    )]
    Scale {
        /// The source file.
        source_name: String,
        /// What was asked for.
        mode: ValueMode,
        /// What the values look like.
        scale: InputScale,
    },

    /// A setting is out of its range.
    #[error("{setting} = {got}: expected {expected}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// Its value.
        got: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// A batch of no cells was asked for.
    #[error("a batch of no cells was asked for; give at least one row")]
    EmptyBatch,
    /// A split would leave a part without cells.
    #[error("the split leaves no cells for {part} ({rows} cells, {held} held out); change the fractions or the held-out values")]
    EmptySplit {
        /// `train`, `test`, ...
        part: &'static str,
        /// Cells in all.
        rows: usize,
        /// Cells not in the training part.
        held: usize,
    },
    /// Held-out values that no cell has.
    #[error("no cell has the held-out value {}; the column has {}", name_list(absent), name_list(present))]
    HeldOutValue {
        /// The values asked for and not found.
        absent: Vec<String>,
        /// The values of the column (the first of them, sorted).
        present: Vec<String>,
    },
    /// A row beyond the end of a dataset.
    #[error("row {row} of a dataset of {rows} cells")]
    Row {
        /// The row.
        row: usize,
        /// Rows in the dataset.
        rows: usize,
    },
    /// A GGUF file is damaged, or is none.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::GgufError),
    /// A folder or file does not hold a language model that can be read.
    #[error(transparent)]
    Language(#[from] crate::language::LanguageError),
    /// Something about tokenizers, ontologies, descriptions, labels or passages.
    #[error(transparent)]
    Text(#[from] crate::text::TextError),
    /// Something about a retrieval index.
    #[error(transparent)]
    Index(#[from] crate::index::IndexError),
    /// A background thread could not be started or ended by a panic: a bug of ours.
    #[error("the batch thread stopped: {reason}; please report this")]
    Worker {
        /// The panic's message.
        reason: String,
    },
}

/// The loader's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Names as a message shows them: all of a short list, the first of a long one.
pub(crate) fn name_list(names: &[String]) -> String {
    const SHOWN: usize = 40;
    let quoted: Vec<_> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => "none".to_owned(),
        1..=SHOWN => quoted.join(", "),
        more => format!("{}, .. ({more} in all)", quoted.join(", ")),
    }
}

fn problem_list(problems: &[TensorProblem]) -> String {
    problems.iter().map(TensorProblem::to_string).collect::<Vec<_>>().join("; ")
}
