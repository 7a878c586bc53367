//! From dataset rows to padded batches.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::{block, names, vocab};
use scmmgpt_loader::Error;
use scmmgpt_loader::batch::{CellBatch, CollateConfig, Collator, Objective, SampleKey, Sampling};
use scmmgpt_loader::batch_order::BatchOrder;
use scmmgpt_loader::dataset::{CellDataset, CellDatasetBuilder};
use scmmgpt_loader::expression::ValueMode;
use scmmgpt_loader::prefetch::Prefetcher;
use scmmgpt_loader::vocab::GeneVocab;

const TRAIN: SampleKey = SampleKey { seed: 11, epoch: 2, training: true };
const TEST: SampleKey = SampleKey { training: false, ..TRAIN };

/// Genes G000.. of which each cell expresses every (row + 2)-th, with counts 1..; row 40 has none.
fn dataset() -> CellDataset {
    let genes: Vec<String> = (0..300).map(|gene| format!("G{gene:03}")).collect();
    let vocab = Arc::new(GeneVocab::from_genes(&genes).unwrap());
    let row = |row: u32| -> Vec<(u32, f32)> {
        let genes = (0..300).filter(|gene| row < 40 && gene % (row + 2) == 0);
        genes.map(|gene| (gene, ((gene * 7 + row) % 13 + 1) as f32)).collect()
    };
    let rows: Vec<_> = (0..41).map(row).collect();
    let rows: Vec<&[(u32, f32)]> = rows.iter().map(Vec::as_slice).collect();
    let labels = (0..41).map(|row| (row % 3 != 2).then(|| format!("type {}", row % 3))).collect();
    let mut builder = CellDatasetBuilder::new(vocab);
    builder.add_source("made", &genes, [Ok(block(0, 300, &rows))], Some(labels)).unwrap();
    builder.build()
}

fn collator(dataset: &CellDataset, change: impl FnOnce(&mut CollateConfig)) -> Collator {
    let mut config = CollateConfig { max_seq_len: 64, value_mode: ValueMode::Raw, ..CollateConfig::default() };
    change(&mut config);
    Collator::new(dataset.vocab(), config).unwrap()
}

/// One row of a batch without its padding: (gene, value, target, predicted).
fn tokens(batch: &CellBatch, row: usize) -> Vec<(u32, f32, f32, f32)> {
    let begin = row * batch.seq_len;
    let places = begin..begin + batch.lengths[row] as usize;
    let token = |place| {
        let mask = batch.target_mask[place];
        (batch.gene_ids[place], batch.values[place], batch.targets[place], mask)
    };
    places.map(token).collect()
}

#[test]
fn layout_of_a_hand_made_batch() {
    let mut builder = CellDatasetBuilder::new(vocab(&["A", "B", "C"]));
    let cells = [Ok(block(0, 3, &[&[(2, 600.0), (0, 2.0)], &[]]))];
    builder.add_source("x", &names(&["A", "B", "C"]), cells, Some(vec![Some("t".into()), None])).unwrap();
    let dataset = builder.build();
    let config = |mode, multiple| CollateConfig { value_mode: mode, pad_to_multiple: multiple, ..CollateConfig::default() };
    let collate = |mode, multiple| {
        let collator = Collator::new(dataset.vocab(), config(mode, multiple)).unwrap();
        collator.collate(&dataset, &[1, 0], TEST).unwrap()
    };
    let batch = collate(ValueMode::Raw, 4);
    let (pad, cls) = (dataset.vocab().pad(), dataset.vocab().cls());
    assert_eq!((batch.batch, batch.seq_len), (2, 4));
    assert_eq!(batch.gene_ids, [cls, pad, pad, pad, cls, 0, 2, pad]);
    assert_eq!(batch.values, [0.0, -2.0, -2.0, -2.0, 0.0, 2.0, 512.0, -2.0]);
    assert_eq!(batch.targets, batch.values);
    assert_eq!(batch.target_mask, [0.0; 8]);
    assert_eq!((batch.lengths, batch.known_lengths), (vec![1, 3], vec![1, 3]));
    assert_eq!((batch.labels, batch.rows), (vec![-100, 0], vec![1, 0]));
    let logged = collate(ValueMode::Log1p, 1);
    let expected = [2.0, 600.0].map(|count: f64| (count * 1e4 / 602.0).ln_1p() as f32);
    assert_eq!((logged.seq_len, &logged.values[4..]), (3, &expected[..]));
    assert_eq!(collate(ValueMode::Binned, 1).values[4..], [1.0, 50.0]);
}

