//! Exact search in an index on disk.

use std::collections::BTreeMap;

use anyhow::Result;
use scmmgpt_engine::retrieve::Searcher;
use scmmgpt_kernels::runtime::Device;
use scmmgpt_loader::index::{IndexElement, IndexMetric, IndexSpec, IndexWriter, VectorIndex};
use tempfile::TempDir;

use super::{Workload, seconds, uniform, uniform_values};

/// The best items for every query, by inner product.
pub(super) struct Search {
    device: Device,
    index: VectorIndex,
    queries: Vec<f32>,
    sizes: [usize; 4],
    found: Vec<f64>,
    _folder: TempDir,
}

impl Search {
    /// Items, width, queries and k. The index is written to the system's folder for temporary files.
    pub(super) fn new(device: &Device, element: IndexElement, sizes: [usize; 4]) -> Result<Search> {
        let [items, width, queries, _] = sizes;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("index");
        let spec = IndexSpec { width, vectors_per_item: 1, element, metric: IndexMetric::InnerProduct };
        let mut writer = IndexWriter::create(&file, spec, BTreeMap::new())?;
        let mut values = uniform_values(2, items * width, 1.0);
        let mut item = Vec::with_capacity(width);
        for place in 0..items {
            item.clear();
            item.extend(values.by_ref().take(width));
            writer.push(&place.to_string(), None, &item)?;
        }
        writer.commit()?;
        let queries = uniform(1, queries * width, 1.0);
        Ok(Search { device: device.clone(), index: VectorIndex::open(&file)?, queries, sizes, found: Vec::new(), _folder: folder })
    }
}

impl Workload for Search {
    fn flops(&self) -> f64 {
        let [items, width, queries, _] = self.sizes;
        2.0 * (items * width * queries) as f64
    }

    /// The items that the queries find, in their order.
    fn check(&mut self) -> Result<Vec<f64>> {
        self.run()?;
        Ok(std::mem::take(&mut self.found))
    }

    fn run(&mut self) -> Result<f64> {
        let Search { device, index, queries, sizes, found, .. } = self;
        seconds(device, || {
            let hits = Searcher::new(device, index)?.search(queries, 1, sizes[3], &mut |_, _| ())?;
            *found = hits.iter().flatten().map(|hit| hit.item as f64).collect();
            Ok(())
        })
    }
}
