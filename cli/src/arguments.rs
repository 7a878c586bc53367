//! What can be typed.

mod eval;
mod language;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use scmmgpt_engine::task::annotate::NOVELTY_THRESHOLD;
use scmmgpt_engine::{Device, LabelSource};

pub(crate) use eval::{Eval, EvalAnnotation, EvalDescription, EvalFewShot, EvalGeneration, EvalTask, EvalZeroShot};
pub(crate) use language::{Chat, Describe, Element, Generate};

/// Train scMMGPT cell models, and use them on AnnData files. Everything runs on this machine; nothing is downloaded.
#[derive(Parser, Debug)]
#[command(name = "scmmgpt-engine", version, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  Train an annotator on your own labelled cells:
    scmmgpt-engine train --config configs/annotate.toml --out runs/pbmc \\
        --set data.train='[\"a.h5ad\", \"b.h5ad\"]' --set data.label_key=cell_type
  Label other cells with it, and open the result in scanpy:
    scmmgpt-engine infer annotate --model runs/pbmc --cells new.h5ad --output labelled.h5ad
  Label cells by what the labels mean, and find cells by text (a model with a [stage1] section):
    scmmgpt-engine train --config configs/cell_text.toml --out runs/words
    scmmgpt-engine infer annotate --model runs/words --cells new.h5ad --output labelled.h5ad --labels labels.txt
    scmmgpt-engine infer index --model runs/words --cells new.h5ad --output new.index
    scmmgpt-engine infer retrieve --model runs/words --index new.index --text \"CD14-positive monocytes\"
  Describe cells, and make cells of text (a model with a [stage2] section):
    scmmgpt-engine train --config configs/cell_language.toml --out runs/cells
    scmmgpt-engine infer describe --model runs/cells --cells new.h5ad --output described.h5ad
    scmmgpt-engine infer generate --model runs/cells --cell-type \"B cell\" --output made.h5ad
  Score the labels against a column of the file:
    scmmgpt-engine eval annotation --cells labelled.h5ad --label-key cell_type

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 unusable data, 4 model and task do not match, 5 out of memory,
6 device, 75 stopped on request and saved (continue with --resume).";

/// Options of every command.
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// Where to compute: cpu, cuda:N, or auto: the first GPU where there is one, else the CPU
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: String,
    /// Let products of f32 on a GPU round their operands to tf32 (11 significant bits): faster, less exact. Ignored on the CPU
    #[arg(long, global = true)]
    pub(crate) allow_tf32: bool,
    /// Worker threads; 0: as many as the machine offers. Results do not depend on it
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
    /// Seed of everything random; replaces the configuration's
    #[arg(long, global = true, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Print the result as JSON on standard output (messages go to standard error)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

