//! `eval`: results against the truth.

use scmmgpt_engine::bundle::Bundle;
use scmmgpt_engine::task::few_shot::{self, FewShot};
use scmmgpt_engine::task::score::{self, Score};
use scmmgpt_engine::task::score_cells::{ScoreCells, score_cells};
use scmmgpt_engine::task::score_descriptions::{ScoreDescriptions, score_descriptions};
use scmmgpt_engine::task::score_response::ScoreResponse;
use scmmgpt_engine::task::zero_shot::{self, ZeroShot};

use crate::arguments::{Eval, EvalAnnotation, EvalDescription, EvalFewShot, EvalGeneration, EvalTask, EvalZeroShot, Global, label_source};
use crate::progress::Display;

pub(crate) fn run(global: &Global, arguments: &Eval) -> anyhow::Result<()> {
    match &arguments.task {
        EvalTask::Annotation(task) => annotation(global, task),
        EvalTask::ZeroShot(task) => zero_shot(global, task),
        EvalTask::FewShot(task) => few_shot(global, task),
        EvalTask::Description(task) => description(global, task),
        EvalTask::Generation(task) => generation(global, task),
    }
}

fn annotation(global: &Global, arguments: &EvalAnnotation) -> anyhow::Result<()> {
    let task = Score {
        cells: &arguments.cells,
        label_key: &arguments.label_key,
        predicted_key: arguments.predicted_key.as_deref(),
        seed: global.seed.unwrap_or(0),
    };
    print(global, &score::score(&task)?)
}

fn zero_shot(global: &Global, arguments: &EvalZeroShot) -> anyhow::Result<()> {
    let bundle = Bundle::open(&arguments.model, &global.open_device()?)?;
    let labels = arguments.labels.as_deref().map(label_source);
    let task = ZeroShot {
        cells: &arguments.cells,
        label_key: &arguments.label_key,
        layer: arguments.layer.as_deref(),
        labels: labels.as_ref(),
        reference: arguments.reference.as_deref(),
        seed: global.seed.unwrap_or(0),
    };
    let mut display = Display::new(global, "reading");
    let result = zero_shot::zero_shot(&bundle, &task, &mut |done, total| display.cells(done, total));
    display.finish();
    print(global, &result?)
}

fn few_shot(global: &Global, arguments: &EvalFewShot) -> anyhow::Result<()> {
    let bundle = Bundle::open(&arguments.model, &global.open_device()?)?;
    let task = FewShot {
        cells: &arguments.cells,
        label_key: &arguments.label_key,
        layer: arguments.layer.as_deref(),
        shots: &arguments.shots,
        seed: global.seed.unwrap_or(0),
    };
    let mut display = Display::new(global, "embedding");
    let result = few_shot::few_shot(&bundle, &task, &mut |done, total| display.cells(done, total));
    display.finish();
    print(global, &result?)
}

fn description(global: &Global, arguments: &EvalDescription) -> anyhow::Result<()> {
    let task = ScoreDescriptions {
        predictions: &arguments.predictions,
        predicted_key: arguments.predicted_key.as_deref(),
        reference_key: arguments.reference_key.as_deref(),
        label_key: arguments.label_key.as_deref(),
        ontology: arguments.ontology.as_deref(),
        text_model: arguments.text_model.as_deref(),
        seed: global.seed.unwrap_or(0),
    };
    print(global, &score_descriptions(&global.open_device()?, &task)?)
}

fn generation(global: &Global, arguments: &EvalGeneration) -> anyhow::Result<()> {
    let task = ScoreCells {
        cells: &arguments.cells,
        reference: &arguments.reference,
        label_key: &arguments.label_key,
        train: arguments.train.as_deref(),
        layer: Some(&arguments.layer),
        paired: arguments.paired,
        response: arguments.condition_key.as_deref().zip(arguments.control.as_deref()).map(|(condition_key, control)| ScoreResponse {
            condition_key,
            control,
            genes: &arguments.genes,
        }),
        seed: global.seed.unwrap_or(0),
    };
    print(global, &global.open_device()?.enter(|| score_cells(&task))?)
}

/// As a table, or as JSON.
fn print<R: serde::Serialize + std::fmt::Display>(global: &Global, report: &R) -> anyhow::Result<()> {
    if global.json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
