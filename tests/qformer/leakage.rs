//! What a row may not see must not reach it: bytes stay equal when it changes.

use scmmgpt_engine::model::cell_text::{Draw, LossWeights, Purpose, Side};
use scmmgpt_loader::batch::CellBatch;
use scmmgpt_loader::text::TextBatch;

use super::setup::{Golden, Model, purpose};

/// A word that is in no text of the file.
const OTHER: u32 = 0;

fn model(golden: &Golden) -> Model<f32> {
    let weights = LossWeights { contrastive: 1.0, matching: 1.0, captioning: 1.0 };
    Model::new(golden, Purpose { training: false, ..purpose(weights) })
}

/// The last layer's rows of one side after a pass over these batches.
fn rows(model: &mut Model<f32>, side: Side, cells: &CellBatch, texts: &TextBatch, draw: Draw) -> Vec<Vec<f32>> {
    model.workspace.forward(&model.model, cells, texts, draw).unwrap();
    let rows = model.workspace.hidden(side).unwrap();
    let width = model.model.config().hidden_size;
    rows.chunks_exact(width).map(<[f32]>::to_vec).collect()
}

/// Other values in one cell, where all of them count.
fn with_other_cell(cells: &CellBatch, cell: usize) -> CellBatch {
    let mut cells = cells.clone();
    cells.values[cell * cells.seq_len..][..cells.lengths[cell] as usize].iter_mut().for_each(|value| *value += 1.5);
    cells
}

fn with_other_word(texts: &TextBatch, text: usize, position: usize) -> TextBatch {
    let mut texts = texts.clone();
    texts.token_ids[text * texts.seq_len + position] = OTHER;
    texts
}

#[test]
fn text_rows_of_the_contrast_see_no_cell() {
    let golden = Golden::open();
    let (mut model, cells, texts, draw) = (model(&golden), golden.cells(), golden.texts(), golden.draw());
    let before = rows(&mut model, Side::Texts, &cells, &texts, draw);
    let changed = with_other_cell(&cells, 2);
    assert_eq!(rows(&mut model, Side::Texts, &changed, &texts, draw), before);
    assert_ne!(rows(&mut model, Side::Cells, &changed, &texts, draw), rows(&mut model, Side::Cells, &cells, &texts, draw));
}

#[test]
fn queries_of_the_contrast_see_no_text() {
    let golden = Golden::open();
    let (mut model, cells, texts, draw) = (model(&golden), golden.cells(), golden.texts(), golden.draw());
    let before = rows(&mut model, Side::Cells, &cells, &texts, draw);
    assert_eq!(rows(&mut model, Side::Cells, &cells, &with_other_word(&texts, 1, 2), draw), before);
}

#[test]
fn captions_see_their_past_and_their_cell_alone() {
    let golden = Golden::open();
    let (mut model, cells, texts, draw) = (model(&golden), golden.cells(), golden.texts(), golden.draw());
    let before = rows(&mut model, Side::Captioning, &cells, &texts, draw);
    for (text, length) in texts.lengths.iter().map(|&length| length as usize).enumerate() {
        for position in 1..length {
            let after = rows(&mut model, Side::Captioning, &cells, &with_other_word(&texts, text, position), draw);
            for (row, (before, after)) in before.iter().zip(&after).enumerate() {
                let (of, at) = (row / texts.seq_len, row % texts.seq_len);
                let sees = of == text && at >= position && at < length;
                let counts = at < texts.lengths[of] as usize;
                assert!(!counts || (before != after) == sees, "row {at} of text {of}, word {position} of text {text} changed");
            }
        }
    }
    let after = rows(&mut model, Side::Captioning, &with_other_cell(&cells, 1), &texts, draw);
    for (row, (before, after)) in before.iter().zip(&after).enumerate() {
        let (of, at) = (row / texts.seq_len, row % texts.seq_len);
        assert!(at >= texts.lengths[of] as usize || (before != after) == (of == 1), "row {at} of text {of}, cell 1 changed");
    }
}

