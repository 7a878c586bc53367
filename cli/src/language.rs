//! `infer describe`, `infer generate`, `infer chat`.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};

use anyhow::Context;
use scmmgpt_engine::bundle::Bundle;
use scmmgpt_engine::generate::answer::Finish;
use scmmgpt_engine::task::chat::{About, Chat, Which};
use scmmgpt_engine::task::describe::{self, Describe};
use scmmgpt_engine::task::generate::{self, Generate, Subject};
use serde_json::json;

use crate::arguments::{self, Global};
use crate::infer::{self, command_line};
use crate::progress::Display;

pub(crate) fn describe(global: &Global, arguments: &arguments::Describe) -> anyhow::Result<()> {
    let cells = &arguments.cells;
    let generation = arguments.answering.config(global, 5, 8);
    generation.check()?;
    let bundle = Bundle::open(&cells.model, &global.open_device()?)?;
    let mut display = Display::new(global, "describing");
    let command = command_line();
    let task = Describe {
        cells: &cells.cells,
        output: &cells.output,
        layer: cells.layer.as_deref(),
        group_key: arguments.group_key.as_deref(),
        prompt: arguments.prompt.as_deref(),
        generation: &generation,
        dtype: arguments.dtype.into(),
        overwrite: cells.overwrite,
        command: &command,
    };
    let result = describe::describe(&bundle, &task, &mut |done, total| display.cells(done, total));
    display.finish();
    let summary = result?;
    display.line(&infer::describe(&summary.cells));
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    summary.descriptions.iter().for_each(|description| *counts.entry(&description.description).or_default() += 1);
    let cut = summary.descriptions.iter().filter(|description| description.finish == Finish::Length).count();
    if global.json {
        let groups = arguments.group_key.as_ref().map(|_| &summary.descriptions);
        println!(
            "{}",
            json!({
                "output": cells.output, "cells": summary.cells.cells, "described": summary.descriptions.len(), "distinct": counts.len(),
                "cut": cut, "groups": groups, "genes": summary.cells,
            })
        );
        return Ok(());
    }
    if arguments.group_key.is_some() {
        for description in &summary.descriptions {
            println!("{}: {}", description.group.as_deref().unwrap_or_default(), description.description);
        }
    } else {
        let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
        counts.sort_by_key(|(_, cells)| std::cmp::Reverse(*cells));
        counts.iter().take(SHOWN).for_each(|(text, cells)| println!("{cells:>8}  {text}"));
        if counts.len() > SHOWN {
            println!("     ...  {} further descriptions", counts.len() - SHOWN);
        }
    }
    if cut > 0 {
        display.line(&format!("{cut} descriptions were cut at {} tokens", generation.max_new_tokens));
    }
    println!("wrote {} descriptions to {}", summary.descriptions.len(), cells.output.display());
    Ok(())
}

/// Descriptions that are printed.
const SHOWN: usize = 10;

pub(crate) fn generate(global: &Global, arguments: &arguments::Generate) -> anyhow::Result<()> {
    let mut subjects: Vec<Subject> = arguments.prompt.iter().cloned().map(Subject::Prompt).collect();
    if let Some(path) = &arguments.prompts {
        let file = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        subjects.extend(file.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| Subject::Prompt(line.into())));
    }
    subjects.extend(generate::cell_types(&arguments.cell_type, &arguments.obs));
    let bundle = Bundle::open(&arguments.model, &global.open_device()?)?;
    let display = Display::new(global, "generating");
    let command = command_line();
    let task = Generate {
        subjects: &subjects,
        count: arguments.n,
        output: &arguments.output,
        sampled: !arguments.mean,
        total_counts: arguments.total_counts,
        seed: global.seed.unwrap_or_default(),
        neighbors: arguments.neighbors,
        overwrite: arguments.overwrite,
        command: &command,
    };
    let summary = generate::generate(&bundle, &task)?;
    if global.json {
        println!("{}", json!({ "output": arguments.output, "generated": summary }));
        return Ok(());
    }
    for (prompt, neighbors) in summary.prompts.iter().zip(&summary.neighbors) {
        let names: Vec<String> = neighbors.iter().map(|neighbor| format!("{} ({:.3})", neighbor.name, neighbor.similarity)).collect();
        display.line(&format!("beside \"{prompt}\": {}", names.join(", ")));
    }
    println!("wrote {} cells x {} genes ({}) to {}", summary.cells, summary.genes, summary.values, arguments.output.display());
    Ok(())
}

pub(crate) fn chat(global: &Global, arguments: &arguments::Chat) -> anyhow::Result<()> {
    let generation = arguments.answering.config(global, 1, 0);
    generation.check()?;
    let bundle = Bundle::open(&arguments.model, &global.open_device()?)?;
    let language = bundle.language("talk about cells")?;
    let which = match (&arguments.cell, &arguments.group_key, &arguments.group) {
        (Some(name), ..) => Which::Cell(name),
        (None, Some(key), Some(value)) => Which::Group(key, value),
        _ => Which::First,
    };
    let about = About { cells: &arguments.cells, layer: arguments.layer.as_deref(), which, dtype: arguments.dtype.into() };
    let mut chat = Chat::open(&bundle, &language, &about)?;
    let typed = std::io::stdin().is_terminal();
    if !global.quiet {
        let how = if typed { "; an empty line asks for its description, Ctrl-D ends" } else { "" };
        eprintln!("about cell {} of {}{how}", chat.cell, arguments.cells.display());
    }
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if typed && !global.quiet {
            eprint!("> ");
        }
        let Some(line) = lines.next() else { break };
        let line = line.context("cannot read standard input")?;
        let mut show = |text: &str| {
            let mut out = std::io::stdout().lock();
            let written = if global.json { Ok(()) } else { out.write_all(text.as_bytes()).and_then(|()| out.flush()) };
            written.map_err(|source| scmmgpt_engine::Error::Io { action: "write", path: "standard output".into(), source })
        };
        let turn = chat.say(&line, &generation, &mut show)?;
        if turn.forgot && !global.quiet {
            eprintln!("(what was said before filled the model's positions and was forgotten)");
        }
        if global.json {
            let answer = &turn.answer;
            println!(
                "{}",
                json!({
                    "cell": chat.cell, "text": line, "answer": answer.text, "score": answer.score, "finish": answer.finish,
                    "forgot": turn.forgot,
                })
            );
        } else {
            println!();
        }
    }
    if typed && !global.quiet {
        eprintln!();
    }
    Ok(())
}