#[test]
fn a_cell_does_not_depend_on_its_neighbours() {
    let dataset = dataset();
    let collator = collator(&dataset, |config| {
        config.value_mode = ValueMode::Binned;
        config.sampling = Sampling::Random;
        config.include_zero_genes = 5;
        config.gene_dropout = 0.2;
        config.count_thinning = Some((0.5, 0.9));
        config.objective = Objective::Generative { ratios: vec![0.25, 0.5, 0.75] };
    });
    let rows: Vec<usize> = (0..41).collect();
    let together = collator.collate(&dataset, &rows, TRAIN).unwrap();
    for &row in &rows {
        let alone = collator.collate(&dataset, &[row], TRAIN).unwrap();
        assert_eq!(tokens(&alone, 0), tokens(&together, row), "row {row}");
        assert_eq!(alone.known_lengths[0], together.known_lengths[row]);
    }
    let other = |key| collator.collate(&dataset, &rows, key).unwrap() != together;
    assert!(other(SampleKey { epoch: 3, ..TRAIN }) && other(SampleKey { seed: 12, ..TRAIN }));
    let test = |epoch| collator.collate(&dataset, &rows, SampleKey { epoch, ..TEST }).unwrap();
    assert_eq!(test(0), test(9), "outside training an epoch changes nothing");
}

#[test]
fn long_cells_keep_their_highest_values() {
    let dataset = dataset();
    let top = collator(&dataset, |config| config.max_seq_len = 21);
    let batch = top.collate(&dataset, &[0], TRAIN).unwrap();
    assert_eq!((batch.lengths[0], batch.seq_len), (21, 24));
    let cell = dataset.cell(0).unwrap();
    let mut values = cell.values.to_vec();
    values.sort_by(|a, b| b.total_cmp(a));
    let least_kept = tokens(&batch, 0)[1..].iter().map(|token| token.1).fold(f32::MAX, f32::min);
    assert_eq!(least_kept, values[19]);
    let genes: Vec<u32> = tokens(&batch, 0)[1..].iter().map(|token| token.0).collect();
    assert!(genes.is_sorted());

    let random = collator(&dataset, |config| {
        config.max_seq_len = 21;
        config.sampling = Sampling::Random;
    });
    assert_ne!(random.collate(&dataset, &[0], TRAIN).unwrap(), batch);
    assert_eq!(random.collate(&dataset, &[0], TEST).unwrap(), batch, "top outside training");
}

#[test]
fn masked_hides_the_stated_share() {
    let dataset = dataset();
    let masked = collator(&dataset, |config| config.objective = Objective::Masked { ratio: 0.7 });
    let plain = collator(&dataset, |_| {});
    let rows: Vec<usize> = (0..41).collect();
    let (batch, seen) = (masked.collate(&dataset, &rows, TRAIN).unwrap(), plain.collate(&dataset, &rows, TRAIN).unwrap());
    assert_eq!((&batch.targets, &batch.gene_ids), (&seen.values, &seen.gene_ids));
    assert_eq!(batch.known_lengths, batch.lengths);
    for row in rows {
        let tokens = tokens(&batch, row);
        let hidden = tokens.iter().filter(|token| token.3 == 1.0).count();
        assert_eq!(hidden, (tokens.len() - 1) * 7 / 10);
        assert_eq!(tokens[0].3, 0.0);
        assert!(tokens.iter().all(|&(_, value, target, mask)| { if mask == 1.0 { value == -1.0 } else { value == target } }));
    }
    let predicted: f32 = batch.target_mask.iter().sum();
    let inside: f32 = (0..41).flat_map(|row| tokens(&batch, row)).map(|token| token.3).sum();
    assert_eq!(predicted, inside, "no pad is predicted");
}

