//! Sequences of cells and texts, token for token.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{block, names, vocab};
use scmmgpt_loader::Error;
use scmmgpt_loader::batch::SampleKey;
use scmmgpt_loader::dataset::CellDatasetBuilder;
use scmmgpt_loader::language::{CellTokens, Direction, IGNORE, LanguageConfig, LanguageTokenizer, PairCollator, PairConfig};
use scmmgpt_loader::text::{CellTexts, DescriptionConfig, Descriptions, Literature, Metadata, TextError};

const TEST: SampleKey = SampleKey { seed: 5, epoch: 0, training: false };
const SLOTS: usize = 3;

/// Cells whose texts are these.
fn texts(texts: &[&str], literature: Option<Literature>) -> CellTexts {
    let mut builder = CellDatasetBuilder::new(vocab(&["A"]));
    let rows: Vec<&[(u32, f32)]> = texts.iter().map(|_| &[(0, 1.0)][..]).collect();
    let labels = texts.iter().map(|text| Some(text.to_string())).collect();
    builder.add_source("made", &names(&["A"]), [Ok(block(0, 1, &rows))], Some(labels)).unwrap();
    let literature_share = if literature.is_some() { 1.0 } else { 0.0 };
    let config = DescriptionConfig { templates: names(&["{cell_type}"]), literature_share, ..DescriptionConfig::default() };
    let descriptions = Arc::new(Descriptions::new(&config, None, literature).unwrap());
    CellTexts::new(descriptions, &builder.build(), Metadata::empty(texts.len())).unwrap()
}

fn tokenizer() -> (Arc<LanguageTokenizer>, CellTokens) {
    let config = LanguageConfig {
        hidden_size: 8,
        intermediate_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 8,
        vocab_size: 1203,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        tie_word_embeddings: true,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
    };
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/language_tokenizer.json");
    let (tokenizer, tokens) = LanguageTokenizer::open(file).unwrap().with_cell_tokens(&config, SLOTS).unwrap();
    (Arc::new(tokenizer), tokens)
}

fn collator(config: PairConfig) -> PairCollator {
    let (tokenizer, tokens) = tokenizer();
    PairCollator::new(tokenizer, tokens, config).unwrap()
}

const BOS: u32 = 1;
const EOS: u32 = 2;
const PAD: u32 = 1203;
const OPEN: u32 = 1204;
const SLOT: u32 = 1205;
const CLOSE: u32 = 1208;
const X: u32 = IGNORE;

#[test]
fn both_orders_token_for_token() {
    let collator = collator(PairConfig::default());
    let texts = texts(&["B cell", "CD14-positive monocyte"], None);
    let word = |text: &str| collator.tokenizer().encode(text).unwrap();
    let (short, long) = (word("B cell"), word("CD14-positive monocyte"));
    assert_eq!((short.len(), long.len()), (2, 6));

    let batch = collator.collate(&texts, &[0, 1], TEST, Direction::CellFirst).unwrap();
    assert_eq!((batch.batch, batch.seq_len, batch.truncated), (2, 16, 0));
    assert_eq!((batch.lengths.as_slice(), batch.slots_at.as_slice()), (&[9, 13][..], &[2, 2][..]));
    assert_eq!((batch.cell_first, batch.sources), (vec![true; 2], vec![None; 2]));
    let pads = [PAD; 7];
    let first = [&[BOS, OPEN, SLOT, SLOT + 1, SLOT + 2, CLOSE][..], &short, &[EOS], &pads].concat();
    assert_eq!(batch.token_ids[..16], first);
    assert_eq!(batch.labels[..16], [&[X; 6][..], &short, &[EOS], &[X; 7]].concat());
    assert_eq!(batch.labels[16..], [&[X; 6][..], &long, &[EOS], &[X; 3]].concat());

    let batch = collator.collate(&texts, &[1, 0], TEST, Direction::TextFirst).unwrap();
    assert_eq!((batch.lengths.as_slice(), batch.slots_at.as_slice()), (&[13, 9][..], &[8, 4][..]));
    let first = [&[BOS][..], &long, &[OPEN, SLOT, SLOT + 1, SLOT + 2, CLOSE, EOS, PAD, PAD, PAD]].concat();
    assert_eq!(batch.token_ids[..16], first);
    assert_eq!(batch.labels[..16], [X, X, X, X, X, X, X, OPEN, X, X, X, X, EOS, X, X, X]);
    assert_eq!(batch.labels[16..], [X, X, X, OPEN, X, X, X, X, EOS, X, X, X, X, X, X, X]);
    for (row, &at) in batch.slots_at.iter().enumerate() {
        assert_eq!(batch.token_ids[row * 16 + at as usize..][..SLOTS], [SLOT, SLOT + 1, SLOT + 2]);
    }
    // What inference begins with is what training begins with.
    assert_eq!(collator.cell_prompt(None).unwrap(), [BOS, OPEN, SLOT, SLOT + 1, SLOT + 2, CLOSE]);
    assert_eq!(collator.text_prompt("CD14-positive monocyte").unwrap(), batch.token_ids[..12]);
}