impl Global {
    /// Opens the device that was asked for.
    pub(crate) fn open_device(&self) -> anyhow::Result<Device> {
        let device = Device::open(&self.device, self.threads).map_err(scmmgpt_engine::Error::from)?.allow_tf32(self.allow_tf32);
        let chosen = self.device == "auto" && device.is_cuda() && !self.quiet;
        if self.verbose || chosen {
            eprintln!("device: {}", device.describe());
        }
        Ok(device)
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Train a model as a configuration file says
    Train(Train),
    /// Use a trained model on cells
    Infer(Infer),
    /// Measure results
    Eval(Eval),
    /// Run every kernel on the device and compare: f32 and bf16 with f64 on the CPU, a CUDA device with the CPU
    #[command(after_help = "\
Examples:
  scmmgpt-engine doctor
  scmmgpt-engine doctor --device cuda:0
  scmmgpt-engine doctor --device cuda:0 attention/ gemm/nt")]
    Doctor {
        /// Only cases whose `kernel/case` contains one of these
        #[arg(value_name = "CASES")]
        cases: Vec<String>,
    },
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  scmmgpt-engine train --config configs/annotate.toml --out runs/demo
  scmmgpt-engine train --config configs/annotate.toml --out runs/demo --resume
  scmmgpt-engine train --config configs/annotate.toml --out runs/demo --dry-run
  scmmgpt-engine train --config configs/annotate.toml --out runs/mine \\
      --set data.train='[\"mine.h5ad\"]' --set data.label_key=cell_type --set train.epochs=20

On SIGTERM or SIGINT the run saves its state after the step in progress and exits with code 75.")]
pub(crate) struct Train {
    /// Configuration (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Replace a setting; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Folder for the model, its checkpoints and the log
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Continue from the newest checkpoint in the folder
    #[arg(long)]
    pub(crate) resume: bool,
    /// Show data and memory plan, and train nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// With --dry-run: plan the memory of each of so many devices that share the batches (training itself uses one)
    #[arg(long, value_name = "N", default_value = "1", requires = "dry_run")]
    pub(crate) devices: NonZeroUsize,
    /// Delete a former run in the folder first
    #[arg(long, conflicts_with = "resume")]
    pub(crate) overwrite: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Infer {
    #[command(subcommand)]
    pub(crate) task: InferTask,
}

#[derive(Subcommand, Debug)]
pub(crate) enum InferTask {
    /// Write an embedding of each cell to obsm["X_scmmgpt"]
    #[command(after_help = "Example:\n  scmmgpt-engine infer embed --model runs/demo --cells in.h5ad --output out.h5ad")]
    Embed(Cells),
    /// Write a label of each cell to obs["scmmgpt_label"], its probability to obs["scmmgpt_probability"]
    #[command(after_help = "\
Examples:
  by the model's own classes:
    scmmgpt-engine infer annotate --model runs/demo --cells in.h5ad --output out.h5ad
  by the texts of labels, one a line, none of which need be known from training (a model with a [stage1] section):
    scmmgpt-engine infer annotate --model runs/words --cells in.h5ad --output out.h5ad --labels labels.txt --top-n 3
  by all terms of the ontology that the model was trained with:
    scmmgpt-engine infer annotate --model runs/words --cells in.h5ad --output out.h5ad --labels ontology
  by a language model that may write nothing but one of the labels (a model with a [stage2] section):
    scmmgpt-engine infer annotate --model runs/cells --cells in.h5ad --output out.h5ad --method generative --top-n 3
  by the 10 nearest cells of a labelled reference:
    scmmgpt-engine infer annotate --model runs/demo --cells in.h5ad --output out.h5ad --reference ref.h5ad --k 10")]
    Annotate(Annotate),
    /// Write an embedding of each text, comparable with those of cells, as JSON Lines (a joint model)
    #[command(after_help = "\
Examples:
  scmmgpt-engine infer embed-text --model runs/words --text \"CD14-positive monocytes\" --output out.jsonl
  scmmgpt-engine infer embed-text --model runs/words --texts texts.txt --output out.jsonl")]
    EmbedText(EmbedText),
    /// Write an index of cells that `infer retrieve` searches (a joint model)
    #[command(after_help = "\
Example:
  scmmgpt-engine infer index --model runs/words --cells in.h5ad --output in.index --label-key cell_type")]
    Index(Index),
    /// Find cells for a text, or texts for cells (a joint model)
    #[command(after_help = "\
Examples:
  the cells of an index that fit a text best:
    scmmgpt-engine infer retrieve --model runs/words --index in.index --text \"CD14-positive monocytes\" --top 10
  the texts that fit each cell best:
    scmmgpt-engine infer retrieve --model runs/words --cells in.h5ad --labels labels.txt --top 3 --json")]
    Retrieve(Retrieve),
    /// Describe each cell, or each group of cells, in words (a model with a [stage2] section)
    #[command(after_help = "\
Examples:
  each cell, to obs[\"scmmgpt_description\"]:
    scmmgpt-engine infer describe --model runs/cells --cells in.h5ad --output out.h5ad
  each cluster by its most central cell, as JSON Lines:
    scmmgpt-engine infer describe --model runs/cells --cells in.h5ad --output out.jsonl --group-key leiden
  drawn instead of searched, three sentences long at most:
    scmmgpt-engine infer describe --model runs/cells --cells in.h5ad --output out.h5ad --do-sample --top-p 0.9 --max-new-tokens 80")]
    Describe(Describe),
    /// Make cells of texts: a new file with counts or log1p values (a model with a [stage2] section)
    #[command(after_help = "\
Examples:
  100 cells with drawn counts (a decoder with stage2.expression.head = \"zinb\"):
    scmmgpt-engine infer generate --model runs/cells --prompt \"cell type: B cell.\" --n 100 --output made.h5ad
  one mean cell of each type, in the words of training:
    scmmgpt-engine infer generate --model runs/cells --cell-type \"B cell\" --cell-type platelet --mean --output made.h5ad
  each type under two conditions, where the templates of training name the condition:
    scmmgpt-engine infer generate --model runs/cells --cell-type \"B cell\" --cell-type platelet \\
      --obs condition=stimulated --obs condition=control --n 100 --output made.h5ad
  without the training cells that a model with stage2.neighbors.k is shown (obs[\"scmmgpt_neighbors\"] names them):
    scmmgpt-engine infer generate --model runs/cells --cell-type \"B cell\" --neighbors 0 --output made.h5ad

Generated cells are hypotheses: eval generation measures them.")]
    Generate(Generate),
    /// Talk about a cell on the terminal: a question a line, from standard input (a model with a [stage2] section)
    #[command(after_help = "\
Examples:
  scmmgpt-engine infer chat --model runs/cells --cells in.h5ad --cell AAACATACAACCAC-1
  scmmgpt-engine infer chat --model runs/cells --cells in.h5ad --group-key leiden --group 3 --max-new-tokens 80
  echo \"What type of cell is this?\" | scmmgpt-engine infer chat --model runs/cells --cells in.h5ad --json")]
    Chat(Chat),
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["text", "texts"])))]
pub(crate) struct EmbedText {
    /// Folder that `train --out` wrote
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// A text; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) text: Vec<String>,
    /// A text a line; empty lines are skipped
    #[arg(long, value_name = "FILE")]
    pub(crate) texts: Option<PathBuf>,
    /// JSON Lines: {"text": .., "embedding": [..]}
    #[arg(long, value_name = "OUT.jsonl")]
    pub(crate) output: PathBuf,
    /// Replace an existing output
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Index {
    #[command(flatten)]
    pub(crate) cells: Cells,
    /// Column of obs that is shown beside what is found
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label_key: Option<String>,
    /// Store half the bits of each number
    #[arg(long)]
    pub(crate) bf16: bool,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("where").required(true).args(["index", "cells"])))]
pub(crate) struct Retrieve {
    /// Folder that `train --out` wrote
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Index to search by text
    #[arg(long, value_name = "IN.index", requires = "text")]
    pub(crate) index: Option<PathBuf>,
    /// A text to find cells for; may be repeated
    #[arg(long, value_name = "TEXT", requires = "index")]
    pub(crate) text: Vec<String>,
    /// Cells to find texts for
    #[arg(long, value_name = "IN.h5ad")]
    pub(crate) cells: Option<PathBuf>,
    /// Texts to choose from, as for `infer annotate` [default: those of training]
    #[arg(long, value_name = "FILE|ontology", requires = "cells")]
    pub(crate) labels: Option<String>,
    /// Where the expression stands: X, raw, or a layer's name [default: as in training]
    #[arg(long, value_name = "NAME", requires = "cells")]
    pub(crate) layer: Option<String>,
    /// Results for each query
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = positive)]
    pub(crate) top: usize,
}

