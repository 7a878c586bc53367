//! `infer embed-text`, `infer index`, `infer retrieve`.

use std::io::Write;

use anyhow::Context;
use scmmgpt_engine::bundle::Bundle;
use scmmgpt_engine::task::embed;
use scmmgpt_engine::task::index::{self, BuildIndex};
use scmmgpt_engine::task::retrieve::{self, Found, FoundHit};
use serde_json::json;

use crate::arguments::{EmbedText, Global, Index, Retrieve, label_source};
use crate::progress::Display;

/// Texts that did not fit are worth a line.
pub(crate) fn tell_truncated(display: &Display, truncated: usize) {
    if truncated > 0 {
        display.line(&format!("{truncated} texts are longer than the model reads and were cut at their end"));
    }
}

pub(crate) fn embed_text(global: &Global, arguments: &EmbedText) -> anyhow::Result<()> {
    let mut texts = arguments.text.clone();
    if let Some(path) = &arguments.texts {
        let file = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        texts.extend(file.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from));
    }
    let display = Display::new(global, "embedding");
    let bundle = Bundle::open(&arguments.model, &global.open_device()?)?;
    let truncated = embed::write_texts(&bundle, &texts, &arguments.output, arguments.overwrite)?;
    tell_truncated(&display, truncated);
    if global.json {
        println!("{}", json!({ "output": arguments.output, "texts": texts.len(), "truncated": truncated }));
    } else {
        println!("wrote {} embeddings to {}", texts.len(), arguments.output.display());
    }
    Ok(())
}

pub(crate) fn index(global: &Global, arguments: &Index) -> anyhow::Result<()> {
    let cells = &arguments.cells;
    let bundle = Bundle::open(&cells.model, &global.open_device()?)?;
    let mut display = Display::new(global, "indexing");
    let task = BuildIndex {
        cells: &cells.cells,
        output: &cells.output,
        layer: cells.layer.as_deref(),
        label_key: arguments.label_key.as_deref(),
        bf16: arguments.bf16,
        overwrite: cells.overwrite,
    };
    let result = index::build_index(&bundle, &task, &mut |done, total| display.cells(done, total));
    display.finish();
    let indexed = result?;
    if global.json {
        println!("{}", json!({ "output": cells.output, "cells": indexed.cells, "empty": indexed.empty }));
        return Ok(());
    }
    println!("wrote an index of {} cells to {}", indexed.cells, cells.output.display());
    if indexed.empty > 0 {
        println!("left out {} cells without a known gene", indexed.empty);
    }
    Ok(())
}

pub(crate) fn run(global: &Global, arguments: &Retrieve) -> anyhow::Result<()> {
    let bundle = Bundle::open(&arguments.model, &global.open_device()?)?;
    let mut display = Display::new(global, "searching");
    let result = match (&arguments.index, &arguments.cells) {
        (Some(index), _) => retrieve::cells_by_text(&bundle, index, &arguments.text, arguments.top),
        (None, Some(cells)) => {
            let labels = arguments.labels.as_deref().map(label_source);
            let mut progress = |done, total| display.cells(done, total);
            retrieve::texts_by_cell(&bundle, cells, arguments.layer.as_deref(), labels.as_ref(), arguments.top, &mut progress)
        }
        (None, None) => anyhow::bail!("give --index or --cells"),
    };
    display.finish();
    let retrieved = result?;
    tell_truncated(&display, retrieved.truncated);
    if global.json {
        println!("{}", serde_json::to_string(&retrieved)?);
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    for Found { query, hits } in &retrieved.results {
        writeln!(out, "{query}")?;
        for FoundHit { name, label, similarity, probability } in hits {
            let probability = probability.map(|probability| format!("  {probability:.3}")).unwrap_or_default();
            writeln!(
                out,
                "  {similarity:>6.3}{probability}  {name}{}",
                label.as_ref().map(|label| format!("  {label}")).unwrap_or_default()
            )?;
        }
    }
    Ok(())
}
