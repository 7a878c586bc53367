//! From which probability on a label that the language model writes is to be believed, by the validation cells.

use std::path::Path;

use scmmgpt_kernels::runtime::Device;

use super::calibration::{Judged, threshold};
use super::joint::Joint;
use crate::Result;
use crate::bundle::{self, Bundle};
use crate::generate::Dtype;
use crate::task::by_language::Written;

/// Validation cells that are asked at most: they are read one by one, by a model that may be large.
const CELLS: usize = 200;

/// Writes the threshold into the model folder, which is whole without it.
///
/// # Errors
/// Those of the model folder and of the kernels.
pub(super) fn calibrate(folder: &Path, device: &Device, joint: &Joint) -> Result<()> {
    let bundle = Bundle::open(folder, device)?;
    let (data, texts) = (&joint.data, &joint.cell_texts);
    let known: Vec<usize> = data.split.validation.iter().copied().filter(|&row| texts.class_of()[row].is_some()).collect();
    // At equal distances: files are often sorted by type.
    let count = known.len().min(CELLS);
    let rows: Vec<usize> = (0..count).map(|index| known[index * known.len() / count]).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let written = Written::prepare(&bundle, None, Dtype::F32)?;
    let scored = written.score(&bundle, &data.dataset, &rows, &mut |_| {})?;
    let class = |row: usize| &texts.classes()[texts.class_of()[row].unwrap_or_default() as usize].name;
    let judged = |(cell, &row): (usize, &usize)| {
        let label = scored.names.iter().position(|name| name == class(row))?;
        Some((scored.probabilities(cell).to_vec(), label))
    };
    let judged: Vec<Judged> = rows.iter().enumerate().filter_map(judged).collect();
    let mut description = Bundle::describe(folder)?;
    if let Some(language) = &mut description.language {
        language.unknown_threshold = threshold(&judged);
    }
    bundle::write_json(&folder.join(bundle::CONFIG), &description)
}