#[derive(Args, Debug)]
pub(crate) struct Cells {
    /// Folder that `train --out` wrote
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Cells to read
    #[arg(long, value_name = "IN.h5ad")]
    pub(crate) cells: PathBuf,
    /// File to write: a copy of the cells with the results added, or the index
    #[arg(long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Where the expression stands: X, raw, or a layer's name [default: as in training]
    #[arg(long, value_name = "NAME")]
    pub(crate) layer: Option<String>,
    /// Replace an existing output
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Annotate {
    #[command(flatten)]
    pub(crate) cells: Cells,
    /// How texts of labels become labels of cells: by similarity, or by what the language model would write
    #[arg(long, value_enum, value_name = "METHOD", default_value_t = TextMethod::Similarity, conflicts_with = "reference")]
    pub(crate) method: TextMethod,
    /// Labels that are read as text: a file (a label a line, or JSON with descriptions), or `ontology`
    #[arg(long, value_name = "FILE|ontology", conflicts_with = "reference")]
    pub(crate) labels: Option<String>,
    /// By text: write so many labels a cell, the further ones to obs["scmmgpt_label_2"], obs["scmmgpt_probability_2"], ..
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "reference", value_parser = positive)]
    pub(crate) top_n: usize,
    /// With --method generative: what the language model computes in [default: auto]
    #[arg(long, value_enum, value_name = "TYPE", requires = "method")]
    pub(crate) dtype: Option<Element>,
    /// Labelled cells to map on
    #[arg(long, value_name = "REF.h5ad")]
    pub(crate) reference: Option<PathBuf>,
    /// Label column of the reference [default: as in training]
    #[arg(long, value_name = "COLUMN", requires = "reference")]
    pub(crate) reference_label_key: Option<String>,
    /// Neighbours that vote
    #[arg(long, value_name = "N", default_value_t = 10, requires = "reference", value_parser = positive)]
    pub(crate) k: usize,
    /// Write "unknown" where the probability is lower [default: the model's threshold for the method; 0 with --reference or --labels
    /// ontology]
    #[arg(long, value_name = "P")]
    pub(crate) unknown_threshold: Option<f64>,
    /// By the model's own classes: write "unknown" where obs["scmmgpt_novelty"] is higher, that is, where a cell lies far from all
    /// training cells; `inf` for never
    #[arg(long, value_name = "X", default_value_t = NOVELTY_THRESHOLD, conflicts_with_all = ["reference", "labels"])]
    pub(crate) novelty_threshold: f64,
}

/// How texts of labels become labels of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TextMethod {
    /// The model's head, or, with --labels or without a head, similarity and matching score of cell and text
    Similarity,
    /// Constrained decoding by the language model, over --labels or the classes of training
    Generative,
}

/// What `--labels` means.
pub(crate) fn label_source(text: &str) -> LabelSource {
    if text == "ontology" { LabelSource::Ontology } else { LabelSource::File(text.into()) }
}

fn column(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(key, value)| !key.trim().is_empty() && !value.trim().is_empty());
    let (key, value) = parts.ok_or("expected a column and its value, as in condition=stimulated")?;
    Ok((key.trim().into(), value.trim().into()))
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value) if value > 0 => Ok(value),
        _ => Err("expected a whole number above 0".into()),
    }
}
