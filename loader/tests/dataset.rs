//! From blocks of counts to a dataset on one vocabulary.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::{block, names, vocab};
use scmmgpt_loader::Error;
use scmmgpt_loader::dataset::CellDatasetBuilder;
use scmmgpt_loader::expression::ValueMode;
use scmmgpt_loader::h5ad::CsrBlock;
use scmmgpt_loader::scale::{InputScale, ScaleReason};

#[test]
fn two_sources_meet_on_one_vocabulary() {
    let mut builder = CellDatasetBuilder::new(vocab(&["A", "B", "JCHAIN"]));
    // Unsorted row, an old symbol next to the new one, an unknown gene, a cell without counts.
    let first = [block(0, 4, &[&[(3, 2.0), (0, 1.0), (1, 4.0)], &[]]), block(2, 4, &[&[(2, 5.0), (3, 1.0)]])];
    let labels = vec![Some("T".to_owned()), None, Some("B".to_owned())];
    let report = builder.add_source("one", &names(&["B", "XYZ", "IGJ", "JCHAIN"]), first.map(Ok), Some(labels)).unwrap();
    assert_eq!((report.cells, report.empty_cells, report.scale), (3, 1, InputScale::Counts));
    assert_eq!((report.genes, report.genes_matched, report.genes_by_alias), (4, 3, 1));
    assert_eq!((report.genes_dropped, report.genes_duplicate), (1, 1));
    assert_eq!(report.dropped_examples, ["XYZ"]);
    assert_eq!((report.counts, report.counts_dropped), (13.0, 4.0));
    assert!((report.share_dropped() - 4.0 / 13.0).abs() < 1e-12);
    builder.add_batches(vec![Some("d1".to_owned()); 3]).unwrap();
    assert!(matches!(builder.add_batches(vec![None]), Err(Error::ColumnLength { expected: 3, .. })));

    let second = [block(0, 1, &[&[(0, 0.5)]])];
    builder.add_source("two", &names(&["a"]), second.map(Ok), Some(vec![Some("T".to_owned())])).unwrap();
    let dataset = builder.build();

    assert_eq!(dataset.len(), 4);
    let cell = dataset.cell(0).unwrap();
    assert_eq!((cell.genes, cell.values, cell.total), (&[1, 2][..], &[1.0, 2.0][..], 7.0));
    let cell = dataset.cell(2).unwrap();
    assert_eq!((cell.genes, cell.values, cell.total), (&[2][..], &[6.0][..], 6.0), "summed");
    let cell = dataset.cell(3).unwrap();
    assert_eq!((cell.genes, cell.source, cell.source_row), (&[0][..], 1, 0));
    assert!(matches!(dataset.cell(4), Err(Error::Row { row: 4, rows: 4 })));
    assert_eq!(dataset.classes(), ["B", "T"]);
    assert_eq!(dataset.labels(), [Some(1), None, Some(0), Some(1)]);
    assert_eq!(dataset.batches(), [Some(0), Some(0), Some(0), None]);
    assert_eq!(dataset.empty_rows(), [1]);
    assert_eq!(dataset.lengths(), [2, 0, 1, 1]);
    assert_eq!((dataset.panel(0), dataset.panel(1), dataset.panel(9)), (&[1, 2][..], &[0][..], &[][..]));

    dataset.check_mode(ValueMode::Binned).unwrap();
    dataset.check_mode(ValueMode::Log1p).unwrap();
    let error = dataset.check_mode(ValueMode::Raw).unwrap_err().to_string();
    assert!(error.contains("two") && error.contains("log1p values") && error.contains("--layer"), "{error}");
}

#[test]
fn fixed_classes_leave_other_labels_out() {
    let mut builder = CellDatasetBuilder::new(vocab(&["A"])).classes(vec!["z".to_owned(), "a".to_owned()]);
    let labels = ["a", "new", "z"].map(|label| Some(label.to_owned())).to_vec();
    let blocks = [Ok(block(0, 1, &[&[(0, 1.0)], &[(0, 1.0)], &[(0, 1.0)]]))];
    builder.add_source("x", &names(&["A"]), blocks, Some(labels)).unwrap();
    let dataset = builder.build();
    assert_eq!(dataset.classes(), ["z", "a"]);
    assert_eq!(dataset.labels(), [Some(1), None, Some(0)]);
    assert_eq!(dataset.reports()[0].labels_unknown, 1);
}

