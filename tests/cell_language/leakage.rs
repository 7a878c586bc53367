//! What must not reach what: the real cell never reaches the one that is made from text; the distance at the slots never moves the
//! cell's own vectors; neighbours in a batch never change a bit.

use scmmgpt_engine::config::Tuning;
use scmmgpt_engine::model::cell_language::{LossWeights, Purpose};
use scmmgpt_loader::batch::CellBatch;

use crate::setup::{Decoder, Golden, Model, purpose, tuned};

fn model(golden: &Golden, purpose: Purpose) -> Model<f32> {
    Model::new(golden, purpose, &tuned(golden, Tuning::full(), true, true), Decoder::default())
}

/// Other values in one cell, where all of them count.
fn with_other_cell(cells: &CellBatch, cell: usize) -> CellBatch {
    let mut cells = cells.clone();
    cells.values[cell * cells.seq_len..][..cells.lengths[cell] as usize].iter_mut().for_each(|value| *value += 1.5);
    cells
}

/// `bos text <cell> slots </cell>` of the file's sequences that begin with text.
fn prompts(golden: &Golden) -> Vec<Vec<u32>> {
    let sequences = golden.batch(false).sequences;
    let texts = (0..sequences.batch).filter(|&item| !sequences.cell_first[item]);
    texts.map(|item| sequences.token_ids[item * sequences.seq_len..][..sequences.lengths[item] as usize - 1].to_vec()).collect()
}

/// The made cell follows every word of its text, and no real cell: none is among the arguments.
#[test]
fn a_made_cell_depends_on_its_text_alone() {
    let golden = Golden::open();
    let mut model = model(&golden, Purpose::inference());
    let (prompts, genes) = (prompts(&golden), [3, 8, 1, 20]);
    let mut make = |prompts: &[Vec<u32>]| {
        let slots = model.workspace.slot_states(&model.model, prompts).unwrap();
        model.workspace.decode_expression(&model.model, prompts.len(), &slots, None, &genes).unwrap().values
    };
    let before = make(&prompts);
    let words = prompts[0].len() - golden.size("queries") - 2;
    for word in 1..words {
        let mut changed = prompts.clone();
        changed[0][word] = if changed[0][word] == 5 { 6 } else { 5 };
        let after = make(&changed);
        assert!(before[..4].iter().zip(&after[..4]).all(|(before, after)| before != after), "word {word}");
        assert_eq!(before[4..], after[4..], "word {word} of another text");
    }
    // Alone, and in other company, to the bit.
    assert_eq!(make(&prompts[1..]), before[4..]);
    let many: Vec<Vec<u32>> = (0..7).map(|item| prompts[(item + 1) % 2].clone()).collect();
    assert_eq!(make(&many)[..4], before[4..]);
}

/// In training too: the losses at what is made from text do not move when a cell changes that is not their target.
#[test]
fn slots_of_text_first_sequences_see_no_cell() {
    let golden = Golden::open();
    let weights = LossWeights { language: 1.0, reconstruction: 1.0, expression: 1.0 };
    let mut model = model(&golden, Purpose { training: false, ..purpose(weights) });
    let batch = golden.batch(false);
    let before = model.forward(&batch);
    // Cell 1 is the target of a text: its vectors are compared with what the text makes, and the decoder reads them as its own.
    let mut changed = batch.clone();
    changed.cells = with_other_cell(&batch.cells, 1);
    let after = model.forward(&changed);
    assert_eq!(after.language, before.language, "no word follows a cell that stands behind it");
    assert_ne!(after.reconstruction, before.reconstruction);
    // Cell 0 is described: its words follow it, what texts make does not.
    changed.cells = with_other_cell(&batch.cells, 0);
    let after = model.forward(&changed);
    assert_eq!(after.reconstruction, before.reconstruction);
    assert_ne!(after.language, before.language);
}