/// In a matching pass every row sees queries and text of its own item.
#[test]
fn matching_mixes_an_item_with_nobody_else() {
    let golden = Golden::open();
    let (mut model, cells, texts) = (model(&golden), golden.cells(), golden.texts());
    let before = model.workspace.match_scores(&model.model, &cells, &texts).unwrap();
    let after = model.workspace.match_scores(&model.model, &cells, &with_other_word(&texts, 2, 1)).unwrap();
    for (pair, (before, after)) in before.iter().zip(&after).enumerate() {
        assert_eq!(before != after, pair % texts.batch == 2, "pair {pair}, text 2 changed");
    }
    let after = model.workspace.match_scores(&model.model, &with_other_cell(&cells, 0), &texts).unwrap();
    for (pair, (before, after)) in before.iter().zip(&after).enumerate() {
        assert_eq!(before != after, pair / texts.batch == 0, "pair {pair}, cell 0 changed");
    }
}

#[test]
fn padding_never_matters() {
    let golden = Golden::open();
    let (mut model, cells, texts, draw) = (model(&golden), golden.cells(), golden.texts(), golden.draw());
    let losses = model.losses(&golden, draw);
    let scores = model.workspace.match_scores(&model.model, &cells, &texts).unwrap();
    let (mut other_cells, mut other_texts) = (cells.clone(), texts.clone());
    for cell in 0..cells.batch {
        for token in cells.lengths[cell] as usize..cells.seq_len {
            other_cells.gene_ids[cell * cells.seq_len + token] = 3;
            other_cells.values[cell * cells.seq_len + token] = 9.0;
        }
        for token in texts.lengths[cell] as usize..texts.seq_len {
            other_texts.token_ids[cell * texts.seq_len + token] = 11;
        }
    }
    assert!(other_cells != cells && other_texts != texts);
    assert_eq!(model.workspace.forward(&model.model, &other_cells, &other_texts, draw).unwrap(), losses);
    assert_eq!(model.workspace.match_scores(&model.model, &other_cells, &other_texts).unwrap(), scores);
    let longer = TextBatch { seq_len: texts.seq_len + 8, token_ids: wider(&texts.token_ids, texts.seq_len, 8, 5), ..texts.clone() };
    assert_eq!(model.workspace.match_scores(&model.model, &cells, &longer).unwrap(), scores);
    let embedded = model.workspace.embed_texts(&model.model, &texts).unwrap();
    assert_eq!(model.workspace.embed_texts(&model.model, &longer).unwrap(), embedded);
}

/// Rows with `more` tokens behind each.
fn wider(tokens: &[u32], seq_len: usize, more: usize, with: u32) -> Vec<u32> {
    tokens.chunks_exact(seq_len).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(with, more))).collect()
}

/// The batch of one item.
fn alone(cells: &CellBatch, texts: &TextBatch, item: usize) -> (CellBatch, TextBatch) {
    let (of_cell, of_text) = (item * cells.seq_len..(item + 1) * cells.seq_len, item * texts.seq_len..(item + 1) * texts.seq_len);
    let cell = CellBatch {
        batch: 1,
        seq_len: cells.seq_len,
        gene_ids: cells.gene_ids[of_cell.clone()].to_vec(),
        values: cells.values[of_cell.clone()].to_vec(),
        targets: cells.targets[of_cell.clone()].to_vec(),
        target_mask: cells.target_mask[of_cell].to_vec(),
        lengths: vec![cells.lengths[item]],
        known_lengths: vec![cells.known_lengths[item]],
        labels: vec![cells.labels[item]],
        rows: vec![item],
    };
    let token_ids = texts.token_ids[of_text].to_vec();
    (cell, TextBatch { batch: 1, token_ids, lengths: vec![texts.lengths[item]], classes: vec![texts.classes[item]], ..texts.clone() })
}

