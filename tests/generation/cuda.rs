//! The same on a CUDA device, where decoding has a kernel of its own; and the CPU's logits and draws.

use scmmgpt_engine::generate::{GenerationConfig, Prompt};
use scmmgpt_kernels::runtime::{Device, Float, Real, bf16};
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

/// Logits behind the prompts, then behind a token at a time.
fn logits<T: Float>(tiny: &Tiny<T>) -> Vec<f64> {
    let prompts: Vec<Prompt<'_>> = tiny.prompts.iter().map(|tokens| Prompt::from(tokens.as_slice())).collect();
    let mut generator = tiny.generator(prompts.len(), 32);
    generator.prefill(&tiny.model, &prompts).unwrap();
    let mut logits = generator.logits().unwrap();
    for step in 0..12u32 {
        let tokens: Vec<u32> = (0..prompts.len() as u32).map(|row| (11 * row + 5 * step) % 53).collect();
        generator.decode(&tiny.model, &tokens).unwrap();
        logits.extend(generator.logits().unwrap());
    }
    logits.into_iter().map(|logit| logit.to_acc().f64()).collect()
}

#[test]
fn logits_and_draws_are_the_cpus() {
    let Some(device) = device() else { return };
    let [got, expected] = [Tiny::on(device), Tiny::open()].map(|tiny| {
        let sampling = GenerationConfig {
            do_sample: true,
            temperature: 1.5,
            top_p: 0.95,
            top_k: 40,
            repetition_penalty: 1.2,
            seed: 11,
            ..GenerationConfig::greedy(16)
        };
        let drawn = tiny.answer(&tiny.requests(), &sampling, 3).0.into_iter().map(|answer| answer.tokens).collect::<Vec<_>>();
        (logits(&tiny), drawn)
    });
    compare("logits of prefill and decode", &expected.0, &got.0, Tolerance::new(1e-5, 1e-4)).unwrap();
    assert_eq!(got.1, expected.1);
}

/// In bf16 the device may be off from f32 by twice what the CPU in bf16 is off by.
#[test]
fn logits_in_bf16_are_as_good_as_the_cpus() {
    let Some(device) = device() else { return };
    let (truth, naive) = (logits(&Tiny::open()), logits(&Tiny::<bf16>::on(Device::cpu(2).unwrap())));
    let floor = truth.iter().zip(&naive).map(|(truth, naive)| (truth - naive).abs()).fold(0.0, f64::max);
    let largest = truth.iter().fold(0.0f64, |largest, logit| largest.max(logit.abs()));
    assert!(floor > 0.0 && floor < 0.05 * largest, "the CPU in bf16 is off by {floor} of {largest}");
    compare("logits in bf16", &truth, &logits(&Tiny::<bf16>::on(device)), Tolerance::new(2.0 * floor, 0.0)).unwrap();
}
