//! Neighbours of the cells that stage 2 makes from text: found among the training cells, never the cell itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use scmmgpt_kernels::runtime::Device;
use scmmgpt_kernels::runtime::philox::{Site, uniform};
use scmmgpt_loader::batch::{Collator, NO_LABEL};
use scmmgpt_loader::dataset::CellDataset;
use scmmgpt_loader::h5ad::AnnData;
use scmmgpt_loader::text::TextBatch;

use super::data::TrainingData;
use super::joint::Joint;
use crate::config::{NeighborConfig, TrainConfig};
use crate::model::cell_language::{CellLanguage, Neighbours, Workspace};
use crate::model::cell_text::{self, Draw};
use crate::neighbours::{Neighbour, NeighbourIndex};
use crate::predict::{Request, in_batches, place_rows};
use crate::retrieve::Searcher;
use crate::{Error, Result};

/// Which cells of the index may not be a cell's neighbours: those of one number.
#[derive(Debug)]
pub(super) struct Barred {
    /// `[rows of the dataset]`.
    group_of: Vec<usize>,
    /// `[cells of the index]`.
    of_item: Vec<usize>,
    /// Cells of the index in the largest group.
    most: usize,
}

impl Barred {
    /// Every cell bars itself, and those with the same value in the column `key`, where one is named.
    pub(super) fn read(data: &TrainingData, files: &[PathBuf], key: &str) -> Result<Barred> {
        let dataset = &data.dataset;
        let group_of: Vec<usize> = match key {
            "" => (0..dataset.len()).collect(),
            key => {
                let columns = files.iter().map(|file| Ok(AnnData::open(file)?.obs(key)?.labels())).collect::<Result<Vec<_>>>()?;
                let mut numbers: HashMap<String, usize> = HashMap::new();
                let group = |row: usize| -> Result<usize> {
                    let cell = dataset.cell(row)?;
                    // A cell without a value is like no other.
                    let Some(value) = columns[cell.source][cell.source_row].clone() else { return Ok(row) };
                    let next = dataset.len() + numbers.len();
                    Ok(*numbers.entry(value).or_insert(next))
                };
                (0..dataset.len()).map(group).collect::<Result<_>>()?
            }
        };
        let of_item: Vec<usize> = data.split.train.iter().map(|&row| group_of[row]).collect();
        let mut sizes: HashMap<usize, usize> = HashMap::new();
        of_item.iter().for_each(|&group| *sizes.entry(group).or_default() += 1);
        let most = sizes.into_values().max().unwrap_or(0);
        if most == of_item.len() {
            let expected = "a column with several values among the training cells, or none";
            return Err(Error::Setting { key: "stage2.neighbors.exclude_key".into(), value: key.into(), expected: expected.into() });
        }
        Ok(Barred { group_of, of_item, most })
    }
}

/// Finds neighbours for batches.
pub(super) struct Finder<'a> {
    index: &'a NeighbourIndex,
    barred: &'a Barred,
    settings: &'a NeighborConfig,
    searcher: Searcher<'a>,
    workspace: cell_text::Workspace<f32>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(
        model: &CellLanguage<f32>,
        device: &Device,
        index: &'a NeighbourIndex,
        barred: &'a Barred,
        settings: &'a NeighborConfig,
    ) -> Result<Finder<'a>> {
        let searcher = Searcher::new(device, &index.index)?;
        Ok(Finder { index, barred, settings, searcher, workspace: model.joint().inference(device)? })
    }

    /// Neighbours by `texts` of the cells in these rows of the dataset; in training, with `draw`, some have none.
    pub(super) fn find(&mut self, model: &CellLanguage<f32>, texts: &TextBatch, rows: &[usize], draw: Option<Draw>) -> Result<Neighbours> {
        let NeighborConfig { k, temperature, dropout, .. } = *self.settings;
        let embedded = self.workspace.embed_texts(model.joint(), texts)?;
        let Barred { group_of, of_item, most } = self.barred;
        let barred = |text: usize, item: usize| group_of[rows[text]] == of_item[item];
        let mut found = self.index.nearest(&mut self.searcher, &embedded, k, *most, &barred)?;
        if let Some(Draw { seed, step, .. }) = draw {
            let site = Site { seed, step, site: cell_text::NEIGHBOURS };
            for (at, hits) in found.iter_mut().enumerate() {
                if f64::from(uniform(site.words(at as u64)[0])) < dropout {
                    hits.clear();
                }
            }
        }
        Ok(self.index.neighbours(&found, k, temperature))
    }
}

/// Writes the training cells as stage 1 and the frozen Q-Former see them into `folder`; `space` is the hash of stage 1's weights.
pub(super) fn write_index(
    config: &TrainConfig,
    joint: &Joint,
    model: &CellLanguage<f32>,
    workspace: &mut Workspace<f32>,
    collator: &Collator,
    folder: &Path,
    space: &str,
) -> Result<()> {
    let (data, rows) = (&joint.data, &joint.data.split.train);
    let device = workspace.stream.device().clone();
    let mut embedder = model.joint().inference(&device)?;
    let batch_size = config.stage2.as_ref().map_or(1, |stage2| stage2.train.batch_size);
    let request = Request { dataset: &data.dataset, collator, rows, batch_size, relabel: &|_| NO_LABEL };
    let (mut vectors, mut pooled) = (Vec::new(), Vec::new());
    in_batches(&request, &mut |_| {}, &mut |cells, _, places| {
        place_rows(&mut vectors, &embedder.embed_cells(model.joint(), cells)?, places, rows.len());
        place_rows(&mut pooled, &workspace.pool_cells(model, cells)?, places, rows.len());
        Ok(())
    })?;
    let names = names(&data.dataset, &config.data.train, &config.data.test, rows)?;
    let qformer = model.joint().config();
    let (queries, projection_dim) = (qformer.num_query_tokens, qformer.projection_dim);
    let labels = data.dataset.classes();
    let label = |row: &usize| data.dataset.labels()[*row].map(|label| labels[label as usize].as_str());
    let cells = names.iter().zip(rows).zip(vectors.chunks_exact(queries * projection_dim));
    let cells = cells.map(|((name, row), vectors)| Neighbour { name, label: label(row), vectors });
    NeighbourIndex::write(folder, [queries, projection_dim], cells, (&pooled, qformer.hidden_size), space)
}

/// Names of cells, as their files have them.
fn names(dataset: &CellDataset, train: &[PathBuf], test: &[PathBuf], rows: &[usize]) -> Result<Vec<String>> {
    let files = train.iter().chain(test);
    let names = files.map(|file| Ok(AnnData::open(file)?.obs_names()?)).collect::<Result<Vec<_>>>()?;
    let name = |&row: &usize| -> Result<String> {
        let cell = dataset.cell(row)?;
        Ok(names[cell.source][cell.source_row].clone())
    };
    rows.iter().map(name).collect()
}