#[test]
fn scales_are_told_apart() {
    let scale = |values: [f32; 2]| {
        let mut builder = CellDatasetBuilder::new(vocab(&["A", "B"]));
        let blocks = [Ok(block(0, 2, &[&[(0, values[0]), (1, values[1])]]))];
        builder.add_source("x", &names(&["A", "B"]), blocks, None).unwrap().scale
    };
    assert_eq!(scale([3.0, 900.0]), InputScale::Counts);
    assert_eq!(scale([0.4, 3.1]), InputScale::Log1p);
    assert_eq!(scale([0.4, 99.5]), InputScale::Other { reason: ScaleReason::Linear { max: 99.5 } });
    assert_eq!(scale([1.5, 3.1]), InputScale::Log1p);
}

#[test]
fn bad_values_name_the_gene_and_what_to_do() {
    for value in [-1.0, f32::NAN, f32::INFINITY] {
        let mut builder = CellDatasetBuilder::new(vocab(&["A", "B"]));
        let blocks = [Ok(block(0, 2, &[&[(0, 1.0)], &[(1, value)]]))];
        let error = builder.add_source("x.h5ad", &names(&["A", "B"]), blocks, None).unwrap_err();
        assert!(matches!(&error, Error::Value { row: 1, gene, .. } if gene == "B"), "{error}");
        assert!(error.to_string().contains("--use-raw"));
    }
}

#[test]
fn too_few_known_counts_is_an_error_and_leaves_the_builder_usable() {
    let mut builder = CellDatasetBuilder::new(vocab(&["A", "B"]));
    let blocks = || [Ok(block(0, 2, &[&[(0, 1.0), (1, 19.0)]]))];
    let error = builder.add_source("x", &names(&["A", "zebra"]), blocks(), None).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("5.0 %") && text.contains("10.0 %") && text.contains("like `zebra`:"), "{text}");
    let unknown = builder.add_source("x", &names(&["y", "z"]), [Ok(block(0, 2, &[&[]]))], None);
    assert!(matches!(unknown, Err(Error::FewGenesMatched { matched_genes: 0, .. })), "no counts at all");
    builder.add_source("y", &names(&["A", "B"]), blocks(), None).unwrap();
    let dataset = builder.build();
    assert_eq!((dataset.len(), dataset.reports().len()), (1, 1));
    assert_eq!(dataset.cell(0).unwrap().values, [1.0, 19.0]);

    let mut lenient = CellDatasetBuilder::new(vocab(&["A"])).min_matched_share(0.05);
    lenient.add_source("x", &names(&["A", "zebra"]), blocks(), None).unwrap();
}

#[test]
fn malformed_blocks_are_errors() {
    let good = block(0, 2, &[&[(0, 1.0)], &[(1, 1.0)]]);
    let what = |change: &dyn Fn(&mut CsrBlock)| {
        let mut bad = good.clone();
        change(&mut bad);
        let mut builder = CellDatasetBuilder::new(vocab(&["A", "B"]));
        match builder.add_source("x", &names(&["A", "B"]), [Ok(bad)], None) {
            Err(Error::SourceBlock { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(what(&|block| block.start = 1), "first row of the block");
    assert_eq!(what(&|block| block.n_vars = 3), "number of genes");
    assert_eq!(what(&|block| block.indptr[0] = 1), "first row pointer");
    assert_eq!(what(&|block| block.indptr[2] = 9), "last row pointer");
    assert_eq!(what(&|block| block.indptr[1] = 5), "row pointers that go back");
    assert_eq!(what(&|block| block.values.push(1.0)), "number of values");
    assert_eq!(what(&|block| block.indices[1] = 2), "gene indices out of range");

    let mut builder = CellDatasetBuilder::new(vocab(&["A", "B"]));
    let empty = [Ok(CsrBlock { start: 0, n_vars: 2, indptr: vec![], indices: vec![], values: vec![] })];
    assert_eq!(builder.add_source("none", &names(&["A", "B"]), empty, None).unwrap().cells, 0);
    let labels = builder.add_source("x", &names(&["A", "B"]), [Ok(good)], Some(vec![None]));
    assert!(matches!(labels, Err(Error::ColumnLength { expected: 2, got: 1, .. })));
    let failing = builder.add_source("x", &names(&["A", "B"]), [Err(Error::EmptyBatch)], None);
    assert!(matches!(failing, Err(Error::EmptyBatch)), "the reader's own error comes through");
    assert!(Arc::new(builder.build()).is_empty());
}
