//! `eval`: results against the truth.

use scmmgpt_engine::task::score::{self, Score};

use crate::arguments::{Eval, EvalAnnotation, EvalTask, Global};

pub(crate) fn run(global: &Global, arguments: &Eval) -> anyhow::Result<()> {
    match &arguments.task {
        EvalTask::Annotation(task) => annotation(global, task),
    }
}

fn annotation(global: &Global, arguments: &EvalAnnotation) -> anyhow::Result<()> {
    let task = Score {
        cells: &arguments.cells,
        label_key: &arguments.label_key,
        predicted_key: arguments.predicted_key.as_deref(),
        seed: global.seed.unwrap_or(0),
    };
    let report = score::score(&task)?;
    if global.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