#[test]
fn generative_puts_known_genes_first() {
    let dataset = dataset();
    let ratios = vec![0.25, 0.5, 0.75];
    let generative = collator(&dataset, |config| config.objective = Objective::Generative { ratios: ratios.clone() });
    let rows: Vec<usize> = (0..41).collect();
    let batch = generative.collate(&dataset, &rows, TRAIN).unwrap();
    let plain = collator(&dataset, |_| {}).collate(&dataset, &rows, TRAIN).unwrap();
    let mut drawn = BTreeSet::new();
    for row in rows {
        let (tokens, known) = (tokens(&batch, row), batch.known_lengths[row] as usize);
        let genes = tokens.len() - 1;
        let fits = |ratio: &&f32| (genes as f32 * **ratio) as usize == tokens.len() - known;
        drawn.extend(ratios.iter().filter(fits).take(usize::from(genes > 8)).map(|r| r.to_bits()));
        assert!(ratios.iter().any(|ratio| fits(&ratio)), "row {row}");
        assert!(known >= 1 && tokens[..known].iter().all(|token| token.3 == 0.0 && token.1 == token.2));
        assert!(tokens[known..].iter().all(|token| token.3 == 1.0 && token.1 == -1.0));
        let all: BTreeSet<u32> = tokens.iter().map(|token| token.0).collect();
        assert_eq!(all, self::tokens(&plain, row).iter().map(|token| token.0).collect());
    }
    assert_eq!(drawn.len(), 3, "every ratio occurs");
}

#[test]
fn zero_genes_come_from_the_panel() {
    let dataset = dataset();
    let zeros = collator(&dataset, |config| config.include_zero_genes = 10);
    let batch = zeros.collate(&dataset, &[0, 20, 40], TRAIN).unwrap();
    assert_eq!(batch.lengths, [64, 1 + 14 + 10, 11]);
    for (place, row) in [0, 20, 40].into_iter().enumerate() {
        let cell = dataset.cell(row).unwrap();
        let tokens = tokens(&batch, place);
        let absent: Vec<_> = tokens[1..].iter().filter(|token| !cell.genes.contains(&token.0)).collect();
        assert_eq!(absent.len(), 10);
        assert!(absent.iter().all(|token| token.1 == 0.0));
        assert_eq!(tokens.iter().map(|token| token.0).collect::<BTreeSet<_>>().len(), tokens.len());
    }
}

#[test]
fn augmentation_acts_in_training_only() {
    let dataset = dataset();
    let plain = collator(&dataset, |_| {}).collate(&dataset, &[3], TEST).unwrap();
    let thinned = collator(&dataset, |config| config.count_thinning = Some((0.5, 0.5)));
    assert_eq!(thinned.collate(&dataset, &[3], TEST).unwrap(), plain);
    let batch = thinned.collate(&dataset, &[3], TRAIN).unwrap();
    let sum = |batch: &CellBatch| tokens(batch, 0).iter().map(|token| token.1).sum::<f32>();
    assert!((0.4..0.6).contains(&(sum(&batch) / sum(&plain))));
    assert!(tokens(&batch, 0)[1..].iter().all(|token| token.1 > 0.0 && token.1.fract() == 0.0));

    let dropped = collator(&dataset, |config| config.gene_dropout = 0.5);
    assert_eq!(dropped.collate(&dataset, &[3], TEST).unwrap(), plain);
    let lengths: u32 = dropped.collate(&dataset, &[3, 4, 5, 6], TRAIN).unwrap().lengths.iter().sum();
    assert!((60..150).contains(&lengths), "{lengths} of 60 + 50 + 43 + 38 genes");
}

