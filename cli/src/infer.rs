//! `infer`: embed and annotate; the other tasks have files of their own.

use scmmgpt_engine::SourceReport;
use scmmgpt_engine::bundle::Bundle;
use scmmgpt_engine::task::annotate::{self, Annotate, Method, Reference};
use scmmgpt_engine::task::embed::{self, Embed};
use serde_json::json;

use crate::arguments::{self, Cells, Global, Infer, InferTask, TextMethod};
use crate::progress::Display;
use crate::{language, retrieve};

pub(crate) fn run(global: &Global, arguments: &Infer) -> anyhow::Result<()> {
    match &arguments.task {
        InferTask::Embed(cells) => embed(global, cells),
        InferTask::Annotate(task) => annotate(global, task),
        InferTask::EmbedText(task) => retrieve::embed_text(global, task),
        InferTask::Index(task) => retrieve::index(global, task),
        InferTask::Retrieve(task) => retrieve::run(global, task),
        InferTask::Describe(task) => language::describe(global, task),
        InferTask::Generate(task) => language::generate(global, task),
        InferTask::Chat(task) => language::chat(global, task),
    }
}

/// The command line, for the record.
pub(crate) fn command_line() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("scmmgpt-engine {}", arguments.join(" "))
}

/// One line about a file of cells.
pub(crate) fn describe(report: &SourceReport) -> String {
    let mut text = format!(
        "{}: {} cells, {} of {} genes known ({} by an alias), {:.1} % of the counts dropped, values look like {}",
        report.name,
        report.cells,
        report.genes_matched,
        report.genes,
        report.genes_by_alias,
        100.0 * report.share_dropped(),
        report.scale
    );
    if report.empty_cells > 0 {
        text.push_str(&format!(", {} cells without counts", report.empty_cells));
    }
    text
}

fn embed(global: &Global, cells: &Cells) -> anyhow::Result<()> {
    let bundle = Bundle::open(&cells.model, &global.open_device()?)?;
    let mut display = Display::new(global, "embedding");
    let command = command_line();
    let (layer, overwrite) = (cells.layer.as_deref(), cells.overwrite);
    let task = Embed { cells: &cells.cells, output: &cells.output, layer, overwrite, command: &command };
    let result = embed::embed(&bundle, &task, &mut |done, total| display.cells(done, total));
    display.finish();
    let (report, width) = result?;
    display.line(&describe(&report));
    if global.json {
        println!("{}", json!({ "output": cells.output, "cells": report.cells, "obsm": embed::OBSM_KEY, "width": width, "genes": report }));
    } else {
        println!("wrote obsm[\"{}\"] ({} x {width}) to {}", embed::OBSM_KEY, report.cells, cells.output.display());
    }
    Ok(())
}

fn annotate(global: &Global, arguments: &arguments::Annotate) -> anyhow::Result<()> {
    let cells = &arguments.cells;
    let bundle = Bundle::open(&cells.model, &global.open_device()?)?;
    let mut display = Display::new(global, "annotating");
    let command = command_line();
    let labels = arguments.labels.as_deref().map(arguments::label_source);
    let method = match (&arguments.reference, &labels) {
        (Some(cells), _) => {
            Method::Reference(Reference { cells, label_key: arguments.reference_label_key.as_deref(), neighbours: arguments.k })
        }
        (None, labels) if arguments.method == TextMethod::Generative => Method::Generative(labels.as_ref()),
        (None, Some(labels)) => Method::Labels(labels),
        (None, None) => Method::Model,
    };
    let task = Annotate {
        cells: &cells.cells,
        output: &cells.output,
        layer: cells.layer.as_deref(),
        method,
        unknown_threshold: arguments.unknown_threshold,
        novelty_threshold: arguments.novelty_threshold,
        top_n: arguments.top_n,
        dtype: arguments.dtype.unwrap_or_default().into(),
        overwrite: cells.overwrite,
        command: &command,
    };
    let result = annotate::annotate(&bundle, &task, &mut |done, total| display.cells(done, total));
    display.finish();
    let summary = result?;
    display.line(&describe(&summary.cells));
    retrieve::tell_truncated(&display, summary.truncated);
    if !summary.by_name_alone.is_empty() {
        display.line(&format!("neither described nor in the ontology, so read by name alone: {}", summary.by_name_alone.join(", ")));
    }
    if global.json {
        let counts: serde_json::Map<String, serde_json::Value> =
            summary.counts.iter().map(|(label, cells)| (label.clone(), json!(cells))).collect();
        println!(
            "{}",
            json!({
                "output": cells.output, "cells": summary.cells.cells, "labels": counts, "by_name_alone": summary.by_name_alone,
                "truncated": summary.truncated, "genes": summary.cells,
            })
        );
        return Ok(());
    }
    for (label, count) in &summary.counts {
        println!("{count:>8}  {label}");
    }
    let keys = format!("obs[\"{}\"] and obs[\"{}\"]", annotate::LABEL_KEY, annotate::PROBABILITY_KEY);
    println!("wrote {keys} to {}", cells.output.display());
    Ok(())
}
