//! What can be typed for the tasks of a language model.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use scmmgpt_engine::generate::{Dtype, GenerationConfig};

use super::{Cells, Global, column, positive};

/// How answers are written.
#[derive(Args, Debug)]
#[command(next_help_heading = "How answers are written")]
pub(crate) struct Answering {
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = positive)]
    pub(crate) max_new_tokens: usize,
    /// Tokens before an answer may end [default: 8; 0 in infer chat]
    #[arg(long, value_name = "N")]
    pub(crate) min_length: Option<usize>,
    /// Answers that are followed at a time, of which the best is kept [default: 5; 1 with --do-sample]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) num_beams: Option<usize>,
    /// Draw tokens instead of taking the most probable ones; --seed makes it repeatable
    #[arg(long)]
    pub(crate) do_sample: bool,
    /// Above 1 draws more freely, below 1 less
    #[arg(long, value_name = "T", default_value_t = 1.0, requires = "do_sample", allow_negative_numbers = true)]
    pub(crate) temperature: f64,
    /// Draw from so many of the most probable tokens; 0: all
    #[arg(long, value_name = "N", default_value_t = 0, requires = "do_sample")]
    pub(crate) top_k: usize,
    /// Draw from the most probable tokens that together reach this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, requires = "do_sample", allow_negative_numbers = true)]
    pub(crate) top_p: f64,
    /// Draw from tokens with at least this share of the most probable one's probability
    #[arg(long, value_name = "P", default_value_t = 0.0, requires = "do_sample", allow_negative_numbers = true)]
    pub(crate) min_p: f64,
    /// Above 1 avoids tokens that have occurred
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) repetition_penalty: f64,
    /// Beams: above 0 favours long answers, below 0 short ones
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) length_penalty: f64,
    /// A text that ends an answer in front of it; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}

impl Answering {
    /// The settings, where `beams` and `least` are meant if nothing was said.
    pub(crate) fn config(&self, global: &Global, beams: usize, least: usize) -> GenerationConfig {
        GenerationConfig {
            max_new_tokens: self.max_new_tokens,
            min_length: self.min_length.unwrap_or(least.min(self.max_new_tokens - 1)),
            num_beams: self.num_beams.unwrap_or(if self.do_sample { 1 } else { beams }),
            do_sample: self.do_sample,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            length_penalty: self.length_penalty,
            seed: global.seed.unwrap_or_default(),
            stop: self.stop.clone(),
        }
    }
}

/// What a language model computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Element {
    /// bf16 for a base model from other files than the run's own, where the device multiplies in bf16; else f32
    #[default]
    Auto,
    /// As trained
    F32,
    /// Up to twice as fast, sums in f32; a copy beside the f32 weights
    Bf16,
    /// bf16 but for weights of one byte with a scale for every output: half of what is read for a token, a little less exact
    Int8,
}

impl From<Element> for Dtype {
    fn from(element: Element) -> Dtype {
        match element {
            Element::Auto => Dtype::Auto,
            Element::F32 => Dtype::F32,
            Element::Bf16 => Dtype::Bf16,
            Element::Int8 => Dtype::Int8,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Describe {
    #[command(flatten)]
    pub(crate) cells: Cells,
    /// One description for each value of this column of obs: that of the group's most central cell
    #[arg(long, value_name = "COLUMN")]
    pub(crate) group_key: Option<String>,
    /// What stands between a cell and its description [default: as in training]
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// What the language model computes in
    #[arg(long, value_enum, value_name = "TYPE", default_value_t)]
    pub(crate) dtype: Element,
    #[command(flatten)]
    pub(crate) answering: Answering,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["prompt", "prompts", "cell_type"])))]
pub(crate) struct Generate {
    /// Folder that `train --out` wrote
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// What the cells are to be; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Vec<String>,
    /// A prompt a line; empty lines are skipped
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// A cell type, put in the words of training with what the model's ontology says about it; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) cell_type: Vec<String>,
    /// What else the words of training say of a cell of --cell-type, by column of obs (condition=stimulated); may be repeated: one cell
    /// type is made under every combination of the columns' values. Written to obs
    #[arg(long, value_name = "COLUMN=VALUE", requires = "cell_type", value_parser = column)]
    pub(crate) obs: Vec<(String, String)>,
    /// Cells of each prompt
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = positive)]
    pub(crate) n: usize,
    /// Write the mean of each count instead of drawing it
    #[arg(long, conflicts_with = "n")]
    pub(crate) mean: bool,
    /// Total count of a cell [default: drawn as those of training cells, with --mean their median; with --cell-type of that type]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) total_counts: Option<f64>,
    /// Show the decoder so many training cells near each prompt; 0: none [default: as in training]
    #[arg(long, value_name = "K")]
    pub(crate) neighbors: Option<usize>,
    /// File to write
    #[arg(long, value_name = "OUT.h5ad")]
    pub(crate) output: PathBuf,
    /// Replace an existing output
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Chat {
    /// Folder that `train --out` wrote
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// File with the cell
    #[arg(long, value_name = "IN.h5ad")]
    pub(crate) cells: PathBuf,
    /// Name of the cell [default: the first]
    #[arg(long, value_name = "NAME", conflicts_with = "group_key")]
    pub(crate) cell: Option<String>,
    /// Talk about the most central of the cells with a value in this column of obs
    #[arg(long, value_name = "COLUMN", requires = "group")]
    pub(crate) group_key: Option<String>,
    /// The value
    #[arg(long, value_name = "VALUE", requires = "group_key")]
    pub(crate) group: Option<String>,
    /// Where the expression stands: X, raw, or a layer's name [default: as in training]
    #[arg(long, value_name = "NAME")]
    pub(crate) layer: Option<String>,
    /// What the language model computes in
    #[arg(long, value_enum, value_name = "TYPE", default_value_t)]
    pub(crate) dtype: Element,
    #[command(flatten)]
    pub(crate) answering: Answering,
}
