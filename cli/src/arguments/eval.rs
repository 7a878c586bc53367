//! What can be typed behind `eval`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use super::positive;

#[derive(Args, Debug)]
pub(crate) struct Eval {
    #[command(subcommand)]
    pub(crate) task: EvalTask,
}

#[derive(Subcommand, Debug)]
pub(crate) enum EvalTask {
    /// Compare the labels that `infer annotate` wrote with a column of the same file
    #[command(after_help = "Example:\n  scmmgpt-engine eval annotation --cells out.h5ad --label-key cell_type --json")]
    Annotation(EvalAnnotation),
    /// Label cells by text and rank both ways, beside a column of the same file, for every mixing weight of similarity and matching score
    #[command(after_help = "\
Examples:
  scmmgpt-engine eval zero-shot --model runs/words --cells test.h5ad --label-key cell_type
  with baselines that learn from other labelled cells:
  scmmgpt-engine eval zero-shot --model runs/words --cells test.h5ad --label-key cell_type --reference train.h5ad")]
    ZeroShot(EvalZeroShot),
    /// Learn from few labelled cells a type, in the model's embedding and in the genes, and label the others
    #[command(after_help = "\
Example:
  scmmgpt-engine eval few-shot --model runs/words --cells test.h5ad --label-key cell_type --shots 1,5,10")]
    FewShot(EvalFewShot),
    /// Compare descriptions of cells with what should have been said: BLEU, ROUGE, METEOR, mention of the type, distance of the sets of texts
    #[command(after_help = "\
Examples:
  with the texts of a column, and the cell types, whose mention is counted:
    scmmgpt-engine eval description --predictions out.h5ad --reference-key description --label-key cell_type
  with what an ontology says about each type, and distances in the space of a BERT:
    scmmgpt-engine eval description --predictions out.h5ad --label-key cell_type --ontology cell_text.json \\
        --text-model .models/minilm --json")]
    Description(EvalDescription),
    /// Compare generated cells with real ones: k-NN accuracy, distances, means, marker genes; beside cells taken from training
    #[command(after_help = "\
Examples:
  scmmgpt-engine eval generation --cells generated.h5ad --reference test.h5ad --label-key cell_type
  beside baselines made of the cells that the model was trained on:
    scmmgpt-engine eval generation --cells generated.h5ad --reference test.h5ad --label-key cell_type --train train.h5ad --json
  and how cells respond to a condition:
    scmmgpt-engine eval generation --cells generated.h5ad --reference test.h5ad --label-key cell_type --train train.h5ad \\
        --condition-key condition --control unstimulated --genes ISG15,CXCL10")]
    Generation(EvalGeneration),
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("truth").required(true).multiple(true).args(["reference_key", "label_key"])))]
pub(crate) struct EvalDescription {
    /// Cells with descriptions in obs
    #[arg(long, value_name = "OUT.h5ad")]
    pub(crate) predictions: PathBuf,
    /// Column of the descriptions [default: scmmgpt_description]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) predicted_key: Option<String>,
    /// Column of the texts to compare with [default: made from the cell types]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) reference_key: Option<String>,
    /// Column of the cell types
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label_key: Option<String>,
    /// Ontology that says what the cell types are (JSON)
    #[arg(long, value_name = "FILE", requires = "label_key", conflicts_with = "reference_key")]
    pub(crate) ontology: Option<PathBuf>,
    /// Folder of a BERT with its tokenizer (tools/fetch_minilm.sh gets one) for distances between the sets of texts
    #[arg(long, value_name = "DIR")]
    pub(crate) text_model: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct EvalGeneration {
    /// Generated cells
    #[arg(long, value_name = "GENERATED.h5ad")]
    pub(crate) cells: PathBuf,
    /// Real cells that the model has not seen
    #[arg(long, value_name = "REAL.h5ad")]
    pub(crate) reference: PathBuf,
    /// Column of the cell types, in all files
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label_key: String,
    /// Real cells that the baselines are made from
    #[arg(long, value_name = "TRAIN.h5ad")]
    pub(crate) train: Option<PathBuf>,
    /// Where the expression of the real cells stands: X, raw, or a layer's name
    #[arg(long, value_name = "NAME", default_value = "X")]
    pub(crate) layer: String,
    /// Each generated cell is to equal the reference cell of its name
    #[arg(long)]
    pub(crate) paired: bool,
    /// Column of conditions, in all files: how each label's mean cell responds to them is compared too
    #[arg(long, value_name = "COLUMN", requires = "control")]
    pub(crate) condition_key: Option<String>,
    /// The condition that the others are compared with
    #[arg(long, value_name = "VALUE", requires = "condition_key")]
    pub(crate) control: Option<String>,
    /// Genes whose response is shown beside that of the real cells
    #[arg(long, value_name = "GENE,..", value_delimiter = ',', requires = "condition_key")]
    pub(crate) genes: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct EvalZeroShot {
    /// Folder that `train --out` wrote
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Labelled cells
    #[arg(long, value_name = "IN.h5ad")]
    pub(crate) cells: PathBuf,
    /// Column of the true labels
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label_key: String,
    /// Labels to choose from, as for `infer annotate` [default: those of training]
    #[arg(long, value_name = "FILE|ontology")]
    pub(crate) labels: Option<String>,
    /// Labelled cells that the baselines learn from
    #[arg(long, value_name = "REF.h5ad")]
    pub(crate) reference: Option<PathBuf>,
    /// Where the expression stands: X, raw, or a layer's name [default: as in training]
    #[arg(long, value_name = "NAME")]
    pub(crate) layer: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct EvalFewShot {
    /// Folder that `train --out` wrote
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Labelled cells: half of them can be examples, the other half is labelled
    #[arg(long, value_name = "IN.h5ad")]
    pub(crate) cells: PathBuf,
    /// Column of the labels
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label_key: String,
    /// Examples of each type
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,5,10", value_parser = positive)]
    pub(crate) shots: Vec<usize>,
    /// Where the expression stands: X, raw, or a layer's name [default: as in training]
    #[arg(long, value_name = "NAME")]
    pub(crate) layer: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct EvalAnnotation {
    /// Labelled cells
    #[arg(long, value_name = "OUT.h5ad")]
    pub(crate) cells: PathBuf,
    /// Column of the true labels
    #[arg(long, value_name = "COLUMN")]
    pub(crate) label_key: String,
    /// Column of the predicted labels [default: scmmgpt_label]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) predicted_key: Option<String>,
}
