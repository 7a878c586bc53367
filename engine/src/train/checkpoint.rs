//! Training checkpoints: one safetensors file with everything that a run needs to go on as if it had never stopped.
//!
//! Tensors: the weights that learn under their names, `first_moment::NAME`, `second_moment::NAME` and, where an earlier epoch was better,
//! `best::NAME`; frozen weights are those that the stage starts with. Metadata: counters, data cursor, best score and the configuration. A file appears whole or not at all; the two
//! newest are kept, so that a damaged one costs an epoch and not a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use scmmgpt_kernels::runtime::{Stream, Tensor};
use scmmgpt_loader::checkpoint::{self, Checkpoint};
use serde::{Deserialize, Serialize};

use crate::weights::{Declared, Moments, Parameters};
use crate::{Error, Result};

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// Stage of the run.
    pub(super) stage: u32,
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

/// A checkpoint that can be read and belongs to the run.
pub(super) struct Found {
    pub(super) state: State,
    checkpoint: Checkpoint,
    /// Damaged files that were passed over, with the reasons.
    pub(super) skipped: Vec<String>,
}

/// Values by parameter that learns, in the order of declaration.
pub(super) type Weights = Vec<Vec<f32>>;

/// Folder of the checkpoints, in the output folder.
pub(super) const FOLDER: &str = "checkpoints";

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
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Io { action: "create", path: folder.into(), source })?;
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for (index, (declared, moments)) in parameters.trained().enumerate() {
        let (name, shape) = (&declared.name, declared.parameter.value.shape().to_vec());
        tensors.push((name.clone(), shape.clone(), stream.fetch(declared.parameter.value)?));
        tensors.push((format!("first_moment::{name}"), shape.clone(), stream.fetch(moments.first)?));
        tensors.push((format!("second_moment::{name}"), shape.clone(), stream.fetch(moments.second)?));
        if let Some(best) = best_weights {
            tensors.push((format!("best::{name}"), shape, best[index].clone()));
        }
    }
    let state_text = serde_json::to_string(state).unwrap_or_default();
    let metadata = BTreeMap::from([("state".to_string(), state_text), ("config".to_string(), config.to_string())]);
    let path = folder.join(format!("stage{}-step-{:010}.safetensors", state.stage, state.step));
    let views = tensors.iter().map(|(name, shape, values)| (name.as_str(), Dtype::F32, shape.as_slice(), bytemuck::cast_slice(values)));
    checkpoint::write(&path, views, &metadata)?;
    for old in list(folder)?.iter().rev().skip(KEPT) {
        std::fs::remove_file(old).map_err(|source| Error::Io { action: "remove", path: old.clone(), source })?;
    }
    Ok(())
}

/// Checkpoints of a folder, oldest first: by stage, then by step.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|source| Error::Io { action: "list", path: folder.into(), source })?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.starts_with("stage") && name.ends_with(".safetensors")
        })
        .collect();
    paths.sort();
    Ok(paths)
}

/// The newest checkpoint that is whole, and that belongs to this configuration; none when there is none yet.
pub(super) fn newest(folder: &Path, config: &str) -> Result<Option<Found>> {
    if !folder.exists() {
        return Ok(None);
    }
    let mut skipped = Vec::new();
    for path in list(folder)?.iter().rev() {
        match read(path, config) {
            Ok((checkpoint, state)) => return Ok(Some(Found { state, checkpoint, skipped })),
            Err(error @ Error::Resume { .. }) => return Err(error),
            Err(error) => skipped.push(error.to_string()),
        }
    }
    if skipped.is_empty() { Ok(None) } else { Err(Error::Resume { folder: folder.into(), reason: skipped.join("; ") }) }
}

/// Opens a checkpoint, without changing anything.
fn read(path: &Path, config: &str) -> Result<(Checkpoint, State)> {
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
        let only = |these: &str, those: &str| -> Vec<String> {
            these.lines().filter(|line| !line.is_empty() && !those.lines().any(|other| other == *line)).map(String::from).collect()
        };
        let reason = format!(
            "it was started with another configuration; then: {}; now: {}; use the same settings, or a new --out",
            only(theirs, config).join(", "),
            only(config, theirs).join(", ")
        );
        return Err(Error::Resume { folder: path.into(), reason });
    }
    Ok((checkpoint, state))
}

impl Found {
    /// Loads weights and moments; returns the best weights so far, where an earlier epoch was better. Nothing changes when a tensor is
    /// missing.
    pub(super) fn load(&self, stream: &Stream, parameters: &Parameters<f32>) -> Result<Option<Weights>> {
        let tensors = |(declared, moments): (&Declared<f32>, Moments<f32>)| {
            let moment = |which: &str, moment| (format!("{which}_moment::{}", declared.name), moment);
            let weight = (declared.name.clone(), declared.parameter.value);
            [weight, moment("first", moments.first), moment("second", moments.second)]
        };
        let all: Vec<(String, Tensor<f32>)> = parameters.trained().flat_map(tensors).collect();
        let wanted: Vec<(String, Vec<usize>)> = all.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect();
        self.checkpoint.require(&wanted)?;
        for (name, tensor) in all {
            stream.upload(tensor, &self.checkpoint.to_f32(&name)?)?;
        }
        let best: Vec<String> = parameters.trained().map(|(declared, _)| format!("best::{}", declared.name)).collect();
        if !best.iter().all(|name| self.checkpoint.contains(name)) {
            return Ok(None);
        }
        Ok(Some(best.iter().map(|name| self.checkpoint.to_f32(name)).collect::<std::result::Result<_, _>>()?))
    }
}
