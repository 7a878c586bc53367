//! Probabilities of texts to choose from, against the scores of whole sequences.

use scmmgpt_engine::generate::Prompt;
use scmmgpt_engine::generate::labels::LabelPaths;
use scmmgpt_engine::layer::Dims;
use scmmgpt_engine::model::language_workspace::TokenBatch;
use scmmgpt_loader::language::IGNORE;

use crate::setup::Tiny;

/// `ln P` of a text behind a prompt, by the training loss.
fn whole(tiny: &Tiny, prompt: &[u32], text: &[u32]) -> f64 {
    let token_ids = [prompt, text].concat();
    let length = token_ids.len();
    let labels = [&vec![IGNORE; prompt.len()][..], text].concat();
    let batch = TokenBatch { batch: 1, seq_len: length, token_ids, lengths: vec![length as u32], labels };
    let mut workspace = tiny.model.workspace(&tiny.device, Dims { batch: 1, seq_len: length }, false).unwrap();
    -workspace.loss(&tiny.model, &batch, None).unwrap() * text.len() as f64
}

#[test]
fn probabilities_are_shares_of_whole_sequences() {
    let tiny = Tiny::open();
    let eos = tiny.eos[0];
    // One token; several; one that another begins with; all behind a common beginning, or not.
    let sets: [Vec<Vec<u32>>; 3] = [
        vec![vec![12, 3, 4], vec![12, 3, 9, 9, 1], vec![12, 3], vec![12, 3, 20], vec![12, 3, 9, 8]],
        vec![vec![1], vec![2], vec![30]],
        vec![vec![14, 2], vec![9, 9, 9, 9, 9, 9], vec![40]],
    ];
    let prompts: Vec<Prompt<'_>> = tiny.prompts.iter().map(|tokens| Prompt::from(tokens.as_slice())).collect();
    for texts in sets {
        let paths = LabelPaths::new(&texts, eos).unwrap();
        let probabilities = paths.probabilities(&tiny.model, &mut tiny.generator(40, 24), &prompts).unwrap();
        for (prompt, got) in tiny.prompts.iter().zip(probabilities.chunks_exact(texts.len())) {
            let ended = |text: &Vec<u32>| {
                let begins = texts.iter().any(|other| other != text && other.starts_with(text));
                if begins { [text.as_slice(), &[eos]].concat() } else { text.clone() }
            };
            let scores: Vec<f64> = texts.iter().map(|text| whole(&tiny, prompt, &ended(text)).exp()).collect();
            let total: f64 = scores.iter().sum();
            for (score, got) in scores.iter().zip(got) {
                assert!((score / total - got).abs() < 1e-5, "{got}, expected {}", score / total);
            }
            assert!((got.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        // Few sequences at a time, prompts alone: the same bits.
        for batch in [1, 2, 5] {
            let few = paths.probabilities(&tiny.model, &mut tiny.generator(batch, 24), &prompts).unwrap();
            assert!(few == probabilities, "a batch of {batch} changed the bits");
        }
        let last = paths.probabilities(&tiny.model, &mut tiny.generator(5, 24), &prompts[3..]).unwrap();
        assert!(last == probabilities[3 * texts.len()..]);
        assert!(paths.probabilities(&tiny.model, &mut tiny.generator(5, prompts[2].tokens.len() - 1), &prompts).is_err());
    }
}