#[test]
fn the_distance_moves_no_real_cell() {
    let golden = Golden::open();
    for weights in [
        LossWeights { language: 0.0, reconstruction: 1.0, expression: 0.0 },
        LossWeights { language: 0.0, reconstruction: 0.0, expression: 1.0 },
    ] {
        let mut model = model(&golden, purpose(weights));
        let batch = golden.batch(true);
        model.forward(&batch);
        model.backward(&batch);
        for name in ["llm_proj.fc2.weight", "llm_proj.fc1.bias", "query_tokens", "encoder.embedding.weight"] {
            let gradient = model.gradient(name).unwrap();
            assert!(gradient.iter().all(|&value| value == 0.0), "{name}");
        }
        let moved = model.gradient("llm_model.model.layers.0.self_attn.q_proj.weight").unwrap();
        assert!(moved.iter().any(|&value| value != 0.0));
    }
}

#[test]
fn neighbours_in_a_batch_change_no_bit() {
    let golden = Golden::open();
    let mut model = model(&golden, Purpose::inference());
    let cells = golden.batch(false).cells;
    let together = model.workspace.project_cells(&model.model, &cells).unwrap();
    let pooled = model.workspace.pool_cells(&model.model, &cells).unwrap();
    let (width, middle) = (together.len() / cells.batch, pooled.len() / cells.batch);
    for item in 0..cells.batch {
        let row = item * cells.seq_len..(item + 1) * cells.seq_len;
        let alone = CellBatch {
            batch: 1,
            gene_ids: cells.gene_ids[row.clone()].to_vec(),
            values: cells.values[row.clone()].to_vec(),
            targets: cells.targets[row.clone()].to_vec(),
            target_mask: cells.target_mask[row].to_vec(),
            lengths: vec![cells.lengths[item]],
            known_lengths: vec![cells.known_lengths[item]],
            labels: vec![0],
            rows: vec![item],
            ..cells.clone()
        };
        assert_eq!(model.workspace.project_cells(&model.model, &alone).unwrap(), together[item * width..][..width]);
        assert_eq!(model.workspace.pool_cells(&model.model, &alone).unwrap(), pooled[item * middle..][..middle]);
    }
    // Neighbours that weigh nothing, and none at all, are the same up to rounding; a neighbour that weighs something is not.
    let slots = model.workspace.slot_states(&model.model, &prompts(&golden)[..1]).unwrap();
    let near = model.workspace.project_pooled_cells(&model.model, &pooled[..middle]).unwrap();
    let keys = [slots.as_slice(), &near].concat();
    let mut decode = |bias: f32| {
        let mut biases = vec![0.0; golden.size("queries")];
        biases.push(bias);
        model.workspace.decode_expression(&model.model, 1, &keys, Some(&biases), &[1, 2, 3]).unwrap().values
    };
    let (unheard, heard) = (decode(-80.0), decode(0.0));
    let plain = model.workspace.decode_expression(&model.model, 1, &slots, None, &[1, 2, 3]).unwrap().values;
    assert!(plain.iter().zip(&unheard).all(|(plain, unheard)| (plain - unheard).abs() < 1e-5), "{plain:?} {unheard:?}");
    assert!(plain.iter().zip(&heard).any(|(plain, heard)| (plain - heard).abs() > 1e-3), "{plain:?} {heard:?}");
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let golden = Golden::open();
    let mut model = model(&golden, purpose(LossWeights::default()));
    let mut refuse = |change: &dyn Fn(&mut crate::setup::Batch), part: &str| {
        let mut batch = golden.batch(false);
        change(&mut batch);
        let error = model.workspace.forward(&model.model, &batch.pairs(), crate::setup::DRAW).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refuse(&|batch| batch.cells.batch = 3, "3 cells come with 4 sequences");
    refuse(&|batch| batch.sequences.slots_at[1] = 60, "slots from 60 on");
    refuse(&|batch| batch.expression.gene_ids[0] = 4000, "4000");
    refuse(&|batch| batch.sequences.token_ids[0] = 500, "500");
    let error = model.workspace.slot_states(&model.model, &[vec![1, 2]]).unwrap_err().to_string();
    assert!(error.contains("2 tokens"), "{error}");
    let error = model.workspace.decode_expression(&model.model, 2, &[0.0; 7], None, &[1]).unwrap_err().to_string();
    assert!(error.contains("2 cells"), "{error}");
}
