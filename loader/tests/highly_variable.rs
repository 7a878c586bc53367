//! Highly variable genes against scanpy (`tools/golden/make_hvg_fixture.py`).
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{block, names, vocab};
use scmmgpt_loader::Error;
use scmmgpt_loader::checkpoint::Checkpoint;
use scmmgpt_loader::dataset::{CellDataset, CellDatasetBuilder};
use scmmgpt_loader::highly_variable::{HvgFlavor, highly_variable};

/// The fixture's cells, through a function of count and total.
fn dataset(file: &Checkpoint, value: impl Fn(u8, f64) -> f32) -> CellDataset {
    let counts = file.view("counts").unwrap();
    let genes: Vec<String> = (0..counts.shape[1]).map(|gene| format!("G{gene:04}")).collect();
    let row = |row: &[u8]| -> Vec<(u32, f32)> {
        let total: f64 = row.iter().map(|&count| f64::from(count)).sum();
        let columns = (0..).zip(row).filter(|(_, count)| **count > 0);
        columns.map(|(column, &count)| (column, value(count, total))).collect()
    };
    let rows: Vec<_> = counts.bytes.chunks(counts.shape[1]).map(row).collect();
    let rows: Vec<&[(u32, f32)]> = rows.iter().map(Vec::as_slice).collect();
    let vocab = vocab(&genes.iter().map(String::as_str).collect::<Vec<_>>());
    let mut builder = CellDatasetBuilder::new(vocab);
    builder.add_source("made", &genes, [Ok(block(0, genes.len(), &rows))], None).unwrap();
    builder.build()
}

#[test]
fn equals_scanpy_from_counts_and_from_logged_values() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hvg.safetensors");
    let file = Checkpoint::open(path).unwrap();
    let from_counts = dataset(&file, |count, _| f32::from(count));
    let from_logged = dataset(&file, |count, total| (f64::from(count) * 1e4 / total).ln_1p() as f32);
    for dataset in [from_counts, from_logged] {
        let rows: Vec<usize> = (0..dataset.len()).collect();
        for (name, flavor) in [("seurat", HvgFlavor::Seurat), ("cell_ranger", HvgFlavor::CellRanger)] {
            let chosen = file.view(name).unwrap().bytes;
            let expected: Vec<u32> = (0..).zip(chosen).filter(|(_, chosen)| **chosen == 1).map(|(gene, _)| gene).collect();
            assert_eq!(highly_variable(&dataset, &rows, 60, flavor).unwrap(), expected, "{name}");
        }
    }
}

#[test]
fn degenerate_requests() {
    let mut builder = CellDatasetBuilder::new(vocab(&["A", "B"]));
    let cells = [Ok(block(0, 2, &[&[(0, 1.0)], &[(0, 1.0)]]))];
    builder.add_source("x", &names(&["A", "B"]), cells, None).unwrap();
    let dataset = builder.build();
    for flavor in [HvgFlavor::Seurat, HvgFlavor::CellRanger] {
        assert!(matches!(highly_variable(&dataset, &[0], 1, flavor), Err(Error::EmptyBatch)));
        assert!(matches!(highly_variable(&dataset, &[0, 2], 1, flavor), Err(Error::Row { .. })));
        assert!(highly_variable(&dataset, &[0, 1], 5, flavor).unwrap().len() <= 2);
        assert!(highly_variable(&dataset, &[0, 1], 0, flavor).unwrap().is_empty());
    }
}
