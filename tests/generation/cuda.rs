//! The same on a CUDA device, where decoding has a kernel of its own; and the CPU's logits and draws.

use scmmgpt_engine::generate::{GenerationConfig, Prompt};
use scmmgpt_kernels::testing::{Tolerance, compare};

use crate::driver::device;
use crate::setup::Tiny;
use crate::{answers, cache};

#[test]
fn greedy_and_beams_equal_hugging_face() {
    let Some(device) = device() else { return };
    answers::hugging_face(&Tiny::on(device));
}

#[test]
fn cached_sequences_are_what_they_are_on_the_cpu() {
    let Some(device) = device() else { return };
    let tiny = Tiny::on(device);
    cache::pieces(&tiny, [1, 4, 7]);
    cache::copies_and_cuts(&tiny);
    cache::rows_for_tokens(&tiny);
}

/// A prompt, then a token at a time.
#[test]
fn logits_and_draws_are_the_cpus() {
    let Some(device) = device() else { return };
    let [got, expected] = [Tiny::on(device), Tiny::open()].map(|tiny| {
        let prompts: Vec<Prompt<'_>> = tiny.prompts.iter().map(|tokens| Prompt::from(tokens.as_slice())).collect();
        let mut generator = tiny.generator(prompts.len(), 32);
        let mut logits = generator.prefill(&tiny.model, &prompts).unwrap();
        for step in 0..12u32 {
            let tokens: Vec<u32> = (0..prompts.len() as u32).map(|row| (11 * row + 5 * step) % 53).collect();
            logits.extend(generator.decode(&tiny.model, &tokens).unwrap());
        }
        let sampling = GenerationConfig { do_sample: true, temperature: 1.5, top_p: 0.95, seed: 11, ..GenerationConfig::greedy(16) };
        let drawn = tiny.answer(&tiny.requests(), &sampling, 3).0.into_iter().map(|answer| answer.tokens).collect::<Vec<_>>();
        (logits.into_iter().map(f64::from).collect::<Vec<_>>(), drawn)
    });
    compare("logits of prefill and decode", &expected.0, &got.0, Tolerance::new(1e-5, 1e-4)).unwrap();
    assert_eq!(got.1, expected.1);
}