#[test]
fn requests_that_can_not_be_met() {
    let dataset = dataset();
    let good = collator(&dataset, |_| {});
    assert!(matches!(good.collate(&dataset, &[], TEST), Err(Error::EmptyBatch)));
    assert!(matches!(good.collate(&dataset, &[41], TEST), Err(Error::Row { .. })));
    let foreign = Collator::new(&vocab(&["A"]), CollateConfig::default()).unwrap();
    assert!(matches!(foreign.collate(&dataset, &[0], TEST), Err(Error::VocabMismatch { .. })));

    let setting = |change: fn(&mut CollateConfig)| {
        let mut config = CollateConfig::default();
        change(&mut config);
        match Collator::new(dataset.vocab(), config) {
            Err(Error::Setting { setting, .. }) => setting,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(setting(|config| config.max_seq_len = 1), "max_seq_len");
    assert_eq!(setting(|config| config.target_sum = f64::NAN), "target_sum");
    assert_eq!(setting(|config| config.n_bins = 2), "n_bins");
    assert_eq!(setting(|config| config.pad_to_multiple = 0), "pad_to_multiple");
    assert_eq!(setting(|config| config.include_zero_genes = 1199), "include_zero_genes");
    assert_eq!(setting(|config| config.gene_dropout = 1.0), "gene_dropout");
    assert_eq!(setting(|config| config.count_thinning = Some((0.0, 1.0))), "count_thinning");
    let masked = |ratio| Objective::Masked { ratio };
    assert!(Collator::new(dataset.vocab(), CollateConfig { objective: masked(1.1), ..CollateConfig::default() }).is_err());
    let none = Objective::Generative { ratios: vec![] };
    assert!(Collator::new(dataset.vocab(), CollateConfig { objective: none, ..CollateConfig::default() }).is_err());
}

#[test]
fn logged_input_is_used_as_it_is_and_refused_as_counts() {
    let mut builder = CellDatasetBuilder::new(vocab(&["A", "B"]));
    let cells = [Ok(block(0, 2, &[&[(0, 0.25), (1, 3.5)]]))];
    builder.add_source("logged.h5ad", &names(&["A", "B"]), cells, None).unwrap();
    let dataset = builder.build();
    let logged = collator(&dataset, |config| config.value_mode = ValueMode::Log1p);
    assert_eq!(tokens(&logged.collate(&dataset, &[0], TEST).unwrap(), 0)[1].1, 0.25);
    let raw = collator(&dataset, |_| {}).collate(&dataset, &[0], TEST).unwrap_err();
    assert!(matches!(&raw, Error::Scale { mode: ValueMode::Raw, .. }), "{raw}");
    let thinned = collator(&dataset, |config| {
        config.value_mode = ValueMode::Binned;
        config.count_thinning = Some((0.5, 1.0));
    });
    assert!(matches!(thinned.collate(&dataset, &[0], TRAIN), Err(Error::Setting { .. })));
}

#[test]
fn config_reads_back_and_refuses_unknown_keys() {
    let text = r#"{"value_mode":"log1p","objective":{"masked":{"ratio":0.4}},"sampling":"random"}"#;
    let config: CollateConfig = serde_json::from_str(text).unwrap();
    assert_eq!(config.objective, Objective::Masked { ratio: 0.4 });
    let again: CollateConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    assert!(serde_json::from_str::<CollateConfig>(r#"{"max_len":3}"#).is_err());
}

#[test]
fn prefetching_gives_what_collating_gives() {
    let dataset = Arc::new(dataset());
    let collator = collator(&dataset, |config| config.objective = Objective::Masked { ratio: 0.4 });
    let order = BatchOrder::new((0..41).collect(), 4, 3).unwrap();
    let batches = order.bucket_by_length(&dataset.lengths()).unwrap().epoch(2);
    let resumed = 3;
    let made = Prefetcher::new(dataset.clone(), collator.clone(), batches.clone(), TRAIN, resumed, 2);
    let made: Vec<CellBatch> = made.unwrap().collect::<Result<_, _>>().unwrap();
    let expected: Vec<CellBatch> = batches[resumed..].iter().map(|rows| collator.collate(&dataset, rows, TRAIN).unwrap()).collect();
    assert_eq!(made, expected);
    let past = Prefetcher::new(dataset, collator, batches, TRAIN, 99, 2).unwrap();
    assert_eq!(past.count(), 0);
}
