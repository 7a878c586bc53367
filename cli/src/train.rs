//! `train`.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use scmmgpt_engine::config::TrainConfig;
use scmmgpt_engine::train::{STAGE0, STAGE1, StagePlan, Trainer};
use scmmgpt_engine::{Error, Plan};
use serde_json::json;

use crate::arguments::{Global, Train};
use crate::progress::Display;

pub(crate) fn run(global: &Global, arguments: &Train) -> anyhow::Result<()> {
    let mut config = TrainConfig::read(&arguments.config, &arguments.overrides)?;
    if let Some(seed) = global.seed {
        config.seed = seed;
    }
    check_output(arguments)?;
    let device = global.open_device()?;
    let mut display = Display::new(global, "training");
    let trainer = Trainer::prepare(config)?;
    describe(&trainer, &display);
    if arguments.dry_run {
        return dry_run(&trainer, arguments.devices, global, &display);
    }
    if arguments.overwrite {
        remove_former_run(&arguments.out)?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // A second signal ends the program at once.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.clone()).context("cannot catch signals")?;
        signal_hook::flag::register(signal, stop.clone()).context("cannot catch signals")?;
    }
    let result = trainer.run(&device, &arguments.out, arguments.resume, &stop, &mut |event| display.training(&event));
    display.finish();
    let outcome = result?;
    display.line(&format!("trained {} steps; the model is in {}", outcome.steps, arguments.out.display()));
    if global.json {
        let (evaluation, held_out) = (outcome.evaluation, outcome.held_out);
        println!("{}", json!({ "steps": outcome.steps, "model": arguments.out, "evaluation": evaluation, "held_out": held_out }));
        return Ok(());
    }
    if let Some(held_out) = &outcome.held_out {
        println!("test cells, never seen in training");
        for (direction, report) in outcome.evaluation.iter().flat_map(|evaluation| &evaluation.retrieval) {
            println!("{direction}: {report}");
        }
        println!("{held_out}");
    } else if let Some(evaluation) = &outcome.evaluation {
        println!("test cells, never seen in training ({} cells learned from):\n{evaluation}", evaluation.training_cells);
    }
    if outcome.evaluation.is_some() || outcome.held_out.is_some() {
        println!("Labels of reference data were themselves derived from expression; few cells give wide intervals.");
    }
    Ok(())
}

/// An existing folder needs --resume or --overwrite.
fn check_output(arguments: &Train) -> anyhow::Result<()> {
    let out = &arguments.out;
    let used = out.is_file() || out.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if used && !arguments.resume && !arguments.overwrite && !arguments.dry_run {
        return Err(Error::OutputExists { path: out.clone() }.into());
    }
    Ok(())
}

/// Removes what a run writes, and nothing else that may lie in the folder.
fn remove_former_run(folder: &Path) -> anyhow::Result<()> {
    const FILES: [&str; 11] = [
        "config.json",
        "model.safetensors",
        "vocab.json",
        "tokenizer.json",
        "ontology.json",
        "config.toml",
        "log.jsonl",
        "evaluation.json",
        "neighbors.index",
        "neighbors.safetensors",
        "novelty.safetensors",
    ];
    for path in FILES.map(|name| folder.join(name)) {
        if path.exists() {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    for path in ["checkpoints", "language", "adapter", STAGE0, STAGE1].map(|name| folder.join(name)) {
        if path.exists() {
            std::fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn describe(trainer: &Trainer, display: &Display) {
    let data = trainer.data();
    for report in data.dataset.reports() {
        display.line(&crate::infer::describe(report));
    }
    let split = &data.split;
    let parts = format!("{} training, {} validation, {} test cells", split.train.len(), split.validation.len(), split.test.len());
    let classes = if data.classes.is_empty() { String::new() } else { format!(", {} classes", data.classes.len()) };
    display.line(&format!("{parts}{classes}, {} gene tokens", data.dataset.vocab().len()));
    trainer.text_notes().iter().for_each(|note| display.line(note));
}

fn dry_run(trainer: &Trainer, devices: NonZeroUsize, global: &Global, display: &Display) -> anyhow::Result<()> {
    let stages = trainer.memory_plan(devices);
    if global.json {
        let stages: Vec<serde_json::Value> = stages.iter().map(plan_as_json).collect();
        println!("{}", json!({ "devices": devices, "stages": stages }));
        return Ok(());
    }
    for StagePlan { stage, plans, parameters } in &stages {
        let scratch = scratch(plans);
        let total: usize = plans.iter().map(|plan| plan.bytes()).sum();
        let each = if devices.get() > 1 { format!(", each of {devices} devices") } else { String::new() };
        println!("stage {stage}{each}");
        for plan in plans {
            if global.verbose {
                println!("{}:\n{}", plan.class().name(), plan.report());
            } else {
                println!("{:<12} {:>14} bytes in {} tensors", plan.class().name(), plan.bytes(), plan.entries().len());
            }
        }
        println!("{:<12} {scratch:>14} bytes", "scratch");
        println!("{:<12} {:>14} bytes for {parameters} parameters", "total", total + scratch);
    }
    display.line("dry run: nothing was trained (-v lists every tensor)");
    Ok(())
}

/// Bytes that the stage's streams need at once.
fn scratch(plans: &[Plan]) -> usize {
    plans.iter().map(|plan| plan.scratch_bytes()).max().unwrap_or(0)
}

fn plan_as_json(stage: &StagePlan) -> serde_json::Value {
    let classes: Vec<serde_json::Value> =
        stage.plans.iter().map(|plan| json!({ "class": plan.class().name(), "bytes": plan.bytes() })).collect();
    let bytes: usize = stage.plans.iter().map(|plan| plan.bytes()).sum();
    let scratch = scratch(&stage.plans);
    json!({
        "stage": stage.stage, "parameters": stage.parameters, "bytes": bytes + scratch, "classes": classes, "scratch": scratch,
    })
}