#[test]
fn batch_neighbours_change_nothing() {
    let golden = Golden::open();
    let (mut model, cells, texts) = (model(&golden), golden.cells(), golden.texts());
    let of_cells = model.workspace.embed_cells(&model.model, &cells).unwrap();
    let of_texts = model.workspace.embed_texts(&model.model, &texts).unwrap();
    let scores = model.workspace.match_scores(&model.model, &cells, &texts).unwrap();
    let [per_cell, per_text] = [of_cells.len() / cells.batch, of_texts.len() / texts.batch];
    for item in 0..cells.batch {
        let (cell, text) = alone(&cells, &texts, item);
        assert_eq!(model.workspace.embed_cells(&model.model, &cell).unwrap(), of_cells[item * per_cell..][..per_cell]);
        assert_eq!(model.workspace.embed_texts(&model.model, &text).unwrap(), of_texts[item * per_text..][..per_text]);
        let score = model.workspace.match_scores(&model.model, &cell, &text).unwrap();
        assert_eq!(score, [scores[item * texts.batch + item]]);
    }
    // More texts than one matching pass takes.
    let many: Vec<usize> = (0..23).map(|text| text % texts.batch).collect();
    let row = |&text: &usize| texts.token_ids[text * texts.seq_len..][..texts.seq_len].to_vec();
    let repeated = TextBatch {
        batch: many.len(),
        token_ids: many.iter().flat_map(row).collect(),
        lengths: many.iter().map(|&text| texts.lengths[text]).collect(),
        classes: many.iter().map(|&text| texts.classes[text]).collect(),
        ..texts.clone()
    };
    let all = model.workspace.match_scores(&model.model, &cells, &repeated).unwrap();
    for (pair, score) in all.iter().enumerate() {
        assert_eq!(*score, scores[pair / many.len() * texts.batch + many[pair % many.len()]]);
    }
}

#[test]
fn a_batch_of_one_class_has_no_negatives() {
    let golden = Golden::open();
    let weights = LossWeights { contrastive: 1.0, matching: 1.0, captioning: 0.0 };
    let mut model = Model::<f32>::new(&golden, purpose(weights));
    let (cell, text) = alone(&golden.cells(), &golden.texts(), 1);
    let single = model.workspace.forward(&model.model, &cell, &text, golden.draw()).unwrap();
    assert_eq!(single.contrastive, 0.0);
    // Only the own pair counts.
    let score = model.workspace.match_scores(&model.model, &cell, &text).unwrap()[0];
    assert!((single.matching + f64::from(score).ln()).abs() < 1e-5, "{} {score}", single.matching);
    let texts = TextBatch { classes: vec![3; golden.size("batch")], ..golden.texts() };
    let losses = model.workspace.forward(&model.model, &golden.cells(), &texts, golden.draw()).unwrap();
    model.workspace.backward(&model.model, golden.draw(), 1.0).unwrap();
    assert!(losses.contrastive.abs() < 1e-6 && losses.matching > 0.0, "{losses:?}");
}

#[test]
fn texts_that_do_not_fit_are_refused() {
    let golden = Golden::open();
    let (mut model, cells, texts) = (model(&golden), golden.cells(), golden.texts());
    let (_, one) = alone(&cells, &texts, 0);
    let error = model.workspace.forward(&model.model, &cells, &one, golden.draw()).unwrap_err().to_string();
    assert!(error.contains("4 cells come with 1 texts"), "{error}");
    let token_ids = wider(&one.token_ids, one.seq_len, 8, 5);
    let long = TextBatch { seq_len: one.seq_len + 8, token_ids, lengths: vec![one.seq_len as u32 + 8], ..one.clone() };
    let error = model.workspace.embed_texts(&model.model, &long).unwrap_err().to_string();
    assert!(error.contains("16 tokens") && error.contains("1 to 12"), "{error}");
    let unknown = with_other_word(&texts, 0, 1);
    let unknown = TextBatch { token_ids: unknown.token_ids.iter().map(|&word| if word == OTHER { 60 } else { word }).collect(), ..unknown };
    let error = model.workspace.embed_texts(&model.model, &unknown).unwrap_err().to_string();
    assert!(error.contains("holds 60") && error.contains("60 rows"), "{error}");
}
