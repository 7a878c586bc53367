//! Training checkpoints: one safetensors file with everything that a run needs to go on as if it had never stopped.
//!
//! Tensors: the weights under their names, `first_moment::NAME`, `second_moment::NAME` and, where an earlier epoch was better,
//! `best::NAME`. Metadata: counters, data cursor, best score and the configuration. A file appears whole or not at all; the two
//! newest are kept, so that a damaged one costs an epoch and not a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use scmmgpt_kernels::runtime::Stream;
use scmmgpt_loader::checkpoint::{self, Checkpoint};
use serde::{Deserialize, Serialize};

use crate::weights::Parameters;
use crate::{Error, Result};

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// Optimizer steps done.
    pub(super) step: u64,
    /// Epoch in progress.
    pub(super) epoch: u64,
    /// Batches of this epoch that are done.
    pub(super) position: usize,
    /// Sum of the weighted losses of these batches.
    pub(super) loss_sum: f64,
    /// Lowest validation loss so far, and its epoch.
    pub(super) best: Option<(f64, u64)>,
    /// Whether training is over.
    pub(super) finished: bool,
}

/// A checkpoint as it was read.
pub(super) struct Restored {
    pub(super) state: State,
    pub(super) best_weights: Option<Weights>,
    /// Damaged files that were passed over, with the reasons.
    pub(super) skipped: Vec<String>,
}

/// Values by parameter, in the order of declaration.
pub(super) type Weights = Vec<Vec<f32>>;

/// Checkpoints that are kept.
const KEPT: usize = 2;

/// Writes the checkpoint of `state` and removes all but the newest.
pub(super) fn save(
    folder: &Path,
    stream: &Stream,
    parameters: &Parameters<f32>,
    state: &State,
    best_weights: Option<&Weights>,
    config: &str,
) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Io { action: "create", path: folder.into(), source })?;
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for (index, declared) in parameters.declared().iter().enumerate() {
        let (name, shape) = (&declared.name, declared.parameter.value.shape().to_vec());
        tensors.push((name.clone(), shape.clone(), stream.fetch(declared.parameter.value)?));
        if let Some(moments) = declared.moments {
            tensors.push((format!("first_moment::{name}"), shape.clone(), stream.fetch(moments.first)?));
            tensors.push((format!("second_moment::{name}"), shape.clone(), stream.fetch(moments.second)?));
        }
        if let Some(best) = best_weights {
            tensors.push((format!("best::{name}"), shape, best[index].clone()));
        }
    }
    let state_text = serde_json::to_string(state).unwrap_or_default();
    let metadata = BTreeMap::from([("state".to_string(), state_text), ("config".to_string(), config.to_string())]);
    let path = folder.join(format!("step-{:010}.safetensors", state.step));
    let views = tensors.iter().map(|(name, shape, values)| (name.as_str(), Dtype::F32, shape.as_slice(), bytemuck::cast_slice(values)));
    checkpoint::write(&path, views, &metadata)?;
    for old in list(folder)?.iter().rev().skip(KEPT) {
        std::fs::remove_file(old).map_err(|source| Error::Io { action: "remove", path: old.clone(), source })?;
    }
    Ok(path)
}

/// Checkpoints of a folder, oldest first.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|source| Error::Io { action: "list", path: folder.into(), source })?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.starts_with("step-") && name.ends_with(".safetensors")
        })
        .collect();
    paths.sort();
    Ok(paths)
}

/// Restores the newest checkpoint that is whole and belongs to this configuration; none when there is none yet.
pub(super) fn restore(folder: &Path, stream: &Stream, parameters: &Parameters<f32>, config: &str) -> Result<Option<Restored>> {
    if !folder.exists() {
        return Ok(None);
    }
    let mut skipped = Vec::new();
    for path in list(folder)?.iter().rev() {
        match read(path, parameters, config) {
            Ok((checkpoint, state)) => {
                let best_weights = load(&checkpoint, stream, parameters)?;
                return Ok(Some(Restored { state, best_weights, skipped }));
            }
            Err(error @ Error::Resume { .. }) => return Err(error),
            Err(error) => skipped.push(error.to_string()),
        }
    }
    if skipped.is_empty() { Ok(None) } else { Err(Error::Resume { folder: folder.into(), reason: skipped.join("; ") }) }
}

/// Opens a checkpoint and checks everything about it, without changing anything.
fn read(path: &Path, parameters: &Parameters<f32>, config: &str) -> Result<(Checkpoint, State)> {
    let checkpoint = Checkpoint::open(path)?;
    let metadata = checkpoint.metadata();
    let refuse = |reason: String| Error::Json { path: path.into(), reason };
    let state: State = match metadata.get("state").map(|text| serde_json::from_str(text)) {
        Some(Ok(state)) => state,
        Some(Err(error)) => return Err(refuse(error.to_string())),
        None => return Err(refuse("it has no `state`".into())),
    };
    if metadata.get("config").map(String::as_str) != Some(config) {
        let theirs = metadata.get("config").map(String::as_str).unwrap_or_default();
        let changed: Vec<&str> = config.lines().filter(|line| !theirs.lines().any(|other| other == *line)).collect();
        let reason = format!(
            "it was started with another configuration; differing now: {}; use the same settings, or a new --out",
            changed.join(", ")
        );
        return Err(Error::Resume { folder: path.into(), reason });
    }
    let wanted: Vec<(String, Vec<usize>)> = parameters
        .declared()
        .iter()
        .flat_map(|declared| {
            let shape = declared.parameter.value.shape().to_vec();
            let moments = declared.moments.is_some();
            let kinds = if moments { &["", "first_moment::", "second_moment::"][..] } else { &[""][..] };
            kinds.iter().map(move |kind| (format!("{kind}{}", declared.name), shape.clone()))
        })
        .collect();
    checkpoint.require(&wanted)?;
    Ok((checkpoint, state))
}

fn load(checkpoint: &Checkpoint, stream: &Stream, parameters: &Parameters<f32>) -> Result<Option<Weights>> {
    let mut best = Vec::new();
    for declared in parameters.declared() {
        let name = &declared.name;
        stream.upload(declared.parameter.value, &checkpoint.to_f32(name)?)?;
        if let Some(moments) = declared.moments {
            stream.upload(moments.first, &checkpoint.to_f32(&format!("first_moment::{name}"))?)?;
            stream.upload(moments.second, &checkpoint.to_f32(&format!("second_moment::{name}"))?)?;
        }
        let key = format!("best::{name}");
        if checkpoint.contains(&key) {
            best.push(checkpoint.to_f32(&key)?);
        }
    }
    Ok((best.len() == parameters.declared().len()).then_some(best))
}