#[test]
fn prompts_are_read_and_never_predicted() {
    let config = PairConfig { describe_prompt: "Describe: ".into(), generate_prompt: "scRNA-seq of a ".into(), ..PairConfig::default() };
    let collator = collator(config);
    let texts = texts(&["B cell"], None);
    let word = |text: &str| collator.tokenizer().encode(text).unwrap();
    let cell = [OPEN, SLOT, SLOT + 1, SLOT + 2, CLOSE];
    let batch = collator.collate(&texts, &[0], TEST, Direction::CellFirst).unwrap();
    let prompt = word("Describe: ");
    let expected = [&[BOS][..], &cell, &prompt, &word("B cell"), &[EOS]].concat();
    assert_eq!(batch.token_ids[..batch.lengths[0] as usize], expected);
    assert_eq!(batch.labels[..batch.lengths[0] as usize], [&vec![X; 6 + prompt.len()], &word("B cell")[..], &[EOS]].concat());
    assert_eq!(collator.cell_prompt(None).unwrap(), expected[..6 + prompt.len()]);
    assert_eq!(collator.cell_prompt(Some("Is it a B cell?")).unwrap(), [&[BOS][..], &cell, &word("Is it a B cell?")].concat());
    let batch = collator.collate(&texts, &[0], TEST, Direction::TextFirst).unwrap();
    let expected = [&[BOS][..], &word("scRNA-seq of a B cell"), &cell].concat();
    assert_eq!(batch.token_ids[..expected.len()], expected);
    assert_eq!(collator.text_prompt("B cell").unwrap(), expected);
}

#[test]
fn of_a_long_text_the_end_is_cut_and_eos_stays() {
    let collator = collator(PairConfig { max_length: 12, cell_first: 0.0, ..PairConfig::default() });
    // Room for five tokens besides bos, five for the cell, and eos.
    let texts = texts(&["CD14-positive monocyte", "B cell"], None);
    let long = collator.tokenizer().encode("CD14-positive monocyte").unwrap();
    let batch = collator.collate(&texts, &[0, 1], TEST, Direction::Drawn).unwrap();
    assert_eq!((batch.cell_first, batch.truncated), (vec![true, false], 1), "what does not fit comes last");
    assert_eq!((batch.lengths.as_slice(), batch.seq_len), (&[12, 9][..], 16));
    assert_eq!(batch.token_ids[6..12], [&long[..5], &[EOS]].concat());
    assert_eq!(batch.labels[6..12], [&long[..5], &[EOS]].concat());
    let batch = collator.collate(&texts, &[0], TEST, Direction::TextFirst).unwrap();
    assert_eq!((batch.cell_first, batch.truncated, batch.slots_at), (vec![false], 1, vec![7]));
    assert_eq!(batch.token_ids[..12], [&[BOS][..], &long[..5], &[OPEN, SLOT, SLOT + 1, SLOT + 2, CLOSE, EOS]].concat());
}

#[test]
fn orders_are_drawn_for_each_cell_and_epoch() {
    let collator = collator(PairConfig { cell_first: 0.25, ..PairConfig::default() });
    let texts = texts(&["B cell"; 200], None);
    let rows: Vec<usize> = (0..200).collect();
    let drawn = |seed, epoch, rows: &[usize]| {
        collator.collate(&texts, rows, SampleKey { seed, epoch, training: true }, Direction::Drawn).unwrap().cell_first
    };
    let all: Vec<Vec<bool>> = (0..10).map(|epoch| drawn(5, epoch, &rows)).collect();
    let first = all.iter().flatten().filter(|first| **first).count();
    assert!((400..600).contains(&first), "{first} of 2000 at a share of 0.25");
    assert_ne!(all[0], all[1]);
    assert_ne!(all[0], drawn(6, 0, &rows));
    assert_eq!(drawn(5, 3, &[7, 3]), [all[3][7], all[3][3]], "neighbours change nothing");
    let outside = |epoch| collator.collate(&texts, &rows, SampleKey { epoch, ..TEST }, Direction::Drawn).unwrap().cell_first;
    assert_eq!(outside(0), outside(4), "outside training an epoch changes nothing");
}

#[test]
fn passages_are_texts_too_and_impossible_settings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passages.jsonl");
    std::fs::write(&file, r#"{"key": "B cell", "text": "B cells make antibodies.", "source": "pmid:1"}"#).unwrap();
    let texts = texts(&["B cell", "platelet"], Some(Literature::open(&file, None).unwrap()));
    let collator = collator(PairConfig::default());
    let training = SampleKey { training: true, ..TEST };
    let batch = collator.collate(&texts, &[0, 1], training, Direction::CellFirst).unwrap();
    assert_eq!(batch.sources, [Some("pmid:1".to_owned()), None]);
    let passage = collator.tokenizer().encode("B cells make antibodies.").unwrap();
    assert_eq!(batch.token_ids[6..6 + passage.len()], passage);
    assert!(matches!(collator.collate(&texts, &[], training, Direction::Drawn), Err(Error::EmptyBatch)));
    assert!(matches!(collator.text_prompt(" \n"), Err(Error::Text(TextError::Empty))));

    let (tokenizer, tokens) = tokenizer();
    let refused = |config, name| {
        let error = PairCollator::new(tokenizer.clone(), tokens, config).unwrap_err();
        assert!(matches!(error, Error::Setting { setting, .. } if setting == name), "{error}");
    };
    for cell_first in [-0.1, 1.1, f64::NAN] {
        refused(PairConfig { cell_first, ..PairConfig::default() }, "cell_first");
    }
    refused(PairConfig { max_length: 7, ..PairConfig::default() }, "max_length");
    refused(PairConfig { max_length: 8, describe_prompt: "cell".into(), ..PairConfig::default() }, "max_length");
    assert!(PairCollator::new(tokenizer.clone(), tokens, PairConfig { max_length: 8, ..PairConfig::default() }).is_ok());
}
